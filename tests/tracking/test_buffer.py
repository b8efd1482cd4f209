"""The event buffer: chunks of any size, bounded memory, windows as if all events lay in one array."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.events.stream import EventStream
from had_snn.geometry import Crop
from had_snn.tracking.buffer import EventBuffer

CROP = Crop(x0=10.3, y0=-4.0, scale=1.7, size=60)


def some_events(count: int, *, seed: int = 0) -> EventStream:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 1_000_000, count))
    return EventStream.from_arrays(t, rng.integers(0, 64, count), rng.integers(0, 48, count), t % 2, (48, 64), "made")


@pytest.mark.parametrize("chunk", [1, 7, 1000, 50_000])
def test_windows_do_not_depend_on_the_chunks(chunk: int) -> None:
    events = some_events(3_000 if chunk < 7 else 50_000)
    buffer = EventBuffer(EventStream.empty((48, 64)))
    for start in range(0, len(events), chunk):
        part = events.slice_index(start, start + chunk)
        buffer.push(part)
        now = int(part.t[-1])
        if chunk > 7 or start % 100 == 0:
            expected = events.slice_index(0, start + chunk).slice_time(now - 40_000, now).crop(CROP)
            found = buffer.window(now - 40_000, now, CROP)
            assert all(np.array_equal(getattr(found, n), getattr(expected, n)) for n in "txyp")
            assert found.sensor_hw == (60, 60)
        buffer.forget_before(now - 40_000)
        assert len(buffer.joined()) <= len(events.slice_time(now - 40_000, now + 1))


def test_memory_follows_what_is_kept() -> None:
    buffer = EventBuffer(some_events(500_000))
    for i in range(1, 40):
        chunk = some_events(20_000, seed=i)
        buffer.push(EventStream(chunk.t + i * 1_000_000, chunk.x, chunk.y, chunk.p, chunk.sensor_hw))
        buffer.forget_before((i + 1) * 1_000_000 - 40_000)
    assert len(buffer._columns["t"]) < 150_000


def test_what_was_handed_out_stays_as_it_is() -> None:
    buffer = EventBuffer(some_events(60_000))
    held = buffer.joined()
    before = held.t.copy()
    buffer.forget_before(990_000)
    late = some_events(60_000, seed=1)
    buffer.push(EventStream(late.t + 1_000_000, late.x, late.y, late.p, late.sensor_hw))
    assert np.array_equal(held.t, before)


def test_refuses_foreign_and_early_chunks() -> None:
    buffer = EventBuffer(some_events(10))
    with pytest.raises(InputError, match="before the last event"):
        buffer.push(some_events(10, seed=1))
    with pytest.raises(InputError, match="sensor"):
        buffer.push(EventStream.empty((2, 2)))
    with pytest.raises(InputError, match="expected an EventStream, found list"):
        buffer.push([1, 2])
