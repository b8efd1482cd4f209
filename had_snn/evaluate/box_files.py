"""The text files that boxes travel in: one line a frame, in whatever notation a tracker writes them.

A line that is left out moves all later boxes by a frame and still scores plausibly, so every line is a box, a frame
without one, a header whose names are understood, or a comment; anything else is refused by name.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from had_snn.data.box_columns import BoxColumns, names_boxes
from had_snn.data.labels import read_text
from had_snn.errors import FormatError
from had_snn.files import atomic_file

log = logging.getLogger("had_snn")

_SEPARATORS = str.maketrans(",;\t", "   ")
_BRACKETS = str.maketrans("", "", "[](){}\"'")
_COMMENT = re.compile(r"^\s*(#+|%+|//)")
_EMPTY_CELL = re.compile(r"(^|[,;\t])[^\S\n]*[,;\t]", re.MULTILINE)
_DECIMAL_COMMA = re.compile(r"^[-+]?\d+,\d+$")
#: How tools say that a frame has no box; the last ones only of the first frame, whose box was given.
_NO_BOX = frozenset(["", "none", "null", "nan", "na", "n/a", "-", "--"])
_GIVEN = frozenset(["init", "initial", "initialization", "initialisation", "given", "gt"])
_REMEDY = "boxes are x,y,w,h: four numbers a line, or a header with names such as x,y,w,h, x1,y1,x2,y2 or cx,cy,w,h"


def read_boxes(path: str | os.PathLike[str], frames: int | None = None) -> np.ndarray:
    """Reads boxes from text: four numbers a line, separated by commas, semicolons, tabs or spaces.

    A header, commented (`# x y w h`) or not, chooses among more columns, orders them and turns corners and centres into
    x, y, w, h. `None`, `-`, `NaN` and the like are a frame without a box, and so is a code of the VOT toolkits (0, 2);
    `init` or VOT's `1` in the first line is the first frame, whose box was given. Further comments are skipped.

    Args:
        path: The file.
        frames: How many there are, where known: tells whether an empty line is one of them.

    Returns:
        float64 `[N, 4]` as x, y, w, h; NaN where a frame has no box (each protocol has its own rule for it).

    Raises:
        InputError: If there is no such file.
        FormatError: If a line or a header cannot be understood; the message names it.
    """
    path = Path(path)
    text = read_text(path, expected="a text file with x,y,w,h in each line")
    plain = _plain_rows(text)
    return plain if plain is not None else _File(path, text, frames).boxes()


def _plain_rows(text: str) -> np.ndarray | None:
    """Files of four numbers in every line, which nearly all are; None for any other."""
    text = text.rstrip()
    rows = [line.split() for line in text.translate(_SEPARATORS).splitlines()]
    marks = sum(map(text.count, ",;\t"))
    if not rows or any(len(row) != 4 for row in rows):
        return None
    # Three marks a line leave no cell empty.
    if marks not in (0, 3 * len(rows)) and _EMPTY_CELL.search(text):
        return None
    try:
        boxes = np.array(rows, dtype=np.float64)
    except ValueError:
        return None
    return None if np.isinf(boxes).any() else boxes


@dataclass
class _Line:
    number: int
    text: str

    @property
    def comment(self) -> bool:
        return _COMMENT.match(self.text) is not None

    @property
    def blank(self) -> bool:
        return not self.text.strip()

    @property
    def cells(self) -> list[str]:
        return _cells(_COMMENT.sub("", self.text))

    @property
    def header(self) -> bool:
        """Whether it is of names: no number, and not one of the words for a frame without a box."""
        words = [cell for cell in self.cells if cell]
        return bool(words) and not any(_is_number(word) or word.lower() in _NO_BOX | _GIVEN for word in words)


def _cells(text: str) -> list[str]:
    """The cells of a line, divided by the first of `;`, tab and comma that it holds, else by spaces."""
    text = text.translate(_BRACKETS).strip(" ")
    mark = next((mark for mark in ";\t," if mark in text), None)
    cells = [cell.strip(" ,\t") for cell in text.split(mark)]
    return [cell.replace(",", ".") if _DECIMAL_COMMA.match(cell) else cell for cell in cells]


class _File:
    """One file with more than plain rows in it."""

    def __init__(self, path: Path, text: str, frames: int | None) -> None:
        self.path, self.frames = path, frames
        self.lines = [_Line(n, line) for n, line in enumerate(text.splitlines(), start=1)]
        while self.lines and self.lines[-1].blank:
            self.lines.pop()

    def fail(self, message: str, remedy: str = _REMEDY) -> FormatError:
        return FormatError(self.path, message, remedy=remedy)

    def boxes(self) -> np.ndarray:
        for line in self.lines:
            if line.comment and len(line.cells) >= 4 and all(map(_is_number, line.cells[:4])):
                log.warning("%s: line %d is a comment and not read: %s", self.path, line.number, line.text.strip())
        columns, rows = self._header()
        rows = self._blank_lines([line for line in rows if not line.comment])
        if not rows:
            raise self.fail("holds no boxes; expected x,y,w,h in each line")
        wanted = [0, 1, 2, 3] if columns is None else columns.used
        width = 4 if columns is None else columns.width
        found = np.array([self._row(line, wanted, width, first=k == 0) for k, line in enumerate(rows)])
        if columns is None:
            return found
        if columns.counting is not None:
            self._check_counting(rows, columns.counting)
        return columns.boxes(found)

    def _header(self) -> tuple[BoxColumns | None, list[_Line]]:
        """The columns that a header names, if there is one, and the lines below it."""
        top = next((k for k, line in enumerate(self.lines) if not line.blank and not line.comment), len(self.lines))
        below = self.lines[top:]
        if below and below[0].header:
            return self._columns(below[0]), below[1:]
        for line in self.lines[:top]:
            # A comment in words may hold one of the names; two are a header, which must then be understood.
            if line.comment and names_boxes(line.cells) >= 2:
                return self._columns(line), below
        return None, self.lines

    def _columns(self, line: _Line) -> BoxColumns:
        names = line.cells
        while names and not names[-1]:
            names.pop()
        try:
            return BoxColumns(names)
        except ValueError as error:
            raise self.fail(f"line {line.number} {error}", remedy="rename the columns, or remove the line") from None

    def _blank_lines(self, rows: list[_Line]) -> list[_Line]:
        """The rows, where empty lines between them are either spacing or frames without a box."""
        full = [line for line in rows if not line.blank]
        if len(full) == self.frames:
            return full
        if len(rows) == self.frames:
            return rows
        while rows and rows[0].blank:
            rows = rows[1:]
        blank = [line for line in rows if line.blank]
        if not blank or all(line.blank == bool(k % 2) for k, line in enumerate(rows)):
            return full
        raise self.fail(
            f"line {blank[0].number} is empty; it cannot be told whether it is a frame",
            remedy="write nan,nan,nan,nan for a frame without a box, and no empty lines between rows",
        )

    def _row(self, line: _Line, wanted: Sequence[int], width: int, *, first: bool) -> list[float]:
        cells = line.cells
        while len(cells) > width and not cells[-1]:
            cells.pop()
        words = {cell.lower() for cell in (cells if len(cells) != width else [cells[at] for at in wanted])}
        if words <= _NO_BOX or (first and words <= _NO_BOX | _GIVEN):
            if len(cells) in (0, 1, width):
                return [float("nan")] * 4
        elif len(cells) == 1 and width > 1 and _is_number(cells[0]):
            return self._vot_code(line, float(cells[0]), first=first)
        if len(cells) != width:
            raise self.fail(f"line {line.number} holds {len(cells)} values; expected {width}")
        values = []
        for at in wanted:
            if not _is_number(cells[at]):
                raise self.fail(f"line {line.number} holds {cells[at]!r}; expected a number")
            values.append(float(cells[at]))
        if np.isinf(values).any():
            raise self.fail(f"line {line.number} holds an infinite number; expected pixels")
        return values

    def _vot_code(self, line: _Line, code: float, *, first: bool) -> list[float]:
        """A line of the VOT toolkits without a box: 1 initialised, 2 failed, 0 left out."""
        if (first and code == 1) or (not first and code in (0, 2)):
            return [float("nan")] * 4
        if code == 1:
            raise self.fail(
                f"line {line.number} is VOT's code 1: the tracker was started anew there",
                remedy="one-pass protocols need results of an unsupervised run",
            )
        raise self.fail(f"line {line.number} holds 1 value; expected 4")

    def _check_counting(self, rows: Sequence[_Line], at: int) -> None:
        """A column that counts frames must miss none: rows are compared with labels in their order."""
        numbers = [float(c[at]) if len(c) > at and _is_number(c[at]) else np.nan for c in (line.cells for line in rows)]
        for line, before, after in zip(rows[1:], numbers, numbers[1:], strict=False):
            if np.isfinite([before, after]).all() and after != before + 1:
                raise self.fail(
                    f"line {line.number} is frame {after:g} and follows frame {before:g}",
                    remedy="one row for each frame, in order; nan,nan,nan,nan where there is no box",
                )
        if numbers[0] == 1 and self.frames is not None and len(rows) == self.frames - 1:
            raise self.fail(
                f"holds frames 1 to {numbers[-1]:g} of {self.frames}: the first or the last is missing",
                remedy="begin with frame 0, the given box",
            )


def write_boxes(path: str | os.PathLike[str], boxes_xywh: np.ndarray, *, decimals: int = 4) -> Path:
    """Writes boxes as N x 4 comma-separated lines without a header, the form that all toolkits read.

    Args:
        path: The file; folders are made, an existing file is replaced in one step.
        boxes_xywh: `[N, 4]`.
        decimals: Digits after the point. (Writing integers, as some trackers do, costs accuracy on small targets.)

    Returns:
        The path.
    """
    path = Path(path)
    lines = [",".join(f"{v:.{decimals}f}" for v in box) + "\n" for box in np.asarray(boxes_xywh, dtype=np.float64)]
    with atomic_file(path) as partial:
        partial.write_text("".join(lines), encoding="utf-8")
    return path


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
