"""Outlines of targets: masks with soft edges, and the exact extent of a moved mask.

A shape is a function of coordinates in [-1, 1]; its mask is the share of each texel that lies inside, so that the line
where opacity passes one half is the outline. Boxes are taken from that line after it has been moved into the sensor.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

Inside = Callable[[np.ndarray, np.ndarray], np.ndarray]
OUTLINE = 0.5  # opacity that counts as the object
_SUPERSAMPLING = 4


def _polar(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(x, y), np.arctan2(y, x)


def _ellipse(rng: Generator) -> Inside:
    return lambda x, y: x**2 + y**2 < 1


def _rectangle(rng: Generator) -> Inside:
    power = rng.uniform(4, 12)  # a rectangle with rounded corners
    return lambda x, y: (np.abs(x) / 0.97) ** power + (np.abs(y) / 0.97) ** power < 1


def _polygon(rng: Generator) -> Inside:
    corners, turn = int(rng.integers(3, 8)), rng.uniform(0, 2 * np.pi)
    apothem = np.cos(np.pi / corners)

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        r, a = _polar(x, y)
        wedge = np.mod(a - turn, 2 * np.pi / corners) - np.pi / corners
        return r * np.cos(wedge) < apothem

    return inside


def _star(rng: Generator) -> Inside:
    arms, turn, depth = int(rng.integers(4, 8)), rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.5)

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        r, a = _polar(x, y)
        ridge = np.abs(np.mod((a - turn) * arms / (2 * np.pi), 1.0) - 0.5) * 2
        return r < 1 - depth * (1 - ridge)

    return inside


def _blob(rng: Generator) -> Inside:
    orders = np.arange(2, 6)
    gain, phase = rng.normal(0, 0.13, 4) / np.sqrt(orders / 2), rng.uniform(0, 2 * np.pi, 4)
    limit = 1 + np.abs(gain).sum()

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        r, a = _polar(x, y)
        edge = 1 + sum(g * np.cos(k * a + f) for g, k, f in zip(gain, orders, phase, strict=True))
        return r * limit < edge

    return inside


def _cross(rng: Generator) -> Inside:
    bar = rng.uniform(0.3, 0.55)
    return lambda x, y: ((np.abs(x) < bar) & (np.abs(y) < 0.97)) | ((np.abs(y) < bar) & (np.abs(x) < 0.97))


def _vehicle(rng: Generator) -> Inside:
    cabin, nose, wheel = rng.uniform(0.35, 0.6), rng.uniform(0.5, 0.95), rng.uniform(0.22, 0.34)

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        body = (np.abs(x) < 0.97) & (y > -0.1) & (y < 0.6)
        top = (np.abs(x + 0.1) < cabin + 0.25 * np.clip(y + 0.8, 0, 1)) & (y > -0.8) & (y <= 0.0)
        wheels = (np.abs(x) - nose * 0.65) ** 2 + (y - 0.62) ** 2 < wheel**2
        return body | top | wheels

    return inside


def _crescent(rng: Generator) -> Inside:
    shift, inner = rng.uniform(0.45, 0.8), rng.uniform(0.6, 0.85)
    return lambda x, y: (x**2 + y**2 < 0.97) & ((x - shift) ** 2 + y**2 > inner**2)


def _ring(rng: Generator) -> Inside:
    hole = rng.uniform(0.35, 0.6)
    return lambda x, y: (x**2 + y**2 < 0.97) & (x**2 + y**2 > hole**2)


def _arrow(rng: Generator) -> Inside:
    neck, shaft = rng.uniform(-0.2, 0.3), rng.uniform(0.25, 0.45)
    return lambda x, y: (
        (((x > neck) & (np.abs(y) < 0.95 * (1 - x) / (1 - neck))) | ((x <= neck) & (x > -0.97) & (np.abs(y) < shaft)))
        & (np.abs(x) < 0.97)
    )


def _letter(rng: Generator) -> Inside:
    bits = rng.random((5, 3)) < 0.55
    bits[:, 0] = True
    bits[0] |= rng.random() < 0.5

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        column = np.clip((x + 0.97) / 1.94 * 3, 0, 2.99).astype(int)
        row = np.clip((y + 0.97) / 1.94 * 5, 0, 4.99).astype(int)
        return bits[row, column] & (np.abs(x) < 0.97) & (np.abs(y) < 0.97)

    return inside


SHAPES: dict[str, Callable[[Generator], Inside]] = {
    "ellipse": _ellipse,
    "rectangle": _rectangle,
    "polygon": _polygon,
    "star": _star,
    "blob": _blob,
    "cross": _cross,
    "vehicle": _vehicle,
    "crescent": _crescent,
    "ring": _ring,
    "arrow": _arrow,
    "letter": _letter,
}


def mask(rng: Generator, shape: str, width: float, height: float) -> np.ndarray:
    """Opacity of a shape that is `width x height` texels large.

    Args:
        rng: Draws the shape's own proportions.
        shape: A key of `SHAPES`.
        width: Extent of the shape's [-1, 1] square in texels.
        height: Likewise, vertically.

    Returns:
        float32 `[h, w]` in [0, 1], zero on a border of two texels.
    """
    inside = SHAPES[shape](rng)
    w, h = int(np.ceil(width)) + 5, int(np.ceil(height)) + 5
    n = _SUPERSAMPLING
    xs = ((np.arange(w * n) + 0.5) / n - w / 2) / (width / 2)
    ys = ((np.arange(h * n) + 0.5) / n - h / 2) / (height / 2)
    fine = inside(*np.meshgrid(xs, ys)) & (np.abs(xs)[None] < 1) & (np.abs(ys)[:, None] < 1)
    alpha = fine.reshape(h, n, w, n).mean((1, 3))
    for axis in (0, 1):  # the lens
        alpha = 0.25 * np.roll(alpha, 1, axis) + 0.5 * alpha + 0.25 * np.roll(alpha, -1, axis)
    return alpha.astype(np.float32)


def outline(alpha: np.ndarray, *, refine: int = 8) -> np.ndarray:
    """Points on the line where bilinear opacity passes one half.

    Args:
        alpha: Opacity `[h, w]`.
        refine: Every texel is divided this often before crossings are interpolated.

    Returns:
        Texel coordinates `[N, 2]` (column, row), only those on the convex side of things: points that can never be the
        outermost in any direction are dropped.
    """
    h, w = alpha.shape
    rows, columns = np.arange((h - 1) * refine + 1) / refine, np.arange((w - 1) * refine + 1) / refine
    top, left = np.minimum(rows.astype(int), h - 2), np.minimum(columns.astype(int), w - 2)
    fy, fx = (rows - top)[:, None], (columns - left)[None]
    a = alpha.astype(np.float64)
    upper = a[np.ix_(top, left)] * (1 - fx) + a[np.ix_(top, left + 1)] * fx
    lower = a[np.ix_(top + 1, left)] * (1 - fx) + a[np.ix_(top + 1, left + 1)] * fx
    fine = upper * (1 - fy) + lower * fy - OUTLINE
    points = []
    for axis in (0, 1):
        turned = fine if axis == 1 else fine.T
        r, c = np.nonzero((turned[:, :-1] > 0) != (turned[:, 1:] > 0))
        before, after = turned[r, c], turned[r, c + 1]
        along = (c + before / (before - after)) / refine
        points.append(np.stack([along, r / refine] if axis == 1 else [r / refine, along], -1))
    every = np.concatenate(points)
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    outermost = np.unique((every @ np.stack([np.cos(angles), np.sin(angles)])).argmax(0))
    return every[outermost]
