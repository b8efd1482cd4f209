"""Transport: marginals, agreement with POT and with exact transport, debiasing, gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from had_snn.distill import transport
from had_snn.distill.features import cell_centres
from had_snn.distill.transport import position_feature_cost, sinkhorn, sinkhorn_divergence, sinkhorn_self
from had_snn.errors import InputError


def random_problem(seed: int, *, samples: int, points: tuple[int, int], sharpness: float = 1.0):
    """Costs in [0, 1] between random points and random masses, float64."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.rand(samples, points[0], 2, generator=draw, dtype=torch.float64)
    y = torch.rand(samples, points[1], 2, generator=draw, dtype=torch.float64)
    a = (sharpness * torch.randn(samples, points[0], generator=draw, dtype=torch.float64)).softmax(dim=1)
    b = (sharpness * torch.randn(samples, points[1], generator=draw, dtype=torch.float64)).softmax(dim=1)
    return x, y, a, b


def squared(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x[:, :, None] - y[:, None]).square().sum(dim=-1) / 2


def divergence(x, y, a, b, *, epsilon: float = 0.05, tolerance: float = 1e-8, max_iterations: int = 2000):
    return sinkhorn_divergence(
        (squared(x, y), squared(x, x), squared(y, y)),
        a,
        b,
        epsilon=epsilon,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )[0]


def blob(column: float, *, grid: int = 16, row: float = 8.0, sigma: float = 1.2) -> torch.Tensor:
    """A Gaussian blob as masses `[1, grid * grid]`."""
    line = torch.arange(grid, dtype=torch.float32) + 0.5
    away = (line[:, None] - row) ** 2 + (line[None, :] - column) ** 2
    return (-away / (2 * sigma**2)).flatten().softmax(dim=0)[None]


@given(
    st.integers(0, 10_000),
    st.integers(1, 3),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0.02, 1.0),
    st.floats(0.0, 6.0),
    st.booleans(),
)
@settings(max_examples=60)
def test_plan_has_the_asked_marginals(seed, samples, points, epsilon, sharpness, single):
    x, y, a, b = random_problem(seed, samples=samples, points=points, sharpness=sharpness)
    kind = torch.float32 if single else torch.float64
    a, b = a.to(kind), b.to(kind)
    solution = sinkhorn(squared(x, y).to(kind), a, b, epsilon=epsilon, tolerance=1e-3)
    assert (solution.plan >= 0).all()
    assert (solution.plan.sum(dim=2) - a).abs().max() < 1e-6
    assert (solution.plan.sum(dim=1) - b).abs().max() < 1e-6


@given(st.integers(0, 10_000), st.floats(0.05, 1.0))
@settings(max_examples=30)
def test_iteration_converges_without_help_of_the_rounding(seed, epsilon):
    x, y, a, b = random_problem(seed, samples=2, points=(30, 25), sharpness=3.0)
    solution = sinkhorn(squared(x, y), a, b, epsilon=epsilon, tolerance=1e-6, max_iterations=3000)
    assert solution.marginal_error <= 1e-6


def test_points_without_mass_are_harmless():
    x, y, a, b = random_problem(3, samples=2, points=(6, 5))
    a[:, 2], b[:, 0] = 0, 0
    a, b = a / a.sum(dim=1, keepdim=True), b / b.sum(dim=1, keepdim=True)
    solution = sinkhorn(squared(x, y), a, b, epsilon=0.1)
    assert torch.isfinite(solution.value).all()
    assert solution.plan[:, 2].abs().max() < 1e-12


@pytest.mark.parametrize("epsilon", [0.3, 0.05])
def test_agrees_with_pot(epsilon):
    batch = pytest.importorskip("ot.batch")
    x, y, a, b = random_problem(1, samples=4, points=(20, 31))
    cost = squared(x, y)
    judge = batch.solve_batch(
        cost, reg=epsilon, a=a, b=b, max_iter=20_000, tol=1e-12, method="log_sinkhorn", reg_type="kl", grad="detach"
    )
    ours = sinkhorn(cost, a, b, epsilon=epsilon, tolerance=1e-11, max_iterations=20_000)
    torch.testing.assert_close(ours.plan, judge.plan, atol=1e-9, rtol=0)
    torch.testing.assert_close(ours.value, judge.value, atol=1e-8, rtol=0)


def test_tends_to_exact_transport_as_the_blur_vanishes():
    ot = pytest.importorskip("ot")
    x, y, a, b = random_problem(2, samples=3, points=(12, 15))
    cost = squared(x, y)
    exact = torch.stack([ot.emd2(a[i], b[i], cost[i]) for i in range(3)])
    gaps = []
    for epsilon in (0.1, 0.03, 0.01, 0.003, 0.001):
        plan = sinkhorn(cost, a, b, epsilon=epsilon, tolerance=1e-7, max_iterations=6000).plan
        gap = (plan * cost).sum(dim=(1, 2)) - exact
        assert (gap > -1e-9).all(), "a feasible plan cannot cost less than the best one"
        gaps.append(gap.max().item())
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 1e-3 * exact.max().item()


