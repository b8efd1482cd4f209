"""Which clips are distilled and what that weighs: the one schedule of clips, task and configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass

from had_snn.errors import InputError


@dataclass(frozen=True)
class DistillSchedule:
    """Which clips a teacher is asked about, and the weight of distillation over the steps.

    Attributes:
        every: Distance of distilled clips, of which clip 0 is the first.
        until: Step at which the weight, which falls along a half cosine from 1, reaches 0; no clip is distilled from
            then on. None keeps it at 1.
        pool: Distilled clips are these many, the same over and over, so that a teacher's answers can be kept; None for
            new ones all the time.
        clips_per_step: Clips that all processes together read in a step; tells at which step a clip is read.

    Raises:
        InputError: If a number is not positive.
    """

    every: int = 1
    until: int | None = None
    pool: int | None = None
    clips_per_step: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 1:
                raise InputError(f"distillation: {name}={value} must be at least 1")

    def includes(self, index: int) -> bool:
        """Whether clip `index` is distilled."""
        return index % self.every == 0 and (self.until is None or index < self.until * self.clips_per_step)

    def pool_number(self, index: int) -> int | None:
        """Which clip of the pool the distilled clip `index` is; None without a pool."""
        return None if self.pool is None else index // self.every % self.pool

    def weight(self, step: int) -> float:
        """Of distillation at a step: strong while the student knows little, nothing at the end, where labels count."""
        if self.until is None:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.until)))


#: The same for every clip, from beginning to end.
EVERY_CLIP = DistillSchedule()
