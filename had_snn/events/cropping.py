"""The compiled pass that crops events (`kernels/host/crop.cpp`); `EventStream.crop` is its face."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from had_snn.native import load_library, native_function

#: First sensor pixel inside a crop along one axis, and the uint16 crop pixels of it and its followers.
PixelTable = tuple[int, np.ndarray]


@functools.lru_cache(maxsize=2)
def _compiled(name: str) -> Any:
    function = native_function(load_library(), name)
    pointer, number = ctypes.c_void_p, ctypes.c_longlong
    if name == "had_event_count":
        function.argtypes = [pointer, pointer, *[number] * 5]
    else:
        axis = [pointer, number, number]
        function.argtypes = [*[pointer] * 4, number, *axis, *axis, *[pointer] * 4]
    function.restype = number
    return function


@functools.lru_cache(maxsize=16)
def pixel_table(length: int, origin: float, scale: float, size: int) -> PixelTable:
    """The table of one axis of a sensor, `length` pixels long; not to be changed: the newest ones are kept."""
    position = np.floor((np.arange(length) + 0.5 - origin) * scale)
    inside = np.flatnonzero((position >= 0) & (position < size))
    first = int(inside[0]) if len(inside) else 0
    return first, position[inside].astype(np.uint16)


def count_columns(x: np.ndarray, y: np.ndarray, columns: PixelTable, rows: PixelTable) -> int:
    """Number of events that `crop_columns` would keep."""
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    return _compiled("had_event_count")(
        x.ctypes.data, y.ctypes.data, len(x), columns[0], len(columns[1]), rows[0], len(rows[1])
    )


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
    read = [np.ascontiguousarray(a) for a in (t, x, y, p)]
    # Counting costs a tenth of what untouched pages for every event of a large sensor would.
    kept = count_columns(read[1], read[2], columns, rows)
    out = [np.empty(kept, a.dtype) for a in read]
    axes = [value for first, table in (columns, rows) for value in (table.ctypes.data, first, len(table))]
    _compiled("had_event_crop")(*(a.ctypes.data for a in read), len(t), *axes, *(a.ctypes.data for a in out))
    return out[0], out[1], out[2], out[3]
