"""Text: one event a line, in any column order, separated by blanks, tabs, commas or semicolons.

The parser works on whole blocks of bytes with NumPy, reads decimals exactly (no float in between), and never holds
more than a block, so files of tens of gigabytes pass in bounded memory. A block that holds anything but plain decimals
(exponents, comments, blank lines) goes line by line instead.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError
from had_snn.events.readers_columns import UNITS, ColumnPlan, plan_columns
from had_snn.events.recording import Columns, ReadOptions, Source, mend_or_raise

BLOCK = 1 << 20  # its intermediate arrays stay in the cache
LONGEST_LINE = 4096
SAMPLE_LINES = 5_000
_SPLIT = re.compile(rb"[\s,;]+")
_TO_BLANKS = bytes.maketrans(b",;\t\r", b"    ")
_SEPARATOR, _DIGIT, _POINT, _SIGN, _OTHER = range(5)
_CLASS = np.full(256, _OTHER, np.uint8)
_CLASS[list(b" \t,;\r\n")] = _SEPARATOR
_CLASS[list(b"0123456789")] = _DIGIT
_CLASS[ord(".")] = _POINT
_CLASS[list(b"+-")] = _SIGN


class _NotPlain(Exception):
    """A block that the fast parser leaves to the line parser."""


@dataclass
class _Head:
    """What precedes the first event."""

    data_at: int = 0
    width: int = 0
    names: list[str] | None = None
    sensor_hw: tuple[int, int] | None = None
    facts: dict[str, str] = field(default_factory=dict)


def open_text(path: Path, options: ReadOptions) -> Source:
    """Opens a text file of events.

    Args:
        path: The file.
        options: `columns`, `time_unit`, `polarity`, `origin` and `sensor_hw` override what is detected.

    Returns:
        The source.

    Raises:
        FormatError: If the file holds no lines of numbers, or its columns do not look like events.
    """
    head = _read_head(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(head.data_at)
        block = file.read(BLOCK)
    lines = block.splitlines()
    if head.data_at + len(block) < size and len(lines) > 1:
        lines.pop()  # may be cut in its middle
    sample = _sample(lines[:SAMPLE_LINES], head.width)
    if not len(sample):
        raise FormatError(path, "no line of numbers; expected one event a line: t, x, y and polarity in any order")
    decimals = any(b"." in line for line in lines[:100])
    unit = head.facts.get("time_unit")
    plan = plan_columns(path, list(sample.T), options, names=head.names, unit=unit, decimals=decimals)
    info = {"columns": plan.describe(head.width), "time_unit": plan.unit}
    source = Source(path, "text", (), head.sensor_hw, info, countable_from_one="width" not in head.facts)
    source.chunks = _chunks(path, head, plan, source, options)
    return source


def _sample(lines: list[bytes], width: int) -> np.ndarray:
    """Numbers of the lines that hold `width` of them, float64 `[n, width]`."""
    with contextlib.suppress(ValueError):
        numbers = [float(token) for token in b" ".join(lines).translate(_TO_BLANKS).split()]
        if len(numbers) == len(lines) * width:
            return np.array(numbers).reshape(-1, width)
    found = [_floats([token for token in _SPLIT.split(line.strip()) if token]) for line in lines]
    return np.array([row for row in found if row is not None and len(row) == width], np.float64).reshape(-1, width)


def _floats(row: list[bytes]) -> list[float] | None:
    try:
        return [float(token) for token in row]
    except ValueError:
        return None


def _read_head(path: Path) -> _Head:
    """Skips comments and names; a line of two whole numbers before the events is the sensor's width and height."""
    head = _Head()
    with path.open("rb") as file:
        while True:
            at = file.tell()
            line = file.readline(LONGEST_LINE)
            if not line or at > BLOCK:
                raise FormatError(
                    path, "no line of numbers; expected one event a line: t, x, y and polarity in any order"
                )
            if len(line) == LONGEST_LINE or b"\0" in line:
                raise FormatError(path, f"not text: no line end within {LONGEST_LINE} bytes", offset=at)
            text = line.strip()
            if at == 0:
                text = text.removeprefix(b"\xef\xbb\xbf")
            tokens = [token for token in _SPLIT.split(text) if token]
            if not tokens:
                continue
            if text[:1] in b"#%/":
                head.facts.update(re.findall(r"(\w+)=(\w+)", text.decode("utf-8", "replace")))
            elif _floats(tokens) is None:
                named = re.split(rb"[,;\t]", text) if re.search(rb"[,;\t]", text) else tokens
                head.names = [name.decode("utf-8", "replace") for name in named]
            elif len(tokens) == 2 and head.sensor_hw is None and all(token.isdigit() for token in tokens):
                head.sensor_hw = (int(tokens[1]), int(tokens[0]))
            else:
                head.data_at, head.width = at, len(tokens)
                break
    if head.names is not None and len(head.names) != head.width:
        head.names = None
    width, height = head.facts.get("width", ""), head.facts.get("height", "")
    if width.isdigit() and height.isdigit():
        head.sensor_hw = (int(height), int(width))
    if head.facts.get("time_unit") not in UNITS:
        head.facts.pop("time_unit", None)
    return head


