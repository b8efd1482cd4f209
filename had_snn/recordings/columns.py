"""Files that are only columns of numbers: which column is which, and in what unit the time is.

Text, NPY/NPZ, MATLAB and generic HDF5 files share this. What the caller states decides, then names and facts in the
file, then the numbers themselves. Every decision is logged, and can be stated instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings.column_names import agreed_unit, index_by_name, split_name
from had_snn.recordings.column_values import guess_unit, index_by_value
from had_snn.recordings.decoders import Columns, Room, fresh, gather
from had_snn.recordings.facts import Facts, smallest_sensor
from had_snn.recordings.polarity import NOT_WHOLE
from had_snn.recordings.recording import ReadOptions, Source, logger
from had_snn.recordings.units import stated_unit, unit_name, unit_of_dtype

SAMPLE = 50_000
CHUNK = 1 << 16  # events at a time: they stay in the processor's cache
COARSEST_US = 1_000  # of what floats can tell apart; coarser times are those of no camera


@dataclass(frozen=True)
class ColumnPlan:
    """Which column holds what.

    Attributes:
        path: The file, for messages.
        index: Position of `t`, `x`, `y`, `p` among the file's columns; `p` may be missing if the caller said so.
        exponent: Power of ten that turns the times into microseconds.
        offset: What is added to the times, in their own unit.
        guessed: Only the numbers tell the order of the columns.
    """

    path: Path
    index: dict[str, int]
    exponent: int
    offset: int | float = 0
    guessed: bool = False

    @property
    def offset_us(self) -> int:
        """The offset in microseconds."""
        return round(Fraction(self.offset) * Fraction(10) ** self.exponent)

    def describe(self, width: int) -> str:
        """The order in the form of the `columns` option, e.g. `"txyp"`."""
        order = {position: name for name, position in self.index.items()}
        return "".join(order.get(i, "_") for i in range(width))

    def source(self, kind: str, width: int, facts: Facts, options: ReadOptions, *, named: bool) -> Source:
        """The source of such a file, still without events.

        Args:
            kind: Name of its format.
            width: Columns in it.
            facts: What it states beside them.
            options: What the caller states.
            named: The format says that pixels are numbered from 0.
        """
        info: dict[str, Any] = {"columns": self.describe(width), "time_unit": unit_name(self.exponent)}
        if self.offset:
            info["t_offset"] = self.offset
        source = Source(self.path, kind, (), facts.sensor_hw(self.path, options), info, countable_from_one=not named)
        source.order = info["columns"] if self.guessed else None
        source.clock = (max(round(Fraction(2**32) * Fraction(10) ** self.exponent), 1), self.offset_us)
        return source

    def apply(self, columns: Sequence[np.ndarray], room: Room = fresh) -> Columns:
        """Columns of numbers as `t` in microseconds and whole pixels; halves of a pixel go up.

        Args:
            columns: The file's columns, `[n]` each.
            room: Where to put them.
        """
        out = room(len(columns[0]))
        t = self._microseconds(columns[self.index["t"]], out.t)
        x, y = (_whole(columns[self.index[name]], target) for name, target in (("x", out.x), ("y", out.y)))
        if "p" in self.index:
            return Columns(t, x, y, _polarity(columns[self.index["p"]], out.p))
        out.p[: len(t)] = 1
        return Columns(t, x, y, out.p[: len(t)])

    def times(self, t: np.ndarray) -> np.ndarray:
        """Some numbers of the column of times in microseconds."""
        return self._microseconds(t, np.empty(len(t), np.int64))

    def _microseconds(self, t: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Times as int64 microseconds, rounded to the nearest."""
        exponent, found = self.exponent, target[: len(t)]
        if t.dtype == np.int64 and exponent == 0 and self.offset == 0 and t.dtype.isnative:
            return gather(t, target)
        largest = max(abs(float(t.max())), abs(float(t.min()))) if len(t) else 0.0
        if (largest + abs(self.offset)) * 10.0**exponent > 2.0**62 or largest >= 2.0**63:
            unit = unit_name(exponent)
            raise FormatError(self.path, f"times up to {largest:g} {unit} do not fit 64-bit microseconds")
        if t.dtype.kind in "iu":
            whole = t.astype(np.int64, copy=False)
            if isinstance(self.offset, int):
                whole = whole + self.offset if self.offset else whole
                return _scaled(whole, exponent, found)
            found = _scaled(whole, exponent, found)
        else:
            self._check_steps(t, largest)
            found[:] = np.rint(t.astype(np.float64, copy=False) * 10.0**exponent)
        if self.offset:
            found += self.offset_us
        return found

    def _check_steps(self, t: np.ndarray, largest: float) -> None:
        """Refuses times that their floats cannot hold: float32 seconds since 1970 are 128 s apart."""
        if t.dtype.itemsize >= 8:
            return
        step_us = float(np.spacing(t.dtype.type(largest))) * 10.0**self.exponent
        if step_us > COARSEST_US:
            problem = f"times are {t.dtype}, which at {largest:g} {unit_name(self.exponent)} has steps of"
            remedy = "write them as float64 or whole microseconds; time_unit=... states another unit"
            raise FormatError(self.path, f"{problem} {step_us / 1e6:g} s: they have lost their digits", remedy=remedy)


