"""A few numbers that describe a recording, to compare simulated with real ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from had_snn.errors import InputError
from had_snn.events.stream import EventStream

NEIGHBOUR_US = 5_000  # an event without another one next to it within this time counts as noise
REPEAT_US = 50  # a pixel that fires again this soon was not fully reset, or read out twice


@dataclass(frozen=True)
class EventStatistics:
    """Numbers of one recording.

    Attributes:
        seconds: From the first to the last event.
        rate_per_pixel: Events a second and pixel.
        on_share: Share of brighter events.
        interval_ms: 5th, 50th and 95th percentile of the time between events of one pixel, milliseconds.
        repeat_share: Share of those times below 50 us.
        isolated_share: Share of events with no event in the eight neighbouring pixels within 5 ms before or after.
        active_share: Share of pixels that fired at all.
    """

    seconds: float
    rate_per_pixel: float
    on_share: float
    interval_ms: tuple[float, float, float]
    repeat_share: float
    isolated_share: float
    active_share: float


def describe(events: EventStream) -> EventStatistics:
    """Computes the statistics of a stream of at least two events at different times.

    Raises:
        InputError: If there are fewer.
    """
    seconds = (int(events.t[-1]) - int(events.t[0])) * 1e-6 if len(events) else 0.0
    if seconds <= 0:
        raise InputError(f"{events.source or 'events'}: {len(events)} events span no time; nothing to describe")
    height, width = events.sensor_hw
    key = _keys(events)
    order = np.argsort(key, kind="stable")
    pixel = key[order] // _span(events)
    gaps = np.diff(events.t[order])[np.diff(pixel) == 0]
    percentiles = np.percentile(gaps, (5, 50, 95)) * 1e-3 if len(gaps) else np.full(3, np.inf)
    return EventStatistics(
        seconds=seconds,
        rate_per_pixel=len(events) / seconds / (height * width),
        on_share=float(events.p.mean()),
        interval_ms=(float(percentiles[0]), float(percentiles[1]), float(percentiles[2])),
        repeat_share=float((gaps < REPEAT_US).mean()) if len(gaps) else 0.0,
        isolated_share=float(1 - supported(events).mean()),
        active_share=len(np.unique(pixel)) / (height * width),
    )


def supported(events: EventStream, *, within_us: int = NEIGHBOUR_US) -> np.ndarray:
    """Whether each event has another one in its eight neighbouring pixels within a time before or after, bool `[N]`."""
    span, width = _span(events), events.sensor_hw[1] + 2  # a margin, so that a neighbour is never in another row
    key = _keys(events)
    ordered = np.sort(key)
    found = np.zeros(len(events), bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if dx == dy == 0:
                continue
            wanted = key + (dy * width + dx) * span
            after = np.searchsorted(ordered, wanted)
            for at in (after - 1, after):
                near = ordered[np.clip(at, 0, len(ordered) - 1)]
                # Times of one pixel lie within less than a span, so a difference this small means the same pixel.
                found |= np.abs(near - wanted) <= within_us
    return found


def _span(events: EventStream) -> int:
    return 2 * (int(events.t[-1]) - int(events.t[0]) + NEIGHBOUR_US + 1) if len(events) else 1


def _keys(events: EventStream) -> np.ndarray:
    """One int64 per event that orders by pixel, then by time."""
    height, width = events.sensor_hw
    if (height + 2) * (width + 2) * _span(events) >= 2**62:
        raise InputError(f"{events.source or 'events'}: the recording is too long to be described at once; cut it")
    pixel = (events.y.astype(np.int64) + 1) * (width + 2) + events.x + 1
    return pixel * _span(events) + (events.t - events.t[0]) if len(events) else pixel
