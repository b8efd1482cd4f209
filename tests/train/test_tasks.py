"""Named losses: minimal at the truth, blind to what cannot be seen, and gradients where they belong."""

from __future__ import annotations

import pytest
import torch

from had_snn.models.head import score_target
from had_snn.models.outputs import TrackerOutput
from had_snn.train.guards import RateGuard, RateTaps
from had_snn.train.losses import box_losses, focal_loss, tracking_losses

BOXES = torch.tensor([[0.42, 0.55, 0.25, 0.2], [0.7, 0.3, 0.1, 0.3]])
VISIBLE = torch.ones(2)
GRID = 16


def perfect_output(boxes: torch.Tensor) -> TrackerOutput:
    """Maps whose every cell predicts the true box and whose score peaks at the true cell."""
    centres = (torch.arange(GRID) + 0.5) / GRID
    offset_x = (boxes[:, 0, None, None] - centres[None, None, :]) * GRID
    offset_y = (boxes[:, 1, None, None] - centres[None, :, None]) * GRID
    offsets = torch.stack([offset_x.expand(-1, GRID, GRID), offset_y.expand(-1, GRID, GRID)], dim=1)
    sizes = boxes[:, 2:, None, None].expand(-1, -1, GRID, GRID)
    logits = 12 * (score_target(boxes, GRID) == 1).float() - 6
    return TrackerOutput(score_logits=logits, offsets=offsets, sizes=sizes)


def test_the_truth_costs_nothing_and_reads_back():
    losses = tracking_losses(perfect_output(BOXES), BOXES, VISIBLE)
    assert losses["giou"] == pytest.approx(0, abs=1e-5)
    assert losses["l1"] == pytest.approx(0, abs=1e-5)
    assert losses["focal"] < 0.01
    assert losses["iou"] == pytest.approx(1, abs=1e-4)


def test_focal_loss_falls_towards_the_target_and_ignores_its_shoulder():
    target = score_target(BOXES, GRID)
    good = 12 * (target == 1).float() - 6
    losses = [float(focal_loss(good + shift, target, VISIBLE)) for shift in (0.0, 2.0, 4.0)]
    assert losses == sorted(losses)
    moved = good.roll(5, dims=2)
    assert focal_loss(moved, target, VISIBLE) > 10 * focal_loss(good, target, VISIBLE)
    shoulder = good + 4 * ((target > 0.9) & (target < 1)).float()
    assert focal_loss(shoulder, target, VISIBLE) < focal_loss(good + 4 * (target < 0.01).float(), target, VISIBLE)


def test_an_invisible_target_only_asks_for_silence():
    hidden = torch.tensor([0.0, 0.0])
    output = perfect_output(BOXES)
    losses = tracking_losses(output, BOXES, hidden)
    assert losses["giou"] == 0
    assert losses["l1"] == 0
    silent = TrackerOutput(torch.full_like(output.score_logits, -8), output.offsets, output.sizes)
    assert tracking_losses(silent, BOXES, hidden)["focal"] < losses["focal"]


def test_boxes_are_learnt_near_the_centre_only():
    output = perfect_output(BOXES)
    sizes = output.sizes.clone().requires_grad_()
    wrong = TrackerOutput(output.score_logits, output.offsets, sizes * 1.3)
    target = score_target(BOXES, GRID)
    giou, l1 = box_losses(wrong, BOXES, target, VISIBLE)
    (giou + l1).backward()
    touched = sizes.grad.abs().sum(dim=1) > 0
    assert torch.equal(touched, target > 0.3)


def test_the_rate_guard_punishes_dead_and_saturated_layers_only():
    def penalty(**rates: float) -> tuple[float, dict[str, torch.Tensor | None]]:
        """The penalty, and the gradient that reaches each layer's spikes."""
        spikes = {name: torch.full((2, 1, 3, 4, 4), rate, requires_grad=True) for name, rate in rates.items()}
        taps = RateTaps()
        for name, train in spikes.items():
            taps.add(name, train, None)
        found = RateGuard(low=0.02, high=0.4).penalty(taps.rates)
        if found.requires_grad:
            found.backward()
        return float(found.detach()), {name: train.grad for name, train in spikes.items()}

    assert penalty(stem=0.1, lif=0.2) == (0.0, {"stem": None, "lif": None})
    assert penalty(stem=2.0, lif=0.2)[0] == 0, "the stem counts, and has no upper end"
    for rate, towards in ((0.001, -1), (0.9, 1)):
        cost, gradients = penalty(stem=0.1, lif=rate)
        assert cost > 0.5
        assert (gradients["lif"] * towards > 0).all()
        assert not gradients["stem"].any()


def taps_of(spikes: torch.Tensor, *, kept: str | None = None, silence: bool = True) -> RateTaps:
    taps = RateTaps(kept=kept, silence=silence)
    taps.add("lif", spikes, None)
    return taps


def test_the_share_of_silent_channels_is_counted_over_steps_samples_and_places():
    spikes = torch.zeros(2, 3, 4, 5, 5)
    spikes[1, 2, 1, 4, 4] = spikes[0, 0, 3] = 1
    assert taps_of(spikes).silent_channels() == {"lif": 0.5}
    assert taps_of(spikes, silence=False).silent_channels() == {}


def test_taps_of_training_let_spikes_go_that_nobody_asks_for():
    spikes = torch.rand(2, 3, 4, 5, 5)
    assert taps_of(spikes).spikes == {}
    assert taps_of(spikes, kept="lif").spikes["lif"] is spikes


def test_taps_of_windows_are_joined_as_if_they_had_come_at_once():
    spikes = (torch.rand(2, 6, 4, 5, 5) < 0.01).float()
    joined = RateTaps.joined([taps_of(part, kept="lif") for part in spikes.split(3, dim=1)])
    whole = taps_of(spikes, kept="lif")
    assert torch.equal(joined.spikes["lif"], spikes)
    assert torch.equal(joined.loudest["lif"], whole.loudest["lif"])
    torch.testing.assert_close(joined.rates["lif"], whole.rates["lif"])
