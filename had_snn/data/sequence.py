"""The record that every data set is turned into: events, labels and frames of one target in one recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from had_snn.errors import InputError
from had_snn.events.stream import EventStream


class FrameSource(Protocol):
    """Pictures by position, uint8 `[H, W, 3]` each: an array of all of them, or something that decodes on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class TrackingSequence:
    """One target in one recording. Arrays may be read-only memory maps.

    Attributes:
        name: Unique within its data set.
        events: All events of the recording.
        label_times_us: int64 `[L]`, strictly increasing.
        boxes_xywh: float64 `[L, 4]`, sensor pixels; also where the target is not visible, if it is known there.
        visible: bool `[L]`, whether the target can be seen at the label time.
        frames: `F` pictures, an array uint8 `[F, H, W, 3]` or a source that decodes on demand; or None.
        frame_times_us: int64 `[F]`, end of each exposure, increasing: a frame may be used from then on; or None.
        attributes: What makes the sequence hard, e.g. `("fast_motion", "occlusion")`.
    """

    name: str
    events: EventStream
    label_times_us: np.ndarray
    boxes_xywh: np.ndarray
    visible: np.ndarray
    frames: FrameSource | None = None
    frame_times_us: np.ndarray | None = None
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.label_times_us)
        if self.boxes_xywh.shape != (count, 4) or self.visible.shape != (count,):
            raise InputError(
                f"{self.name}: {count} label times, boxes {self.boxes_xywh.shape}, visible {self.visible.shape}; "
                "expected one box of four numbers and one flag per label time"
            )
        if count == 0 or (np.diff(self.label_times_us) <= 0).any():
            raise InputError(f"{self.name}: label times must be strictly increasing and at least one")
        frames, times = self.frames, self.frame_times_us
        if (frames is None) != (times is None):
            raise InputError(f"{self.name}: frames need their times, and times their frames")
        if frames is not None and times is not None and len(frames) != len(times):
            raise InputError(f"{self.name}: {len(frames)} frames but {len(times)} frame times")

    def __len__(self) -> int:
        return len(self.label_times_us)

    @property
    def sensor_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.events.sensor_hw

    def frame_at(self, t_us: int) -> np.ndarray | None:
        """The newest frame `[H, W, 3]` whose exposure ended at or before `t_us`, or None."""
        if self.frames is None or self.frame_times_us is None:
            return None
        index = int(np.searchsorted(self.frame_times_us, t_us, side="right")) - 1
        return np.asarray(self.frames[index]) if index >= 0 else None

    def window_bounds(self, k: int) -> tuple[int, int]:
        """The half-open window `[t0, t1)` in microseconds that ends at label `k`.

        The first window is as long as the second one, or 40 ms in a sequence with one label.
        """
        times = self.label_times_us
        if not 0 <= k < len(times):
            raise InputError(f"{self.name}: window {k} does not exist; there are {len(times)} labels")
        if k > 0:
            return int(times[k - 1]), int(times[k])
        length = int(times[1] - times[0]) if len(times) > 1 else 40_000
        return int(times[0]) - length, int(times[0])

    def window(self, k: int) -> EventStream:
        """Events between label `k - 1` (inclusive) and label `k` (exclusive)."""
        return self.events.slice_time(*self.window_bounds(k))
