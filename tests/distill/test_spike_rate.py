"""Spike-rate level: zero where the student says the same in the same places, and growing with displacement."""

from __future__ import annotations

import pytest
import torch

from had_snn.distill.comparisons import single_point_transport
from had_snn.distill.spike_rate import SpikeRateAlignment, TransportOptions, mass_from_saliency


def bump(column: float, *, grid: int = 16, row: float = 8.0, sigma: float = 1.3) -> torch.Tensor:
    """A Gaussian bump `[grid, grid]` with peak 1."""
    line = torch.arange(grid) + 0.5
    return torch.exp(-((line[:, None] - row) ** 2 + (line[None, :] - column) ** 2) / (2 * sigma**2))


def scene(column: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rates `[1, 1, 2, 16, 16]` (target, background) and score logits `[1, 1, 16, 16]` with the same mass."""
    there = bump(column)
    return torch.stack([there, 0.02 * (1 - there)])[None, None], (there + 1e-4).log()[None, None]


def copying_level(**options: object) -> SpikeRateAlignment:
    """A level whose student projection is the identity and whose target is taken as it is."""
    level = SpikeRateAlignment(2, 2, options=TransportOptions(tolerance=1e-5, max_iterations=500, **options)).eval()
    with torch.no_grad():
        level.project.weight.copy_(torch.eye(2))
        level.project.bias.zero_()
        level.channel_weight.copy_(torch.tensor([5.0, -20.0]))
    return level


@pytest.mark.parametrize("grid", [8, 16])
def test_zero_at_coincidence_and_strictly_growing_with_the_shift(grid):
    level = copying_level(grid=grid)
    features, logits = scene(4.0)
    values = [level(scene(4.0 + cells)[0], features, logits)["rate"].item() for cells in range(9)]
    assert abs(values[0]) < 2e-4
    assert (torch.tensor(values).diff() > 1e-4).all(), values


def test_the_published_form_does_not_see_the_shift():
    home = bump(3.5) / 2
    near, far = bump(7.5) / 2, bump(12.5) / 2
    values = [single_point_transport(m[None], home[None]).item() for m in (near, far)]
    assert abs(values[1] - values[0]) < 0.1 * values[0]


def test_gradient_moves_spikes_towards_the_teachers_place():
    level = copying_level(grid=8)
    features, logits = scene(5.0)
    rates = scene(9.0)[0].requires_grad_()
    level(rates, features, logits)["rate"].backward()
    pull = -rates.grad[0, 0, 0]
    assert pull[6:10, 4:6].mean() > pull[6:10, 12:14].mean()
    assert level.project.weight.grad.abs().sum() > 0
    assert level.channel_weight.grad.abs().sum() > 0


def test_descent_on_the_rates_carries_the_blob_home():
    level = copying_level(grid=8, distance_weight=4.0)
    features, logits = scene(5.0)
    raw = scene(9.0)[0].clamp(1e-3, 1 - 1e-3).logit().requires_grad_()
    optimiser = torch.optim.Adam([raw], lr=0.2)
    values = []
    for _ in range(80):
        loss = level(raw.sigmoid(), features, logits)["rate"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    mass = raw.detach().sigmoid()[0, 0, 0]
    centre = (mass.sum(dim=0) * (torch.arange(16) + 0.5)).sum() / mass.sum()
    assert values[-1] < 0.1 * values[0]
    assert abs(centre - 5.0) < 1.0


def test_neither_asks_for_more_spikes_nor_for_fewer():
    level = copying_level(grid=8)
    features, logits = scene(5.0)
    rates = scene(9.0)[0]
    torch.testing.assert_close(
        level(rates, features, logits)["rate"], level(0.1 * rates, features, logits)["rate"], atol=1e-3, rtol=0.0
    )


def test_fixed_masses_on_request():
    level = copying_level(mass_gradient=False)
    assert not level.student_mass(torch.rand(1, 4, 2, requires_grad=True)).requires_grad


def test_a_silent_student_and_unseen_windows_are_harmless():
    level = SpikeRateAlignment(3, 5)
    rates = torch.zeros(2, 2, 3, 8, 8, requires_grad=True)
    out = level(rates, torch.randn(2, 2, 5, 4, 4), torch.randn(2, 2, 4, 4))
    out["rate"].backward()
    assert torch.isfinite(out["rate"])
    assert torch.isfinite(rates.grad).all()
    rates.grad = None
    out = level(rates, torch.randn(2, 2, 5, 4, 4), torch.randn(2, 2, 4, 4), weight=torch.zeros(2, 2))
    out["rate"].backward()
    assert out["rate"] == 0
    assert (rates.grad == 0).all()


def test_masses_sum_to_one():
    mass = mass_from_saliency(torch.tensor([[0.0, 0.0], [3.0, 1.0]]), background=0.5)
    torch.testing.assert_close(mass, torch.tensor([[0.5, 0.5], [0.625, 0.375]]), atol=1e-6, rtol=0)


def test_teacher_carries_no_gradient_and_grids_may_differ():
    level = SpikeRateAlignment(3, 6)
    features = torch.randn(2, 2, 6, 10, 10, requires_grad=True)
    logits = torch.randn(2, 2, 10, 10, requires_grad=True)
    level(torch.rand(2, 2, 3, 16, 16), features, logits)["rate"].backward()
    assert features.grad is None
    assert logits.grad is None
