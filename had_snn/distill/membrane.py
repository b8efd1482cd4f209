"""Membrane level: the temporal asymmetry between micro-steps and frames.

The student integrates events over `T` micro-steps per window, the teacher sees one frame and one voxel grid. A GRU, the
same at every position of a common grid, reads the student's membranes micro-step by micro-step through all `K` windows
of a clip. At each label time two linear maps of its state predict

1. the teacher's features at that position and time, standardised (`features.py`), and
2. the teacher's *temporal context* there: the state of a second GRU that reads the teacher's `K` features in order.

Both predictions are compared by `1 - cosine`.

**Why this cannot collapse.** Were a trained teacher side simply matched to a trained student side, "everything
constant" would be a perfect solution. Here the first target has no parameters. The second is trained, but not by the
match: from the context GRU's state, two linear maps must recall how the teacher's features changed since the last label
time and forecast how they change until the next (its own loss, `membrane_context`). Its state is cut from the graph
before the student is compared with it, and standardised, so that even a state of vanishing variance is compared by its
variations, not by its mean. The student can lower its loss only by predicting what varies in the teacher. The change
since the last label time is also what a frame does not show and the student's events do. A static teacher has no change
to explain; the context's loss is 0 then.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.distill.features import FixedTarget, to_grid, weighted_mean
from had_snn.errors import InputError
from had_snn.processes import mean_over_ranks

#: Mean squared change of standardised features below which there is nothing to forecast.
STATIC = 1e-4


class MembraneAlignment(nn.Module):
    """Predicts the teacher's features and their temporal context from the student's membranes.

    Args:
        student_channels: Channels `C` of the membranes.
        teacher_channels: Channels `D` of the teacher's features.
        hidden: Width of both GRUs.
        grid: Cells per side of the common grid; a GRU runs over `B * grid ** 2` sequences.
        context_weight: Weight of the context's prediction beside the features'.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        *,
        hidden: int = 32,
        grid: int = 8,
        context_weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.grid, self.context_weight = grid, context_weight
        self.student_gru = nn.GRU(student_channels, hidden)
        self.predict_features = nn.Linear(hidden, teacher_channels)
        self.predict_context = nn.Linear(hidden, hidden)
        self.teacher_gru = nn.GRU(teacher_channels, hidden)
        self.recall = nn.Linear(hidden, teacher_channels)
        self.forecast = nn.Linear(hidden, teacher_channels)
        self.target = FixedTarget(teacher_channels)
        self.context_target = FixedTarget(hidden)

    def read_student(self, membranes: Tensor) -> Tensor:
        """GRU states at the `K` label times, `[K, B * P, hidden]`, from membranes `[K, T, B, C, H, W]`."""
        windows, steps = membranes.shape[:2]
        if membranes.is_contiguous():
            pooled = to_grid(membranes, self.grid)
        else:
            # Layers hand out micro-steps first; pooling in that order spares a copy of the full-size maps.
            pooled = to_grid(membranes.transpose(0, 1), self.grid).transpose(0, 1)
        sequences = _sequences(pooled.flatten(0, 1).float())
        states, _ = self.student_gru(sequences)
        return states.unflatten(0, (windows, steps))[:, -1]

    def forward(self, membranes: Tensor, features: Tensor, *, weight: Tensor | None = None) -> dict[str, Tensor]:
        """The level's losses.

        Args:
            membranes: Student membranes `[K, T, B, C, H, W]`.
            features: Teacher features `[K, B, D, H', W']`.
            weight: Weight of each window `[K, B]`; 1 when None.

        Returns:
            `membrane`, the student's loss, in [0, 2 (1 + context_weight)]; `membrane_context`, the loss that trains
            the teacher's context and reaches nothing else.

        Raises:
            InputError: With fewer than two windows there is no time between label times.
        """
        windows, clips = features.shape[:2]
        if windows < 2:
            raise InputError("the membrane level needs 2 or more consecutive windows per clip, found 1 (clips.windows)")
        target = self.target(_sequences(to_grid(features, self.grid)))
        context, _ = self.teacher_gru(target)
        state = self.read_student(membranes)
        by_feature = 1 - F.cosine_similarity(self.predict_features(state), target, dim=-1)
        by_context = 1 - F.cosine_similarity(self.predict_context(state), self.context_target(context), dim=-1)
        by_window = (by_feature + self.context_weight * by_context).unflatten(1, (clips, -1)).mean(dim=2)
        weight = by_window.new_ones(windows, clips) if weight is None else weight.to(by_window)
        return {
            "membrane": weighted_mean(by_window, weight),
            "membrane_context": self._context_loss(context, target),
        }

    def _context_loss(self, context: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of the recalled and of the forecast change, relative to "nothing changes"."""
        change = target[1:] - target[:-1]
        # The recall keeps the GRU's memory trained even with two windows, where a forecast needs none.
        recalled = (self.recall(context[1:]) - change).square().mean()
        error = (recalled + (self.forecast(context[:-1]) - change).square().mean()) / 2
        size = mean_over_ranks(change.square().mean())
        return error / size.clamp(min=STATIC) * (size > STATIC)


def _sequences(maps: Tensor) -> Tensor:
    """Maps over time `[S, B, C, g, g]` as one sequence per position, `[S, B * g * g, C]`."""
    steps, _, channels = maps.shape[:3]
    return maps.flatten(3).transpose(2, 3).reshape(steps, -1, channels)
