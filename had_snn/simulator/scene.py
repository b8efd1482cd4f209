"""Random scenes for a tracker: one target, look-alikes that cross in front of it, occluders, a moving camera.

Everything about a scene follows from a seed and a `Family`, which names the shapes, textures, contrasts and laws of
motion it may use; families of different splits share no texture. Scenes are made so that neither the centroid of the
events nor the last box will do: other things move too, backgrounds give more events than the target, targets stop,
grow, and pass behind something. The target is nevertheless in sight most of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from had_snn.errors import InputError
from had_snn.simulator.description import Scene, Sprite
from had_snn.simulator.scene_light import exposures, illumination, sensor_model
from had_snn.simulator.scene_parts import (
    Camera,
    Family,
    World,
    background,
    camera_motion,
    draw_look,
    other_sprites,
    target_sprites,
)
from had_snn.simulator.sensor import LUMA, SensorModel
from had_snn.simulator.shapes import OUTLINE, outline

MIN_VISIBLE_SHARE = 0.35  # below this share of its area in sight, the target counts as absent
FAST_PX_PER_S = 250.0
ATTRIBUTES = {
    "fast_motion": f"95th percentile of the target's speed above {FAST_PX_PER_S:g} px/s",
    "hdr": "strong shading over the background",
    "low_light": "illumination a seventh of normal or less",
    "light_change": "a lamp is switched or a cloud passes",
    "flicker": "lamps flicker with the mains",
    "under_exposed": "frames get less than half the light they need",
    "over_exposed": "frames get more than twice the light they need",
    "blur": "the target moves more than 4 px during an exposure",
    "occlusion": "at some label less than 60 % of the target is in sight",
    "distractors": "a look-alike crosses in front of the target",
    "ego_motion": "the camera moves, turns and zooms",
    "scale_change": "the target's size changes by a factor above 1.35",
    "stops": "the target stands still for a while",
    "deformation": "the target has swinging limbs or is squeezed",
}
_ATTEMPTS, _MOST_COUNTED = 50, 150


_COMMON = ("ellipse", "rectangle", "polygon", "star", "blob", "cross", "vehicle")
FAMILIES = {
    "train": Family(_COMMON, ("fractal", "blotches", "stripes", "patches", "dots", "scratches")),
    "val": Family(_COMMON, ("waves", "mosaic")),
    "test": Family(_COMMON, ("marble", "checker", "cartoon")),
    "shifted": Family(
        ("crescent", "ring", "arrow", "letter"),
        ("weave", "rings", "glyphs"),
        contrast=(0.2, 1.3),
        law="bounce",
        flicker_hz=(50.0, 100.0),
        camera=Camera(  # an older sensor behind a soft lens
            theta=(0.35, 0.6),
            leak_per_s=(0.05, 0.3),
            shot_hz=(5.0, 20.0),
            hot_share=(5e-4, 3e-3),
            refractory_us=(600.0, 3000.0),
            cutoff_hz=(80.0, 300.0),
            blur_px=(0.7, 1.6),
        ),
    ),
    "noisy": Family(
        _COMMON,
        ("weave", "rings", "glyphs"),
        camera=Camera(shot_hz=(40.0, 160.0), hot_share=(5e-3, 2e-2)),  # a hot sensor whose gain is turned up
    ),
}


@dataclass(frozen=True, eq=False)
class LabelledScene:
    """A scene, the sensor that looks at it, and the truth about its target.

    Attributes:
        scene: What moves.
        sensor: The pixel model.
        target: Positions in `scene.sprites` of the target's parts.
        label_times_us: int64 `[L]`.
        boxes_xywh: float64 `[L, 4]`, the tight box of the target's outline, hidden parts and parts off the sensor too.
        visible_share: float64 `[L]`, the share of the target's area in sight.
        speeds: Median, 95th percentile and highest speed of the target, pixels a second.
        attributes: Of `ATTRIBUTES`, those that hold.
        blur_px: How far out of focus the lens is; `scene` itself is sharp (`optics.out_of_focus`).
    """

    scene: Scene
    sensor: SensorModel
    target: tuple[int, ...]
    label_times_us: np.ndarray
    boxes_xywh: np.ndarray
    visible_share: np.ndarray
    speeds: tuple[float, float, float]
    attributes: tuple[str, ...]
    blur_px: float = 0.0


def sample_scene(
    seed: Sequence[int],
    family: Family,
    *,
    seconds: float,
    sensor_hw: tuple[int, int] = (180, 240),
    label_hz: float = 25.0,
    max_speed: float = 400.0,
    hardship: float = 1.0,
    pace: float = 1.0,
) -> LabelledScene:
    """Draws a scene in which the target can be seen at first and most of the time.

    Args:
        seed: Integers that fix everything.
        family: What it is made of.
        seconds: Length.
        sensor_hw: Height and width in pixels.
        label_hz: Rate of labels; the first comes after one period.
        max_speed: Highest speed of the target in pixels a second at pace 1; render steps shrink with it.
        hardship: Factor in [0, 1] on the probability of every challenge but stops, ego-motion and scale change:
            look-alikes that cross in front, occluders, camouflage, deformation, hard light, darkness, flicker.
        pace: Everything moves, turns and grows so many times faster (or slower, below 1), before a sensor, a frame
            camera and lamps that stay what they are; sometimes behind a fence.

    Returns:
        The scene and its truth.
    """
    if not 0 <= hardship <= 1:
        raise InputError(f"hardship={hardship:g}: expected a factor from 0 to 1")
    if seconds * label_hz < 1 or max_speed <= 0 or pace <= 0:
        raise InputError(
            f"{seconds:g} s at {label_hz:g} labels a second with speeds up to {max_speed:g}, pace {pace:g}: "
            "nothing to do"
        )
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([*seed, attempt])
        take_any = attempt == _ATTEMPTS - 1
        labelled = _draw(rng, family, seconds, sensor_hw, label_hz, max_speed, hardship, pace, take_any=take_any)
        if labelled is not None:
            return labelled
    raise AssertionError("the last attempt takes any scene")


def _mostly_seen(share: np.ndarray) -> bool:
    return bool(share[0] > 0.9 and (share[: max(2, len(share) // 8)] > 0.6).all() and (share > 0.6).mean() > 0.75)


def _draw(
    rng: Generator,
    family: Family,
    seconds: float,
    sensor_hw: tuple[int, int],
    label_hz: float,
    max_speed: float,
    hardship: float,
    pace: float,
    *,
    take_any: bool,
) -> LabelledScene | None:
    step_us = next(s for s in (1000, 500, 250, 200, 100) if max_speed * s * 1e-6 <= 1.0 or s == 100)
    step_us = min(1000, max(1, int(step_us / pace)))
    n_steps = int(np.ceil(seconds * 1e6 / step_us))
    times_s = np.arange(n_steps + 1) * step_us * 1e-6 * pace
    ego = rng.random() < 0.6
    matrix, camera, shake = camera_motion(rng, times_s, sensor_hw, ego=ego)
    world = World(rng, family, sensor_hw, times_s, camera, shake, max_speed, hardship, pace)
    back_level = rng.normal(-1.7, 0.25)
    look = draw_look(world, back_level)
    target, path, traits = target_sprites(world, look)
    behind, front, crossed = other_sprites(world, look, path, traits["size"])
    sprites = [*behind, *target, *front]
    parts = tuple(range(len(behind), len(behind) + len(target)))
    label_times_us = np.rint((np.arange(int(seconds * label_hz + 1e-9)) + 1) * 1e6 / label_hz).astype(np.int64)
    label_steps = np.minimum(label_times_us / step_us, n_steps)
    # Dense labels share what is seen at some of them: it takes longer to count than to change.
    counted = np.linspace(0, len(label_steps) - 1, min(len(label_steps), _MOST_COUNTED)).astype(int)
    share = visible_share(sprites, parts, np.rint(label_steps[counted]).astype(int), sensor_hw)
    share = np.interp(np.arange(len(label_steps)), counted, share)
    if not (take_any or _mostly_seen(share)):
        return None
    plane, hdr = background(world, back_level)
    light, lamps = illumination(world)
    speed = np.hypot(*np.gradient(path, world.seconds, axis=0).T)
    frames, exposed = exposures(world, light, float(np.median(plane @ LUMA)), low_light=lamps["low_light"])
    streak = np.percentile(speed, 90) * float(frames.exposure_us.max(initial=0.0)) * 1e-6
    flags = {
        **lamps,
        **exposed,
        "fast_motion": np.percentile(speed, 95) > FAST_PX_PER_S,
        "hdr": hdr,
        "blur": streak > 4.0,
        "occlusion": share.min() < 0.6,
        "distractors": crossed,
        "ego_motion": ego,
        "scale_change": traits["growth"] > 1.35,
        "stops": traits["stops"],
        "deformation": traits["deforms"],
    }
    scene = Scene(
        sensor_hw=sensor_hw,
        step_us=step_us,
        plane=plane,
        plane_matrix=matrix,
        plane_offset=camera - (matrix @ (np.array(sensor_hw[::-1]) / 2)) - (matrix @ shake[..., None])[..., 0],
        sprites=sprites,
        light_log=light,
        frames=frames if len(frames.end_us) else None,
    )
    return LabelledScene(
        scene=scene,
        sensor=sensor_model(world, low_light=lamps["low_light"]),
        target=parts,
        label_times_us=label_times_us,
        boxes_xywh=tight_boxes([sprites[i] for i in parts], label_steps),
        visible_share=share,
        blur_px=rng.uniform(*family.camera.blur_px) if family.camera.blur_px[1] > 0 else 0.0,
        speeds=(float(np.median(speed)), float(np.percentile(speed, 95)), float(speed.max())),
        attributes=tuple(name for name in ATTRIBUTES if flags[name]),
    )


def tight_boxes(parts: Sequence[Sprite], steps: np.ndarray) -> np.ndarray:
    """Tight boxes `[L, 4]` (xywh) around the outlines of an object's parts at the given render steps."""
    points = np.concatenate([part.to_pixels(outline(part.alpha), steps) for part in parts], axis=1)
    low, high = points.min(1), points.max(1)
    return np.concatenate([low, high - low], -1)


