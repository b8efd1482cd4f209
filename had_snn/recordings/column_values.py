"""What unnamed numbers say: which column is which, and in what unit times can be.

Time is the column that grows, polarity the one with two small values; of the other two, x comes first. Whether x does
come first is checked on all events against the sensor that is stated (`checks.py`), never decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings.polarity import could_be_polarity
from had_snn.recordings.recording import ReadOptions, logger
from had_snn.recordings.units import unit_name

EPOCH_NS = 10**17  # later than 1973 in nanoseconds; as microseconds it would be three thousand years
FEW = 50  # events below which spans and rates say little
ENOUGH = 4_000  # of times to tell their unit
CANDIDATES = (6, 3, 0, -3)  # seconds to nanoseconds
SLOWEST, FASTEST = 100.0, 100.0  # plausible events a second: of a whole recording, and of a pixel of its sensor
SPARSEST, MANY = 0.01, 50_000  # events a second and pixel of another unit than the usual, of so many events
SHORTEST_US, SHORTEST_FINE_US = 1e3, 1e4  # plausible durations; the longer one for times finer than microseconds
LONGEST_US, LONGEST_OTHER_US = 7.2e9, 6e8  # of the usual unit, and of any other
USUAL_US, SURE_US = 2e4, 1e6  # durations from which the usual unit stands where a larger one is possible too


def index_by_value(path: Path, sample: Sequence[np.ndarray], options: ReadOptions, at: int | None) -> dict[str, int]:
    """Position of `t`, `x`, `y`, `p` among unnamed columns.

    Args:
        path: The file, for messages.
        sample: The columns' numbers, each `[n]`: all, or the first of them.
        options: `polarity`, where stated, tells which column holds it.
        at: Byte at which the numbers begin, for messages.

    Raises:
        FormatError: If the columns do not look like events.
    """
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
    t = _time_column(columns)
    p = _polarity_column(path, columns, t, options, at)
    pixels = [i for i in range(len(columns)) if i not in (t, p)]
    if len(pixels) != 2 or any(columns[i].min() < -0.5 or columns[i].max() > 32767 for i in pixels):
        raise FormatError(
            path,
            f"{len(columns)} columns that cannot be told apart",
            offset=at,
            remedy="columns=... states the order, e.g. txyp_",
        )
    return {"t": t, "x": pixels[0], "y": pixels[1], "p": p}


def _time_column(columns: Sequence[np.ndarray]) -> int:
    spans = [float(np.ptp(c)) for c in columns]
    grows = [float(np.mean(c[1:] >= c[:-1])) if len(c) > 1 else 1.0 for c in columns]
    # A file that is not sorted still has its widest column in time; one window of a still sensor may not.
    sorted_enough = [i for i in range(len(columns)) if grows[i] >= 0.95 and spans[i] > 0]
    fractional = [i for i in sorted_enough or range(len(columns)) if (columns[i] != np.rint(columns[i])).any()]
    reach = spans if len(columns[0]) >= FEW else [float(np.abs(c).max()) for c in columns]
    return max(fractional or sorted_enough or range(len(columns)), key=lambda i: reach[i])


def _polarity_column(path: Path, columns: Sequence[np.ndarray], t: int, options: ReadOptions, at: int | None) -> int:
    others = [i for i in range(len(columns)) if i != t]
    for ways in (2, 3):
        found = [i for i in others if could_be_polarity(columns[i], options.polarity, ways)]
        if found:
            return others[-1] if others[-1] in found else found[-1]
    expected = "like 0/1, -1/+1, 1/2 or 0/255" if options.polarity is None else f"{options.polarity} as given"
    raise FormatError(
        path,
        f"no column holds two values {expected}; not an event file?",
        offset=at,
        remedy="columns=... states the order, e.g. txyp, polarity=(darker, brighter) the values",
    )


def guess_unit(path: Path, t: np.ndarray, total: int, pixels: int, *, decimals: bool, integers: bool) -> int:
    """The unit of times that state none, as a power of ten that turns them into microseconds.

    Whole numbers are usually microseconds, fractions seconds. Rate and duration decide where only one unit makes them
    those of an event camera; the usual one stands where it does so well; otherwise the caller is asked.

    Args:
        path: The file, for messages.
        t: The first times, `[n]`.
        total: Events in the file, about.
        pixels: Pixels of its sensor, about.
        decimals: The times are written with a decimal point (so that `0.000000` counts as seconds).
        integers: The numbers are stored as integers.

    Raises:
        FormatError: If no unit, or more than one, is plausible.
    """
    if len(t) == 0:
        return 0
    stride = max(1, len(t) // ENOUGH)
    times = t[::stride].astype(np.float64)
    if times[0] >= EPOCH_NS:
        return -3
    fractions = not integers and bool((times != np.rint(times)).any())
    usual = 6 if fractions or (decimals and float(np.abs(times).max()) < 1e4) else 0
    steps = np.diff(times)
    seen = max(stride * (len(times) - 1), 1)
    span = float(steps[steps > 0].sum()) * max(total / seen, 1.0)  # a clock that wraps adds nothing
    if len(t) < FEW:
        return usual if span * 10.0**usual <= LONGEST_US else _ask(path, [], span, total)
    if span == 0:
        return usual
    plausible = [e for e in CANDIDATES if _is_plausible(times, span * 10.0**e, total, pixels, e, usual)]
    if usual == 6 and usual in plausible and not _is_finer(times, usual):  # written to the microsecond
        plausible = [e for e in plausible if not _is_finer(times, e)]
    larger_only = usual in plausible and min(plausible) == usual and span * 10.0**usual >= USUAL_US
    if plausible == [usual] or (larger_only and span * 10.0**usual >= SURE_US):
        return usual
    if len(plausible) == 1 or larger_only:
        found = usual if larger_only else plausible[0]
        problem = f"states no unit of time; read in {unit_name(found)}, {_reading(span, total, found)}"
        logger.warning("%s: %s (time_unit=... states it)", path, problem)
        return found
    if not plausible and span * 10.0**usual <= LONGEST_US and not _short_but_fine(span, total, pixels, usual):
        return usual
    return _ask(path, plausible, span, total)


def _is_plausible(times: np.ndarray, span_us: float, total: int, pixels: int, exponent: int, usual: int) -> bool:
    rate = total / span_us * 1e6
    shortest, longest = SHORTEST_US, LONGEST_US if exponent == usual else LONGEST_OTHER_US
    if exponent != usual and _is_finer(times, exponent):
        shortest = SHORTEST_FINE_US if times.size and span_us * 10.0 ** (usual - exponent) > LONGEST_US else USUAL_US
    if exponent != usual and total >= MANY and rate / pixels < SPARSEST:
        return False
    return rate >= SLOWEST and rate / pixels <= FASTEST and shortest <= span_us <= longest


def _short_but_fine(span: float, total: int, pixels: int, usual: int) -> bool:
    """True if a smaller unit would make a short recording of what the usual one makes a slow one."""
    spans = [span * 10.0**e for e in CANDIDATES if e < usual]
    return any(us >= SHORTEST_US and SLOWEST <= total / us * 1e6 <= FASTEST * pixels for us in spans)


def _is_finer(times: np.ndarray, exponent: int) -> bool:
    """True if a unit gives the times parts of a microsecond, which cameras do not have."""
    us = times[:1000] * 10.0**exponent
    return bool((np.abs(us - np.rint(us)) > 1e-3 + np.abs(us) * 1e-12).any())


def _ask(path: Path, plausible: Sequence[int], span: float, total: int) -> int:
    units = plausible or CANDIDATES
    readings = "; ".join(f"in {unit_name(e)} {_reading(span, total, e)}" for e in units)
    problem = f"states no unit of time, and its numbers do not tell: {readings}"
    raise FormatError(path, problem, remedy="time_unit=s, ms, us or ns states it")


def _reading(span: float, total: int, exponent: int) -> str:
    seconds = span * 10.0 ** (exponent - 6)
    return f"{seconds:.3g} s at {total / seconds:.3g} events/s"
