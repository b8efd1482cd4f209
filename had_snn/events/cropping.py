"""The compiled pass that crops events (`kernels/event_crop.cu`); `EventStream.crop` is its face."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from had_snn.errors import InputError
from had_snn.native import load_library, native_function

_OUTSIDE = 0xFFFF


@functools.lru_cache(maxsize=1)
def _compiled() -> Any:
    function = native_function(load_library(), "had_event_crop")
    pointer, number = ctypes.c_void_p, ctypes.c_longlong
    function.argtypes = [*[pointer] * 4, number, pointer, pointer, number, number, *[pointer] * 4]
    function.restype = number
    return function


def pixel_table(length: int, origin: float, scale: float, size: int) -> np.ndarray:
    """Crop pixel of each of `length` sensor pixels along one axis, uint16; 65535 outside the crop."""
    position = np.floor((np.arange(length) + 0.5 - origin) * scale)
    inside = (position >= 0) & (position < size)
    return np.where(inside, position, _OUTSIDE).astype(np.uint16)


def crop_columns(
    t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray, columns: np.ndarray, rows: np.ndarray
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

    Raises:
        InputError: If an event lies outside the sensor.
    """
    read = [np.ascontiguousarray(a) for a in (t, x, y, p)]
    out = [np.empty(len(t), a.dtype) for a in read]
    sizes = (columns.ctypes.data, rows.ctypes.data, len(columns), len(rows))
    kept = _compiled()(*(a.ctypes.data for a in read), len(t), *sizes, *(a.ctypes.data for a in out))
    if kept < 0:
        at = -1 - kept
        raise InputError(f"event {at} at x {x[at]}, y {y[at]} lies outside the {len(columns)}x{len(rows)} sensor")
    return out[0][:kept], out[1][:kept], out[2][:kept], out[3][:kept]
