"""What the three levels are compared with: plain distillation, and the losses as the authors' public code has them.

Both are called like `HierarchicalDistillation`, so that an ablation changes one word.

`PublicCodeDistillation` restates, with its faults, the extra losses of the code published with HAD (arXiv 2510.19560;
repository Taxalfer/HAD, June 2026). It says nothing about the paper's formulas. Each fault is marked in the code:

1. transport over a single point whose 256 "features" are the cells: the plan is 1, space plays no part;
2. GRUs run over tokens in raster order instead of time, and never reach the optimiser;
3. the student's tokens repeated to the teacher's number and compared in an order that matches only in part;
4. a centre-map focal loss whose positives (target exactly 1) do not exist, because maps are halved first.

Left out: the similarity of attention maps (a spiking convolutional student has no attention) and the template's tokens
(the student reduces them to a kernel), so fault 3 appears as a shift by half of the search tokens. Widths follow the
networks given here instead of 768, and the student's rates pass a trained linear map where widths differ, which the
original does not need.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.distill.features import to_grid, weighted_mean
from had_snn.distill.response import score_divergence
from had_snn.distill.signals import StudentSignals, TeacherSignals, check_signals


class PlainDistillation(nn.Module):
    """Feature MSE through a linear map plus KL of the score maps, unweighted: what one writes first.

    Args:
        student_channels: Channels of the rates.
        teacher_channels: Channels of the teacher's features.
    """

    needs_membranes = False

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(student_channels, teacher_channels)

    def forward(
        self, *, student: StudentSignals, teacher: TeacherSignals, boxes: Tensor, visible: Tensor
    ) -> dict[str, Tensor]:
        """Named losses: `feature`, `kl` and `total`; arguments as for `HierarchicalDistillation`."""
        check_signals(student, teacher, boxes, visible)
        teacher = teacher.detach()
        seen = visible.float().flatten()
        with torch.autocast(device_type=boxes.device.type, enabled=False):
            wanted = teacher.features.float().flatten(0, 1)
            wanted = F.layer_norm(wanted.flatten(2).mT, (wanted.shape[1],))
            rates = to_grid(student.rates.float().flatten(0, 1), teacher.features.shape[-1])
            difference = self.project(rates.flatten(2).mT) - wanted
            feature = weighted_mean(difference.square().mean(dim=(1, 2)), seen)
            maps = (signals.score_logits.flatten(0, 1) for signals in (student, teacher))
            kl = weighted_mean(score_divergence(*maps, temperature=1.0), seen)
            return {"feature": feature, "kl": kl, "total": feature + kl}


class PublicCodeDistillation(nn.Module):
    """The published code's feature, response, temporal and transport losses, faults included.

    Args:
        student_channels: Channels of the rates.
        teacher_channels: Channels of the teacher's features.
        seed: Seed of the GRUs, which keep their random weights.
    """

    #: Weights fixed in that code.
    WEIGHTS = {"public_feature": 1.0, "public_response": 1.0, "public_temporal": 10.0, "public_transport": 3.0}  # noqa: RUF012

    def __init__(self, student_channels: int, teacher_channels: int, *, seed: int = 0) -> None:
        super().__init__()
        self.project = nn.Linear(student_channels, teacher_channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.student_gru = nn.GRU(teacher_channels, max(8, teacher_channels // 3), batch_first=True)
            self.student_map = nn.Linear(self.student_gru.hidden_size, teacher_channels)
            self.teacher_gru = nn.GRU(teacher_channels, max(8, 2 * teacher_channels // 3), batch_first=True)
            self.teacher_map = nn.Linear(self.teacher_gru.hidden_size, teacher_channels)
        self.needs_membranes = False
        # Fault 2: that code's optimiser never sees these.
        for module in (self.student_gru, self.student_map, self.teacher_gru, self.teacher_map):
            module.requires_grad_(False)

    def forward(
        self, *, student: StudentSignals, teacher: TeacherSignals, boxes: Tensor, visible: Tensor
    ) -> dict[str, Tensor]:
        """Named losses and `total`; arguments as for `HierarchicalDistillation`, `visible` is not used there."""
        check_signals(student, teacher, boxes, visible)
        teacher = teacher.detach()
        with torch.autocast(device_type=boxes.device.type, enabled=False):
            wanted = teacher.features.float().flatten(0, 1).flatten(2).mT
            rates = to_grid(student.rates.float().flatten(0, 1), teacher.features.shape[-1])
            tokens = self.project(rates.flatten(2).mT)
            student_map = to_grid(student.score_logits.float().flatten(0, 1), teacher.score_logits.shape[-1]).sigmoid()
            teacher_map = teacher.score_logits.float().flatten(0, 1).sigmoid()
            # Fault 3: half of the tokens meet another position's.
            named = {"public_feature": F.mse_loss(tokens.roll(tokens.shape[1] // 2, dims=1), wanted)}
            named["public_response"] = centre_focal(student_map / 2, teacher_map / 2)
            # Fault 2: time is nowhere; the recurrence runs over tokens.
            ours, _ = self.student_gru(tokens)
            theirs, _ = self.teacher_gru(wanted)
            named["public_temporal"] = F.mse_loss(self.student_map(ours[:, -1]), self.teacher_map(theirs[:, -1]))
            named["public_transport"] = single_point_transport(student_map / 2, teacher_map / 2)
            total = sum((self.WEIGHTS[name] * value for name, value in named.items()), boxes.new_zeros(()))
        return {**named, "total": total}


def centre_focal(student_map: Tensor, target: Tensor) -> Tensor:
    """CenterNet's focal loss with positives where the target is exactly 1 (fault 4: there are none below).

    Args:
        student_map: Scores in (0, 1), `[N, H, W]`.
        target: `[N, H, W]`; values below 1 only suppress.

    Returns:
        Scalar; divided by the number of positives when there are any, else the plain sum per window and cell.
    """
    p = student_map.clamp(1e-4, 1 - 1e-4)
    positive = (target == 1).to(p.dtype)
    hit = positive * (1 - p) ** 2 * p.log()
    miss = (1 - positive) * (1 - target) ** 4 * p**2 * (1 - p).log()
    count = positive.sum()
    return -(hit + miss).sum() / torch.where(count > 0, count, torch.full_like(count, p.numel()))


def single_point_transport(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Transport between two single points in the space of soft-maxed maps (fault 1): their Euclidean distance.

    With one point a side the plan is 1 whatever the cost, so two peaks one cell apart cost what two peaks a whole map
    apart cost.

    Args:
        student_map: `[N, H, W]`.
        teacher_map: `[N, H, W]`.

    Returns:
        Scalar.
    """
    difference = student_map.flatten(1).softmax(dim=1) - teacher_map.flatten(1).softmax(dim=1)
    # The square root's gradient is infinite at 0.
    return (difference.square().sum(dim=1) + 1e-12).sqrt().mean()
