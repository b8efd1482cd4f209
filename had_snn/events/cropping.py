"""The compiled pass that crops events (`kernels/host/crop.cpp`); `EventStream.crop` is its face."""

from __future__ import annotations

import functools

import numpy as np

from had_snn.native import INT64, POINTER, Parameters, bind, fields

#: First sensor pixel inside a crop along one axis, and the uint16 crop pixels of it and its followers.
PixelTable = tuple[int, np.ndarray]


class EventCrop(Parameters):
    """`EventCrop` of `kernels/host/crop.cpp`."""

    _fields_ = (
        *fields(POINTER, "t", "x", "y", "p", "columns", "rows", "t_out", "x_out", "y_out", "p_out"),
        *fields(INT64, "n", "left", "width", "top", "height"),
    )


@functools.lru_cache(maxsize=16)
def pixel_table(length: int, origin: float, scale: float, size: int) -> PixelTable:
    """The table of one axis of a sensor, `length` pixels long; not to be changed: the newest ones are kept."""
    position = np.floor((np.arange(length) + 0.5 - origin) * scale)
    inside = np.flatnonzero((position >= 0) & (position < size))
    first = int(inside[0]) if len(inside) else 0
    return first, position[inside].astype(np.uint16)


def _crop(x: np.ndarray, y: np.ndarray, columns: PixelTable, rows: PixelTable) -> EventCrop:
    given = EventCrop(x=x.ctypes.data, y=y.ctypes.data, n=len(x))
    given.left, given.width, given.top, given.height = columns[0], len(columns[1]), rows[0], len(rows[1])
    return given


def count_columns(x: np.ndarray, y: np.ndarray, columns: PixelTable, rows: PixelTable) -> int:
    """Number of events that `crop_columns` would keep."""
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    return bind("had_event_count", EventCrop)(_crop(x, y, columns, rows))


def crop_columns(
    t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray, columns: PixelTable, rows: PixelTable
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Events inside a crop, in crop pixels.

    Args:
        t: int64 `[N]`.
        x: uint16 `[N]`.
        y: uint16 `[N]`.
        p: uint8 `[N]`.
        columns: `pixel_table` of the x axis.
        rows: `pixel_table` of the y axis.

    Returns:
        The kept events' t, x, y, p.
    """
    read = {name: np.ascontiguousarray(a) for name, a in (("t", t), ("x", x), ("y", y), ("p", p))}
    given = _crop(read["x"], read["y"], columns, rows)
    # Counting costs a tenth of what untouched pages for every event of a large sensor would.
    kept = bind("had_event_count", EventCrop)(given)
    out = {name: np.empty(kept, a.dtype) for name, a in read.items()}
    given.t, given.p = read["t"].ctypes.data, read["p"].ctypes.data
    given.columns, given.rows = columns[1].ctypes.data, rows[1].ctypes.data
    for name, array in out.items():
        setattr(given, f"{name}_out", array.ctypes.data)
    bind("had_event_crop", EventCrop)(given)
    return out["t"], out["x"], out["y"], out["p"]
