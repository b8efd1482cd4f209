"""A recording played backwards: what a tracker sees that follows a target from where it was last to where it was first.

Time runs the other way and every change of light is undone, so brighter events become darker ones; the order of events
within a microsecond turns, too. A frame may be used from its end on, which backwards comes before what it shows.
"""

from __future__ import annotations

import numpy as np

from had_snn.data.sequence import FrameSource, TrackingSequence
from had_snn.events.stream import EventStream

#: Events and frames that are kept around the labels: trackers look at what was before their first box.
AROUND_US = 500_000


class BackwardFrames:
    """Frames `first` to `stop` of a source, the last one first.

    Args:
        frames: All frames.
        first: The earliest one that is kept.
        stop: Behind the latest one.
    """

    def __init__(self, frames: FrameSource, first: int, stop: int) -> None:
        self.frames, self.first, self.stop = frames, first, stop

    def __len__(self) -> int:
        return self.stop - self.first

    def __getitem__(self, index: int, /) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return np.asarray(self.frames[self.stop - 1 - index])


def backwards(sequence: TrackingSequence) -> TrackingSequence:
    """The sequence around its labels, played backwards.

    Args:
        sequence: The sequence.

    Returns:
        One whose label `i` is label `L - 1 - i` of the given one. Its clock starts at 0, where the given one is
        `AROUND_US` behind its last label.
    """
    first, last = int(sequence.label_times_us[0]), int(sequence.label_times_us[-1])
    end_us = last + AROUND_US
    events = sequence.events.slice_time(first - AROUND_US, end_us)
    turned = EventStream.from_arrays(
        end_us - events.t[::-1], events.x[::-1], events.y[::-1], 1 - events.p[::-1], events.sensor_hw, events.source
    )
    frames = times = None
    if sequence.frames is not None and sequence.frame_times_us is not None:
        low, high = np.searchsorted(sequence.frame_times_us, [first - AROUND_US, end_us], side="right")
        frames = BackwardFrames(sequence.frames, int(low), int(high))
        times = end_us - sequence.frame_times_us[low:high][::-1]
    return TrackingSequence(
        name=f"{sequence.name} backwards",
        events=turned,
        label_times_us=end_us - sequence.label_times_us[::-1],
        boxes_xywh=sequence.boxes_xywh[::-1],
        visible=sequence.visible[::-1],
        frames=frames,
        frame_times_us=times,
        attributes=sequence.attributes,
    )
