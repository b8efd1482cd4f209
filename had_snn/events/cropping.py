"""The compiled pass that crops events (`kernels/event_crop.cu`); `EventStream.crop` is its face."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from had_snn.native import load_library, native_function


@functools.lru_cache(maxsize=1)
def _compiled() -> Any:
    function = native_function(load_library(), "had_event_crop")
    pointer, number = ctypes.c_void_p, ctypes.c_longlong
    axis = [pointer, number, number]
    function.argtypes = [*[pointer] * 4, number, *axis, *axis, *[pointer] * 4]
    function.restype = number
    return function


def pixel_table(length: int, origin: float, scale: float, size: int) -> tuple[int, np.ndarray]:
    """First sensor pixel inside a crop along one axis, and the uint16 crop pixels of it and its followers."""
    position = np.floor((np.arange(length) + 0.5 - origin) * scale)
    inside = np.flatnonzero((position >= 0) & (position < size))
    first = int(inside[0]) if len(inside) else 0
    return first, position[inside].astype(np.uint16)


def crop_columns(
    t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray, columns: tuple[int, np.ndarray],
    rows: tuple[int, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
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
    out = [np.empty(len(t), a.dtype) for a in read]
    axes = [value for first, table in (columns, rows) for value in (table.ctypes.data, first, len(table))]
    kept = _compiled()(*(a.ctypes.data for a in read), len(t), *axes, *(a.ctypes.data for a in out))
    return out[0][:kept], out[1][:kept], out[2][:kept], out[3][:kept]
