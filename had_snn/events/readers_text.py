"""Text: one event a line, in any column order, separated by blanks, tabs, commas or semicolons.

Decimals are read exactly (`kernels/host/text.cpp`: no float in between), a block of lines at a time, so files of tens
of gigabytes pass in bounded memory.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError
from had_snn.events.decoders import TEXT_BAD_LINE, Columns, TextParser
from had_snn.events.readers_columns import UNITS, ColumnPlan, plan_columns
from had_snn.events.recording import ReadOptions, Source, mend_or_raise, read_fully

BLOCK = 1 << 19  # what is parsed from it stays in the cache
LONGEST_LINE = 4096
SAMPLE_LINES = 5_000
_NO_NUMBERS = "no line of numbers; expected one event a line: t, x, y and polarity in any order"
_SPLIT = re.compile(rb"[\s,;]+")
_TO_BLANKS = bytes.maketrans(b",;\t\r", b"    ")


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
        raise FormatError(path, _NO_NUMBERS, offset=head.data_at)
    decimals = any(b"." in line for line in lines[:100])
    unit = head.facts.get("time_unit")
    plan = plan_columns(path, list(sample.T), options, names=head.names, unit=unit, decimals=decimals, at=head.data_at)
    info = {"columns": plan.describe(head.width), "time_unit": plan.unit}
    source = Source(path, "text", (), head.sensor_hw, info, countable_from_one="width" not in head.facts)
    source.most = (size - head.data_at) * (len(lines) + 1) // max(len(block), 1) * 21 // 20
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
                raise FormatError(path, _NO_NUMBERS, offset=at)
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
    total, at, rest = path.stat().st_size, head.data_at, 0
    parser = TextParser(plan.index, head.width, UNITS[plan.unit])
    block = bytearray(LONGEST_LINE + BLOCK + 1)
    with path.open("rb", buffering=0) as file:
        file.seek(at)
        while True:
            read = read_fully(file, memoryview(block)[rest : rest + BLOCK])
            filled, last = rest + read, read < BLOCK
            open_ended = last and filled > 0 and block[filled - 1 : filled] != b"\n"
            if open_ended:
                block[filled : filled + 1] = b"\n"
                filled += 1
            cut = filled if last else block.rfind(b"\n", 0, filled) + 1
            done = 0
            while done < cut:
                piece, done, why = parser.parse(block, done, cut)
                if len(piece.t):
                    yield piece
                if why:
                    stop = block.index(b"\n", done) + 1
                    problem = _problem(bytes(block[done:stop]), why, head.width)
                    if not (open_ended and stop == filled):
                        raise FormatError(path, problem, offset=at + done)
                    mend_or_raise(
                        path, source.info, options, problem, mended="keeps the lines before it", offset=at + done
                    )
                    return
            rest = filled - cut
            if rest > LONGEST_LINE:
                raise FormatError(path, f"no line end within {rest} bytes", offset=at + cut)
            block[:rest] = block[cut:filled]
            at += cut
            if options.progress is not None:
                options.progress(min(at, total), total)
            if last:
                return


def _problem(line: bytes, why: int, width: int) -> str:
    shown = line.strip()[:60].decode("utf-8", "replace")
    if why == TEXT_BAD_LINE:
        return f"expected {width} numbers in a line, found {shown!r}"
    return f"the time in {shown!r} does not fit 64-bit microseconds"