def test_symmetric_solver_agrees_with_the_general_one():
    x, _, a, _ = random_problem(4, samples=3, points=(25, 1))
    own = sinkhorn_self(squared(x, x), a, epsilon=0.1, tolerance=1e-11, max_iterations=2000)
    general = sinkhorn(squared(x, x), a, a, epsilon=0.1, tolerance=1e-11, max_iterations=5000)
    torch.testing.assert_close(own.value, general.value, atol=1e-9, rtol=0)
    torch.testing.assert_close(own.plan, general.plan, atol=1e-9, rtol=0)


@given(st.integers(0, 10_000), st.floats(0.02, 0.5))
@settings(max_examples=30)
def test_divergence_is_zero_at_coincidence_positive_and_symmetric(seed, epsilon):
    x, y, a, b = random_problem(seed, samples=2, points=(9, 9))
    assert divergence(x, x, a, a, epsilon=epsilon).abs().max() < 1e-7
    there, back = divergence(x, y, a, b, epsilon=epsilon), divergence(y, x, b, a, epsilon=epsilon)
    assert (there > 0).all()
    torch.testing.assert_close(there, back, atol=1e-6, rtol=0)


def test_divergence_does_not_care_in_which_order_points_come():
    x, _, a, _ = random_problem(5, samples=1, points=(12, 1))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert divergence(x, x[:, order], a, a[:, order]).abs().max() < 1e-7


@pytest.mark.parametrize("with_features", [False, True])
def test_grows_strictly_as_a_blob_moves_away(with_features):
    at = cell_centres(16)
    draw = torch.Generator().manual_seed(0)
    target, background = torch.randn(2, 8, generator=draw)
    home = blob(4.0)

    def cost(one, other):
        features = [
            (m / m.max()).mT[None] * target + (1 - (m / m.max()).mT[None]) * background
            if with_features
            else torch.ones(1, 256, 8)
            for m in (one, other)
        ]
        return position_feature_cost(*features, source_at=at, target_at=at, distance_weight=2.0)

    values = []
    for cells in range(9):
        moved = blob(4.0 + cells)
        costs = (cost(moved, home), cost(moved, moved), cost(home, home))
        values.append(sinkhorn_divergence(costs, moved, home, epsilon=0.1)[0].item())
    assert abs(values[0]) < 1e-5
    steps = torch.tensor(values).diff()
    assert (steps > 1e-4).all(), values
    if not with_features:
        # With position alone the divergence of equal shapes is the squared shift.
        wanted = 2.0 * (torch.arange(9) / 16.0) ** 2
        torch.testing.assert_close(torch.tensor(values), wanted, atol=2e-2, rtol=0.05)


def test_gradients_are_those_of_finite_differences():
    x, y, a, b = random_problem(6, samples=2, points=(6, 7))
    x.requires_grad_()
    raw = a.log().requires_grad_()

    def value(points, logits):
        return divergence(points, y, logits.softmax(dim=1), b, epsilon=0.1, tolerance=1e-13, max_iterations=5000)

    assert torch.autograd.gradcheck(value, (x, raw), eps=1e-5, atol=1e-5)


def test_cost_is_squared_euclidean_in_the_lifted_space():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2, 9, 5, generator=draw)
    at = cell_centres(3)
    cost = position_feature_cost(x, y, source_at=at, target_at=at, distance_weight=3.0)
    lift = [
        torch.cat([torch.nn.functional.normalize(v, dim=-1) / 2**0.5, (3**0.5 * at).expand(2, 9, 2)], dim=-1)
        for v in (x, y)
    ]
    torch.testing.assert_close(cost, torch.cdist(*lift).square(), atol=1e-5, rtol=0)


def test_refuses_what_does_not_fit():
    x, y, a, b = random_problem(0, samples=1, points=(3, 4))
    with pytest.raises(InputError, match="does not fit masses"):
        sinkhorn(squared(x, y).mT, a, b, epsilon=0.1)
    with pytest.raises(InputError, match="epsilon must be positive"):
        sinkhorn(squared(x, y), a, b, epsilon=0.0)