def plan_columns(
    path: Path,
    sample: Sequence[np.ndarray],
    options: ReadOptions,
    facts: Facts,
    *,
    total: int,
    names: Sequence[str] | None = None,
    unit: int | None = None,
    decimals: bool = False,
    at: int | None = None,
) -> ColumnPlan:
    """Decides what the columns are.

    Args:
        path: The file, for messages.
        sample: The columns' numbers, each `[n]`: all, or the first of them.
        options: `columns` and `time_unit`, where stated, decide.
        facts: What the file states beside the columns.
        total: Events in the file, about.
        names: The columns' names, if the file has any.
        unit: Power of ten of the unit that the format prescribes for whole numbers, if it does.
        decimals: True if the times are written with a decimal point (so that `0.000000` counts as seconds).
        at: Byte at which the numbers begin, for messages.

    Returns:
        The plan.

    Raises:
        FormatError: If the columns do not look like events.
    """
    told, stated = None, None if options.time_unit is None else stated_unit(options.time_unit)
    if options.columns is not None:
        if len(options.columns) != len(sample):
            raise FormatError(
                path, f"columns={options.columns!r} names {len(options.columns)} columns, the file has {len(sample)}"
            )
        index = {name: i for i, name in enumerate(options.columns) if name != "_"}
        told = _stated_against_names(path, index, names, options)
    elif names is not None:
        index, told = index_by_name(path, names, stated=stated is not None)
    else:
        index = index_by_value(path, sample, options, at)
    for name, i in index.items():
        if sample[i].ndim != 1:
            shape = "x".join(map(str, sample[i].shape[1:]))
            raise FormatError(path, f"{name} holds {shape} values for each event; expected one")
    exponent = stated
    if exponent is None:
        exponent = _unit_in_file(path, sample[index["t"]], told, facts)
    else:
        _warn_of_other_unit(path, exponent, [("name", told), *facts.units])
    if exponent is None and unit is not None and (sample[index["t"]] == np.rint(sample[index["t"]])).all():
        exponent = unit
    if exponent is None:
        hw = options.sensor_hw or facts.sensor_hw(path, options) or _sensor_of(sample, index)
        t, whole = sample[index["t"]], sample[index["t"]].dtype.kind in "iu"
        exponent = guess_unit(path, t, total, hw[0] * hw[1], decimals=decimals, integers=whole)
    guessed = options.columns is None and names is None
    plan = ColumnPlan(path, index, exponent, facts.offset or 0, guessed)
    logger.info("%s: columns %s, time in %s", path, plan.describe(len(sample)), unit_name(exponent))
    return plan


