"""The values that files give polarity, and which of them mean brighter.

0/1, -1/+1, 1/2 and 0/255 are in use; -1 stored without a sign is 255, 65535 or 4294967295. Of three values (-1, 0, +1)
the positive one is brighter. What the caller states has the last word.
"""

from __future__ import annotations

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings.recording import ReadOptions, Source, logger

UNSIGNED_MINUS_ONE = tuple((1 << bits) - 1 for bits in (8, 16, 32, 64))
PAIRS = ((0, 1), (-1, 1), (1, 2), (0, 255), *((value, 1) for value in UNSIGNED_MINUS_ONE))
TRIPLES = ((-1, 0, 1), *((value, 0, 1) for value in UNSIGNED_MINUS_ONE))
NOT_WHOLE = -(1 << 31)  # what a value with a fraction is read as
_MOST_VALUES = 8
_REMEDY = "polarity=(darker, brighter) states them, columns=... the order of the columns"


def could_be_polarity(column: np.ndarray, stated: tuple[int, int] | None, ways: int) -> bool:
    """True if a column of numbers holds nothing but polarities.

    Args:
        column: Numbers, `[n]`.
        stated: The caller's values for (darker, brighter).
        ways: 2 for two values, 3 to allow a third one beside them.
    """
    if stated is not None:
        values = sorted(set(_readings(stated[0]) + _readings(stated[1])))
        inside = np.isin(column, np.array(values, np.float64))
        return bool(inside.all()) if ways == 2 else bool(inside.any()) and len(np.unique(column)) <= 3
    return any(np.isin(column, np.array(values, np.float64)).all() for values in (PAIRS if ways == 2 else TRIPLES))


def _readings(value: int) -> list[int]:
    """A value and what it is called where -1 has no sign."""
    return [-1, *UNSIGNED_MINUS_ONE] if value == -1 or value in UNSIGNED_MINUS_ONE[1:] else [value]


class PolarityReader:
    """Sees a recording's polarities piece by piece and says in the end which are brighter."""

    def __init__(self, source: Source, options: ReadOptions) -> None:
        self.source, self.given = source, options.polarity
        self.seen: set[int] = set()
        self.neither = 0

    def take(self, p: np.ndarray, low: int, high: int) -> np.ndarray:
        """Notes the values of a piece; `low` and `high` are its extremes.

        Returns:
            The piece: as 0 and 1 if the caller has stated the values, else with its low bytes still to tell apart.
        """
        if self.given is not None:
            off, on = (np.isin(p, [v for v in _readings(value) if _fits(v, p.dtype)]) for value in self.given)
            self.neither += len(p) - int(np.count_nonzero(off | on))
            return on.view(np.int8)
        self.seen |= {low, high}
        if high - low > 1:  # anything between them is a third value
            between = p[(p > low) & (p < high)]
            if len(between):
                self.seen |= {int(value) for value in np.unique(between)[:_MOST_VALUES]}
        if len(self.seen) > _MOST_VALUES or NOT_WHOLE in self.seen:
            self._refuse()
        return p

    def off_on(self) -> tuple[int, int]:
        """The values for (darker, brighter), of those that `take` left in the pieces.

        Raises:
            FormatError: If the values seen are no polarities.
        """
        info = self.source.info
        if self.given is not None:
            info["polarity"] = f"{self.given[0]}/{self.given[1]}"
            if self.neither:
                problem = f"{self.neither} events have another polarity than the {info['polarity']} given"
                logger.warning("%s: %s; read as darker", self.source.path, problem)
            return 0, 1
        for off, on in PAIRS:
            if self.seen <= {off, on} and self.seen != {255}:  # 255 alone may mean either
                info["polarity"] = f"{off}/{on}"
                return off, on
        for off, middle, on in TRIPLES:
            if self.seen <= {off, middle, on}:
                info["polarity"] = f"{off},{middle}/{on}"
                problem = f"polarity holds {off}, {middle} and {on}; only {on} is read as brighter"
                logger.warning("%s: %s (polarity=(darker, brighter) states it)", self.source.path, problem)
                return off, on
        self._refuse()
        raise AssertionError

    def _refuse(self) -> None:
        values = sorted(self.seen)
        shown = ", ".join(map(str, values)) if len(values) <= 4 else f"{values[0]} to {values[-1]}, several"
        if NOT_WHOLE in self.seen:
            shown = "fractions"
        problem = f"polarity holds the values {shown}; expected 0/1, -1/+1, 1/2 or 0/255"
        raise FormatError(self.source.path, problem, remedy=_REMEDY)


def _fits(value: int, dtype: np.dtype) -> bool:
    about = np.iinfo(np.int8 if dtype.kind == "b" else dtype)
    return int(about.min) <= value <= int(about.max)