@pytest.mark.parametrize("widest", [0.0, 1e9])
def test_both_ways_of_summing_agree(widest, monkeypatch):
    torch.manual_seed(4)
    kernel = -40 * torch.rand(3, 7, 9)
    rows, columns = 30 * torch.randn(3, 9), 30 * torch.randn(3, 7)
    monkeypatch.setattr(transport, "WIDEST_KERNEL", widest)
    over_targets, over_sources = transport._log_sums(kernel)
    torch.testing.assert_close(over_targets(rows), torch.logsumexp(kernel + rows[:, None, :], dim=2))
    torch.testing.assert_close(over_sources(columns), torch.logsumexp(kernel + columns[:, :, None], dim=1))


def test_wide_kernels_take_the_slow_way_and_stay_finite():
    cost = 5.0 * torch.rand(1, 6, 6)
    mass = torch.full((1, 6), 1 / 6)
    for epsilon in (1e-3, 1e-2, 1.0):
        found = sinkhorn(cost, mass, mass, epsilon=epsilon)
        assert torch.isfinite(found.value).all()
        torch.testing.assert_close(found.plan.sum(dim=2), mass, atol=1e-6, rtol=0)


def test_as_many_iterations_as_are_needed_and_no_more():
    torch.manual_seed(0)
    cost, a, b = torch.rand(3, 16, 16), torch.rand(3, 16) + 0.1, torch.rand(3, 16) + 0.1
    a, b = (mass / mass.sum(dim=1, keepdim=True) for mass in (a, b))
    solvers = (partial(sinkhorn, cost, a, b, epsilon=0.1), partial(sinkhorn_self, cost + cost.mT, a, epsilon=0.1))
    for solve in solvers:
        limited = solve(max_iterations=7)  # no multiple of a check's distance, and checked all the same
        assert limited.iterations == 7
        assert 1e-4 < float(limited.marginal_error) < 0.2
        ended = solve(max_iterations=1000)
        assert ended.iterations % 4 == 0
        assert float(ended.marginal_error) <= 1e-4
        assert ended.iterations == solve(max_iterations=1000, tolerance=1e-4).iterations
        assert ended.iterations < solve(max_iterations=1000, tolerance=2e-5).iterations
    assert solvers[0](max_iterations=1000).iterations == 12  # over-relaxed; plain iterations need 16


def test_defaults_end_what_cannot_be_reached():
    x, y, a, b = random_problem(8, samples=1, points=(5, 6))
    assert sinkhorn(squared(x, y), a, b, epsilon=0.1, tolerance=-1.0).iterations == 200
    assert sinkhorn_self(squared(x, x), a, epsilon=0.1, tolerance=-1.0).iterations == 50
    costs = (squared(x, y), squared(x, x), squared(y, y))
    assert sinkhorn_divergence(costs, a, b, epsilon=0.1, tolerance=-1.0)[1].iterations == 200


def test_whoever_starts_at_the_solution_is_there_at_the_first_check():
    x, y, a, b = random_problem(9, samples=2, points=(8, 11), sharpness=3.0)
    solved = sinkhorn(squared(x, y), a, b, epsilon=0.02, tolerance=1e-10, max_iterations=5000)
    again = sinkhorn(squared(x, y), a, b, epsilon=0.02, tolerance=1e-9, start=solved.target_potential)
    assert solved.iterations > again.iterations == transport.CHECK_EVERY


def test_a_solution_that_was_stopped_early_has_one_exact_marginal_and_tells_of_the_other():
    x, y, a, b = random_problem(10, samples=1, points=(8, 11), sharpness=2.0)
    cost = squared(x, y)
    stopped = sinkhorn(cost, a, b, epsilon=0.02, max_iterations=6, tolerance=0.0)
    exponent = stopped.source_potential[:, :, None] + stopped.target_potential[:, None, :] - cost
    plan = a[:, :, None] * b[:, None, :] * (exponent / 0.02).exp()
    torch.testing.assert_close(plan.sum(dim=1), b, atol=1e-9, rtol=0)
    off = (plan.sum(dim=2) - a).abs().sum()
    assert float(off) == pytest.approx(float(stopped.marginal_error), rel=1e-6)
    assert float(off) > 1e-4


def test_usual_costs_take_the_fast_way(monkeypatch):
    x, y, a, b = random_problem(11, samples=1, points=(5, 6))
    monkeypatch.setattr(torch, "logsumexp", lambda *_, **__: pytest.fail("every entry's exponential, every time"))
    assert torch.isfinite(sinkhorn(squared(x, y), a, b, epsilon=0.05).value).all()


def test_a_kernel_that_vanishes_in_double_precision_takes_the_slow_way():
    mass = torch.full((1, 4), 0.25, dtype=torch.float64)
    found = sinkhorn(torch.full((1, 4, 4), 0.9, dtype=torch.float64), mass, mass, epsilon=1e-3)
    assert float(found.value) == pytest.approx(0.9)
