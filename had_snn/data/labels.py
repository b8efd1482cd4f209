"""Label files of tracking data sets: boxes, flags, times; text with one row a line.

Rows are separated by commas, spaces, tabs or semicolons, whatever the file uses. A row that cannot be read is an error
with its line number: a box that is skipped would shift all later ones. CSV files with a header (`read_columns`) may
hold several objects and comments.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError

_SEPARATORS = re.compile(r"[,;\s]+")


def read_rows(path: Path, columns: int | None = None) -> np.ndarray:
    """The numbers of a text file.

    Args:
        path: The file.
        columns: How many there must be in each line; those of the first line if None.

    Returns:
        float64 `[rows, columns]`; `nan` stands for itself. Empty lines at the end do not count.

    Raises:
        FormatError: If the file is missing or empty, or a line is not as expected.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not lines:
        raise FormatError(path, "the file is empty; expected one row a line")
    rows = []
    for number, line in enumerate(lines, start=1):
        tokens = [token for token in _SEPARATORS.split(line.strip()) if token]
        columns = columns or len(tokens)
        try:
            row = [float(token) for token in tokens]
        except ValueError:
            row = []
        if len(row) != columns:
            raise FormatError(path, f"line {number} is {line[:60]!r}; expected {columns} numbers")
        rows.append(row)
    return np.array(rows, np.float64)


def read_boxes(path: Path) -> np.ndarray:
    """Boxes `[L, 4]` as top-left x, y, width, height."""
    return read_rows(path, 4)


def read_flags(path: Path) -> np.ndarray:
    """Integer flags `[L]`, each 0 or 1; in one column, or all in one line.

    Raises:
        FormatError: If there are other values.
    """
    flags = read_rows(path).ravel()
    other = flags[(flags != 0) & (flags != 1)]
    if len(other):
        raise FormatError(path, f"holds the flag {other[0]:g}; expected 0 or 1")
    return flags.astype(np.int64)


def has_area(boxes_xywh: np.ndarray) -> np.ndarray:
    """Rows `[L]` whose box is finite and has an area; data sets write zeros where there is no target."""
    return np.isfinite(boxes_xywh).all(1) & (boxes_xywh[:, 2] > 0) & (boxes_xywh[:, 3] > 0)


def share_of_contradictions(visible: np.ndarray, boxes_xywh: np.ndarray) -> float:
    """Share of the rows in which the flag says visible and the box has no area, or the other way round.

    A file of flags read with the wrong polarity contradicts nearly every row.
    """
    return float(np.mean(visible != has_area(boxes_xywh)))


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header (lower case) and rows of a CSV file, without empty lines and lines that start with `#`.

    Raises:
        FormatError: If it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row) and row[0][:1] != "#"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(path, f"cannot be read: {error}") from error
    return [name.strip().lower() for name in rows[0]] if rows else [], rows[1:]


def object_names(path: Path) -> list[str]:
    """What a label file's column `object` holds, in order of appearance; nothing where it is missing or damaged."""
    try:
        header, rows = read_table(path)
    except FormatError:
        return []  # reading the boxes says what is wrong
    if "object" not in header:
        return []
    at = header.index("object")
    return list(dict.fromkeys(row[at].strip() for row in rows if at < len(row)))


def read_columns(path: Path, target: str | None = None) -> dict[str, np.ndarray]:
    """The columns of a CSV file with a header.

    Args:
        path: The file.
        target: Of which object, when the file holds several.

    Raises:
        FormatError: If x, y, w or h is missing or a row cannot be read.
    """
    header, rows = read_table(path)
    if any(name not in header for name in "xywh") or not rows:
        found = ",".join(header) or "nothing"
        raise FormatError(path, f"expected a header t_us,x,y,w,h[,visible] and rows below it; found {found[:60]}")
    if target is not None:
        if "/" in target or "\\" in target or not target:
            raise FormatError(path, f"object {target!r} cannot name a sequence", remedy="use names without slashes")
        at = header.index("object")
        short = [row for row in rows if len(row) <= at]
        if short:
            raise FormatError(path, f"the row {','.join(short[0])[:60]!r} names no object")
        rows = [row for row in rows if row[at].strip() == target]
    columns: dict[str, np.ndarray] = {}
    for name in ("t_us", "t_s", "x", "y", "w", "h", "visible"):
        if name in header:
            at = header.index(name)
            try:
                columns[name] = np.array([float(row[at]) for row in rows])
            except (IndexError, ValueError) as error:
                raise FormatError(path, f"column {name}: {error}", remedy="each row needs a number there") from error
    return columns
