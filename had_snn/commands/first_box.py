"""Where a first box comes from: the command line, a file, or a mouse."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import ListConfig

from had_snn.data.labels import object_names, read_columns, read_table
from had_snn.errors import InputError
from had_snn.evaluate.box_files import read_boxes


class TimedBoxes(NamedTuple):
    """Boxes `[N, 4]` in pixels and their times `[N]` in microseconds, None where a file holds no times."""

    boxes_xywh: np.ndarray
    times_us: np.ndarray | None


def read_timed_boxes(path: str | Path, target: str | None) -> TimedBoxes:
    """Reads boxes from a text file: `t_us,x,y,w,h` with a header (and perhaps an `object` column), or bare `x,y,w,h`.

    Args:
        path: The file; lines that start with `#` are left out.
        target: Which object, when the file holds several.

    Returns:
        The boxes of that object, in the file's order.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected boxes, as [x,y,w,h] or a file with t_us,x,y,w,h lines")
    if "t_us" not in read_table(path)[0]:
        return TimedBoxes(read_boxes(path), None)
    objects = object_names(path)
    if target is None and len(objects) > 1:
        raise InputError(f"{path} holds several objects, {', '.join(objects)}; choose one with object=NAME")
    if target is not None and target not in objects:
        raise InputError(f"{path} holds no object {target!r}; it holds {', '.join(objects) or 'one without a name'}")
    columns = read_columns(path, target)
    boxes = np.stack([columns[name] for name in "xywh"], axis=1)
    return TimedBoxes(boxes, np.rint(columns["t_us"]).astype(np.int64))


def parse_box(box: Any) -> np.ndarray:
    """Four numbers from `[x,y,w,h]` or `"x,y,w,h"`; the tracker checks them against the sensor."""
    parts = box.split(",") if isinstance(box, str) else list(box)
    try:
        numbers = np.array([float(v) for v in parts])
    except (TypeError, ValueError) as error:
        raise InputError(f"box={box}: expected four numbers, box=[x,y,w,h]") from error
    if numbers.shape != (4,):
        raise InputError(f"box={box}: expected four numbers, box=[x,y,w,h]")
    return numbers


def is_file_name(box: Any) -> bool:
    """Whether `box=` names a file: one that is there, or words that are neither `draw` nor four numbers."""
    if not isinstance(box, str) or box == "draw":
        return False
    return Path(box).is_file() or any(c.isalpha() for c in box.replace("e", ""))


def moment(t_us: int | None, seconds: float | None, name: str, zero_us: int) -> int | None:
    """A time from what stands on the command line.

    Args:
        t_us: In the recording's own microseconds, or None.
        seconds: Since the recording's start, or None.
        name: Of the options, without its unit.
        zero_us: The recording's start.

    Returns:
        Microseconds; None where neither is given.

    Raises:
        InputError: If both are given.
    """
    if t_us is not None and seconds is not None:
        raise InputError(f"{name}_us={t_us} and {name}_s={seconds} are both given; one of them is enough")
    if seconds is not None:
        return zero_us + round(seconds * 1e6)
    return None if t_us is None else int(t_us)


def first_box(box: str | ListConfig | None, *, start_us: int | None, target: str | None) -> tuple[Any, int | None]:
    """The first box and its time from what stands on the command line.

    Args:
        box: `[x,y,w,h]`, `draw`, or a file.
        start_us: Time of the box when given; the file's first box at or after it is taken.
        target: Object in the file.

    Returns:
        Four numbers, or None for a box that is yet to be drawn; and the time, or None for the recording's start.
    """
    if box is None:
        raise InputError("no first box: give box=[x,y,w,h] in pixels, box=FILE with t_us,x,y,w,h lines, or box=draw")
    if box == "draw":
        return None, start_us
    if not is_file_name(box):
        return parse_box(box), start_us
    known = read_timed_boxes(str(box), target)
    if known.times_us is None:
        return known.boxes_xywh[0], start_us
    row = 0 if start_us is None else int(np.searchsorted(known.times_us, start_us))
    if row == len(known.times_us):
        raise InputError(f"{box}: no box at or after start_us={start_us}; the last is at {known.times_us[-1]} us")
    return known.boxes_xywh[row], int(known.times_us[row])
