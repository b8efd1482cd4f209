"""Files that are only columns of numbers: which column is which, and in what unit the time is.

Text, NPY/NPZ, MATLAB and generic HDF5 files share this. Names decide where there are names; otherwise the numbers do:
time is the column that grows, polarity the one with two small values, and of the other two `x` comes first unless the
sensor would then have to be larger than the other way round. Every decision is logged and can be stated instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError
from had_snn.events.checks import smallest_sensor
from had_snn.events.decoders import Columns, Room, fresh, gather
from had_snn.events.recording import ReadOptions, Source, logger

NAMES = {
    "t": ("t", "ts", "time", "times", "timestamp", "timestamps"),
    "x": ("x", "xs", "col", "column", "x_pos", "xaddr"),
    "y": ("y", "ys", "row", "y_pos", "yaddr"),
    "p": ("p", "ps", "pol", "pols", "polarity", "polarities", "on", "sign"),
}
UNITS = {"s": 6, "ms": 3, "us": 0, "ns": -3}  # decimal exponent that turns the unit into microseconds
_UNIT_WORDS = {
    "s": "s",
    "sec": "s",
    "seconds": "s",
    "ms": "ms",
    "us": "us",
    "µs": "us",
    "microseconds": "us",
    "usec": "us",
    "ns": "ns",
    "nanoseconds": "ns",
    "nsec": "ns",
}
EPOCH_NS = 10**17  # later than 1973 in nanoseconds; as microseconds it would be three thousand years
SAMPLE = 50_000
FEW = 50  # events below which spans say little
CHUNK = 1 << 16  # events at a time: they stay in the processor's cache


@dataclass(frozen=True)
class ColumnPlan:
    """Which column holds what.

    Attributes:
        path: The file, for messages.
        index: Position of `t`, `x`, `y`, `p` among the file's columns; `p` may be missing if the caller said so.
        unit: Unit of the time column.
    """

    path: Path
    index: dict[str, int]
    unit: str

    def describe(self, width: int) -> str:
        """The order in the form of the `columns` option, e.g. `"txyp"`."""
        order = {position: name for name, position in self.index.items()}
        return "".join(order.get(i, "_") for i in range(width))

    def apply(self, columns: Sequence[np.ndarray], room: Room = fresh, offset: int = 0) -> Columns:
        """Columns of numbers as `t` in microseconds and whole pixels; halves of a pixel go up.

        Args:
            columns: The file's columns, `[n]` each.
            room: Where to put them.
            offset: Microseconds to add to the times.
        """
        out = room(len(columns[0]))
        t = self._microseconds(columns[self.index["t"]], out.t, offset)
        x, y = (_whole(columns[self.index[name]], target) for name, target in (("x", out.x), ("y", out.y)))
        if "p" in self.index:
            return Columns(t, x, y, _whole(columns[self.index["p"]], out.p))
        out.p[: len(t)] = 1
        return Columns(t, x, y, out.p[: len(t)])

    def _microseconds(self, t: np.ndarray, target: np.ndarray, offset: int) -> np.ndarray:
        """Times as int64 microseconds, rounded to the nearest."""
        exponent = UNITS[self.unit]
        if t.dtype == np.int64 and exponent == 0 and offset == 0 and t.dtype.isnative:
            return gather(t, target)
        if len(t) and max(abs(float(t.max())), abs(float(t.min()))) * 10.0**exponent > 2.0**62:
            raise FormatError(self.path, f"times up to {float(t.max()):g} {self.unit} do not fit 64-bit microseconds")
        found = target[: len(t)]
        if t.dtype.kind in "iu":
            if exponent < 0:
                found[:] = (t.astype(np.int64, copy=False) + 500) // 1000
            else:
                np.multiply(t, 10**exponent, out=found, dtype=np.int64, casting="unsafe")
        else:
            found[:] = np.rint(t.astype(np.float64, copy=False) * 10.0**exponent)
        if offset:
            found += offset
        return found


def split_name(name: str) -> tuple[str | None, str | None]:
    """Role and unit told by a column's name: `"Timestamp [us]"` gives `("t", "us")`; None for what it does not tell."""
    words = [w for w in re.split(r"[^a-zµ]+", name.strip().strip("\"'").lower()) if w]
    if not words:
        return None, None
    whole = "_".join(words)
    unit = _UNIT_WORDS.get(words[-1]) if len(words) > 1 else None
    stem = "_".join(words[:-1]) if unit else whole
    for role, names in NAMES.items():
        if whole in names or stem in names:
            return role, unit if role == "t" else None
    return None, None


def plan_columns(
    path: Path,
    sample: Sequence[np.ndarray],
    options: ReadOptions,
    *,
    names: Sequence[str] | None = None,
    unit: str | None = None,
    decimals: bool = False,
    at: int | None = None,
) -> ColumnPlan:
    """Decides what the columns are.

    Args:
        path: The file, for messages.
        sample: The columns' numbers, each `[n]`: all, or the first of them.
        options: `columns` and `time_unit`, where stated, decide.
        names: The columns' names, if the file has any.
        unit: Unit of time, if the file tells it.
        decimals: True if the times are written with a decimal point (so that `0.000000` counts as seconds).
        at: Byte at which the numbers begin, for messages.

    Returns:
        The plan.

    Raises:
        FormatError: If the columns do not look like events.
    """
    told = None
    if options.columns is not None:
        if len(options.columns) != len(sample):
            raise FormatError(
                path, f"columns={options.columns!r} names {len(options.columns)} columns, the file has {len(sample)}"
            )
        index = {name: i for i, name in enumerate(options.columns) if name != "_"}
    elif names is not None:
        index, told = _by_name(path, names)
    else:
        index = _by_value(path, sample, at)
    unit = options.time_unit or unit or told or _guess_unit(sample[index["t"]], decimals=decimals)
    plan = ColumnPlan(path, index, unit)
    logger.info("%s: columns %s, time in %s", path, plan.describe(len(sample)), unit)
    return plan


