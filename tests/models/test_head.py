"""The centre head: what is written into the target comes back as the box."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from had_snn.models.head import hann_prior, score_target, split_readout

centres = st.floats(0.02, 0.98)
sides = st.floats(0.05, 0.6)


@given(centres, centres, sides, sides)
def test_target_is_one_at_the_cell_of_the_centre_only(cx, cy, w, h):
    target = score_target(torch.tensor([[cx, cy, w, h]], dtype=torch.float64), 16)[0]
    row, column = divmod(int(target.argmax()), 16)
    assert (row, column) == (int(cy * 16), int(cx * 16))
    assert target.max() == 1
    assert (target == 1).sum() == 1


@given(centres, centres, sides, sides)
def test_a_perfect_readout_gives_the_box_back(cx, cy, w, h):
    grid = 16
    box = torch.tensor([cx, cy, w, h], dtype=torch.float64)
    row, column = int(cy * grid), int(cx * grid)
    maps = torch.zeros(1, 5, grid, grid, dtype=torch.float64)
    maps[0, 0, row, column] = 9
    output = split_readout(maps)
    output.offsets[0, :, row, column] = torch.stack([box[0] * grid - column - 0.5, box[1] * grid - row - 0.5])
    output.sizes[0, :, row, column] = box[2:]
    found, score = output.peak_boxes()
    torch.testing.assert_close(found[0], box)
    assert score[0] > 0.99


def test_hann_prior_prefers_the_middle_and_keeps_the_score():
    prior = hann_prior(16, weight=0.5)
    assert prior.max() == 1
    assert prior[7, 7] == prior[8, 8] == 1
    assert prior[0, 0] < 0.55
    maps = torch.zeros(1, 5, 16, 16)
    maps[0, 0, 0, 0], maps[0, 0, 7, 7] = 2.0, 1.9
    boxes, score = split_readout(maps).peak_boxes(prior)
    torch.testing.assert_close(boxes[0, :2], torch.full((2,), 7.5 / 16))
    torch.testing.assert_close(score[0], torch.sigmoid(torch.tensor(1.9 - 2.2)))
