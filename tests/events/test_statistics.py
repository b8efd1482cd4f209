from __future__ import annotations

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.events.statistics import describe, supported
from had_snn.events.stream import EventStream
from had_snn.simulator.scene import FAMILIES, sample_scene
from had_snn.simulator.sensor import simulate


def test_numbers_of_a_known_stream():
    events = EventStream.from_arrays([0, 1000, 3000, 500_000], [3, 3, 4, 9], [2, 2, 3, 0], [1, 0, 1, 1], (5, 10))
    stats = describe(events)
    assert stats.seconds == 0.5
    assert stats.rate_per_pixel == pytest.approx(4 / 0.5 / 50)
    assert stats.on_share == 0.75
    assert stats.interval_ms == (1.0, 1.0, 1.0)
    assert stats.repeat_share == 0
    assert stats.active_share == 3 / 50
    assert supported(events).tolist() == [True, True, True, False]
    twice = EventStream.from_arrays([0, 40, 50, 100], [3, 3, 4, 4], [2, 2, 3, 3], [1, 1, 1, 1], (5, 10))
    assert describe(twice).repeat_share == 0.5
    with pytest.raises(InputError, match="span no time"):
        describe(EventStream.empty((4, 4)))


def test_support_agrees_with_a_plain_loop():
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 60_000, 300))
    events = EventStream.from_arrays(
        t, rng.integers(0, 9, 300), rng.integers(0, 7, 300), rng.integers(0, 2, 300), (7, 9)
    )
    x, y = events.x.astype(int), events.y.astype(int)
    for i, value in enumerate(supported(events, within_us=2000)):
        near = (np.abs(x - x[i]) <= 1) & (np.abs(y - y[i]) <= 1) & ((x != x[i]) | (y != y[i]))
        assert value == bool((near & (np.abs(t - t[i]) <= 2000)).any())


def test_simulated_recordings_resemble_real_ones():
    """Bounds around the real recordings of the table in docs/simulator.md."""
    drawn = [sample_scene([9, k], FAMILIES["test"], seconds=0.5) for k in range(8)]
    stats = [describe(simulate(d.scene, d.sensor, seed=1).events) for d in drawn]
    assert 0.5 < np.median([s.rate_per_pixel for s in stats]) < 20
    assert 0.4 < np.median([s.on_share for s in stats]) < 0.6
    assert 5 < np.median([s.interval_ms[1] for s in stats]) < 60
    assert 0.02 < np.median([s.isolated_share for s in stats]) < 0.6