def _by_name(path: Path, names: Sequence[str]) -> tuple[dict[str, int], str | None]:
    index: dict[str, int] = {}
    unit = None
    for i, name in enumerate(names):
        role, told = split_name(name)
        if role is not None and role not in index:
            index[role] = i
            unit = told or unit
    missing = [role for role in "txyp" if role not in index]
    if missing:
        raise FormatError(
            path,
            f"columns {', '.join(names)}: none is named like {', '.join(missing)}; not an event file?",
            remedy="columns=... states the order, e.g. txyp",
        )
    return index, unit


def _by_value(path: Path, sample: Sequence[np.ndarray], at: int | None) -> dict[str, int]:
    if len(sample) < 4:
        raise FormatError(
            path,
            f"{len(sample)} columns; expected t, x, y and polarity",
            offset=at,
            remedy="columns=... states the order, e.g. xyt",
        )
    columns = [np.asarray(c, np.float64) for c in sample]
    if not len(columns[0]):
        return {name: i for i, name in enumerate("txyp")}
    if not all(np.isfinite(c).all() for c in columns):
        raise FormatError(path, "holds numbers that are not finite", offset=at)
    spans = [float(np.ptp(c)) for c in columns]
    grows = [float(np.mean(c[1:] >= c[:-1])) if len(c) > 1 else 1.0 for c in columns]
    # A file that is not sorted still has its widest column in time; one window of a still sensor may not.
    sorted_enough = [i for i in range(len(columns)) if grows[i] >= 0.95 and spans[i] > 0]
    fractional = [i for i in sorted_enough or range(len(columns)) if (columns[i] != np.rint(columns[i])).any()]
    reach = spans if len(columns[0]) >= FEW else [float(np.abs(c).max()) for c in columns]
    t = max(fractional or sorted_enough or range(len(columns)), key=lambda i: reach[i])
    two_valued = [i for i in range(len(columns)) if i != t and _looks_like_polarity(columns[i])]
    if not two_valued:
        raise FormatError(
            path,
            "no column holds two values like 0/1, -1/+1 or 1/2; not an event file?",
            offset=at,
            remedy="columns=... states the order, e.g. txyp",
        )
    last_but_time = max(i for i in range(len(columns)) if i != t)
    p = last_but_time if last_but_time in two_valued else two_valued[-1]
    pixels = [i for i in range(len(columns)) if i not in (t, p)]
    if len(pixels) != 2 or any(columns[i].min() < -0.5 or columns[i].max() > 32767 for i in pixels):
        raise FormatError(
            path,
            f"{len(columns)} columns that cannot be told apart",
            offset=at,
            remedy="columns=... states the order, e.g. txyp_",
        )
    high = [int(columns[i].max()) for i in pixels]
    straight, swapped = smallest_sensor(high[1], high[0]), smallest_sensor(high[0], high[1])
    x, y = pixels if straight[0] * straight[1] <= swapped[0] * swapped[1] else pixels[::-1]
    return {"t": t, "x": x, "y": y, "p": p}


def _looks_like_polarity(column: np.ndarray) -> bool:
    return any(np.isin(column, pair).all() for pair in ((0, 1), (-1, 1), (1, 2)))


def _guess_unit(t: np.ndarray, *, decimals: bool) -> str:
    """Fractions mean seconds unless the span would be days; whole numbers microseconds, or nanoseconds since 1970."""
    if len(t) == 0:
        return "us"
    if t.dtype.kind in "iu":
        return "ns" if int(t[0]) >= EPOCH_NS else "us"
    span, fractions = float(np.ptp(t)), bool((t != np.rint(t)).any())
    if fractions or (decimals and float(np.abs(t).max()) < 1e4):
        return "s" if span < 1e5 else "us"
    return "ns" if float(t[0]) >= EPOCH_NS else "us"


def _whole(column: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Pixel and polarity columns as integers; undistorted pixels are put into the pixel they fall nearest to."""
    if column.dtype.kind == "b" and column.itemsize == target.itemsize:  # any byte but 0 is true
        found = gather(column.view(np.uint8), target)
        return np.not_equal(found, 0, out=found.view(np.bool_)).view(np.int8)
    if column.dtype.kind in "iu":
        return gather(column, target) if column.itemsize == target.itemsize and column.dtype.isnative else column
    column = column.astype(np.float64, copy=False)
    return np.floor(np.clip(column, -(2**31), 2**31 - 1) + 0.5).astype(np.int32)


def slices(path: Path, columns: Sequence[np.ndarray], plan: ColumnPlan, source: Source) -> Iterator[Columns]:
    """Pieces of columns that can be sliced (arrays, memory maps), so that a large file is never copied whole."""
    for start in range(0, len(columns[0]), CHUNK):
        piece = [np.asarray(c[start : start + CHUNK]) for c in columns]
        check_finite(path, piece, start)
        yield plan.apply(piece, source.room)


def check_finite(path: Path, piece: Sequence[np.ndarray], start: int) -> None:
    """Refuses numbers that are not finite; `start` is the number of the piece's first event."""
    for column in piece:
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            raise FormatError(path, f"holds numbers that are not finite near event {start}")
