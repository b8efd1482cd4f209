"""Membrane level, aligned in time: each micro-step's membranes against what a teacher sees at that micro-step's end.

A window's frame says where things were once; its events say how they have moved since. The teacher is therefore asked
anew at each micro-step's own end, with the same frame and with the events until then, and a linear map of the student's
membranes at that micro-step, the same at every position and micro-step, predicts the teacher's standardised features
(`features.py`) at that position and time:

    membrane_steps = mean over t and positions of 1 - cos(map(h[t]), standardised(F[t]))

No recurrence lies between: what is matched is what the membranes hold at that time and no other, which the level of
`membrane.py`, whose GRU may gather it over two windows, does not ask for. The target has no parameters, so nothing that
is trained here can make it constant.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.distill.features import FixedTarget, to_grid, weighted_mean
from had_snn.errors import InputError


class MicroStepAlignment(nn.Module):
    """Predicts the teacher's features at each micro-step's end from the membranes then.

    Args:
        student_channels: Channels `C` of the membranes.
        teacher_channels: Channels `D` of the teacher's features.
        grid: Cells per side of the common grid.
    """

    def __init__(self, student_channels: int, teacher_channels: int, *, grid: int = 8) -> None:
        super().__init__()
        self.grid = grid
        self.predict = nn.Linear(student_channels, teacher_channels)
        self.target = FixedTarget(teacher_channels)

    def forward(self, membranes: Tensor, features: Tensor, *, weight: Tensor | None = None) -> dict[str, Tensor]:
        """The level's loss.

        Args:
            membranes: Student membranes `[K, T, B, C, H, W]`.
            features: Teacher features at the micro-steps' ends `[K, B, T, D, H', W']`.
            weight: Of each window, `[K, B]`; 1 when None.

        Returns:
            `membrane_steps`, in [0, 2].

        Raises:
            InputError: If the teacher was asked about another number of micro-steps.
        """
        windows, steps, clips = membranes.shape[:3]
        if features.shape[2] != steps:
            raise InputError(f"features of {features.shape[2]} micro-steps; the student's membranes have {steps}")
        ours = to_grid(membranes.transpose(1, 2), self.grid).flatten(4).mT.float()
        theirs = self.target(to_grid(features, self.grid).flatten(4).mT)
        apart = 1 - F.cosine_similarity(self.predict(ours), theirs, dim=-1)
        weight = apart.new_ones(windows, clips) if weight is None else weight.to(apart)
        return {"membrane_steps": weighted_mean(apart.mean(dim=(2, 3)), weight)}
