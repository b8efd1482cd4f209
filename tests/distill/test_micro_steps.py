"""Membranes of each micro-step: a copy reaches zero, another micro-step's features or a constant do not."""

from __future__ import annotations

import pytest
import torch

from had_snn.distill.micro_steps import MicroStepAlignment
from had_snn.errors import InputError

WINDOWS, STEPS, CLIPS, CHANNELS, GRID = 2, 4, 8, 6, 4


def trained_loss(kind: str, *, iterations: int = 120) -> float:
    """The level's loss after training it on features that change at random from micro-step to micro-step."""
    torch.manual_seed(0)
    level = MicroStepAlignment(CHANNELS, CHANNELS, grid=GRID)
    optimiser = torch.optim.Adam(level.parameters(), lr=0.03)
    last = []
    for _ in range(iterations):
        features = torch.randn(WINDOWS, CLIPS, STEPS, CHANNELS, GRID, GRID)
        membranes = features.transpose(1, 2)
        if kind == "one step late":
            membranes = membranes.roll(1, dims=1)
        elif kind == "constant":
            membranes = torch.ones_like(membranes)
        loss = level(membranes, features)["membrane_steps"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        last.append(loss.item())
    return sum(last[-10:]) / 10


def test_what_the_membranes_hold_at_that_time_counts_and_no_other():
    assert trained_loss("copy") < 0.1
    assert trained_loss("one step late") > 0.9
    assert trained_loss("constant") > 0.9


def test_grids_may_differ_and_windows_that_do_not_count_teach_nothing():
    level = MicroStepAlignment(5, 7, grid=4)
    membranes = torch.randn(2, 3, 2, 5, 8, 8, requires_grad=True)
    features = torch.randn(2, 2, 3, 7, 12, 12)
    weight = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    level(membranes, features, weight=weight)["membrane_steps"].backward()
    reached = membranes.grad.abs().sum(dim=(1, 3, 4, 5))
    assert (reached > 0).tolist() == [[True, False], [True, True]]


def test_another_number_of_micro_steps_is_refused():
    with pytest.raises(InputError, match="features of 4 micro-steps; the student's membranes have 3"):
        MicroStepAlignment(5, 7)(torch.randn(2, 3, 2, 5, 8, 8), torch.randn(2, 2, 4, 7, 8, 8))
