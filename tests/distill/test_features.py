"""Common grid and fixed targets."""

from __future__ import annotations

import pytest
import torch

from had_snn.distill.features import FixedTarget, cell_centres, to_grid, to_points, weighted_mean


@pytest.mark.parametrize(("side", "grid"), [(16, 8), (8, 8), (10, 8), (15, 4), (4, 8)])
def test_resampling_keeps_constants_and_size(side, grid):
    maps = torch.full((2, 3, side, side), 1.5)
    assert to_grid(maps, grid).shape == (2, 3, grid, grid)
    torch.testing.assert_close(to_grid(maps, grid), torch.full((2, 3, grid, grid), 1.5))


def test_shrinking_takes_means():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    torch.testing.assert_close(to_grid(maps, 2), torch.tensor([[[[2.5, 4.5], [10.5, 12.5]]]]))


def test_points_and_positions_go_by_rows():
    maps = torch.arange(9.0).view(1, 1, 3, 3)
    points, at = to_points(maps, 3), cell_centres(3)
    assert points[0, 5, 0] == maps[0, 0, 1, 2]
    torch.testing.assert_close(at[5], torch.tensor([0.5, 2.5 / 3]))


def test_fixed_target_standardises_and_has_nothing_to_train():
    torch.manual_seed(0)
    target = FixedTarget(4)
    assert not list(target.parameters())
    batches = [3 + 2 * torch.randn(50, 4) + i for i in range(5)]
    for batch in batches:
        target(batch)
    everything = torch.cat(batches)
    torch.testing.assert_close(target.mean, everything.mean(dim=0))
    torch.testing.assert_close(target.variance, everything.var(dim=0, correction=0))
    target.eval()
    features = torch.randn(7, 4, requires_grad=True)
    out = target(features)
    assert not out.requires_grad
    torch.testing.assert_close(target(features), out)


def test_fixed_target_is_checkpointed():
    target, other = FixedTarget(3), FixedTarget(3)
    target(torch.randn(10, 3))
    other.load_state_dict(target.state_dict())
    torch.testing.assert_close(other.variance, target.variance)


def test_weighted_mean_of_nothing_is_zero():
    values = torch.ones(3, requires_grad=True)
    out = weighted_mean(values, torch.zeros(3))
    out.backward()
    assert out == 0
    assert (values.grad == 0).all()
