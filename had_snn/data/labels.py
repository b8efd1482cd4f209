"""Label files of tracking data sets: boxes, flags, times; text with one row a line.

Rows are separated by commas, spaces, tabs or semicolons, whatever the file uses. A row that cannot be read is an error
with its line number: a box that is skipped would shift all later ones.
"""

from __future__ import annotations

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
