"""The record that every data set is turned into: events, labels and frames of one target in one recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from had_snn.data.labels import has_area
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

    @cached_property
    def usable(self) -> np.ndarray:
        """Labels bool `[L]` that show the target: visible, with a box that is finite and has an area."""
        return self.visible & has_area(self.boxes_xywh)

    def box_at(self, t_us: int) -> tuple[np.ndarray, bool]:
        """The target's box at any time: a label's own, or between two labels a straight line in time.

        Returns:
            The box `[4]` in sensor pixels, and whether the target is known to be visible: at the label, or at both
            neighbours. After the last label the last box is returned as not visible.
        """
        times, boxes = self.label_times_us, self.boxes_xywh
        after = int(np.searchsorted(times, t_us))
        if after == len(times):
            return boxes[-1], False
        if times[after] == t_us or after == 0:
            return boxes[after], bool(self.usable[after] and times[after] == t_us)
        share = (t_us - times[after - 1]) / (times[after] - times[after - 1])
        box = boxes[after - 1] + share * (boxes[after] - boxes[after - 1])
        return box, bool(self.usable[after - 1] and self.usable[after])

    def frame_at(self, t_us: int) -> np.ndarray | None:
        """The newest frame `[H, W, 3]` whose exposure ended at or before `t_us`, or None."""
        index = self._newest_frame(t_us)
        return None if self.frames is None or index < 0 else np.asarray(self.frames[index])

    def frame_age_us(self, t_us: int) -> int | None:
        """Microseconds since the exposure of the newest frame ended, or None where there is none."""
        index = self._newest_frame(t_us)
        return None if self.frame_times_us is None or index < 0 else t_us - int(self.frame_times_us[index])

    def _newest_frame(self, t_us: int) -> int:
        if self.frame_times_us is None:
            return -1
        return int(np.searchsorted(self.frame_times_us, t_us, side="right")) - 1


def first_label(labelled: Any) -> int:
    """Index of the first label that a tracker can start at: a box with an area, while the target is visible.

    Args:
        labelled: A sequence, or annotations without events: what has a `name` and `usable` labels.

    Raises:
        InputError: If there is none.
    """
    if not labelled.usable.any():
        raise InputError(f"{labelled.name}: no label shows a visible box, so there is nothing to start at")
    return int(np.flatnonzero(labelled.usable)[0])


def split_by_label(
    found: Sequence[TrackingSequence], share: float
) -> tuple[list[TrackingSequence], list[TrackingSequence]]:
    """The sequences whose labels count, spread evenly over the set, and the others.

    Args:
        found: All training sequences.
        share: Share of them that is labelled, in (0, 1].

    Raises:
        InputError: If the share is out of range or leaves nothing.
    """
    if not 0 < share <= 1:
        raise InputError(f"labels={share}: expected a share of the training sequences in (0, 1]")
    place = np.floor(np.arange(len(found) + 1) * share + 1e-9)
    chosen = np.diff(place) > 0
    if not chosen.any():
        raise InputError(f"labels={share}: leaves none of {len(found)} training sequences")
    labelled = [s for s, keep in zip(found, chosen, strict=True) if keep]
    return labelled, [s for s, keep in zip(found, chosen, strict=True) if not keep]
