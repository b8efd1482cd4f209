"""The newest events, as many microseconds as a window needs; chunks are joined only when a window is read."""

from __future__ import annotations

from had_snn.errors import InputError
from had_snn.events.stream import EventStream, concatenate
from had_snn.geometry import Crop


class EventBuffer:
    """Takes chunks of any size and cuts windows.

    Args:
        events: The first chunk; it fixes the sensor's size.
    """

    def __init__(self, events: EventStream) -> None:
        self.stream = events
        self.pending: list[EventStream] = []
        self.last_t: int | None = int(events.t[-1]) if len(events) else None

    def push(self, events: EventStream) -> None:
        """Appends a chunk.

        Raises:
            InputError: If it comes from another sensor size or starts before the last event.
        """
        if not isinstance(events, EventStream):
            raise InputError(
                f"expected an EventStream, found {type(events).__name__} (EventStream.from_arrays makes one)"
            )
        if events.sensor_hw != self.stream.sensor_hw:
            raise InputError(f"events of a {events.sensor_hw} sensor after events of a {self.stream.sensor_hw} sensor")
        if len(events) == 0:
            return
        if self.last_t is not None and events.t_start < self.last_t:
            raise InputError(f"chunk starts at {events.t_start} us, before the last event at {self.last_t} us")
        self.pending.append(events)
        self.last_t = int(events.t[-1])

    def joined(self) -> EventStream:
        """All events that are kept."""
        if self.pending:
            self.stream, self.pending = concatenate([self.stream, *self.pending]), []
        return self.stream

    def window(self, t0: int, t1: int, crop: Crop, *, max_events: int | None = None) -> EventStream:
        """Events of `[t0, t1)` in crop pixels; every k-th of them when there are more than `max_events`."""
        cropped = self.joined().slice_time(t0, t1).crop(crop)
        if max_events is None or len(cropped) <= max_events:
            return cropped
        step = slice(None, None, -(-len(cropped) // max_events))
        return EventStream(
            cropped.t[step], cropped.x[step], cropped.y[step], cropped.p[step], cropped.sensor_hw, cropped.source
        )

    def forget_before(self, t_us: int) -> None:
        """Drops events that no window will ask for."""
        stream = self.joined()
        self.stream = stream.slice_time(t_us, stream.t_end)
