"""Label files of tracking data sets: boxes, flags, times; text with one row a line.

Rows are separated by commas, spaces, tabs or semicolons, whatever the file uses. A row that cannot be read is an error
with its line number: a box that is skipped would shift all later ones. CSV files with a header (`read_columns`) may
hold several objects and comments.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from functools import partial
from pathlib import Path

import numpy as np

from had_snn.data.box_columns import BoxColumns, names_boxes
from had_snn.errors import FormatError

_SEPARATORS = re.compile(r"[,;\s]+")


def read_text(path: Path, *, expected: str) -> str:
    """The text of a small file, UTF-8 or, where it begins with that mark, UTF-16 as Windows writes it.

    Args:
        path: The file.
        expected: What it should be, for the message.

    Raises:
        FormatError: If there is no such file, or it is not text.
    """
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FormatError(path, f"no such file; expected {expected}") from error
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from error
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(path, f"not a text file; expected {expected}", offset=error.start) from error
    if "\0" in text:
        raise FormatError(path, f"not a text file; expected {expected}", offset=raw.index(0))
    return text


def read_names(path: Path) -> list[str]:
    """The names of a list, one a line; a name may hold blanks, empty lines do not count.

    Raises:
        FormatError: If a name leads out of the folder that it is looked for in.
    """
    lines = read_text(path, expected="a list with one sequence name a line").splitlines()
    names = [line.strip() for line in lines if line.strip()]
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise FormatError(path, f"the name {name!r} leads out of the folder; expected names of sequences")
    return names


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
    lines = read_text(path, expected="rows of numbers").rstrip().splitlines()
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
    text = read_text(path, expected="a CSV file with a header")
    try:
        table = [row for row in csv.reader(io.StringIO(text, newline="")) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise FormatError(path, f"cannot be read: {error}") from error
    rows = [row for row in table if row[0].lstrip()[:1] != "#"]
    noted = [row for row in table if row[0].lstrip()[:1] == "#" and names_boxes(row) >= 2]
    if noted and rows and names_boxes(rows[0]) == 0:  # numpy.savetxt writes its header as a comment
        rows.insert(0, [noted[0][0].lstrip().lstrip("#"), *noted[0][1:]])
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


def is_time(values: np.ndarray, *, tick_us: float = 1.0) -> np.ndarray:
    """Which numbers, in ticks of so many microseconds, are times that a clock of 64 bits can show."""
    return np.abs(values) < 2**62 / tick_us


def read_columns(path: Path, target: str | None = None) -> dict[str, np.ndarray]:
    """The columns of a CSV file with a header.

    Args:
        path: The file.
        target: Of which object, when the file holds several.

    Returns:
        `x`, `y`, `w`, `h` (also where the file holds corners or centres), and `t_us`, `t_s` and `visible` if there.

    Raises:
        FormatError: If a box's columns are missing, a row cannot be read, a time is none or a flag not 0 or 1.
    """
    header, rows = read_table(path)
    expected = "expected a header t_us,x,y,w,h[,visible] and rows below it"
    try:
        boxes = BoxColumns(header)
    except ValueError as error:
        raise FormatError(path, f"{expected}; the first line {error}") from None
    if not rows:
        raise FormatError(path, f"{expected}; found no rows")
    numbered = list(enumerate(rows, start=1))
    if target is not None:
        if "/" in target or "\\" in target or not target:
            raise FormatError(path, f"object {target!r} cannot name a sequence", remedy="use names without slashes")
        at = header.index("object")
        short = [row for row in rows if len(row) <= at]
        if short:
            raise FormatError(path, f"the row {','.join(short[0])[:60]!r} names no object")
        numbered = [(number, row) for number, row in numbered if row[at].strip() == target]

    def column(at: int) -> np.ndarray:
        values = []
        for number, row in numbered:
            try:
                values.append(float(row[at]))
            except (IndexError, ValueError) as error:
                told = f"row {number}, column {header[at]}: {error}"
                raise FormatError(path, told, remedy="each row needs a number there") from error
        return np.array(values)

    columns = dict(zip("xywh", boxes.boxes(np.stack([column(at) for at in boxes.used], axis=1)).T, strict=True))
    allowed = {
        "t_us": (is_time, "a time"),
        "t_s": (partial(is_time, tick_us=1e6), "a time"),
        "visible": (lambda values: np.isin(values, (0, 1)), "0 or 1"),
    }
    for name, (fits, what) in allowed.items():
        if name in header:
            columns[name] = column(header.index(name))
            wrong = np.flatnonzero(~fits(columns[name]))
            if len(wrong):
                number, row = numbered[int(wrong[0])]
                shown = f"{columns[name][wrong[0]]:g}"
                raise FormatError(path, f"row {number} ({','.join(row)}): {name} is {shown}; expected {what}")
    return columns
