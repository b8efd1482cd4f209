"""The object that weighs the three levels, and the factory for the modes of the ablation.

The alignment modules are submodules, so whoever trains this module trains them too; they are checkpointed with it,
apart from the student, and dropped with it. The teacher is not here: only its signals come in, and their gradient is
cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from had_snn.distill.comparisons import PlainDistillation, PublicCodeDistillation
from had_snn.distill.levels import FORMS, LEVELS, MODES
from had_snn.distill.localisation import LocalisationAlignment, LocalisationOptions
from had_snn.distill.membrane import MembraneAlignment
from had_snn.distill.micro_steps import MicroStepAlignment
from had_snn.distill.response import ResponseDistillation, ResponseOptions
from had_snn.distill.signals import StudentSignals, TeacherSignals, check_signals
from had_snn.distill.spike_rate import SpikeRateAlignment, TransportOptions
from had_snn.errors import InputError

__all__ = ["LEVELS", "MODES", "HierarchicalDistillation", "StudentSignals", "TeacherSignals", "distillation_for"]


#: The loss that trains a level's own modules beside it.
TRAINS_ALIGNMENT = {"membrane": "membrane_context", "localisation": "localisation_teacher"}


class HierarchicalDistillation(nn.Module):
    """Distils at the levels that are on.

    Args:
        student_channels: Channels of the layer whose spike rates are given and, by default, of the membranes.
        teacher_channels: Channels of the teacher's features.
        levels: Which of `LEVELS` and `FORMS` are on.
        weights: Weight by level; 1 where absent.
        membrane_channels: Channels of the layer whose membranes are given, when they differ from `student_channels`.
        hidden: Width of the GRUs of the membrane level.
        grid: Cells per side of the common grid of both forms of the membrane level.
        context_weight: See `MembraneAlignment`.
        transport: Numbers of the spike-rate level.
        response: Numbers of the response level.
        localisation: Numbers of the localisation level.

    Raises:
        InputError: If a level or weight is not one of `LEVELS` and `FORMS`.

    Example:
        >>> sorted(HierarchicalDistillation(48, 96, levels=("response",)).state_dict())
        []
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        levels: Sequence[str] = LEVELS,
        weights: Mapping[str, float] | None = None,
        membrane_channels: int | None = None,
        hidden: int = 32,
        grid: int = 8,
        context_weight: float = 0.5,
        transport: TransportOptions | None = None,
        response: ResponseOptions | None = None,
        localisation: LocalisationOptions | None = None,
    ) -> None:
        super().__init__()
        known = (*LEVELS, *FORMS)
        unknown = sorted({*levels, *(weights or {})} - set(known))
        if unknown:
            raise InputError(f"unknown distillation level {', '.join(unknown)}; the levels are {', '.join(known)}")
        self.levels = tuple(level for level in known if level in levels)
        self.needs_step_features = "membrane_steps" in self.levels
        self.needs_membranes = "membrane" in self.levels or self.needs_step_features
        self.weights = {level: float((weights or {}).get(level, 1.0)) for level in self.levels}
        if "membrane" in self.levels:
            self.membrane = MembraneAlignment(
                membrane_channels or student_channels,
                teacher_channels,
                hidden=hidden,
                grid=grid,
                context_weight=context_weight,
            )
        if self.needs_step_features:
            channels = membrane_channels or student_channels
            self.membrane_steps = MicroStepAlignment(channels, teacher_channels, grid=grid)
        if "rate" in self.levels:
            self.rate = SpikeRateAlignment(student_channels, teacher_channels, options=transport)
        if "response" in self.levels:
            self.response = ResponseDistillation(options=response)
        if "localisation" in self.levels:
            self.localisation = LocalisationAlignment(student_channels, teacher_channels, options=localisation)

    def forward(
        self, *, student: StudentSignals, teacher: TeacherSignals, boxes: Tensor, visible: Tensor
    ) -> dict[str, Tensor]:
        """Named losses of `K` consecutive windows of `B` clips.

        Args:
            student: The student's signals.
            teacher: The teacher's signals; their gradient is cut.
            boxes: Labels `[K, B, 4]` cx, cy, w, h relative to the crop's side.
            visible: `[K, B]`; windows without a visible target weigh 0 at every level.

        Returns:
            Each level's loss by name, unweighted, with its terms and diagnostics beside it, and `total`, the weighted
            sum to be added to the supervised loss. `membrane_context` and `localisation_teacher` are part of the total,
            at their level's weight, because they train the alignment; they do not reach the student.

        Raises:
            InputError: If shapes disagree.
        """
        check_signals(student, teacher, boxes, visible)
        teacher = teacher.detach()
        named: dict[str, Tensor] = {}
        # Logarithms of plans and small masses need float32 whatever the networks run in.
        with torch.autocast(device_type=boxes.device.type, enabled=False):
            weight = visible.float()
            if self.needs_membranes and student.membranes is None:
                raise InputError("the membrane level needs the student's membranes, found none")
            if "membrane" in self.levels:
                named.update(self.membrane(student.membranes, teacher.features, weight=weight))
            if self.needs_step_features:
                if teacher.step_features is None:
                    raise InputError("this level needs the teacher's features at each micro-step's end, found none")
                named.update(self.membrane_steps(student.membranes, teacher.step_features, weight=weight))
            if "rate" in self.levels:
                named.update(self.rate(student.rates, teacher.features, teacher.score_logits, weight=weight))
            if "response" in self.levels:
                named.update(
                    self.response(
                        student.score_logits,
                        student.boxes.float(),
                        student.box_maps.float(),
                        teacher_logits=teacher.score_logits,
                        teacher_boxes=teacher.boxes.float(),
                        boxes=boxes.float(),
                        visible=visible,
                    )
                )
            if "localisation" in self.levels:
                told = {"boxes": boxes, "visible": visible}
                named.update(self.localisation(student.rates, teacher.features, **told))
            total = boxes.new_zeros((), dtype=torch.float32)
            for level in self.levels:
                own = [named[name] for name in (level, TRAINS_ALIGNMENT.get(level)) if name is not None]
                total = total + self.weights[level] * torch.stack(own).sum()
        return {**named, "total": total}


def distillation_for(
    mode: str, student_channels: int, teacher_channels: int, *, weights: Mapping[str, float] | None = None
) -> HierarchicalDistillation | PlainDistillation | PublicCodeDistillation | None:
    """Builds what a mode of the ablation distils with.

    Args:
        mode: One of `MODES`.
        student_channels: Channels of the student's distilled layer.
        teacher_channels: Channels of the teacher's features.
        weights: Weight by level; only for the modes that have levels.

    Returns:
        The module, or None for `none`. All are called alike.

    Raises:
        InputError: If there is no such mode.
    """
    if mode not in MODES:
        raise InputError(f"unknown distillation mode {mode}; the modes are {', '.join(MODES)}")
    if mode == "none":
        return None
    if mode == "plain":
        return PlainDistillation(student_channels, teacher_channels)
    if mode == "public":
        return PublicCodeDistillation(student_channels, teacher_channels)
    return HierarchicalDistillation(student_channels, teacher_channels, levels=MODES[mode], weights=weights)
