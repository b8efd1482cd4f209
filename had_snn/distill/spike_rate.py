"""Spike-rate level: the spatial asymmetry between two grids, two sensors and a blurred frame.

Where the student's spikes lie and what they say is compared with the teacher's tokens by debiased entropic transport
(`transport.py`): a feature that sits a little beside its counterpart costs a little, not everything, as a cell-by-cell
comparison would have it.

Points are the cells of a common grid. What they say: the student's rates, projected by a trained linear map, against
the teacher's standardised features, which nothing trained here can move (`features.py`). How much they weigh:

- teacher: half of the mass is spread evenly, half follows its score map, so the target's surroundings count most but
  background and distractors still teach;
- student: half evenly, half by the spikes themselves, channels weighted by trained positive numbers.

The student's mass carries a gradient on purpose. With both masses fixed the loss could only repaint features in place;
with the gradient, moving spikes towards where the teacher looks pays, and firing less elsewhere pays too. The even half
keeps every cell's gradient alive and the problem well conditioned, and the masses are normalised, so the level neither
asks for more spikes nor for fewer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.distill.features import FixedTarget, cell_centres, to_points, weighted_mean
from had_snn.distill.transport import position_feature_cost, sinkhorn_divergence


@dataclass(frozen=True)
class TransportOptions:
    """Numbers of the transport problem.

    Attributes:
        grid: Cells per side of the common grid; the cost matrix has `grid ** 4` entries per window.
        epsilon: Blur, in units of `1 - cosine`.
        distance_weight: Cost of one crop side, squared, in units of `1 - cosine`; with `epsilon` it sets the spatial
            blur `sqrt(epsilon / distance_weight)`, 0.07 crop sides by default, about half a cell: a blur as large as a
            target would leave nothing to learn about where its parts are.
        background: Share of the mass that is spread evenly.
        tolerance: L1 error of a marginal at which Sinkhorn stops; the plan is made feasible afterwards.
        max_iterations: Most iterations.
        mass_gradient: Whether the student's mass carries a gradient.
    """

    grid: int = 8
    epsilon: float = 0.1
    distance_weight: float = 20.0
    background: float = 0.5
    tolerance: float = 1e-3
    max_iterations: int = 60
    mass_gradient: bool = True


def mass_from_saliency(saliency: Tensor, *, background: float) -> Tensor:
    """Normalises non-negative saliency to masses, a share of which is spread evenly.

    Args:
        saliency: `[N, P]`, not negative.
        background: Share spread evenly; a silent sample gets all of its mass that way.

    Returns:
        `[N, P]`, rows summing to 1.
    """
    points = saliency.shape[-1]
    # The small constant only matters for a silent sample, whose saliency says nothing.
    saliency = saliency + 1e-6
    return (1 - background) * saliency / saliency.sum(dim=-1, keepdim=True) + background / points


class SpikeRateAlignment(nn.Module):
    """Transport between the student's spike rates and the teacher's features.

    Args:
        student_channels: Channels `C` of the rates.
        teacher_channels: Channels `D` of the teacher's features.
        options: Numbers of the transport problem.
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, *, options: TransportOptions | None = None
    ) -> None:
        super().__init__()
        self.options = options or TransportOptions()
        self.project = nn.Linear(student_channels, teacher_channels)
        self.channel_weight = nn.Parameter(torch.zeros(student_channels))
        self.target = FixedTarget(teacher_channels)

    def student_mass(self, rates: Tensor) -> Tensor:
        """Mass of the student's points `[N, P]` from its rates `[N, P, C]`."""
        saliency = rates @ F.softplus(self.channel_weight)
        mass = mass_from_saliency(saliency, background=self.options.background)
        return mass if self.options.mass_gradient else mass.detach()

    def teacher_mass(self, score_logits: Tensor) -> Tensor:
        """Mass of the teacher's points `[N, P]` from its score logits `[N, G, G]`: spatial softmax, then pooled."""
        attention = score_logits.float().flatten(1).softmax(dim=1).view_as(score_logits)
        saliency = to_points(attention[:, None], self.options.grid)[..., 0]
        # Scale-free before the small constant of `mass_from_saliency` is added.
        saliency = saliency / saliency.sum(dim=1, keepdim=True)
        return mass_from_saliency(saliency, background=self.options.background).detach()

    def forward(
        self, rates: Tensor, features: Tensor, score_logits: Tensor, *, weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The level's loss.

        Args:
            rates: Student spike rates `[K, B, C, H, W]`.
            features: Teacher features `[K, B, D, H', W']`.
            score_logits: Teacher score logits `[K, B, G', G']`.
            weight: Weight of each window `[K, B]`; 1 when None.

        Returns:
            `rate`, the mean Sinkhorn divergence, and without gradient `rate_marginal_error`, how far Sinkhorn was from
            converged before its plan was made feasible.
        """
        options = self.options
        student = to_points(rates.flatten(0, 1).float(), options.grid)
        teacher = self.target(to_points(features.flatten(0, 1), options.grid))
        projected = self.project(student)
        at = cell_centres(options.grid, device=rates.device)

        def cost(source: Tensor, target: Tensor) -> Tensor:
            return position_feature_cost(
                source, target, source_at=at, target_at=at, distance_weight=options.distance_weight
            )

        divergence, solution = sinkhorn_divergence(
            (cost(projected, teacher), cost(projected, projected), cost(teacher, teacher)),
            self.student_mass(student),
            self.teacher_mass(score_logits.flatten(0, 1)),
            epsilon=options.epsilon,
            max_iterations=options.max_iterations,
            tolerance=options.tolerance,
        )
        flat = torch.ones_like(divergence) if weight is None else weight.flatten().to(divergence)
        return {"rate": weighted_mean(divergence, flat), "rate_marginal_error": solution.marginal_error}
