"""Intervals over seeds and sequences: as wide as both make them, and paired where the sides are."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.evaluate.seeds import gap_closed, paired_spread, spread


def test_interval_holds_the_spread_of_seeds_and_of_sequences():
    rng = np.random.default_rng(0)
    by_sequence = spread(np.tile(rng.normal(50, 20, 200), (3, 1)))
    assert by_sequence.low < by_sequence.mean < by_sequence.high
    # 20 / sqrt(200) on either side, times 1.96.
    assert by_sequence.high - by_sequence.low == pytest.approx(2 * 1.96 * 20 / 200**0.5, rel=0.15)
    by_seed = spread(np.repeat([[40.0], [50.0], [60.0]], 200, axis=1))
    assert by_seed.mean == pytest.approx(50)
    assert by_seed.low == pytest.approx(40)
    assert by_seed.high == pytest.approx(60)


def test_differences_are_paired():
    rng = np.random.default_rng(1)
    base = rng.normal(50, 25, (3, 100))
    gain = paired_spread(base + 2, base)
    assert gain.mean == pytest.approx(2)
    assert gain.low == pytest.approx(2)
    assert gain.high == pytest.approx(2)
    against_one = paired_spread(base, base[:1])
    assert against_one.mean == pytest.approx(base.mean() - base[0].mean())


def test_coverage_of_a_true_difference():
    """95 % intervals of a known gain hold it about that often; three seeds are few, so somewhat less."""
    rng, held = np.random.default_rng(2), 0
    for trial in range(60):
        seeds = rng.normal(0, 1, (3, 1))
        first = 1.5 + seeds + rng.normal(0, 10, (3, 100))
        interval = paired_spread(first, np.zeros((3, 100)), resamples=200, seed=trial)
        held += interval.low <= 1.5 <= interval.high
    assert held >= 42


def test_share_of_the_gap():
    start, goal = np.full((2, 10), 40.0), np.full((1, 10), 50.0)
    closed = gap_closed(start + 5, start, goal)
    assert closed.mean == closed.low == closed.high == pytest.approx(0.5)


@pytest.mark.parametrize(("first", "second"), [(np.ones((2, 5)), np.ones((3, 5))), (np.ones((2, 5)), np.ones((2, 4)))])
def test_what_cannot_be_paired_is_refused(first, second):
    with pytest.raises(InputError, match="cannot pair"):
        paired_spread(first, second)


def test_a_missing_score_is_refused():
    with pytest.raises(InputError, match="finite"):
        spread(np.array([[1.0, np.nan]]))
