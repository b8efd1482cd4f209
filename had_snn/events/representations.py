"""What a teacher sees: voxel grids of events, and images cropped like them. The student needs none.

`crop_image` stands beside the grid because a teacher sees an image crop and the voxel grid of the cropped
events together; training and tracking both take their inputs from here.
"""

from __future__ import annotations

import numpy as np

from had_snn.errors import InputError
from had_snn.events.stream import EventStream
from had_snn.geometry import Crop


def voxel_grid(events: EventStream, t0: int, t1: int, *, bins: int = 5, normalise: bool = True) -> np.ndarray:
    """Signed events of `[t0, t1)`, shared between the two nearest of `bins` instants (Zhu et al., CVPR 2019).

    Args:
        events: Any stream; its `sensor_hw` is the size of the grid, events outside the window are left out.
        t0: Start of the window in microseconds; the first instant.
        t1: End in microseconds, exclusive; the last instant.
        bins: Instants.
        normalise: Divide by the root mean square of the cells that events touched and limit to -5..5, so that event
            rate and contrast threshold do not set the scale.

    Returns:
        float32 `[bins, H, W]`.

    Raises:
        InputError: If the window is empty or there are no bins.
    """
    if t1 <= t0 or bins < 1:
        raise InputError(
            f"voxel grid of [{t0}, {t1}) with {bins} bins: expected a positive length and at least one bin"
        )
    height, width = events.sensor_hw
    if len(events) and (events.t[0] < t0 or events.t[-1] >= t1):
        events = events.slice_time(t0, t1)
    cells = height * width
    grid = np.zeros(bins * cells, np.float32)
    if len(events):
        pixel = events.y.astype(np.int32) * np.int32(width) + events.x
        sign = events.p.astype(np.float32) * 2 - 1
        if bins == 1:
            grid = np.bincount(pixel, sign, cells).astype(np.float32)
        else:
            place = (events.t - t0).astype(np.float32) * np.float32((bins - 1) / (t1 - t0))
            lower = np.minimum(place.astype(np.int32), bins - 2)
            later = sign * (place - lower)
            at = pixel + lower * np.int32(cells)
            index = np.concatenate([at, at + np.int32(cells)])
            grid = np.bincount(index, np.concatenate([sign - later, later]), bins * cells).astype(np.float32)
        if normalise:
            touched = grid[grid != 0]
            scale = float(np.sqrt(np.mean(touched * touched))) if len(touched) else 0.0
            if scale > 0:
                grid *= np.float32(1 / scale)
                np.clip(grid, -5.0, 5.0, out=grid)
    return grid.reshape(bins, height, width)


def crop_image(image: np.ndarray, crop: Crop) -> np.ndarray:
    """Resamples a square region of a frame bilinearly; outside the frame it is black.

    Args:
        image: uint8 `[H, W]` or `[H, W, 3]`.
        crop: The region, as for events: crop pixel `u` has its centre at sensor coordinate `x0 + (u + 0.5) / scale`.

    Returns:
        float32 `[3, size, size]` in [0, 1].
    """
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3):
        raise InputError(f"a frame must be [H, W] or [H, W, 3], found {image.shape}")
    rows, columns = (
        _axis_weights(length, start, crop.scale, crop.size)
        for length, start in ((image.shape[0], crop.y0), (image.shape[1], crop.x0))
    )
    # Rows first, on the columns that matter; both passes are plain sums of two shifted copies.
    left, right = int(columns[0].min()), int(columns[1].max()) + 1
    strip = image[:, left:right]
    low, high, w_low, w_high = rows
    w_low, w_high = w_low / np.float32(255), w_high / np.float32(255)
    tall = strip[low] * w_low[:, None, None] + strip[high] * w_high[:, None, None]
    low, high, w_low, w_high = columns
    out = tall[:, low - left] * w_low[None, :, None] + tall[:, high - left] * w_high[None, :, None]
    out = np.ascontiguousarray(out.transpose(2, 0, 1))
    return out if out.shape[0] == 3 else np.repeat(out, 3, 0)


def _axis_weights(
    length: int, start: float, scale: float, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two source indices per crop pixel and their weights; a source outside the frame weighs nothing."""
    place = (np.arange(size) + 0.5) / scale + start - 0.5
    low = np.floor(place)
    share = (place - low).astype(np.float32)
    low = low.astype(np.int64)
    high = low + 1
    w_low = np.where((low >= 0) & (low < length), 1 - share, 0)
    w_high = np.where((high >= 0) & (high < length), share, 0)
    return (
        np.clip(low, 0, length - 1),
        np.clip(high, 0, length - 1),
        w_low.astype(np.float32),
        w_high.astype(np.float32),
    )
