"""The supervised losses of the OSTrack family: a score map, and boxes around the target's centre."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from had_snn.geometry import box_giou, box_iou
from had_snn.models import TrackerOutput
from had_snn.models.head import score_target
from had_snn.processes import shared_count

#: Weights of the terms: those of the OSTrack family's successors.
FOCAL, GIOU, L1 = 1.0, 2.0, 5.0


def focal_loss(score_logits: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """Penalty-reduced focal loss on a Gaussian score map (Law & Deng, CornerNet, ECCV 2018; exponents 2 and 4).

    Args:
        score_logits: `[N, G, G]`.
        target: `[N, G, G]` in [0, 1], exactly 1 at the target's cell.
        visible: `[N]`, 1 where the target can be seen; other windows must only stay silent.

    Returns:
        Scalar, normalised by the number of visible targets.
    """
    target = target * visible[:, None, None]
    positive = (target == 1).to(score_logits.dtype)
    p = score_logits.sigmoid()
    hit = positive * (1 - p) ** 2 * F.logsigmoid(score_logits)
    miss = (1 - positive) * (1 - target) ** 4 * p**2 * F.logsigmoid(-score_logits)
    return -(hit + miss).sum() / shared_count(visible)


def box_losses(output: TrackerOutput, boxes: Tensor, target: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """GIoU and L1 of the boxes predicted around the target's centre.

    Cells where the score target exceeds 0.3 regress, weighted by it: more signal per window than the centre cell
    alone, which matters when training lasts minutes.

    Args:
        output: The head's maps.
        boxes: `[N, 4]` cx, cy, w, h relative to the crop's side.
        target: Score target `[N, G, G]`.
        visible: `[N]`.

    Returns:
        Two scalars.
    """
    weight = torch.where(target > 0.3, target, torch.zeros_like(target)) * visible[:, None, None]
    weight = weight / shared_count(weight, at_least=1e-6)
    predicted = output.box_maps().permute(0, 2, 3, 1)
    wanted = boxes[:, None, None, :].expand_as(predicted)
    giou = (1 - box_giou(predicted, wanted)) * weight
    l1 = (predicted - wanted).abs().sum(dim=-1) * weight
    return giou.sum(), l1.sum()


def tracking_losses(output: TrackerOutput, boxes: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """The supervised losses and the mean IoU of the boxes read at the peak.

    Args:
        output: Maps of `N` windows.
        boxes: `[N, 4]` cx, cy, w, h relative to the crop's side.
        visible: `[N]`.

    Returns:
        `total`, `focal`, `giou`, `l1` and, without gradient, `iou`.
    """
    target = score_target(boxes, output.score_logits.shape[-1])
    focal = focal_loss(output.score_logits, target, visible)
    giou, l1 = box_losses(output, boxes, target, visible)
    with torch.no_grad():
        iou = (box_iou(output.peak_boxes()[0], boxes) * visible).sum() / shared_count(visible)
    total = FOCAL * focal + GIOU * giou + L1 * l1
    return {"total": total, "focal": focal, "giou": giou, "l1": l1, "iou": iou}
