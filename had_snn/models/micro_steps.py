"""The micro-steps of a call: the one place that turns the length of a window into the clock of the layers."""

from __future__ import annotations

from dataclasses import dataclass

from had_snn.errors import InputError
from had_snn.events.batch import EventBatch
from had_snn.models.student_config import StudentConfig

#: Windows whose lengths differ by less than this share are equally long.
_SAME = 1e-9


@dataclass(frozen=True)
class MicroSteps:
    """How many micro-steps are read, how long they are, and whether the newest is over.

    Attributes:
        count: Micro-steps `T`.
        dt_us: Length of each in microseconds of network time. It need not be the events' span over `count`: the events
            may be the rest of a micro-step that began earlier.
        share: Weight in (0, 1] of the newest micro-step in the read-out. Below 1 it is not over yet: the state after it
            keeps its stem spikes, and the next call goes on with it.
    """

    count: int
    dt_us: float
    share: float = 1.0

    @property
    def over(self) -> bool:
        """Whether the newest micro-step is complete."""
        return self.share == 1.0

    @classmethod
    def of_windows(cls, events: EventBatch, config: StudentConfig, count: int | None = None) -> MicroSteps:
        """Whole windows, cut into `count` micro-steps (the configured number when None).

        Windows of any length are `window_us` long in network time once they are packed with their scale.

        Raises:
            InputError: If the windows are not equally long in network time.
        """
        lengths = events.network_length_us.tolist()
        if any(abs(other - lengths[0]) > _SAME * lengths[0] for other in lengths):
            raise InputError(
                f"windows of one batch must be equally long, found {sorted(set(lengths))} us of network time"
            )
        # A length times a scale is the nominal window but for the last digit, which must decide nothing.
        length = config.window_us if abs(lengths[0] - config.window_us) <= _SAME * config.window_us else lengths[0]
        count = count or config.n_steps
        return cls(count, length / count)

    @classmethod
    def passed(cls, passed_us: float, config: StudentConfig) -> MicroSteps:
        """What has passed since a micro-step began: part of it, or about as many as fit."""
        count = max(1, round(passed_us / config.step_us))
        whole = passed_us >= config.step_us
        return cls(count, passed_us / count, 1.0 if whole else passed_us / config.step_us)
