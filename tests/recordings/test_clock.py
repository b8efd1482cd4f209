"""A 32-bit clock is followed through its wraps, and nothing else is taken for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from had_snn.errors import FormatError
from had_snn.recordings.clock import Clock, order_of

PERIOD = 1 << 32


def extend(raw, cuts=(), zero=0):
    clock, out = Clock(PERIOD, zero), []
    for piece in np.split(raw, cuts):
        if len(piece):
            out.append(clock.extend(piece, backward=bool((np.diff(piece) < 0).any())))
    return np.concatenate(out), clock


@given(
    st.integers(0, 3 * PERIOD),
    st.lists(st.integers(0, 200_000_000), min_size=2, max_size=200),
    st.booleans(),
    st.lists(st.integers(0, 200), max_size=5),
    st.sampled_from([0, 50_000_000_000]),
)
def test_wraps_are_followed_from_wherever_the_file_begins(start, steps, signed, cuts, zero):
    t = start + np.cumsum(np.array(steps, np.int64))
    raw = (t % PERIOD).astype(np.uint32)
    raw = (raw.view(np.int32) if signed else raw).astype(np.int64) + zero
    found, clock = extend(raw, sorted(cuts), zero)
    np.testing.assert_array_equal(np.diff(found), np.diff(t))
    assert found[0] == raw[0]
    assert clock.wraps == (np.diff(raw) < 0).sum()


def test_disorder_at_the_wrap_crosses_it_both_ways():
    t = np.arange(PERIOD - 5, PERIOD + 5)
    t[[4, 5, 7, 8]] = t[[5, 4, 8, 7]]
    found, _ = extend(t % PERIOD)
    np.testing.assert_array_equal(found, t)


@pytest.mark.parametrize(
    "raw",
    [
        [3_000_000_000, 0, 5],  # a clock that was reset
        [4_290_000_000, 4_280_000_000, 4_294_000_000],  # disorder
        [2_000_000_000, -2_000_000_000],  # too far from the ends of its range
        [10**13, 10**13 - PERIOD],  # no clock of 32 bits
    ],
)
def test_other_steps_back_stay(raw):
    found, clock = extend(np.array(raw))
    assert found.tolist() == raw
    assert clock.wraps == 0


def test_sorting_does_not_mix_recordings():
    t = np.arange(0, 100_000, 100)
    swapped = np.concatenate([t[:100], t[500:600], t[200:500], t[100:200], t[600:]])
    assert (swapped[order_of(Path("e"), swapped)] == t).all()
    shuffled = np.random.default_rng(0).permutation(t)
    assert (shuffled[order_of(Path("e"), shuffled)] == t).all()
    for other in (t, t[:200] + 30):
        with pytest.raises(FormatError, match=r"start again 1 times, first after event 999: recordings one after"):
            order_of(Path("e"), np.concatenate([t, other, other[-1:]]))
