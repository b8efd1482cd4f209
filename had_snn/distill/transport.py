"""Entropic optimal transport between weighted point sets, batched, in the log domain, with gradients.

For a cost `C [n, m]`, masses `a [n]`, `b [m]` (each sums to 1) and a blur `epsilon > 0`

    OT(a, b) = min over plans P >= 0 with P 1 = a, P^T 1 = b of  <P, C> + epsilon * KL(P | a b^T)
             = max over potentials f, g of  <a, f> + <b, g> - epsilon * (sum of exp((f + g - C) / epsilon) a b^T - 1)

Sinkhorn's iteration alternates `f = -epsilon * logsumexp(log b + (g - C) / epsilon)` and the same for `g`. `OT(a, b)`
is not 0 at `a = b` and shrinks both sides towards their mean; the Sinkhorn divergence

    S(a, b) = OT(a, b) - (OT(a, a) + OT(b, b)) / 2

removes that bias: for a squared-Euclidean cost it is 0 exactly at coincidence, positive elsewhere and convex in each
mass (Feydy et al., AISTATS 2019). The cost used here, `1 - cos + lambda * distance^2`, is squared Euclidean: unit
vectors obey `1 - cos(x, y) = |x - y|^2 / 2`, so it is the squared distance of the points
`(x / sqrt 2, sqrt(lambda) * position)`.

Gradients follow from the envelope theorem: `dOT/dC = P`, `dOT/da = f`, `dOT/db = g` at the optimum. Nothing is
differentiated through the iterations, so memory does not grow with their number.

POT's `ot.batch.solve_batch` solves the same cross problem and judges this file in the tests. It is not called in
training because it was measured too slow there: on 48 pairs of 8 x 8 grids at epsilon 0.1 its log-domain solver took 35
to 67 ms of CPU time for one problem, this one 11 to 19 ms, and 31 to 37 ms for all three problems with their
gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from had_snn.errors import InputError

#: Smallest mass whose logarithm is taken: points without mass are kept, without infinities.
TINY_MASS = 1e-30
#: Iterations between two checks of convergence; each check waits for the device.
CHECK_EVERY = 4
#: Step of an update in units of Sinkhorn's: 1.5 halves to thirds the iterations (Thibault et al., Algorithms 2021).
OVER_RELAXATION = 1.5
#: Largest cost in units of epsilon whose exponential is still far from the end of float64 (e^-745).
WIDEST_KERNEL = 600.0


@dataclass(frozen=True)
class Transport:
    """Solution of a batch of transport problems; no field carries a gradient.

    Attributes:
        plan: `[N, n, m]`; its marginals are the masses, to rounding.
        source_potential: `f`, `[N, n]`, in units of the cost.
        target_potential: `g`, `[N, m]`.
        value: `OT(a, b)`, `[N]`.
        marginal_error: Largest `|P 1 - a|` in L1 over the batch before the plan was made feasible: how far Sinkhorn was
            from converged. Scalar.
        iterations: Iterations done.
    """

    plan: Tensor
    source_potential: Tensor
    target_potential: Tensor
    value: Tensor
    marginal_error: Tensor
    iterations: int


def position_feature_cost(
    source: Tensor, target: Tensor, *, source_at: Tensor, target_at: Tensor, distance_weight: float
) -> Tensor:
    """Cost `(1 - cosine) + distance_weight * squared distance`, differentiable in the features.

    Args:
        source: Features `[N, n, D]`.
        target: Features `[N, m, D]`.
        source_at: Positions `[n, 2]`, in units of the crop's side.
        target_at: Positions `[m, 2]`.
        distance_weight: Cost of being one crop side away, in units of `1 - cosine`.

    Returns:
        `[N, n, m]`.
    """
    cosine = torch.bmm(F.normalize(source, dim=-1), F.normalize(target, dim=-1).mT)
    away = (source_at[:, None, :] - target_at[None, :, :]).square().sum(dim=-1)
    return 1 - cosine + distance_weight * away


def sinkhorn(
    cost: Tensor,
    source_mass: Tensor,
    target_mass: Tensor,
    *,
    epsilon: float,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
    start: Tensor | None = None,
) -> Transport:
    """Solves entropic transport problems.

    Args:
        cost: `[N, n, m]`.
        source_mass: `a`, `[N, n]`, rows summing to 1.
        target_mass: `b`, `[N, m]`, rows summing to 1.
        epsilon: Blur, in units of the cost.
        max_iterations: Stop after so many pairs of updates.
        tolerance: Stop when every plan's source marginal is within this L1 distance of `a`.
        start: Target potential `g [N, m]` to start from; 0 when None.

    Returns:
        The solution, made feasible by the rounding of Altschuler et al. (NeurIPS 2017, algorithm 2).

    Raises:
        InputError: If shapes disagree or `epsilon` is not positive.
    """
    _check(cost, source_mass, target_mass, epsilon)
    with torch.no_grad():
        log_a = source_mass.clamp(min=TINY_MASS).log()
        log_b = target_mass.clamp(min=TINY_MASS).log()
        kernel = cost.detach() / -epsilon
        over_targets, over_sources = _log_sums(kernel)
        # u, v: potentials over epsilon, plus the log masses: the plan is exp(u + v + kernel).
        v = log_b if start is None else log_b + start / epsilon
        u = log_a - over_targets(v)
        error, step = cost.new_tensor(torch.inf), OVER_RELAXATION
        for done in range(1, max_iterations + 1):
            new_v = log_b - over_sources(u)
            checking = done % CHECK_EVERY == 0 or done == max_iterations
            v = new_v if checking or done < CHECK_EVERY else torch.lerp(v, new_v, step)
            new_u = log_a - over_targets(v)
            if checking:
                # v is exact here, so only the source marginal is off: its ratio to a is exp(u - new_u).
                before, error = error, ((u - new_u).exp() - 1).abs().mul(source_mass).sum(dim=1).max()
                if bool(error <= tolerance):
                    break
                # Over-relaxation has no global guarantee; plain Sinkhorn has.
                step = step if bool(error < before) else 1.0
            if done < max_iterations:
                u = new_u if done < CHECK_EVERY else torch.lerp(u, new_u, step)
        plan = _feasible((u[:, :, None] + v[:, None, :] + kernel).exp(), source_mass, target_mass)
        f, g = epsilon * (u - log_a), epsilon * (v - log_b)
        value = (source_mass * f).sum(dim=1) + (target_mass * g).sum(dim=1)
    return Transport(plan, f, g, value, error, done)


def sinkhorn_self(
    cost: Tensor, mass: Tensor, *, epsilon: float, max_iterations: int = 50, tolerance: float = 1e-4
) -> Transport:
    """Solves `OT(a, a)` with a symmetric cost, for which averaged updates converge in a few iterations.

    Args:
        cost: `[N, n, n]`, symmetric.
        mass: `a`, `[N, n]`.
        epsilon: Blur.
        max_iterations: Most averaged updates.
        tolerance: As for `sinkhorn`.

    Returns:
        The solution; both potentials are the same tensor.
    """
    _check(cost, mass, mass, epsilon)
    with torch.no_grad():
        log_a = mass.clamp(min=TINY_MASS).log()
        kernel = cost.detach() / -epsilon
        over_targets, _ = _log_sums(kernel)
        u = log_a
        error = cost.new_tensor(torch.inf)
        for done in range(1, max_iterations + 1):
            new_u = log_a - over_targets(u)
            if done % CHECK_EVERY == 0 or done == max_iterations:
                error = ((u - new_u).exp() - 1).abs().mul(mass).sum(dim=1).max()
                if bool(error <= tolerance):
                    break
            u = (u + new_u) / 2
        plan = _feasible((u[:, :, None] + u[:, None, :] + kernel).exp(), mass, mass)
        f = epsilon * (u - log_a)
        value = 2 * (mass * f).sum(dim=1)
    return Transport(plan, f, f, value, error, done)


def sinkhorn_divergence(
    costs: tuple[Tensor, Tensor, Tensor],
    source_mass: Tensor,
    target_mass: Tensor,
    *,
    epsilon: float,
    max_iterations: int = 200,
    tolerance: float = 1e-4,
) -> tuple[Tensor, Transport]:
    """The debiased transport loss, differentiable in the costs and in the masses.

    Args:
        costs: Source to target `[N, n, m]`, source to source `[N, n, n]`, target to target `[N, m, m]`.
        source_mass: `[N, n]`, rows summing to 1.
        target_mass: `[N, m]`, rows summing to 1.
        epsilon: Blur, in units of the cost.
        max_iterations: Most pairs of updates of the source-to-target problem.
        tolerance: See `sinkhorn`.

    Returns:
        `S(a, b)` per sample, `[N]`, and the source-to-target solution.
    """
    across, within_source, within_target = costs
    a, b = source_mass.detach(), target_mass.detach()
    own_source = sinkhorn_self(within_source, a, epsilon=epsilon, tolerance=tolerance)
    own_target = sinkhorn_self(within_target, b, epsilon=epsilon, tolerance=tolerance)
    # Near coincidence the cross potential is the target's own: a good place to start.
    cross = sinkhorn(
        across,
        a,
        b,
        epsilon=epsilon,
        max_iterations=max_iterations,
        tolerance=tolerance,
        start=own_target.source_potential,
    )
    value = _with_gradient(cross, across, source_mass, target_mass)
    bias = _with_gradient(own_source, within_source, source_mass, source_mass) + _with_gradient(
        own_target, within_target, target_mass, target_mass
    )
    return value - bias / 2, cross


def _log_sums(kernel: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """`log sum exp(kernel + v)` over the targets and `log sum exp(kernel + u)` over the sources, as functions.

    As long as `exp` of the whole kernel fits into float64 the sums are matrix products with it, which cost a fraction
    of the exponentials of every entry in every iteration; potentials stay logarithms. A wider kernel goes the slow way.

    Args:
        kernel: `[N, n, m]`, minus the cost over epsilon.
    """
    if bool(kernel.amin() > -WIDEST_KERNEL):
        scaling = kernel.double().exp()

        def product(matrix: Tensor, x: Tensor) -> Tensor:
            # The largest is taken out, so only what is negligible beside it can vanish.
            top = x.amax(dim=1, keepdim=True)
            weights = (x - top).double().exp()
            return (torch.bmm(matrix, weights[:, :, None])[:, :, 0].log() + top).to(kernel.dtype)

        return lambda v: product(scaling, v), lambda u: product(scaling.mT, u)
    return (
        lambda v: torch.logsumexp(kernel + v[:, None, :], dim=2),
        lambda u: torch.logsumexp(kernel + u[:, :, None], dim=1),
    )


class _OptimalValue(torch.autograd.Function):
    """`OT` with the gradients of the envelope theorem."""

    @staticmethod
    def forward(ctx, cost, source_mass, target_mass, value, plan, source_potential, target_potential):
        ctx.save_for_backward(plan, source_potential, target_potential)
        return value.clone()

    @staticmethod
    def backward(ctx, *grad_outputs):
        (grad,) = grad_outputs
        plan, f, g = ctx.saved_tensors
        return grad[:, None, None] * plan, grad[:, None] * f, grad[:, None] * g, None, None, None, None


def _with_gradient(solution: Transport, cost: Tensor, source_mass: Tensor, target_mass: Tensor) -> Tensor:
    return _OptimalValue.apply(
        cost,
        source_mass,
        target_mass,
        solution.value,
        solution.plan,
        solution.source_potential,
        solution.target_potential,
    )  # pyright: ignore[reportReturnType]


def _feasible(plan: Tensor, source_mass: Tensor, target_mass: Tensor) -> Tensor:
    """Moves a nearly feasible plan onto the marginals: scale rows, then columns down, spread what is missing."""
    plan = plan * (source_mass / plan.sum(dim=2).clamp(min=TINY_MASS)).clamp(max=1)[:, :, None]
    plan = plan * (target_mass / plan.sum(dim=1).clamp(min=TINY_MASS)).clamp(max=1)[:, None, :]
    missing_source = (source_mass - plan.sum(dim=2)).clamp(min=0)
    missing_target = (target_mass - plan.sum(dim=1)).clamp(min=0)
    total = missing_source.sum(dim=1).clamp(min=TINY_MASS)
    return plan + missing_source[:, :, None] * (missing_target / total[:, None])[:, None, :]


def _check(cost: Tensor, source_mass: Tensor, target_mass: Tensor, epsilon: float) -> None:
    if cost.shape != (*source_mass.shape, target_mass.shape[-1]) or source_mass.shape[0] != target_mass.shape[0]:
        raise InputError(
            f"cost {tuple(cost.shape)} does not fit masses {tuple(source_mass.shape)} and {tuple(target_mass.shape)}; "
            "expected [N, n, m], [N, n] and [N, m]"
        )
    if not epsilon > 0:
        raise InputError(f"epsilon must be positive, found {epsilon}")
