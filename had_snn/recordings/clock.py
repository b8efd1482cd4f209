"""Steps back in time, and what they can mean: a 32-bit clock that wraps, disorder, or recordings one after another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from had_snn.errors import FormatError

_NEAR = 16  # a wrap goes from the last to the first sixteenth of the clock's range
MOST_RUNS = 16
MIXED = 0.1  # share of the events, in order of time, whose next one is of another stretch


class Clock:
    """Extends times that come from a 32-bit counter, with or without a sign, beyond its range.

    Args:
        period: Of the counter, in microseconds.
        zero: What its 0 is in microseconds.
    """

    def __init__(self, period: int, zero: int) -> None:
        self.period, self.zero = period, zero
        self.turns = self.wraps = 0
        self._last: int | None = None

    def extend(self, t: np.ndarray, *, backward: bool) -> np.ndarray:
        """Times that go on where the counter has wrapped.

        Args:
            t: int64 `[n]` as read, in microseconds.
            backward: Some time is before the one before it.
        """
        last, self._last = self._last, int(t[-1])
        if not backward and not self.turns and (last is None or int(t[0]) >= last):
            return t
        before = np.concatenate([t[:1] if last is None else [last], t[:-1]])
        forth, back = self._crosses(before, t), self._crosses(t, before)  # disorder at the wrap crosses it both ways
        turns = self.turns + np.cumsum(forth.astype(np.int64) - back)
        self.turns, self.wraps = int(turns[-1]), self.wraps + int(forth.sum())
        return t + turns * self.period if turns.any() else t

    def _crosses(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Where the counter goes on from the end of its range to the begin."""
        gap = after - before + self.period
        near = (gap >= 0) & (gap < self.period // _NEAR)
        low, high = before - self.zero, before - self.zero + gap
        crosses = [(low < end) & (end <= high + 1) for end in (self.period // 2, self.period)]
        return near & (crosses[0] | crosses[1])


def order_of(path: Path, t: np.ndarray) -> np.ndarray:
    """The order that sorts times `[n]`, stable where they are equal.

    Raises:
        FormatError: If sorting would mix recordings that lie one after another in one file: times that start again and
            again run through each other, while those that are only in disorder, or cut and swapped, hardly do.
    """
    order = np.argsort(t, kind="stable")
    backward = np.flatnonzero(t[1:] < t[:-1])
    if 0 < len(backward) < MOST_RUNS:
        run = np.zeros(len(t), np.uint8)
        for start in backward:
            run[start + 1 :] += 1
        run = run[order]
        changes = int(np.count_nonzero(run[1:] != run[:-1]))
        if changes > 4 * len(backward) and changes > MIXED * len(t):
            problem = f"its times start again {len(backward)} times, first after event {int(backward[0])}"
            remedy = "split the file; repair=True does not mix them"
            raise FormatError(path, f"{problem}: recordings one after another", remedy=remedy)
    return order
