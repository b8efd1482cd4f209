"""Membrane level: it trains, it needs the right time, and it cannot be satisfied by constants."""

from __future__ import annotations

import pytest
import torch

from had_snn.distill.membrane import MembraneAlignment
from had_snn.errors import InputError

WINDOWS, STEPS, CLIPS, CHANNELS, GRID = 3, 2, 16, 8, 4


def trained_loss(kind: str, *, iterations: int = 150) -> float:
    """The level's loss after training it on features that change at random from window to window."""
    torch.manual_seed(0)
    level = MembraneAlignment(CHANNELS, CHANNELS, hidden=32, grid=GRID)
    optimiser = torch.optim.Adam(level.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.02, total_steps=iterations)
    last = []
    for _ in range(iterations):
        features = torch.randn(WINDOWS, CLIPS, CHANNELS, GRID, GRID)
        membranes = features[:, None].expand(-1, STEPS, -1, -1, -1, -1)
        if kind == "shuffled":
            order = torch.stack([torch.randperm(WINDOWS) for _ in range(CLIPS)], dim=1)
            features = features.gather(0, order[:, :, None, None, None].expand_as(features))
        elif kind == "constant":
            membranes = torch.ones_like(membranes)
        out = level(membranes, features)
        optimiser.zero_grad()
        (out["membrane"] + out["membrane_context"]).backward()
        optimiser.step()
        schedule.step()
        last.append(out["membrane"].item())
    return sum(last[-10:]) / 10


def test_a_student_that_can_copy_reaches_zero_and_a_shuffled_teacher_does_not():
    assert trained_loss("copy") < 0.1
    assert trained_loss("shuffled") > 0.5


def test_both_sides_trained_cannot_agree_on_constants():
    # 1 + 0.5 is what predictions unrelated to the teacher score.
    assert trained_loss("constant", iterations=100) > 1.2


def test_gradients_reach_both_grus_and_change_them():
    torch.manual_seed(0)
    level = MembraneAlignment(5, 6, hidden=8, grid=2)
    before = {name: p.detach().clone() for name, p in level.named_parameters()}
    optimiser = torch.optim.Adam(level.parameters(), lr=1e-2)
    for _ in range(2):
        out = level(torch.randn(2, 3, 4, 5, 4, 4), torch.randn(2, 4, 6, 4, 4))
        optimiser.zero_grad()
        (out["membrane"] + out["membrane_context"]).backward()
        for name, parameter in level.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        optimiser.step()
    assert all(not torch.equal(before[name], p) for name, p in level.named_parameters())
    assert {"student_gru.weight_hh_l0", "teacher_gru.weight_hh_l0", "target.mean"} <= set(level.state_dict())


def test_the_match_never_trains_the_teachers_side_nor_the_context_the_student():
    level = MembraneAlignment(5, 6, hidden=8, grid=2)
    membranes, features = torch.randn(2, 3, 4, 5, 4, 4, requires_grad=True), torch.randn(2, 4, 6, 4, 4)
    level(membranes, features)["membrane"].backward()
    assert all(
        p.grad is None
        for p in [*level.teacher_gru.parameters(), *level.recall.parameters(), *level.forecast.parameters()]
    )
    membranes.grad = None
    level(membranes, features)["membrane_context"].backward()
    assert membranes.grad is None


def test_reads_time_forwards_and_through_windows():
    torch.manual_seed(0)
    level = MembraneAlignment(3, 4, hidden=8, grid=2)
    membranes = torch.randn(3, 2, 1, 3, 2, 2)
    states = level.read_student(membranes)
    later, earlier = membranes.clone(), membranes.clone()
    later[2] += 1
    earlier[0, 0] += 1
    torch.testing.assert_close(level.read_student(later)[:2], states[:2])
    assert (level.read_student(earlier)[2] - states[2]).abs().max() > 1e-4
    assert not torch.allclose(level.read_student(membranes.flip(1)), states)


def test_memory_order_of_the_membranes_does_not_matter():
    level = MembraneAlignment(3, 4, hidden=8, grid=4)
    steps_first = torch.randn(2, 3, 2, 3, 8, 8)
    membranes = steps_first.transpose(0, 1)
    torch.testing.assert_close(level.read_student(membranes), level.read_student(membranes.contiguous()))


def test_a_static_teacher_has_no_change_to_explain():
    level = MembraneAlignment(3, 4, hidden=8, grid=2)
    features = torch.randn(1, 2, 4, 2, 2).expand(3, -1, -1, -1, -1)
    assert level(torch.randn(3, 2, 2, 3, 2, 2), features)["membrane_context"] == 0


def test_context_learns_a_motion_that_can_be_foreseen():
    torch.manual_seed(0)
    level = MembraneAlignment(2, 2, hidden=16, grid=2)
    optimiser = torch.optim.Adam(level.parameters(), lr=0.02)
    for _ in range(150):
        phase = 6.28 * torch.rand(1, 8, 1, 2, 2) + torch.arange(4.0).view(-1, 1, 1, 1, 1)
        features = torch.cat([phase.sin(), phase.cos()], dim=2)
        loss = level(torch.zeros(4, 1, 8, 2, 2, 2), features)["membrane_context"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1


def test_unseen_windows_weigh_nothing():
    level = MembraneAlignment(3, 4, hidden=8, grid=2).eval()
    membranes = torch.randn(2, 2, 2, 3, 2, 2, requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    level(membranes, torch.randn(2, 2, 4, 2, 2), weight=weight)["membrane"].backward()
    assert (membranes.grad[:, :, 1] == 0).all()
    assert membranes.grad[:, :, 0].abs().sum() > 0


def test_one_window_has_no_time():
    with pytest.raises(InputError, match="2 or more consecutive windows"):
        MembraneAlignment(3, 4)(torch.randn(1, 2, 1, 3, 8, 8), torch.randn(1, 1, 4, 8, 8))
