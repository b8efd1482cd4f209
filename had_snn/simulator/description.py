"""What moves before the sensor, as arrays: textures and, for every render step, where they are.

Times are microseconds from the start of the scene, positions are sensor pixels in continuous coordinates, intensities
are linear with 1 = white under nominal light.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from had_snn.errors import InputError


@dataclass(frozen=True, eq=False)
class Sprite:
    """A flat textured thing. Texel `(row, column)` has its centre at coordinates `(column, row)`.

    Attributes:
        rgb: Linear intensities `[h, w, 3]`, defined also where the sprite is transparent.
        alpha: Opacity `[h, w]` in [0, 1]; zero on the outermost row and column.
        matrix: Texel to pixel, linear part `[S + 1, 2, 2]` for every render step.
        position: Pixel `[S + 1, 2]` (x, y) of the texture's centre `((w - 1) / 2, (h - 1) / 2)`.
        adds: The sprite multiplies the light behind it by `rgb` (a shadow or a spot of light) instead of covering it.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    matrix: np.ndarray
    position: np.ndarray
    adds: bool = False

    def to_pixels(self, texels: np.ndarray, steps: np.ndarray | float) -> np.ndarray:
        """Moves texel coordinates `[N, 2]` (column, row) to sensor pixels `[..., N, 2]`; steps may be fractions."""
        centre = (np.array(self.alpha.shape[::-1]) - 1) / 2
        before = np.minimum(np.asarray(steps).astype(int), len(self.position) - 2)
        share = (np.asarray(steps) - before)[..., None]
        position = self.position[before] * (1 - share) + self.position[before + 1] * share
        matrix = self.matrix[before] * (1 - share[..., None]) + self.matrix[before + 1] * share[..., None]
        return (texels - centre) @ np.swapaxes(matrix, -1, -2) + position[..., None, :]

    def to_texels(self, pixels: np.ndarray, step: int) -> np.ndarray:
        """Moves sensor pixels `[N, 2]` to texel coordinates `[N, 2]` at one render step."""
        centre = (np.array(self.alpha.shape[::-1]) - 1) / 2
        return (pixels - self.position[step]) @ np.linalg.inv(self.matrix[step]).T + centre


@dataclass(frozen=True, eq=False)
class FramePlan:
    """When the frame camera exposes.

    Attributes:
        end_us: End of each exposure, int64 `[F]`.
        exposure_us: Length of each exposure, float `[F]`.
        gain: Linear pixel value that intensity 1 gets, `[F]`; full scale is 1.
        samples: Instants averaged per exposure.
    """

    end_us: np.ndarray
    exposure_us: np.ndarray
    gain: np.ndarray
    samples: int = 8


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that moves in front of the sensor. `S` render steps have `S + 1` instants.

    Attributes:
        sensor_hw: Height and width in pixels.
        step_us: Length of a render step; between steps a pixel's level is a straight line.
        plane: Background `[P, P, 3]`, linear RGB, `P` a power of two; it repeats in both directions.
        plane_matrix: Pixel to plane texel, linear part `[S + 1, 2, 2]`.
        plane_offset: Plane texel `[S + 1, 2]` (column, row) at pixel coordinates (0, 0).
        sprites: Drawn in this order, the last in front.
        light_log: Natural log of the illumination, `[S + 1]`.
        frames: Exposures, or None for a sensor without frames.
    """

    sensor_hw: tuple[int, int]
    step_us: int
    plane: np.ndarray
    plane_matrix: np.ndarray
    plane_offset: np.ndarray
    sprites: Sequence[Sprite]
    light_log: np.ndarray
    frames: FramePlan | None = None

    @property
    def n_steps(self) -> int:
        return len(self.light_log) - 1


def check_scene(scene: Scene) -> None:
    """Refuses a scene whose arrays do not fit together.

    Raises:
        InputError: Naming the array.
    """
    height, width = scene.sensor_hw
    instants, side = scene.n_steps + 1, scene.plane.shape[0]
    if scene.n_steps < 1 or scene.step_us < 1 or scene.n_steps * scene.step_us >= 2**31 - 2**20:
        raise InputError(f"{scene.n_steps} steps of {scene.step_us} us: expected at least one and under 35 minutes")
    if height < 1 or width < 1 or max(height, width) > 32767:
        raise InputError(f"sensor {width}x{height} is not in 1..32767")
    if scene.plane.shape != (side, side, 3) or side & (side - 1):
        raise InputError(f"the background is {scene.plane.shape}; expected [P, P, 3] with P a power of two")
    if not np.isfinite(scene.light_log).all() or np.abs(scene.light_log).max() > 20:
        raise InputError("light_log must be finite and within -20..20")
    if any(not np.isfinite(rgb).all() or rgb.max() > 1e6 for rgb in (scene.plane, *(s.rgb for s in scene.sprites))):
        raise InputError("textures must hold finite intensities of at most 1e6")
    shapes = {"plane_matrix": (scene.plane_matrix, (2, 2)), "plane_offset": (scene.plane_offset, (2,))}
    for index, sprite in enumerate(scene.sprites):
        if sprite.rgb.shape != (*sprite.alpha.shape, 3) or min(sprite.alpha.shape) < 3:
            raise InputError(f"sprite {index}: rgb {sprite.rgb.shape} and alpha {sprite.alpha.shape} do not fit")
        edge = (sprite.alpha[0], sprite.alpha[-1], sprite.alpha[:, 0], sprite.alpha[:, -1])
        if any(np.any(e) for e in edge):
            raise InputError(f"sprite {index}: its opacity must be zero on the border")
        shapes[f"sprite {index} matrix"] = (sprite.matrix, (2, 2))
        shapes[f"sprite {index} position"] = (sprite.position, (2,))
    for name, (array, tail) in shapes.items():
        if array.shape != (instants, *tail) or not np.isfinite(array).all():
            raise InputError(f"{name} is {array.shape}; expected finite numbers of shape {(instants, *tail)}")
