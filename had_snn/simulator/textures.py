"""Procedural textures: tileable, coloured, in named families so that splits can use disjoint ones.

A family draws a scalar field `[n, n]` in [0, 1] that wraps around; `texture` maps it through a random palette of linear
RGB colours. The spectra are those of natural images where it matters: `fractal` falls off as a power of frequency.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

_SHADES = 2048  # steps of a palette

Field = Callable[[Generator, int, float], np.ndarray]


def spectral_noise(rng: Generator, size: int, *, slope: float, smallest: float = 1.0) -> np.ndarray:
    """Wrapping Gaussian noise whose amplitude falls as frequency to the power `-slope`; mean 0, deviation 1.

    Args:
        rng: Source of randomness.
        size: Side in texels.
        slope: 1 is close to natural images, 2 is smooth, 0 is white.
        smallest: Details below this many texels are damped.
    """
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    square = fx**2 + fy**2
    square[0, 0] = 1.0
    gain = np.exp(-0.5 * slope * np.log(square) - 2.0 * smallest**2 * square)
    gain[0, 0] = 0.0
    # Drawn in the frequency domain: of a real signal, but for the edge columns, which nobody will see.
    spectrum = rng.standard_normal((*gain.shape, 2), dtype=np.float32).view(np.complex64)[..., 0] * gain
    noise = np.fft.irfft2(spectrum, s=(size, size)).astype(np.float32)
    return noise / noise.std()


def _ranks(values: np.ndarray) -> np.ndarray:
    """Squashes a field of deviation 1 to [0, 1] with nearly even coverage."""
    return 0.5 + 0.5 * np.tanh(0.8 * values)


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(size) / size
    return axis[None, :], axis[:, None]


def _fractal(rng: Generator, size: int, grain: float) -> np.ndarray:
    return _ranks(spectral_noise(rng, size, slope=rng.uniform(1.0, 1.6), smallest=0.35 * grain))


def _blotches(rng: Generator, size: int, grain: float) -> np.ndarray:
    noise = _ranks(spectral_noise(rng, size, slope=rng.uniform(1.4, 2.2), smallest=grain))
    levels = int(rng.integers(2, 5))
    return np.floor(noise * levels * 0.999) / max(1, levels - 1)


def _stripes(rng: Generator, size: int, grain: float) -> np.ndarray:
    x, y = _grid(size)
    count = max(2.0, size / (grain * rng.uniform(3.0, 6.0)))
    angle = rng.uniform(0, np.pi)
    phase = np.rint(count * np.cos(angle)) * x + np.rint(count * np.sin(angle)) * y
    bend = rng.uniform(0, 0.35) * spectral_noise(rng, size, slope=2.2)
    return 0.5 + 0.5 * np.tanh(rng.uniform(1.0, 5.0) * np.sin(2 * np.pi * (phase + bend)))


def _waves(rng: Generator, size: int, grain: float) -> np.ndarray:
    x, y = _grid(size)
    total = np.zeros((size, size))
    for _ in range(int(rng.integers(2, 5))):
        count, angle = size / (grain * rng.uniform(3.0, 9.0)), rng.uniform(0, np.pi)
        total += np.sin(
            2 * np.pi * (np.rint(count * np.cos(angle)) * x + np.rint(count * np.sin(angle)) * y + rng.random())
        )
    return _ranks(total / total.std())


def _marble(rng: Generator, size: int, grain: float) -> np.ndarray:
    folds = size / (grain * rng.uniform(15.0, 30.0))
    return 0.5 + 0.5 * np.sin(2 * np.pi * folds * spectral_noise(rng, size, slope=rng.uniform(1.8, 2.3)))


def _leaves(rng: Generator, size: int, grain: float, *, round_ones: bool, cover: float) -> np.ndarray:
    """Dead leaves: shapes of a power-law size dropped on each other (Lee et al., IJCV 2001)."""
    field = np.full((size, size), rng.random())
    low, high = 1.2 * grain, 9.0 * grain
    area = 0.0
    while area < cover * size * size:
        half = low * (1 - rng.random() * (1 - (low / high) ** 2)) ** -0.5
        half_x, half_y = half * rng.uniform(0.5, 1.4), half * rng.uniform(0.5, 1.4)
        cx, cy = rng.integers(size, size=2)
        xs, ys = np.arange(-int(half_x), int(half_x) + 1), np.arange(-int(half_y), int(half_y) + 1)
        rows, columns = np.ix_((cy + ys) % size, (cx + xs) % size)
        if round_ones:
            inside = (xs[None] / (half_x + 0.5)) ** 2 + (ys[:, None] / (half_y + 0.5)) ** 2 <= 1
            field[rows, columns] = np.where(inside, rng.random(), field[rows, columns])
        else:
            field[rows, columns] = rng.random()
        area += 4 * half_x * half_y
    return field


def _patches(rng: Generator, size: int, grain: float) -> np.ndarray:
    return _leaves(rng, size, grain, round_ones=False, cover=1.5)


def _dots(rng: Generator, size: int, grain: float) -> np.ndarray:
    return _leaves(rng, size, 0.8 * grain, round_ones=True, cover=1.0)


def _checker(rng: Generator, size: int, grain: float) -> np.ndarray:
    cells = int(np.clip(2 ** np.rint(np.log2(size / (grain * rng.uniform(2.0, 4.0)))), 4, size // 2))
    tiles = rng.random((cells, cells)) * rng.uniform(0.2, 0.8)
    tiles += (np.add.outer(np.arange(cells), np.arange(cells)) % 2) * 0.6
    return np.kron(tiles / tiles.max(), np.ones((size // cells, size // cells)))


def _cartoon(rng: Generator, size: int, grain: float) -> np.ndarray:
    """Flat regions with dark outlines: the cells of scattered points."""
    count = int(np.clip((size / (grain * 7.0)) ** 2, 6, 250))
    coarse = size // 2
    points, shades = rng.random((count, 2)) * coarse, rng.random(count)
    axis = np.arange(coarse)
    nearest = np.full((coarse, coarse), np.inf)
    second = np.full((coarse, coarse), np.inf)
    field = np.zeros((coarse, coarse))
    for (px, py), shade in zip(points, shades, strict=True):
        dx, dy = np.abs(axis - px), np.abs(axis - py)
        distance = np.minimum(dx, coarse - dx)[None] ** 2 + np.minimum(dy, coarse - dy)[:, None] ** 2
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        field = np.where(closer, shade, field)
        nearest = np.minimum(nearest, distance)
    outline = np.sqrt(second) - np.sqrt(nearest) < rng.uniform(0.3, 1.2)
    return np.kron(np.where(outline, 0.0, field), np.ones((2, 2)))


def _scratches(rng: Generator, size: int, grain: float) -> np.ndarray:
    field = 0.35 + 0.15 * spectral_noise(rng, size, slope=1.5, smallest=grain)
    for _ in range(int(0.25 * (size / grain) ** 1.6)):
        length, angle = rng.uniform(3, 14) * grain, rng.uniform(0, 2 * np.pi)
        along = np.arange(0, length, 0.5)
        start = rng.random(2) * size
        x, y = start[0] + along * np.cos(angle), start[1] + along * np.sin(angle)
        field[y.astype(int) % size, x.astype(int) % size] = rng.random()
    return np.clip(field, 0, 1)


def _weave(rng: Generator, size: int, grain: float) -> np.ndarray:
    x, y = _grid(size)
    count = np.rint(size / (grain * rng.uniform(3.0, 5.0)))
    a, b = np.sin(2 * np.pi * count * x), np.sin(2 * np.pi * count * y)
    over = np.sin(np.pi * count * (x + y)) * np.sin(np.pi * count * (x - y)) > 0
    return 0.5 + 0.4 * np.where(over, np.abs(a), -np.abs(b)) + 0.05 * spectral_noise(rng, size, slope=1.0)


def _mosaic(rng: Generator, size: int, grain: float) -> np.ndarray:
    """Bricks: rows of tiles of random shade, every other row shifted by half a tile."""
    high = int(np.clip(2 ** np.rint(np.log2(grain * rng.uniform(1.5, 3.0))), 2, size // 4))
    wide = 2 * high
    tiles = np.kron(rng.random((size // high, size // wide)), np.ones((high, wide)))
    rows = np.arange(size)
    tiles[(rows // high) % 2 == 1] = np.roll(tiles[(rows // high) % 2 == 1], wide // 2, axis=1)
    tiles[rows % high == 0] = 0.0
    return tiles


def _rings(rng: Generator, size: int, grain: float) -> np.ndarray:
    x, y = _grid(size)
    total = np.zeros((size, size))
    for _ in range(int(rng.integers(2, 5))):
        cx, cy = rng.random(2)
        # A distance that wraps around smoothly.
        radius = np.sqrt(np.sin(np.pi * (x - cx)) ** 2 + np.sin(np.pi * (y - cy)) ** 2)
        total += np.sin(2 * np.pi * radius * size / (grain * rng.uniform(6.0, 12.0)))
    return _ranks(1.5 * total / total.std())


def _glyphs(rng: Generator, size: int, grain: float) -> np.ndarray:
    """Rows of letter-like marks: random 3 x 5 bit patterns with gaps."""
    cell = int(max(4, rng.uniform(4, 7)))
    rows, columns = size // (6 * 2) + 1, size // (cell * 2) + 1
    marks = np.zeros((rows, 6, columns, cell))
    marks[:, :5, :, : cell - 1] = rng.random((rows, 5, columns, cell - 1)) < 0.5
    page = np.kron(marks.reshape(rows * 6, columns * cell), np.ones((2, 2)))[:size, :size]
    return np.clip(0.85 - 0.8 * page + 0.03 * spectral_noise(rng, size, slope=1.0), 0, 1)


FIELDS: dict[str, Field] = {
    "fractal": _fractal,
    "blotches": _blotches,
    "stripes": _stripes,
    "patches": _patches,
    "dots": _dots,
    "scratches": _scratches,
    "waves": _waves,
    "mosaic": _mosaic,
    "marble": _marble,
    "checker": _checker,
    "cartoon": _cartoon,
    "weave": _weave,
    "rings": _rings,
    "glyphs": _glyphs,
}


def palette(rng: Generator, *, middle: float, contrast: float) -> np.ndarray:
    """Random linear RGB colours `[K, 3]`, K in 2..5, along which a field is mapped.

    Args:
        rng: Source of randomness.
        middle: Natural log of the middle intensity.
        contrast: Half the range of log-intensity.
    """
    count = int(rng.integers(2, 6))
    level = np.linspace(-1, 1, count)
    if rng.random() < 0.5:
        rng.shuffle(level)
    level = np.clip(level + rng.normal(0, 0.15, count), -1.3, 1.3)
    tint = rng.normal(0, rng.uniform(0.05, 0.45), (count, 3))
    return np.exp(middle + contrast * level[:, None] + tint - tint.mean(1, keepdims=True))


def texture(
    rng: Generator, family: str, size: int, *, grain: float, middle: float = -1.6, contrast: float = 0.6
) -> np.ndarray:
    """A coloured texture that wraps around.

    Args:
        rng: Source of randomness; the same state gives the same texture.
        family: A key of `FIELDS`.
        size: Side in texels, a power of two.
        grain: Typical size of details in texels.
        middle: Natural log of the middle intensity.
        contrast: Half the range of log-intensity over the texture.

    Returns:
        Linear RGB, float32 `[size, size, 3]`, positive.
    """
    field = np.clip(FIELDS[family](rng, size, grain), 0.0, 1.0)
    colours = palette(rng, middle=middle, contrast=contrast)
    stops, shades = np.linspace(0, 1, len(colours)), np.linspace(0, 1, _SHADES)
    table = np.stack([np.interp(shades, stops, colours[:, c]) for c in range(3)], -1).astype(np.float32)
    return soften(table[(field * (_SHADES - 1) + 0.5).astype(np.int32)])


def soften(image: np.ndarray) -> np.ndarray:
    """The lens: a 3 x 3 binomial blur of `[H, W, ...]` that wraps around."""
    for axis in (0, 1):
        blurred = np.roll(image, 1, axis)
        blurred += np.roll(image, -1, axis)
        blurred += 2 * image
        blurred *= 0.25
        image = blurred
    return image
