"""Text: one event a line, in any column order, separated by blanks, tabs, commas or semicolons.

Decimals are read exactly (`kernels/host/text.cpp`: no float in between), a block of lines at a time, so files of tens
of gigabytes pass in bounded memory.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings.column_names import split_name
from had_snn.recordings.columns import ColumnPlan, plan_columns
from had_snn.recordings.decoders import TEXT_BAD_LINE, Columns, TextParser
from had_snn.recordings.facts import Facts, facts_of_text
from had_snn.recordings.recording import ReadOptions, Source, mend_or_raise, read_fully
from had_snn.recordings.text_cells import Cells, open_lines

BLOCK = 1 << 19  # what is parsed from it stays in the cache
LONGEST_LINE = 4096
SAMPLE_LINES = 5_000
SNIFFED_LINES = 100
_NO_NUMBERS = "no line of numbers; expected one event a line: t, x, y and polarity in any order"
_COMMENTS = b"#%/"
_BRACKETS = re.compile(r"\s*([\[({<][^\])}>]*[\])}>])")
_TO_BLANKS = bytes.maketrans(b",;\t\r", b"    ")


@dataclass
class _Head:
    """What precedes the first event, in bytes of UTF-8."""

    data_at: int = 0
    width: int = 0
    names: list[str] | None = None
    cells: Cells = field(default_factory=Cells)
    facts: Facts = field(default_factory=Facts)
    exact: bool = True  # offsets are those of the file
    scale: int = 1  # bytes of the file for one of UTF-8


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
    head, block = _read_head(path, options)
    size = path.stat().st_size // head.scale
    lines = block.splitlines()
    if len(block) == BLOCK and len(lines) > 1:
        lines.pop()  # may be cut in its middle
    sample = _sample(lines[:SAMPLE_LINES], head)
    if not len(sample):
        raise FormatError(path, _NO_NUMBERS, offset=head.data_at)
    total = max(1, size - head.data_at) * (len(lines) + 1) // max(len(block), 1)
    decimals = any(b"." in head.cells.plain(line) for line in lines[:SNIFFED_LINES])
    columns, at = list(sample.T), head.data_at if head.exact else None
    plan = plan_columns(path, columns, options, head.facts, total=total, names=head.names, decimals=decimals, at=at)
    sized = any(place == "width, height" for place, _ in head.facts.sensors)
    source = plan.source("text", head.width, head.facts, options, named=sized)
    source.most = total * 21 // 20
    source.chunks = _chunks(path, head, plan, source, options)
    return source


def _sample(lines: list[bytes], head: _Head) -> np.ndarray:
    """Numbers of the lines that hold `width` of them, float64 `[n, width]`."""
    with contextlib.suppress(ValueError):
        numbers = [float(token) for token in head.cells.plain(b"\n".join(lines)).translate(_TO_BLANKS).split()]
        if len(numbers) == len(lines) * head.width:
            return np.array(numbers).reshape(-1, head.width)
    found = [head.cells.numbers(line) for line in lines]
    return np.array([row for row in found if row is not None and len(row) == head.width]).reshape(-1, head.width)


def _read_head(path: Path, options: ReadOptions) -> tuple[_Head, bytes]:
    """Reads comments, names and facts, and the first block of events behind them.

    Names may stand in a comment. A line of two whole numbers before the events is the sensor's width and height.
    """
    head = _Head()
    before: list[str] = []
    first_line: tuple[str, tuple[int, int]] | None = None
    raw, head.exact, head.scale = open_lines(path)
    with io.BufferedReader(raw, 1 << 16) as file:
        while True:
            line = file.readline(LONGEST_LINE)
            if not line or head.data_at > BLOCK:
                raise FormatError(path, f"{_NO_NUMBERS}{_shown(before)}", offset=head.data_at if head.exact else None)
            if len(line) == LONGEST_LINE or b"\0" in line:
                raise FormatError(path, f"not text: no line end within {LONGEST_LINE} bytes", offset=head.data_at)
            text = line
            if head.data_at == 0 and text.startswith(b"\xef\xbb\xbf"):
                text, head.data_at = text[3:], 3
            numbers = None if text[:1] in _COMMENTS else _numbers(text)
            if numbers is None:
                before += [_decoded(text)] if text.strip() else []
            elif len(numbers) == 2 and first_line is None and all(n.is_integer() and n > 0 for n in numbers):
                first_line = ("first line", (int(numbers[1]), int(numbers[0])))
            else:
                break
            head.data_at += len(text)
        block = text + file.read(BLOCK - len(text))
    cells = Cells.of([line for line in block.splitlines()[:SNIFFED_LINES] if line[:1] not in _COMMENTS])
    head.cells = cells or Cells()
    head.width = len(head.cells.numbers(text) or ())
    head.facts = facts_of_text(path, before, options)
    head.facts.sensors += [first_line] if first_line else []
    head.names = _names(path, before, head, options)
    return head, block


def _numbers(line: bytes) -> list[float] | None:
    cells = Cells.of([line])
    return cells.numbers(line) if cells is not None else None


def _decoded(line: bytes) -> str:
    try:
        return line.decode().strip()
    except UnicodeDecodeError:
        return line.decode("latin-1").strip()


def _shown(lines: list[str]) -> str:
    return f"; it begins with {lines[0][:60]!r}" if lines else ""


def _names(path: Path, lines: list[str], head: _Head, options: ReadOptions) -> list[str] | None:
    """The names of the columns, from the last line before the events that names them."""
    width = head.width
    for line in reversed(lines):
        comment = line[:1] in "#%/"
        text = _BRACKETS.sub(lambda match: match[1].replace(" ", "\xa0"), line.lstrip("#%/ \t"))  # part of a name
        separator = next((mark for mark in "\t;," if mark in text), " +")
        named = [name.strip() for name in re.split(separator, text)]
        while len(named) > width and not named[-1]:
            named.pop()
        roles = {split_name(name).role for name in named}
        complete = {"t", "x", "y"} <= roles and ("p" in roles or width == 3)
        if len(named) == width and (complete or (not comment and any(named))):
            return named
        if len(roles - {None}) > 2 and not comment and options.columns is None:
            problem = f"names {len(named)} columns ({', '.join(named)}), but its lines hold {width} numbers"
            remedy = "columns=... states the order of the numbers, with _ to skip one"
            raise FormatError(path, problem, offset=head.data_at if head.exact else None, remedy=remedy)
    return None


def _chunks(path: Path, head: _Head, plan: ColumnPlan, source: Source, options: ReadOptions) -> Iterator[Columns]:
    total, at, rest = path.stat().st_size, head.data_at, 0
    parser, exact = TextParser(plan.index, head.width, plan.exponent), head.exact and head.cells.are_plain
    block = bytearray(LONGEST_LINE + BLOCK + 1)
    with open_lines(path).file as file:
        read_fully(file, memoryview(bytearray(at)))
        while True:
            read = read_fully(file, memoryview(block)[rest : rest + BLOCK])
            filled, last = rest + read, read < BLOCK
            open_ended = last and filled > 0 and block[filled - 1 : filled] != b"\n"
            if open_ended:
                block[filled : filled + 1] = b"\n"
                filled += 1
            cut = filled if last else block.rfind(b"\n", 0, filled) + 1
            text, stop = (block, cut) if head.cells.are_plain else _plain(head, block, cut)
            done = 0
            while done < stop:
                piece, done, why = parser.parse(text, done, stop)
                if len(piece.t):
                    yield piece._replace(t=piece.t + plan.offset_us) if plan.offset else piece
                if why:
                    end = text.index(b"\n", done) + 1
                    problem, where = _problem(bytes(text[done:end]), why, head.width), at + done if exact else None
                    if not (open_ended and end == stop):
                        raise FormatError(path, problem, offset=where)
                    kept = "keeps the lines before it"
                    mend_or_raise(path, source.info, options, problem, mended=kept, offset=where)
                    return
            rest = filled - cut
            if rest > LONGEST_LINE:
                raise FormatError(path, f"no line end within {rest} bytes", offset=at + cut if exact else None)
            block[:rest] = block[cut:filled]
            at += cut
            if options.progress is not None:
                options.progress(total if last else min(at * head.scale, total), total)
            if last:
                return


def _plain(head: _Head, block: bytearray, cut: int) -> tuple[bytes, int]:
    text = head.cells.plain(bytes(block[:cut]))
    return text, len(text)


def _problem(line: bytes, why: int, width: int) -> str:
    shown = line.strip()[:60].decode("utf-8", "replace")
    if why == TEXT_BAD_LINE:
        return f"expected {width} numbers in a line, found {shown!r}"
    return f"the time in {shown!r} does not fit 64-bit microseconds"
