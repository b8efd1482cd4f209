"""Boxes and crops: the one place where pixels, crops and box forms are converted.

Coordinates are continuous: the pixel in column `x` covers `[x, x + 1)`, its centre lies at `x + 0.5`, and a box `xywh`
covers `[x, x + w) x [y, y + h)`. Training, tracking and evaluation all crop through `search_crop`, so a box that a
network is trained on and a box that the tracker reads back differ by nothing but the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from had_snn.errors import InputError


@dataclass(frozen=True)
class Crop:
    """A square region of the sensor, resampled to `size x size` crop pixels.

    A point `x` of the sensor lies at `(x - x0) * scale` in the crop. An event of pixel `(x, y)` stands for the pixel's
    centre, `x + 0.5`, and falls into the crop pixel `floor((x + 0.5 - x0) * scale)`.

    Attributes:
        x0: Left edge in sensor pixels; may be negative.
        y0: Top edge in sensor pixels; may be negative.
        scale: Crop pixels per sensor pixel.
        size: Side of the crop in crop pixels.
    """

    x0: float
    y0: float
    scale: float
    size: int

    def boxes_to_crop(self, boxes_xywh: np.ndarray) -> np.ndarray:
        """Moves boxes `[..., 4]` from sensor pixels to crop pixels."""
        boxes = np.asarray(boxes_xywh, dtype=np.float64)
        shift = np.array([self.x0, self.y0, 0.0, 0.0])
        return (boxes - shift) * self.scale

    def boxes_to_sensor(self, boxes_xywh: np.ndarray) -> np.ndarray:
        """Moves boxes `[..., 4]` from crop pixels to sensor pixels: the inverse of `boxes_to_crop`."""
        boxes = np.asarray(boxes_xywh, dtype=np.float64)
        shift = np.array([self.x0, self.y0, 0.0, 0.0])
        return boxes / self.scale + shift

    def area_on(self, sensor_hw: tuple[int, int]) -> float:
        """Area of the part that lies on a sensor, sensor pixels."""
        side = self.size / self.scale
        spans = zip((self.x0, self.y0), sensor_hw[::-1], strict=True)
        width, height = (max(0.0, min(begin + side, limit) - max(begin, 0.0)) for begin, limit in spans)
        return width * height

    def relative_box(self, box_xywh: np.ndarray) -> np.ndarray:
        """A box as the networks take it: cx, cy, w, h in units of the crop's side, float64.

        Args:
            box_xywh: `[..., 4]` in sensor pixels.
        """
        boxes = self.boxes_to_crop(box_xywh) / self.size
        return np.concatenate([boxes[..., :2] + boxes[..., 2:] / 2, boxes[..., 2:]], axis=-1)

    def moved_by_cells(self, centre_xy: Sequence[float] | np.ndarray, grid: int) -> tuple[Crop, tuple[int, int]]:
        """The crop at the same scale, moved by whole cells so that its middle comes nearest to a point.

        Carried membranes move with the crop, so training and tracking move it alike.

        Args:
            centre_xy: The point, sensor pixels; where it is not finite, the crop stays.
            grid: Cells per side of the network's output maps.

        Returns:
            The crop, and the number of cells it moved right and down.
        """
        x, y = (float(value) for value in centre_xy)
        if not (math.isfinite(x) and math.isfinite(y)):
            return self, (0, 0)
        cell, half = self.size / grid / self.scale, self.size / self.scale / 2
        right, down = round((x - self.x0 - half) / cell), round((y - self.y0 - half) / cell)
        return replace(self, x0=self.x0 + right * cell, y0=self.y0 + down * cell), (right, down)


def search_crop(box_xywh: np.ndarray, *, factor: float, size: int) -> Crop:
    """The square region around a box that a tracker looks at.

    Its side is `factor * sqrt(w * h)` sensor pixels (the rule of the OSTrack family, without rounding up to whole
    pixels, which would move the scale by up to 2 % on small targets), centred on the box.

    Args:
        box_xywh: Box `[4]` in sensor pixels.
        factor: Side of the region in units of `sqrt(w * h)`.
        size: Side of the crop in crop pixels.

    Returns:
        The crop.

    Raises:
        InputError: If the box has no area or is not finite.
    """
    x, y, w, h = (float(v) for v in box_xywh)
    if not all(math.isfinite(v) for v in (x, y, w, h)) or w <= 0 or h <= 0:
        raise InputError(f"box {x:g},{y:g},{w:g},{h:g} has no area; expected x,y,w,h with w > 0 and h > 0")
    side = factor * math.sqrt(w * h)
    return Crop(x0=x + w / 2 - side / 2, y0=y + h / 2 - side / 2, scale=size / side, size=size)


def check_box(box_xywh: np.ndarray, sensor_hw: tuple[int, int]) -> np.ndarray:
    """Checks a box given by a user against the sensor.

    Args:
        box_xywh: Four numbers, sensor pixels.
        sensor_hw: Sensor height and width in pixels.

    Returns:
        The box as float64 `[4]`.

    Raises:
        InputError: If the box is not four finite numbers, a side is shorter than a pixel or longer than twice the
            sensor, or its centre lies outside the sensor.
    """
    box = np.asarray(box_xywh, dtype=np.float64).reshape(-1)
    height, width = sensor_hw
    shown = ",".join(f"{v:g}" for v in box)
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= 0).any():
        raise InputError(f"box {shown}: expected four numbers x,y,w,h in pixels with w > 0 and h > 0")
    if (box[2:] < 1).any() or box[2] > 2 * width or box[3] > 2 * height:
        raise InputError(f"box {shown}: sides must be from 1 pixel to twice the {width}x{height} sensor's")
    cx, cy = box[0] + box[2] / 2, box[1] + box[3] / 2
    if not (0 <= cx <= width and 0 <= cy <= height):
        raise InputError(f"box {shown} has its centre at ({cx:g}, {cy:g}), outside the {width}x{height} sensor")
    return box


def clip_box(box_xywh: Iterable[float], sensor_hw: tuple[int, int], *, min_side: float = 4.0) -> np.ndarray:
    """Limits a box: sizes stay sane around its middle, and at least `min_side` pixels of each side stay on the sensor.

    In plain numbers, because a tracker does this for every box.
    """
    height, width = sensor_hw
    x, y, w, h = (float(value) for value in box_xywh)
    limited_w = min(max(w, min_side), 2.0 * width)
    limited_h = min(max(h, min_side), 2.0 * height)
    x = min(max(x + (w - limited_w) / 2, min_side - limited_w), width - min_side)
    y = min(max(y + (h - limited_h) / 2, min_side - limited_h), height - min_side)
    return np.array([x, y, limited_w, limited_h])


def _overlap(boxes_a: Tensor, boxes_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Intersection, union and smallest enclosing area of paired centre-form boxes `[..., 4]`."""
    a_low, a_high = boxes_a[..., :2] - boxes_a[..., 2:] / 2, boxes_a[..., :2] + boxes_a[..., 2:] / 2
    b_low, b_high = boxes_b[..., :2] - boxes_b[..., 2:] / 2, boxes_b[..., :2] + boxes_b[..., 2:] / 2
    inter = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod(dim=-1)
    union = boxes_a[..., 2:].prod(dim=-1) + boxes_b[..., 2:].prod(dim=-1) - inter
    hull = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).prod(dim=-1)
    return inter, union, hull


def box_iou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Intersection over union of paired centre-form boxes.

    Args:
        boxes_a: `[..., 4]` as cx, cy, w, h.
        boxes_b: `[..., 4]` as cx, cy, w, h.

    Returns:
        `[...]` in [0, 1].
    """
    inter, union, _ = _overlap(boxes_a, boxes_b)
    return inter / union.clamp(min=1e-9)


def box_giou(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Generalised IoU of paired centre-form boxes, `iou - (hull - union) / hull` (Rezatofighi et al., CVPR 2019).

    Args:
        boxes_a: `[..., 4]` as cx, cy, w, h.
        boxes_b: `[..., 4]` as cx, cy, w, h.

    Returns:
        `[...]` in [-1, 1].
    """
    inter, union, hull = _overlap(boxes_a, boxes_b)
    return inter / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)
