"""Distributions over a box's edges: the label's minimum, the teacher's pull, and who trains what."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from had_snn.distill.features import cell_centres
from had_snn.distill.localisation import (
    LocalisationAlignment,
    LocalisationOptions,
    distribution_focal,
    edge_distances,
)

WINDOWS, CLIPS, CHANNELS, DIM, GRID = 2, 3, 5, 6, 8


def given_signals() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    boxes = torch.tensor([0.5, 0.45, 0.3, 0.2]) + 0.05 * torch.randn(WINDOWS, CLIPS, 4)
    return {
        "rates": torch.rand(WINDOWS, CLIPS, CHANNELS, GRID, GRID, requires_grad=True),
        "features": torch.randn(WINDOWS, CLIPS, DIM, 4, 4),
        "boxes": boxes,
        "visible": torch.ones(WINDOWS, CLIPS),
    }


@given(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0.05, 0.5), st.floats(0.05, 0.5), st.integers(2, 12))
def test_edges_give_the_box_back_from_every_cell(cx, cy, w, h, grid):
    centres = cell_centres(grid)
    left, top, right, bottom = edge_distances(torch.tensor([[cx, cy, w, h]]), centres)[0].T
    np.testing.assert_allclose((centres[:, 1] - left + centres[:, 1] + right) / 2, cx, atol=1e-5)
    np.testing.assert_allclose((centres[:, 0] - top + centres[:, 0] + bottom) / 2, cy, atol=1e-5)
    np.testing.assert_allclose(left + right, w, atol=1e-5)
    np.testing.assert_allclose(top + bottom, h, atol=1e-5)


@given(st.floats(-0.2, 1.0), st.integers(2, 20))
def test_the_best_distribution_has_the_distance_as_its_mean(distance, bins):
    wanted = torch.tensor([distance])
    logits = torch.zeros(1, bins, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.3)
    for _ in range(150):
        optimiser.zero_grad()
        distribution_focal(logits, wanted, reach=0.6).sum().backward()
        optimiser.step()
    mean = (logits.detach().softmax(-1)[0] * torch.linspace(0, 0.6, bins)).sum()
    assert mean.item() == pytest.approx(min(max(distance, 0.0), 0.6), abs=0.02)


def test_each_branch_is_trained_by_its_own_loss_alone():
    level, signals = LocalisationAlignment(CHANNELS, DIM), given_signals()
    level(**signals)["localisation"].backward()
    assert signals["rates"].grad.abs().sum() > 0
    assert all(p.grad is None for p in level.teacher.parameters())
    level, signals = LocalisationAlignment(CHANNELS, DIM), given_signals()
    level(**signals)["localisation_teacher"].backward()
    assert signals["rates"].grad is None
    assert all(p.grad is None for p in level.student.parameters())
    assert all(p.grad.abs().sum() > 0 for p in level.teacher.parameters())


def test_a_student_that_says_what_the_teacher_says_has_no_divergence():
    level = LocalisationAlignment(DIM, DIM, options=LocalisationOptions(weight=3.0))
    signals = given_signals()
    maps = torch.randn(WINDOWS, CLIPS, DIM, GRID, GRID)
    level.student.load_state_dict(level.teacher.state_dict())
    same = level(maps, maps, boxes=signals["boxes"], visible=signals["visible"])
    assert same["localisation_kl"].item() == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(same["localisation"], same["localisation_teacher"])
    other = level(maps + 1, maps, boxes=signals["boxes"], visible=signals["visible"])
    assert other["localisation_kl"] > 0.01


def test_unseen_targets_teach_nothing_whatever_their_label():
    level, signals = LocalisationAlignment(CHANNELS, DIM), given_signals()
    signals["visible"][0, 1] = 0
    before = level(**signals)["localisation"].item()
    signals["boxes"][0, 1] = torch.nan
    loss = level(**signals)["localisation"]
    assert loss.item() == pytest.approx(before)
    loss.backward()
    assert torch.isfinite(signals["rates"].grad).all()
    assert signals["rates"].grad[0, 1].abs().sum() == 0


def test_a_tiny_box_between_the_cells_still_counts():
    level, signals = LocalisationAlignment(CHANNELS, DIM), given_signals()
    signals["boxes"][...] = torch.tensor([0.5, 0.5, 0.001, 0.001])
    named = level(**signals)
    assert all(torch.isfinite(value) for value in named.values())
    assert named["localisation"] > 0
