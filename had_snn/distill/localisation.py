"""Localisation: a box as four distributions over where its edges lie, and the teacher's distributions as targets.

A box that is four numbers cannot say that one of its edges is hidden. Here each cell around the target says for each
edge how likely every distance from the cell's centre is (Generalized Focal Loss, Li et al., arXiv 2006.04388), and the
student learns the teacher's whole distribution (Localisation Distillation, Zheng et al., arXiv 2102.12252):

    localisation = DFL(student, label) + weight * temperature^2 * KL(teacher | student), both softened

Both distributions are read by linear maps of what lies there, the student's spike rates and the teacher's frozen
features, in branches that exist in training only: the shipped student keeps its read-out of five channels. The
teacher's branch learns from the labels (`localisation_teacher`), which reaches nothing else, and is cut from the graph
before the student is compared with it. The target's cells alone count, each as much as the label's score map says.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.distill.features import cell_centres, to_grid, weighted_mean


@dataclass(frozen=True)
class LocalisationOptions:
    """Numbers of the localisation level.

    Attributes:
        bins: Distances that an edge's distribution knows.
        reach: The largest of them, in units of the crop's side; the smallest is 0.
        temperature: Softens both distributions where they are compared.
        weight: Of the comparison beside the labels' loss.
        spread: Size of the region around the target's centre whose cells count, as the standard deviation of a Gaussian
            in units of the box's sides.
    """

    bins: int = 16
    reach: float = 0.6
    temperature: float = 2.0
    weight: float = 1.0
    spread: float = 0.25


def edge_distances(boxes: Tensor, centres: Tensor) -> Tensor:
    """Distances of a box's edges from points, positive where the point is inside.

    Args:
        boxes: `[N, 4]` cx, cy, w, h in units of the crop's side.
        centres: `[P, 2]` y, x.

    Returns:
        `[N, P, 4]`: left, top, right, bottom.
    """
    y, x = centres[:, 0], centres[:, 1]
    left, top = boxes[:, None, 0] - boxes[:, None, 2] / 2, boxes[:, None, 1] - boxes[:, None, 3] / 2
    right, bottom = left + boxes[:, None, 2], top + boxes[:, None, 3]
    return torch.stack([x - left, y - top, right - x, bottom - y], dim=-1)


def distribution_focal(logits: Tensor, distances: Tensor, *, reach: float) -> Tensor:
    """Cross-entropy with the two bins around a distance, weighted by how near they are (equation 6 of GFL).

    Args:
        logits: `[..., bins]`.
        distances: `[...]`, clamped to `[0, reach]`.
        reach: Distance of the last bin.

    Returns:
        `[...]`, lowest where the distribution's mass lies on those two bins in proportion.
    """
    last = logits.shape[-1] - 1
    place = (distances / reach).clamp(0, 1) * last
    low = place.floor().clamp(max=last - 1)
    share, index = place - low, low.long()[..., None]
    logarithm = logits.log_softmax(dim=-1)
    near, far = (logarithm.gather(-1, index + step)[..., 0] for step in (0, 1))
    return -((1 - share) * near + share * far)


class LocalisationAlignment(nn.Module):
    """Distributions of both networks over the edges' places, and what the student's are off.

    Args:
        student_channels: Channels of the rates.
        teacher_channels: Channels of the teacher's features.
        options: Numbers of the level.
    """

    def __init__(
        self, student_channels: int, teacher_channels: int, *, options: LocalisationOptions | None = None
    ) -> None:
        super().__init__()
        self.options = options or LocalisationOptions()
        self.student = nn.Conv2d(student_channels, 4 * self.options.bins, 3, padding=1)
        self.teacher = nn.Conv2d(teacher_channels, 4 * self.options.bins, 3, padding=1)

    def forward(self, rates: Tensor, features: Tensor, *, boxes: Tensor, visible: Tensor) -> dict[str, Tensor]:
        """The level's losses.

        Args:
            rates: Student spike rates `[K, B, C, H, W]`.
            features: Teacher features `[K, B, D, H', W']`, without gradient.
            boxes: Labels `[K, B, 4]` cx, cy, w, h relative to the crop's side.
            visible: `[K, B]`; windows without a visible target weigh 0.

        Returns:
            `localisation`, the student's loss; `localisation_teacher`, which trains the teacher's branch alone; and
            without gradient `localisation_kl`, the divergence in it.
        """
        options, grid = self.options, rates.shape[-1]
        seen = visible.flatten().float()
        # Chosen, not multiplied: the label of an unseen target may be anything, NaN included.
        boxes = torch.where(seen[:, None] > 0, boxes.flatten(0, 1).float(), boxes.new_tensor([0.5, 0.5, 0.25, 0.25]))
        centres = cell_centres(grid, device=rates.device)
        distances, at = edge_distances(boxes, centres), self._cells(boxes, centres)
        ours = self._edges(self.student, rates.float())
        theirs = self._edges(self.teacher, to_grid(features.float(), grid))

        def mean_over(values: Tensor) -> Tensor:
            return weighted_mean((values.mean(dim=2) * at).sum(dim=1), seen)

        by_label = mean_over(distribution_focal(ours, distances, reach=options.reach))
        taught = mean_over(distribution_focal(theirs, distances, reach=options.reach))
        softened = [(logits / options.temperature).log_softmax(dim=-1) for logits in (ours, theirs.detach())]
        divergence = F.kl_div(*softened, reduction="none", log_target=True).sum(dim=-1)
        divergence = options.temperature**2 * mean_over(divergence)
        return {
            "localisation": by_label + options.weight * divergence,
            "localisation_teacher": taught,
            "localisation_kl": divergence.detach(),
        }

    def _edges(self, branch: nn.Module, maps: Tensor) -> Tensor:
        """Logits `[N, P, 4, bins]` at every cell of maps `[K, B, C, H, W]`."""
        return branch(maps.flatten(0, 1)).flatten(2).mT.unflatten(2, (4, self.options.bins))

    def _cells(self, boxes: Tensor, centres: Tensor) -> Tensor:
        """How much each cell counts, `[N, P]`; rows sum to 1, and the cell that holds the centre always counts."""
        off = (centres.flip(1)[None] - boxes[:, None, :2]) / (self.options.spread * boxes[:, None, 2:]).clamp(min=1e-3)
        weight = torch.exp(-0.5 * off.square().sum(dim=2))
        nearest = F.one_hot(
            (centres.flip(1)[None] - boxes[:, None, :2]).square().sum(dim=2).argmin(dim=1), len(centres)
        )
        kept = torch.maximum(torch.where(weight > 0.3, weight, torch.zeros_like(weight)), nearest.to(weight))
        return kept / kept.sum(dim=1, keepdim=True)
