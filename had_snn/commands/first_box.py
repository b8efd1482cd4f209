"""Where a first box comes from: the command line, a file, or a mouse."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import ListConfig

from had_snn.data.labels import object_names, read_columns, read_table
from had_snn.errors import InputError
from had_snn.evaluate.box_files import read_boxes


@dataclass(frozen=True)
class TimedBoxes:
    """Boxes from a file.

    Attributes:
        boxes_xywh: `[N, 4]` in pixels.
        times_us: int64 `[N]`, or None where the file holds no times.
        visible: bool `[N]`, whether the target can be seen.
        from_start: Whether the times count from the recording's start, and not on its clock.
    """

    boxes_xywh: np.ndarray
    times_us: np.ndarray | None
    visible: np.ndarray
    from_start: bool = False

    def on_clock(self, zero_us: int) -> TimedBoxes:
        """The same on the clock of a recording that starts at a time."""
        if self.times_us is None or not self.from_start:
            return self
        return replace(self, times_us=self.times_us + zero_us, from_start=False)


def read_timed_boxes(path: str | Path, target: str | None) -> TimedBoxes:
    """Reads boxes from a text file: a folder's `boxes.csv`, whose header names `t_us` or `t_s` and boxes, and perhaps
    `visible` and `object`; or bare `x,y,w,h`.

    Args:
        path: The file; lines that start with `#` are left out.
        target: Which object, when the file holds several.

    Returns:
        The boxes of that object, in the file's order.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected boxes, as [x,y,w,h] or a file with t_us,x,y,w,h lines")
    if not {"t_us", "t_s"} & {*read_table(path)[0]}:
        boxes = read_boxes(path)
        return TimedBoxes(boxes, None, np.ones(len(boxes), bool))
    objects = object_names(path)
    if target is None and len(objects) > 1:
        raise InputError(f"{path} holds several objects, {', '.join(objects)}; choose one with object=NAME")
    if target is not None and target not in objects:
        raise InputError(f"{path} holds no object {target!r}; it holds {', '.join(objects) or 'one without a name'}")
    columns = read_columns(path, target)
    boxes = np.stack([columns[name] for name in "xywh"], axis=1)
    counted = "t_us" not in columns
    times = np.rint(columns["t_s"] * 1e6 if counted else columns["t_us"]).astype(np.int64)
    visible = columns["visible"] > 0 if "visible" in columns else np.ones(len(boxes), bool)
    return TimedBoxes(boxes, times, visible, from_start=counted)


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


def first_box(
    box: str | ListConfig | None, *, start_us: int | None, target: str | None, zero_us: int | None
) -> tuple[Any, int | None]:
    """The first box and its time from what stands on the command line.

    Args:
        box: `[x,y,w,h]`, `draw`, or a file.
        start_us: Time of the box when given; the file's first box at or after it is taken that shows the target.
        target: Object in the file.
        zero_us: The recording's start; None where it has not begun yet.

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
    if known.from_start:
        if zero_us is None:
            raise InputError(f"{box}: t_s counts from the recording's start, which a live stream has not yet; use t_us")
        known = known.on_clock(zero_us)
    if known.times_us is None:
        return known.boxes_xywh[0], start_us
    least = np.iinfo(np.int64).min if start_us is None else start_us
    rows = np.flatnonzero(known.visible & (known.times_us >= least))
    if not len(rows):
        when = "that shows the target" if start_us is None else f"at or after start_us={start_us} that shows the target"
        raise InputError(f"{box}: no box {when}; the last is at {known.times_us[-1]} us")
    return known.boxes_xywh[rows[0]], int(known.times_us[rows[0]])
