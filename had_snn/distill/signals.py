"""What distillation sees of student and teacher: tensors, never models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from had_snn.errors import InputError


@dataclass(frozen=True)
class StudentSignals:
    """Signals of the student on `K` consecutive windows of `B` clips.

    Attributes:
        membranes: Membranes of one layer at micro-step ends, `[K, T, B, C, H, W]`, in units of the threshold; None
            where nobody asks for them (`needs_membranes` of what distils).
        rates: Mean spikes per micro-step of one layer, `[K, B, C, H, W]`.
        score_logits: `[K, B, G, G]`.
        boxes: `[K, B, 4]` cx, cy, w, h relative to the crop's side, read at the peak of the scores.
        box_maps: The box that each cell predicts, `[K, B, 4, G, G]`.
    """

    membranes: Tensor | None
    rates: Tensor
    score_logits: Tensor
    boxes: Tensor
    box_maps: Tensor


@dataclass(frozen=True)
class TeacherSignals:
    """Signals of the frozen teacher on the same windows; whatever gradient they carry is cut.

    Attributes:
        features: Search tokens on their grid, `[K, B, D, H', W']`.
        score_logits: `[K, B, G', G']`.
        boxes: `[K, B, 4]` cx, cy, w, h relative to the crop's side.
        step_features: The features at each micro-step's own end, `[K, B, T, D, H', W']`; None where nobody asks for
            them (`needs_step_features` of what distils).
    """

    features: Tensor
    score_logits: Tensor
    boxes: Tensor
    step_features: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> TeacherSignals:
        """The signals with each tensor changed."""
        return TeacherSignals(**{name: None if part is None else change(part) for name, part in vars(self).items()})

    def detach(self) -> TeacherSignals:
        """The same signals without gradient."""
        return self.map(Tensor.detach)

    @classmethod
    def stack(cls, clips: Sequence[TeacherSignals]) -> TeacherSignals:
        """Signals of single clips, without the axis of clips, as those of a batch."""
        parts = ([getattr(clip, f.name) for clip in clips] for f in fields(cls))
        return cls(*(None if part[0] is None else torch.stack(part, dim=1) for part in parts))


def check_signals(student: StudentSignals, teacher: TeacherSignals, boxes: Tensor, visible: Tensor) -> None:
    """Refuses signals whose windows or clips disagree.

    Args:
        student: The student's.
        teacher: The teacher's.
        boxes: Labels `[K, B, 4]`.
        visible: `[K, B]`.

    Raises:
        InputError: Naming the tensor and both shapes.
    """
    windows, clips = visible.shape[:2]
    dims = {
        "student membranes": (student.membranes, 6),
        "student rates": (student.rates, 5),
        "student score logits": (student.score_logits, 4),
        "student boxes": (student.boxes, 3),
        "student box maps": (student.box_maps, 5),
        "teacher features": (teacher.features, 5),
        "teacher score logits": (teacher.score_logits, 4),
        "teacher boxes": (teacher.boxes, 3),
        "teacher features of micro-steps": (teacher.step_features, 6),
        "label boxes": (boxes, 3),
        "visible flags": (visible, 2),
    }
    for name, (tensor, ndim) in dims.items():
        if tensor is None:
            continue
        clip_axis = 2 if name == "student membranes" else 1
        if tensor.ndim != ndim or (tensor.shape[0], tensor.shape[clip_axis]) != (windows, clips):
            raise InputError(
                f"{name} have shape {tuple(tensor.shape)}; expected {ndim} axes with {windows} windows first and "
                f"{clips} clips on axis {clip_axis}"
            )
