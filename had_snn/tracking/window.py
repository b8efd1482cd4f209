"""The events that a network reads for one look: counted, thinned out in a burst, and packed in network time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.geometry import Crop
from had_snn.tracking.buffer import EventBuffer

#: Fewer events than this in a crop say nothing about a target; the box stays and its score decays.
MIN_EVENTS = 8


@dataclass(frozen=True)
class Window:
    """The half-open interval `[t_us - length_us, t_us)`.

    Attributes:
        t_us: Its end.
        length_us: Its length, which need not be whole.
        nominal_us: Its length in network time.
    """

    t_us: int
    length_us: float
    nominal_us: int

    @property
    def first_us(self) -> int:
        """Its first whole microsecond."""
        return self.t_us - math.floor(self.length_us)

    @property
    def scale(self) -> float:
        """Network microseconds in a microsecond."""
        return self.nominal_us / self.length_us

    def count(self, buffer: EventBuffer, crop: Crop, *, most: int | None) -> tuple[int, int]:
        """The number of events in a crop, and the smallest k such that every k-th of them are at most `most`."""
        count = buffer.count(self.first_us, self.t_us, crop)
        return count, 1 if most is None else max(1, -(-count // most))

    def read(self, buffer: EventBuffer, crop: Crop, *, most: int | None, device: torch.device) -> EventBatch | None:
        """The window as the batch that a network takes; None when it holds too few events."""
        count, every = self.count(buffer, crop, most=most)
        if count < MIN_EVENTS:
            return None
        events = buffer.window(self.first_us, self.t_us, crop, every=every)
        lengths, scales = [self.length_us], [self.scale]
        return EventBatch.pack([events], [self.first_us], [self.t_us], length_us=lengths, scale=scales).to(device)


def pack_stretch(events: EventStream, t0: int, t1: int, scale: float, device: torch.device) -> EventBatch:
    """Part of a window, `[t0, t1)`, as a batch."""
    return EventBatch.pack([events], [t0], [t1], scale=[scale]).to(device)
