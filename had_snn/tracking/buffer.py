"""The newest events, as many microseconds as a window needs, in memory that is used again and again."""

from __future__ import annotations

import numpy as np

from had_snn.errors import InputError
from had_snn.events.stream import EventStream, require_stream
from had_snn.geometry import Crop

#: Room for this many events is kept in any case.
_MIN_ROOM = 1 << 16


class EventBuffer:
    """Takes chunks of any size and cuts windows; each event is copied once, whatever the chunks.

    Args:
        events: The first chunk; it fixes the sensor's size.
    """

    def __init__(self, events: EventStream) -> None:
        self.sensor_hw, self.source = events.sensor_hw, events.source
        self._columns = {name: getattr(events, name)[:0] for name in "txyp"}
        self._begin = self._end = 0
        self.last_t: int | None = None
        self.push(events)

    def push(self, events: EventStream) -> None:
        """Appends a chunk.

        Raises:
            InputError: If it comes from another sensor size or starts before the last event.
        """
        events = require_stream(events)
        if events.sensor_hw != self.sensor_hw:
            raise InputError(f"events of a {events.sensor_hw} sensor after events of a {self.sensor_hw} sensor")
        if len(events) == 0:
            return
        if self.last_t is not None and events.t_start < self.last_t:
            raise InputError(f"chunk starts at {events.t_start} us, before the last event at {self.last_t} us")
        if self._end + len(events) > len(self._columns["t"]):
            self._make_room(len(events))
        stop = self._end + len(events)
        for name, column in self._columns.items():
            column[self._end : stop] = getattr(events, name)
        self._end = stop
        self.last_t = int(events.t[-1])

    def _make_room(self, count: int) -> None:
        """Moves what is kept to the front of memory that holds twice as much as is needed now."""
        kept = self._end - self._begin
        room = max(_MIN_ROOM, 2 * (kept + count))
        for name, column in self._columns.items():
            # New memory also where the old would do: `joined` may still be held by somebody.
            fresh = np.empty(room, column.dtype)
            fresh[:kept] = column[self._begin : self._end]
            self._columns[name] = fresh
        self._begin, self._end = 0, kept

    def joined(self) -> EventStream:
        """All events that are kept, as views."""
        t, x, y, p = (self._columns[name][self._begin : self._end] for name in "txyp")
        return EventStream.trusted(t, x, y, p, self.sensor_hw, self.source)

    def window(self, t0: int, t1: int, crop: Crop, *, every: int = 1) -> EventStream:
        """Every `every`-th event of `[t0, t1)` inside a crop, in crop pixels."""
        cropped = self._cut(t0, t1).crop(crop)
        if every == 1:
            return cropped
        t, x, y, p = (column[::every] for column in (cropped.t, cropped.x, cropped.y, cropped.p))
        return EventStream.trusted(t, x, y, p, cropped.sensor_hw, cropped.source)

    def count(self, t0: int, t1: int, crop: Crop) -> int:
        """Number of events of `[t0, t1)` inside a crop."""
        return self._cut(t0, t1).count_in(crop)

    def first_time(self, t0: int, t1: int) -> int | None:
        """Time of the first event of `[t0, t1)`; None when there is none."""
        live = self._columns["t"][self._begin : self._end]
        at = int(live.searchsorted(t0))
        return int(live[at]) if at < len(live) and live[at] < t1 else None

    def nth_time(self, nth: int, t0: int, t1: int, crop: Crop) -> int | None:
        """Time of the `nth` event, from 1, of `[t0, t1)` inside a crop; None when there are fewer."""
        cut = self._cut(t0, t1)
        if len(cut) < nth or cut.count_in(crop) < nth:
            return None
        return int(cut.crop(crop).t[nth - 1])

    def _cut(self, t0: int, t1: int) -> EventStream:
        live = self._columns["t"][self._begin : self._end]
        start, stop = live.searchsorted((t0, t1)) + self._begin
        t, x, y, p = (self._columns[name][start:stop] for name in "txyp")
        return EventStream.trusted(t, x, y, p, self.sensor_hw, self.source)

    def forget_before(self, t_us: int) -> None:
        """Drops events that no window will ask for."""
        live = self._columns["t"][self._begin : self._end]
        self._begin += int(live.searchsorted(t_us))