def _chunks(path: Path, head: _Head, plan: ColumnPlan, source: Source, options: ReadOptions) -> Iterator[Columns]:
    total = path.stat().st_size
    rest, at = b"", head.data_at
    with path.open("rb") as file:
        file.seek(head.data_at)
        while True:
            read = file.read(BLOCK)
            block = rest + read
            if not block:
                return
            last = not read
            cut = len(block) if last else block.rfind(b"\n") + 1
            if cut == 0 and len(block) > BLOCK + LONGEST_LINE:
                raise FormatError(path, f"no line end within {len(block)} bytes", offset=at)
            if cut:
                yield _parse(path, block[:cut], at, head.width, plan, source, options, last=last)
                at += cut
            rest = block[cut:]
            if options.progress is not None:
                options.progress(at, total)
            if last:
                return


def _parse(
    path: Path, block: bytes, at: int, width: int, plan: ColumnPlan, source: Source, options: ReadOptions, *, last: bool
) -> Columns:
    for parse in (_parse_integers, _parse_plain):
        with contextlib.suppress(_NotPlain):
            return parse(block, width, plan)
    return _parse_lines(path, block, at, width, plan, source, options, last=last)


def _parse_integers(block: bytes, width: int, plan: ColumnPlan) -> Columns:
    """Parses a block of whole numbers with single separators, the most common form, by NumPy's own parser."""
    separator = _SPLIT.search(block)
    mark = separator.group() if separator else b""
    if b"." in block or len(mark) != 1 or width < 2:
        raise _NotPlain
    data = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(data == 10)
    marks = np.flatnonzero(data == mark[0])
    rows = len(ends) + (not block.endswith(b"\n"))
    if len(marks) != rows * (width - 1):
        raise _NotPlain
    marks = marks.reshape(rows, width - 1)
    if (marks[: len(ends), -1] > ends).any() or (marks[1:, 0] < ends[: rows - 1]).any():
        raise _NotPlain
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # how NumPy tells that it met something else
        try:
            table = np.fromstring(block.translate(_TO_BLANKS), np.int64, sep=" ")
        except (DeprecationWarning, ValueError) as error:
            raise _NotPlain from error
    if len(table) != rows * width or max(-int(table.min()), int(table.max())) > 2**62:
        raise _NotPlain
    return plan.apply(list(table.reshape(rows, width).T))


def _parse_plain(block: bytes, width: int, plan: ColumnPlan) -> Columns:
    """Parses a block of nothing but lines of `width` plain decimals."""
    data = np.frombuffer(block, np.uint8)
    kinds = _CLASS[data]
    if kinds.max() == _OTHER:
        raise _NotPlain
    token = kinds != _SEPARATOR
    edges = np.flatnonzero(token[1:] != token[:-1]) + 1
    if token[0]:
        edges = np.concatenate([[0], edges])
    if token[-1]:
        edges = np.concatenate([edges, [len(data)]])
    if len(edges) == 0 or len(edges) % (2 * width):
        raise _NotPlain
    bounds = edges.reshape(-1, width, 2)
    line_ends = np.flatnonzero(data == 10)
    if len(line_ends) < len(bounds):
        line_ends = np.concatenate([line_ends, [len(data)]])
    if (
        len(line_ends) != len(bounds)
        or (bounds[:, -1, 1] > line_ends).any()
        or (bounds[1:, 0, 0] < line_ends[:-1]).any()
    ):
        raise _NotPlain
    points = np.flatnonzero(kinds == _POINT)
    signs = np.flatnonzero(kinds == _SIGN)
    exponents = {"t": UNITS[plan.unit], "x": 0, "y": 0, "p": 0}
    columns = {
        name: _decimals(data, bounds[:, i, 0], bounds[:, i, 1], points, signs, exponents[name])
        for name, i in plan.index.items()
    }
    # A sign or point anywhere but where a number may have it would pass unseen otherwise.
    if len(points) + len(signs):
        _check_marks(kinds, bounds)
    p = columns.get("p", np.ones(len(bounds), np.int8))
    return Columns(columns["t"], columns["x"], columns["y"], p)


