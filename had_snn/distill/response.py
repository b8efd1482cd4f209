"""Response level: where and how large the teacher says the target is, weighted by what the teacher knows better.

Three terms per window: the Kullback-Leibler divergence from the teacher's to the student's spatial score distribution,
both softened by a temperature, and GIoU and L1 between the teacher's box and the boxes of the student's cells where the
teacher sees the target. Each window is weighted by how much better than the student the teacher fits the label
(`teacher_quality`): a teacher that is worse than what the student already knows has weight 0. Sums are divided by the
number of visible windows, not by the sum of weights, so a teacher that is rarely better has little to say altogether.

Score maps are compared as distributions over cells (a softmax over positions), not cell by cell: the divergence is
minimal exactly at the teacher's map, up to a constant, whatever the maps' ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.distill.features import weighted_mean
from had_snn.geometry import box_giou, box_iou


@dataclass(frozen=True)
class ResponseOptions:
    """Numbers of the response level.

    Attributes:
        temperature: Softens both score distributions; the divergence is multiplied by its square, so that its gradient
            keeps its size (Hinton et al., 2015).
        kl: Weight of the divergence.
        giou: Weight of `1 - GIoU`. Where labels are exact, the teacher's boxes add little to them, and at the weights
            of the supervised losses they slow the learning of the score map.
        l1: Weight of the boxes' summed absolute difference, in crop sides.
        margin: Gain in IoU over the student at which a window has its full weight; small, so that all that a teacher
            knows better counts and not only gross errors.
    """

    temperature: float = 1.0
    kl: float = 1.0
    giou: float = 0.25
    l1: float = 0.5
    margin: float = 0.02


def score_distribution(score_logits: Tensor, grid_hw: tuple[int, int], *, temperature: float) -> Tensor:
    """Softened spatial distribution on another grid.

    The distribution, not the logits, is resampled: halving a grid adds up probabilities, as it should.

    Args:
        score_logits: `[N, H, W]`.
        grid_hw: Rows and columns wanted.
        temperature: Divides the logits.

    Returns:
        `[N, H' * W']`, rows summing to 1.
    """
    logits = score_logits.float() / temperature
    probabilities = logits.flatten(1).softmax(dim=1)
    if tuple(logits.shape[1:]) == tuple(grid_hw):
        return probabilities
    maps = probabilities.view_as(logits)[:, None]
    if logits.shape[1] >= grid_hw[0] and logits.shape[2] >= grid_hw[1]:
        maps = F.adaptive_avg_pool2d(maps, grid_hw)
    else:
        maps = F.interpolate(maps, size=grid_hw, mode="bilinear", align_corners=False)
    flat = maps.flatten(1)
    return flat / flat.sum(dim=1, keepdim=True)


def score_divergence(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float) -> Tensor:
    """`temperature^2 * KL(teacher | student)` of the spatial score distributions.

    Args:
        student_logits: `[N, H, W]`.
        teacher_logits: `[N, H', W']`.
        temperature: Softens both.

    Returns:
        `[N]`, not negative, 0 exactly where the student's logits are the teacher's up to a constant per window.
    """
    grid_hw = (student_logits.shape[1], student_logits.shape[2])
    wanted = score_distribution(teacher_logits.detach(), grid_hw, temperature=temperature)
    log_student = (student_logits.float() / temperature).flatten(1).log_softmax(dim=1)
    return temperature**2 * F.kl_div(log_student, wanted, reduction="none").sum(dim=1)


def regression_weight(teacher_logits: Tensor, grid_hw: Sequence[int]) -> Tensor:
    """How much each of the student's cells shall predict the teacher's box: as much as the teacher sees it there.

    The box that the student reads at its own peak will not do: while it still looks elsewhere, that cell would learn to
    point across the crop.

    Args:
        teacher_logits: `[N, H', W']`.
        grid_hw: Rows and columns of the student's maps.

    Returns:
        `[N, H, W]`, each sample summing to 1: scores above 0.3 of the highest, 0 elsewhere.
    """
    scores = teacher_logits.detach().float().sigmoid()
    if tuple(scores.shape[1:]) != tuple(grid_hw):
        scores = F.interpolate(scores[:, None], size=tuple(grid_hw), mode="bilinear", align_corners=False)[:, 0]
    kept = torch.where(scores > 0.3 * scores.amax(dim=(1, 2), keepdim=True), scores, torch.zeros_like(scores))
    return kept / kept.sum(dim=(1, 2), keepdim=True)


def teacher_quality(teacher_boxes: Tensor, student_boxes: Tensor, boxes: Tensor, *, margin: float) -> Tensor:
    """How much a teacher's answer is worth: its IoU with the label times its lead over the student's.

    Args:
        teacher_boxes: `[..., 4]` cx, cy, w, h.
        student_boxes: `[..., 4]`.
        boxes: Labels `[..., 4]`.
        margin: Lead in IoU at which the second factor reaches 1.

    Returns:
        `[...]` in [0, 1], 0 wherever the student fits the label at least as well; carries no gradient.
    """
    teacher_iou = box_iou(teacher_boxes.detach(), boxes)
    lead = teacher_iou - box_iou(student_boxes.detach(), boxes)
    return teacher_iou * (lead / margin).clamp(0, 1)


class ResponseDistillation(nn.Module):
    """Quality-weighted imitation of the teacher's score map and box; has no parameters.

    Args:
        options: Numbers of the level.
    """

    def __init__(self, *, options: ResponseOptions | None = None) -> None:
        super().__init__()
        self.options = options or ResponseOptions()

    def forward(
        self,
        student_logits: Tensor,
        student_boxes: Tensor,
        student_box_maps: Tensor,
        *,
        teacher_logits: Tensor,
        teacher_boxes: Tensor,
        boxes: Tensor,
        visible: Tensor,
    ) -> dict[str, Tensor]:
        """The level's loss and its terms.

        Args:
            student_logits: `[K, B, H, W]`.
            student_boxes: `[K, B, 4]` cx, cy, w, h relative to the crop's side, read at the peak; only weighs.
            student_box_maps: `[K, B, 4, H, W]`, the box of each cell.
            teacher_logits: `[K, B, H', W']`.
            teacher_boxes: `[K, B, 4]`.
            boxes: Labels `[K, B, 4]`.
            visible: `[K, B]`; windows without a visible target weigh 0.

        Returns:
            `response`, its terms `response_kl`, `response_giou`, `response_l1`, and without gradient `teacher_weight`,
            the mean weight of a visible window.
        """
        options = self.options
        seen = visible.to(student_boxes.dtype)
        teacher_boxes = teacher_boxes.detach()
        quality = teacher_quality(teacher_boxes, student_boxes, boxes, margin=options.margin)
        # Chosen, not multiplied: the label of an unseen target may be anything, NaN included.
        quality = torch.where(seen > 0, quality, torch.zeros_like(quality))
        divergence = score_divergence(
            student_logits.flatten(0, 1), teacher_logits.flatten(0, 1), temperature=options.temperature
        ).view_as(quality)
        at = regression_weight(teacher_logits.flatten(0, 1), student_logits.shape[-2:]).view_as(student_logits)
        told = student_box_maps.movedim(2, -1)
        wanted = teacher_boxes[:, :, None, None, :].expand_as(told)
        giou = ((1 - box_giou(told, wanted)) * at).sum(dim=(2, 3))
        l1 = ((told - wanted).abs().sum(dim=-1) * at).sum(dim=(2, 3))
        terms = {
            "response_kl": weighted_mean(divergence * quality, seen),
            "response_giou": weighted_mean(giou * quality, seen),
            "response_l1": weighted_mean(l1 * quality, seen),
        }
        factors = {"response_kl": options.kl, "response_giou": options.giou, "response_l1": options.l1}
        total = torch.stack([factors[name] * value for name, value in terms.items()]).sum()
        return {"response": total, **terms, "teacher_weight": weighted_mean(quality, seen).detach()}
