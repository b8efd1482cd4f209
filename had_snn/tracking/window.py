"""The events that a network reads for one look: counted, thinned out in a burst, and packed."""

from __future__ import annotations

import torch

from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.geometry import Crop
from had_snn.tracking.buffer import EventBuffer

#: Fewer events than this in a crop say nothing about a target; the box stays and its score decays.
MIN_EVENTS = 8


def count_window(buffer: EventBuffer, crop: Crop, t0: int, t1: int, *, most: int | None) -> tuple[int, int]:
    """Counts the events of a crop.

    Args:
        buffer: The newest events.
        crop: Region of the sensor.
        t0: Begin in microseconds, inclusive.
        t1: End in microseconds, exclusive.
        most: Largest number of events to read; None for no limit.

    Returns:
        The number of events, and the smallest k such that every k-th of them are at most `most`.
    """
    count = buffer.count(t0, t1, crop)
    return count, 1 if most is None else max(1, -(-count // most))


def read_window(buffer: EventBuffer, crop: Crop, t0: int, t1: int, *, most: int | None) -> EventStream | None:
    """The events to read of `[t0, t1)`, in crop pixels; None when there are too few. Arguments as `count_window`."""
    count, every = count_window(buffer, crop, t0, t1, most=most)
    return buffer.window(t0, t1, crop, every=every) if count >= MIN_EVENTS else None


def pack_window(events: EventStream, t0: int, t1: int, device: torch.device) -> EventBatch:
    """One window as the batch that a network takes."""
    return EventBatch.pack([events], [t0], [t1]).to(device)