def _check_marks(kinds: np.ndarray, bounds: np.ndarray) -> None:
    starts = np.zeros(len(kinds), bool)
    starts[bounds[..., 0].ravel()] = True
    if ((kinds == _SIGN) & ~starts).any():
        raise _NotPlain
    points = np.cumsum(kinds == _POINT, dtype=np.int32)
    first, last = bounds[..., 0].ravel(), bounds[..., 1].ravel() - 1
    if (points[last] - points[first] + (kinds[first] == _POINT) > 1).any() or (kinds[last] == _SIGN).any():
        raise _NotPlain


def _decimals(
    data: np.ndarray, start: np.ndarray, end: np.ndarray, points: np.ndarray, signs: np.ndarray, exponent: int
) -> np.ndarray:
    """Decimals `[n]` times `10 ** exponent`, as int64, halves rounded away from zero."""
    negative = None
    if len(signs):
        signed = (data[start] == ord("-")) | (data[start] == ord("+"))
        if signed.any():
            negative = data[start] == ord("-")
            start = start + signed
    if not len(points):
        whole = _whole_digits(data, start, end, exponent)
        value = whole * 10**exponent if exponent >= 0 else (whole + 500) // 1000
    else:
        found = np.searchsorted(points, start)
        point = np.minimum(points[np.minimum(found, len(points) - 1)], end)
        point = np.where((point < start) | (found == len(points)), end, point)
        if exponent < 0:
            value = (_whole_digits(data, start, point, exponent) + 500) // 1000
        else:
            # One digit more than is kept decides the rounding.
            stop = np.minimum(point + 2 + exponent, end)
            shown = np.maximum(stop - point - 1, 0)
            fraction = _digits(data, np.minimum(point + 1, stop), stop)
            fraction = fraction * 10 ** (exponent + 1 - shown)
            value = _whole_digits(data, start, point, exponent) * 10**exponent + (fraction + 5) // 10
    return value if negative is None else np.where(negative, -value, value)


def _whole_digits(data: np.ndarray, start: np.ndarray, end: np.ndarray, exponent: int) -> np.ndarray:
    whole = _digits(data, start, end)
    if exponent > 0 and int(whole.max(initial=0)) > 2**62 // 10**exponent:
        raise _NotPlain
    return whole


def _digits(data: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Numbers written in `data[start:end]`, int64 `[n]`; an empty range is 0."""
    length = end - start
    longest = int(length.max(initial=0))
    if longest > 18:  # may not fit int64
        raise _NotPlain
    value = np.zeros(len(start), np.int64)
    shortest = int(length.min(initial=0))
    for place in range(longest):
        at = end - (place + 1)
        if place < shortest:
            value += (data[at].astype(np.int64) - 48) * 10**place
        else:
            here = np.flatnonzero(length > place)
            value[here] += (data[at[here]].astype(np.int64) - 48) * 10**place
    return value


def _parse_lines(
    path: Path, block: bytes, at: int, width: int, plan: ColumnPlan, source: Source, options: ReadOptions, *, last: bool
) -> Columns:
    rows: list[list[float]] = []
    lines = block.split(b"\n")
    for number, line in enumerate(lines):
        text = line.strip()
        if text and text[:1] not in b"#%":
            row = _floats([token for token in _SPLIT.split(text) if token])
            if row is None or len(row) != width:
                problem = f"expected {width} numbers in a line, found {text[:60].decode('utf-8', 'replace')!r}"
                if last and number == len(lines) - 1:
                    mend_or_raise(path, source.info, options, problem, mended="keeps the lines before it", offset=at)
                    break
                raise FormatError(path, problem, offset=at)
            rows.append(row)
        at += len(line) + 1
    table = np.array(rows, np.float64).reshape(-1, width)
    if not np.isfinite(table).all():
        raise FormatError(path, "holds numbers that are not finite", offset=at)
    return plan.apply(list(table.T))
