"""Another event rate for the same scene: events thinned out, or repeated with jitter."""

from __future__ import annotations

import numpy as np

from had_snn.errors import InputError
from had_snn.events.stream import EventStream


def scale_rate(events: EventStream, factor: float, *, seed: int = 0, jitter_us: int = 1000) -> EventStream:
    """A stream with about `factor` times the events.

    Below 1 each event stays with that probability. Above 1 each event stays and is repeated on average `factor - 1`
    times, at its pixel or one of the eight around it and up to `jitter_us` earlier or later: what a sensor with a lower
    contrast threshold adds lies near what it saw before.

    Args:
        events: Any stream.
        factor: At least 0.
        seed: Seed of the draws.
        jitter_us: Largest shift in time of a repeated event, microseconds; none leaves the stream's time span.

    Returns:
        The new stream, sorted by time.

    Raises:
        InputError: If the factor is negative or not finite.
    """
    if not (np.isfinite(factor) and factor >= 0):
        raise InputError(f"event rate factor {factor}: expected a number of at least 0")
    rng = np.random.default_rng(seed)
    count = len(events)
    if factor == 1 or count == 0:
        return events
    if factor < 1:
        kept = np.flatnonzero(rng.random(count) < factor)
        t, x, y, p = (getattr(events, name)[kept] for name in "txyp")
    else:
        times = np.floor(factor - 1 + rng.random(count)).astype(np.int64)
        source = np.repeat(np.arange(count), times)
        height, width = events.sensor_hw
        new_t = events.t[source] + rng.integers(-jitter_us, jitter_us + 1, len(source))
        new_t = np.clip(new_t, events.t[0], events.t[-1])
        dx, dy = rng.integers(-1, 2, (2, len(source)))
        new_x = np.clip(events.x[source].astype(np.int64) + dx, 0, width - 1)
        new_y = np.clip(events.y[source].astype(np.int64) + dy, 0, height - 1)
        t = np.concatenate([events.t, new_t])
        order = np.argsort(t, kind="stable")
        t = t[order]
        x = np.concatenate([events.x, new_x.astype(events.x.dtype)])[order]
        y = np.concatenate([events.y, new_y.astype(events.y.dtype)])[order]
        p = np.concatenate([events.p, events.p[source]])[order]
    return EventStream.from_arrays(t, x, y, p, events.sensor_hw, f"{events.source} at {factor:g} x rate")