def _stated_against_names(
    path: Path, index: dict[str, int], names: Sequence[str] | None, options: ReadOptions
) -> int | None:
    """The unit that the name of the stated column of times tells; warns where names say something else than stated."""
    if names is None:
        return None
    named = {role: split_name(names[place]) for role, place in index.items()}
    others = [names[index[role]] for role, name in named.items() if name.role not in (None, role)]
    if others:
        both = "%s: columns=%s is stated, though the file names its columns %s"
        logger.warning(both, path, options.columns, ", ".join(names))
    return named["t"].exponent if named["t"].role == "t" else None


def _warn_of_other_unit(path: Path, stated: int, told: Sequence[tuple[str, int | None]]) -> None:
    others = {f"{unit_name(exponent)} ({place})" for place, exponent in told if exponent not in (None, stated)}
    if others:
        both = "%s: time_unit=%s is stated, though the file says %s"
        logger.warning(both, path, unit_name(stated), ", ".join(sorted(others)))


def _unit_in_file(path: Path, t: np.ndarray, told: int | None, facts: Facts) -> int | None:
    found = [("name", told), *facts.units]
    if t.dtype.kind in "mM":
        exponent = unit_of_dtype(t.dtype)
        if exponent is None:
            problem = f"times are {t.dtype}, whose tick is no power of ten of a second"
            raise FormatError(path, problem, remedy="time_unit=... states another unit for their numbers")
        found.append((str(t.dtype), exponent))
    return agreed_unit(path, found)


def _sensor_of(sample: Sequence[np.ndarray], index: dict[str, int]) -> tuple[int, int]:
    high = [float(np.max(sample[index[name]], initial=0)) for name in "yx"]
    return smallest_sensor(*(int(v) if np.isfinite(v) else 0 for v in high))


def _scaled(whole: np.ndarray, exponent: int, found: np.ndarray) -> np.ndarray:
    if exponent < 0:
        divisor = 10**-exponent
        found[:] = (whole + divisor // 2) // divisor
    else:
        np.multiply(whole, 10**exponent, out=found, dtype=np.int64, casting="unsafe")
    return found


def _polarity(column: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Polarities as integers; a value with a fraction is none, and becomes one that no file uses."""
    if column.dtype.kind != "f":
        return _whole(column, target)
    whole = _whole(column, target)
    broken = column != np.rint(column)
    return np.where(broken, np.int32(NOT_WHOLE), whole) if broken.any() else whole


def _whole(column: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Pixel and polarity columns as integers; undistorted pixels are put into the pixel they fall nearest to."""
    if column.dtype.kind == "b" and column.itemsize == target.itemsize:  # any byte but 0 is true
        found = gather(column.view(np.uint8), target)
        return np.not_equal(found, 0, out=found.view(np.bool_)).view(np.int8)
    if column.dtype.kind in "iu":
        return gather(column, target) if column.itemsize == target.itemsize and column.dtype.isnative else column
    column = column.astype(np.float64, copy=False)
    return np.floor(np.clip(column, -(2**31), 2**31 - 1) + 0.5).astype(np.int32)


def numbers(column: np.ndarray) -> np.ndarray:
    """A column of durations or dates as the whole numbers that it stores; any other as it is."""
    return column.view(np.int64) if column.dtype.kind in "mM" else column


def slices(path: Path, columns: Sequence[np.ndarray], plan: ColumnPlan, source: Source) -> Iterator[Columns]:
    """Pieces of columns that can be sliced (arrays, memory maps), so that a large file is never copied whole."""
    for start in range(0, len(columns[0]), CHUNK):
        piece = [np.asarray(c[start : start + CHUNK]) for c in columns]
        check_finite(path, piece, start)
        yield plan.apply([numbers(c) for c in piece], source.room)


def check_finite(path: Path, piece: Sequence[np.ndarray], start: int) -> None:
    """Refuses numbers that are not finite; `start` is the number of the piece's first event."""
    for column in piece:
        if column.dtype.kind in "fmM" and not np.isfinite(column).all():
            raise FormatError(path, f"holds numbers that are not finite near event {start}")