def visible_share(
    sprites: Sequence[Sprite], parts: Sequence[int], steps: np.ndarray, sensor_hw: tuple[int, int]
) -> np.ndarray:
    """Share of the target's area that is on the sensor and not behind another sprite, `[L]`, to about 2 %."""
    shares = np.empty(len(steps))
    grids = [_inside_points(sprites[i].alpha) for i in parts]
    covers = [s for k, s in enumerate(sprites) if k > max(parts) and not s.adds]
    limit = np.array(sensor_hw[::-1])
    for row, step in enumerate(steps):
        points = np.concatenate([sprites[i].to_pixels(g, step) for i, g in zip(parts, grids, strict=True)])
        seen = np.all((points >= 0) & (points < limit), axis=1)
        for cover in covers:
            texel = np.rint(cover.to_texels(points, step)).astype(int)
            h, w = cover.alpha.shape
            on = (texel >= 0).all(1) & (texel[:, 0] < w) & (texel[:, 1] < h)
            seen[on] = seen[on] & (cover.alpha[texel[on, 1], texel[on, 0]] < OUTLINE)
        shares[row] = seen.mean()
    return shares


def _inside_points(alpha: np.ndarray, *, most: int = 500) -> np.ndarray:
    rows, columns = np.nonzero(alpha > OUTLINE)
    stride = max(1, len(rows) // most)
    return np.stack([columns, rows], -1)[::stride].astype(np.float64)
