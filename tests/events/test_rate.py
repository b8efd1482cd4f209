"""Thinned and repeated events keep their order, their place and the asked rate."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.events.rate import scale_rate
from had_snn.events.stream import EventStream


def stream(count: int = 20_000) -> EventStream:
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(1000, 900_000, count))
    x, y = rng.integers(0, 240, count), rng.integers(0, 180, count)
    return EventStream.from_arrays(t, x, y, rng.integers(0, 2, count), (180, 240))


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 2.5, 4.0])
def test_rate_is_scaled_and_the_stream_stays_one(factor):
    before, after = stream(), scale_rate(stream(), factor, seed=3)
    assert len(after) == pytest.approx(factor * len(before), rel=0.03)
    assert (np.diff(after.t) >= 0).all()
    assert after.t[0] >= before.t[0]
    assert after.t[-1] <= before.t[-1]
    # Every hundredth of the time and every block of pixels keeps its share.
    for column, limit in (("t", 900_000), ("x", 240), ("y", 180)):
        old, new = (np.histogram(getattr(s, column), 10, (0, limit))[0] / len(s) for s in (before, after))
        np.testing.assert_allclose(new, old, atol=0.01)


def test_thinned_events_are_the_streams_own_and_repeated_ones_lie_near_them():
    before = stream(300)
    keys = {tuple(int(v) for v in row) for row in zip(before.t, before.x, before.y, before.p, strict=True)}
    thin, dense = scale_rate(before, 0.5), scale_rate(before, 3.0, jitter_us=50)
    assert {tuple(int(v) for v in row) for row in zip(thin.t, thin.x, thin.y, thin.p, strict=True)} <= keys
    for t, x, y, p in zip(dense.t, dense.x, dense.y, dense.p, strict=True):
        near = (np.abs(before.t - t) <= 50) & (np.abs(before.x.astype(int) - int(x)) <= 1)
        assert (near & (np.abs(before.y.astype(int) - int(y)) <= 1) & (before.p == p)).any()


def test_the_same_seed_gives_the_same_events_and_one_changes_nothing():
    assert np.array_equal(scale_rate(stream(), 2.0, seed=1).t, scale_rate(stream(), 2.0, seed=1).t)
    assert scale_rate(stream(), 1.0) is not None
    assert len(scale_rate(stream(), 1.0)) == len(stream())
    assert len(scale_rate(stream(), 0.0)) == 0
    with pytest.raises(InputError, match="at least 0"):
        scale_rate(stream(), -1.0)
