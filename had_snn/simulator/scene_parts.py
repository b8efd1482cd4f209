"""The parts that random scenes are made of: camera, background, target, look-alikes and occluders.

Each function draws one part from the generator of its `World`, so the order of calls decides what a seed gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from had_snn.simulator.description import Sprite
from had_snn.simulator.motion import bounce, smooth_noise, turned, wander
from had_snn.simulator.shapes import mask
from had_snn.simulator.textures import spectral_noise, texture

_PLANE = 512  # side of the background in texels


@dataclass(frozen=True)
class Camera:
    """Ranges that a scene's sensor and lens are drawn from; see `sensor.SensorModel`.

    Attributes:
        theta: Contrast threshold, before brighter and darker events lean apart.
        leak_per_s: Drift of the reference.
        shot_hz: Noise events of a pixel in the dark, drawn log-uniformly, as are the next three.
        hot_share: Share of hot pixels.
        refractory_us: Time that a pixel is held in reset.
        cutoff_hz: Bandwidth in bright light.
        blur_px: How far the lens spreads a point, standard deviation in pixels.
    """

    theta: tuple[float, float] = (0.18, 0.34)
    leak_per_s: tuple[float, float] = (0.0, 0.05)
    shot_hz: tuple[float, float] = (0.5, 6.0)
    hot_share: tuple[float, float] = (2e-5, 8e-4)
    refractory_us: tuple[float, float] = (40.0, 600.0)
    cutoff_hz: tuple[float, float] = (400.0, 2500.0)
    blur_px: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Family:
    """What the scenes of a split are made of.

    Attributes:
        shapes: Outlines of targets and look-alikes, keys of `shapes.SHAPES`.
        textures: Texture families of everything, keys of `textures.FIELDS`.
        contrast: Range of half the log-intensity span of backgrounds and targets.
        law: `"wander"` or `"bounce"`, the motion of targets.
        min_side: Range of the target's `sqrt(w * h)` at its smallest, as a share of the sensor's height.
        flicker_hz: Rates of flickering lamps: twice the mains frequency, or once with a half-wave rectifier.
        camera: What sees it.
    """

    shapes: tuple[str, ...]
    textures: tuple[str, ...]
    contrast: tuple[float, float] = (0.4, 1.1)
    law: str = "wander"
    min_side: tuple[float, float] = (0.13, 0.28)
    flicker_hz: tuple[float, ...] = (100.0, 120.0)
    camera: Camera = Camera()


@dataclass(frozen=True)
class Look:
    """Shape and surface that a target shares with its look-alikes."""

    shape: str
    shape_seed: int
    family: str
    grain: float
    middle: float
    contrast: float
    limbs: int


@dataclass(frozen=True, eq=False)
class World:
    """What all parts of a scene agree on."""

    rng: Generator
    family: Family
    sensor_hw: tuple[int, int]
    times_s: np.ndarray
    camera: np.ndarray  # [N, 2] where the camera looks, pixels
    shake: np.ndarray  # [N, 2] moves everything
    max_speed: float
    hardship: float
    pace: float = 1.0  # everything moves so many times faster; lamps, sensor and frame camera do not

    @property
    def seconds(self) -> np.ndarray:
        """Instants `[N]` on the clock of the sensor; `times_s` is that of what moves."""
        return self.times_s / self.pace

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def challenge(self, probability: float) -> bool:
        """Whether something happens that makes tracking hard; at `hardship` 0 it never does. What is certain takes no
        draw."""
        scaled = probability * self.hardship
        return scaled >= 1 or self.chance(scaled)


def camera_motion(
    rng: Generator, times_s: np.ndarray, sensor_hw: tuple[int, int], *, ego: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plane matrices `[N, 2, 2]`, plane positions of the image's centre and the shaking of the image, both `[N, 2]`."""
    n = len(times_s)
    start = rng.random(2) * _PLANE
    still = np.zeros((n, 2))
    angle0, scale0 = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.3) * 180 / sensor_hw[0]
    if not ego:
        return turned(np.full(n, angle0), np.full(n, scale0)), np.tile(start, (n, 1)), still
    dt = times_s[1] - times_s[0]
    speed, heading = np.exp(rng.uniform(np.log(8), np.log(90))), rng.uniform(0, 2 * np.pi)
    drift = np.array([np.cos(heading), np.sin(heading)]) * rng.uniform(0.3, 1.0)
    wobble = np.stack([smooth_noise(rng, times_s, scale_s=0.5) for _ in range(2)], -1) * 0.7
    camera = start + np.cumsum((drift + wobble) * speed * dt, 0)
    turn_rate = np.deg2rad(rng.normal(0, 10)) * smooth_noise(rng, times_s, scale_s=0.8)
    zoom_rate = rng.normal(0, 0.10) * smooth_noise(rng, times_s, scale_s=0.8)
    matrix = turned(angle0 + np.cumsum(turn_rate) * dt, scale0 * np.exp(np.cumsum(zoom_rate) * dt))
    shake = still
    if rng.random() < 0.5:
        size = np.exp(rng.uniform(np.log(0.2), np.log(1.5)))
        shake = size * np.stack([smooth_noise(rng, times_s, scale_s=0.12) for _ in range(2)], -1)
    return matrix, camera, shake


def background(world: World, level: float) -> tuple[np.ndarray, bool]:
    """A cluttered background `[P, P, 3]` and whether its range of light is high."""
    rng, family = world.rng, world.family
    picks = [family.textures[int(rng.integers(len(family.textures)))] for _ in range(3)]
    layers = [
        texture(
            rng,
            name,
            _PLANE,
            grain=float(np.exp(rng.uniform(np.log(2.0), np.log(7.0)))),
            middle=level + rng.normal(0, 0.3),
            contrast=rng.uniform(*family.contrast),
        )
        for name in picks
    ]
    # Regions of different texture with crisp borders, as walls, ground and shelves have.
    plane = layers[0]
    for layer in layers[1:]:
        region = spectral_noise(rng, _PLANE, slope=2.4) + rng.normal(0, 0.5)
        plane = np.where(np.clip(3 * region, 0, 1)[..., None] > 0.5, layer, plane)
    hdr = world.challenge(0.2)
    shading = spectral_noise(rng, _PLANE, slope=2.6) * (rng.uniform(0.8, 1.3) if hdr else rng.uniform(0.0, 0.3))
    return (plane * np.exp(np.clip(shading, -2.5, 2.5))[..., None]).astype(np.float32), hdr


def draw_look(world: World, back_level: float) -> Look:
    rng, family = world.rng, world.family
    camouflage = world.challenge(0.3)
    away = rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 1.0)
    return Look(
        shape=family.shapes[int(rng.integers(len(family.shapes)))],
        shape_seed=int(rng.integers(2**31)),
        family=family.textures[int(rng.integers(len(family.textures)))],
        grain=float(np.exp(rng.uniform(np.log(2.0), np.log(7.0)))),
        middle=back_level + (rng.normal(0, 0.15) if camouflage else away),
        contrast=rng.uniform(*family.contrast),
        limbs=int(rng.integers(2, 4)) if world.challenge(0.2) else 0,
    )


def object_sprites(
    world: World, look: Look, size: tuple[float, float], path: np.ndarray, pose: tuple[np.ndarray, ...]
) -> list[Sprite]:
    """Sprites of one object: its body and, where it has some, limbs that swing about points on the body's rim.

    `size` is the extent in pixels at scale 1; `pose` holds angle, scale and squash over time.
    """
    rng, (angle, scale, squash) = world.rng, pose
    largest = float(scale.max())
    texels = np.array(size) * largest  # one texel a pixel at the largest
    shape_rng = np.random.default_rng(look.shape_seed)
    body = turned(angle, scale / largest, squash)
    sprites = []
    for limb in range(look.limbs):
        length, thick = rng.uniform(0.35, 0.6) * texels.max(), rng.uniform(0.14, 0.25) * texels.min()
        place = 2 * np.pi * (limb + rng.uniform(0.2, 0.8)) / look.limbs
        joint = 0.38 * texels * np.array([np.cos(place), np.sin(place)])
        swing = place + rng.uniform(0.3, 0.8) * np.sin(2 * np.pi * rng.uniform(0.7, 3.0) * world.times_s + place)
        reach = 0.4 * length * np.stack([np.cos(swing), np.sin(swing)], -1)
        position = path + (body @ (joint + reach)[..., None])[..., 0]
        alpha = mask(shape_rng, "rectangle", length, max(4.0, thick))
        sprites.append(_covered(world, look, alpha, body @ turned(swing, np.ones_like(swing)), position))
    alpha = mask(shape_rng, look.shape, *texels)
    sprites.append(_covered(world, look, alpha, body, path))
    return sprites


def _covered(world: World, look: Look, alpha: np.ndarray, matrix: np.ndarray, position: np.ndarray) -> Sprite:
    """A sprite with a piece of the look's texture."""
    side = 64
    while side < max(alpha.shape):
        side *= 2
    surface = texture(world.rng, look.family, side, grain=look.grain, middle=look.middle, contrast=look.contrast)
    return Sprite(surface[: alpha.shape[0], : alpha.shape[1]], alpha, matrix, position)


def _pose(world: World, *, growth: float, spin: float, squeeze: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angle, scale (from 1 to `growth`) and squash over time."""
    rng, t = world.rng, world.times_s
    angle = rng.uniform(0, 2 * np.pi) + spin * (t * rng.choice([-1, 1]) + 0.3 * smooth_noise(rng, t, scale_s=0.6))
    course = smooth_noise(rng, t, scale_s=max(0.6, 0.7 * float(t[-1])))
    spread = course.max() - course.min()
    course = (course - course.min()) / max(spread, 1e-6)
    return angle, growth**course, np.exp(squeeze * smooth_noise(rng, t, scale_s=0.35))


def target_sprites(world: World, look: Look) -> tuple[list[Sprite], np.ndarray, dict]:
    rng, t, (height, width) = world.rng, world.times_s, world.sensor_hw
    growth = float(np.exp(rng.uniform(np.log(1.35), np.log(2.0)))) if world.chance(0.45) else rng.uniform(1.0, 1.25)
    side = height * np.exp(rng.uniform(*np.log(world.family.min_side))) * growth**-0.4
    aspect = np.exp(rng.normal(0, 0.22))
    size = (side * aspect, side / aspect)
    deforms = world.challenge(0.25) or look.limbs > 0
    pose = _pose(
        world,
        growth=growth,
        spin=np.deg2rad(rng.uniform(20, 160)) if world.chance(0.6) else np.deg2rad(rng.uniform(0, 15)),
        squeeze=rng.uniform(0.05, 0.15) if deforms else 0.0,
    )
    margin = 0.45 * side * growth * np.ones(2)
    low, high = margin, np.array([width, height]) - margin
    speed = float(np.exp(rng.uniform(np.log(25.0), np.log(max(30.0, 0.5 * world.max_speed)))))
    stops = []
    if world.chance(0.4):
        for _ in range(int(rng.integers(1, 3))):
            begin = rng.uniform(0.1, 0.8) * t[-1]
            stops.append((begin, begin + rng.uniform(0.15, 0.5)))
    if world.family.law == "bounce":
        path = bounce(rng, t, low=low, high=high, speed=1.5 * speed, stops=stops, limit=world.max_speed)
    else:
        path = wander(rng, t, low=low, high=high, speed=speed, stops=stops, limit=world.max_speed)
    path = path + world.shake
    traits = {"size": size, "growth": growth, "stops": bool(stops), "deforms": deforms}
    return object_sprites(world, look, size, path, pose), path, traits


def other_sprites(
    world: World, look: Look, path: np.ndarray, size: tuple[float, float]
) -> tuple[list[Sprite], list[Sprite], bool]:
    """Look-alikes and occluders: those behind the target, those in front, and whether a look-alike crosses in front."""
    rng, t, (height, width) = world.rng, world.times_s, world.sensor_hw
    behind: list[Sprite] = []
    front: list[Sprite] = []
    count = int(rng.integers(1, 4)) if world.chance(0.85) else 0
    crossed = False
    for index in range(count):
        like = size[0] * rng.uniform(0.8, 1.2), size[1] * rng.uniform(0.8, 1.2)
        cousin = Look(**{**look.__dict__, "shape_seed": look.shape_seed if world.chance(0.6) else index + 1})
        spin, growth = np.deg2rad(rng.uniform(0, 120)), rng.uniform(1.0, 1.4)
        pose = _pose(world, growth=growth, spin=spin, squeeze=0.0)
        crosses = world.challenge(1.0 if index == 0 else 0.4)
        if crosses:
            where = _crossing(world, path)
        else:
            margin = 0.2 * np.array([size[0], size[1]])
            speed = float(np.exp(rng.uniform(np.log(20), np.log(200))))
            where = wander(rng, t, low=margin, high=np.array([width, height]) - margin, speed=speed)
            where = where + world.shake
        in_front = crosses or world.challenge(0.4)
        (front if in_front else behind).extend(object_sprites(world, cousin, like, where, pose))
        crossed |= crosses
    if world.challenge(0.3):
        front.extend(_occluder(world, path, size))
    if world.challenge(0.15):
        front.append(_shadow(world))
    if world.pace != 1 and world.challenge(0.2):
        front.append(_fence(world))
    return behind, front, crossed


def _fence(world: World) -> Sprite:
    """A net over the whole view, through whose meshes the target is seen; it belongs to the scene, as an occluder."""
    rng, side = world.rng, 2 * max(world.sensor_hw)
    mesh, wire = rng.uniform(9, 24), rng.uniform(1.2, 2.5)
    wires = ((np.arange(side) % mesh) < wire).astype(np.float32)
    alpha = np.maximum(wires[:, None], wires)
    alpha[[0, -1], :] = alpha[:, [0, -1]] = 0
    rgb = np.full((side, side, 3), np.exp(rng.normal(-1.7, 0.6)), np.float32)
    middle, count = np.array(world.sensor_hw[::-1]) / 2, len(world.times_s)
    flow = world.camera[0] - world.camera
    angle = np.full(count, rng.uniform(0, np.pi / 2))
    return Sprite(rgb, alpha, turned(angle, np.ones(count)), middle + flow + world.shake)


def _crossing(world: World, path: np.ndarray) -> np.ndarray:
    """A path that meets the target's at some instant, at a speed of its own."""
    rng, t = world.rng, world.times_s
    meet = int(rng.uniform(0.25, 0.95) * (len(t) - 1))
    speed, heading = np.exp(rng.uniform(np.log(60), np.log(280))), rng.uniform(0, 2 * np.pi)
    since = t - t[meet]
    straight = np.array([np.cos(heading), np.sin(heading)]) * speed * since[:, None]
    wiggle = np.stack([smooth_noise(rng, t, scale_s=0.6) for _ in range(2)], -1) * rng.uniform(2, 12)
    miss = rng.normal(0, 0.25, 2) * 20
    return path[meet] + miss + straight + wiggle - wiggle[meet]


def _occluder(world: World, path: np.ndarray, size: tuple[float, float]) -> list[Sprite]:
    """A post or a board that the target passes behind; it belongs to the scene and moves with the background."""
    rng, t, side = world.rng, world.times_s, float(np.sqrt(size[0] * size[1]))
    meet = int(rng.uniform(0.35, 0.9) * (len(t) - 1))
    post = world.chance(0.6)
    if post:
        extent = (side * rng.uniform(0.3, 0.6), side * rng.uniform(3, 5))
    else:
        board = side * rng.uniform(0.7, 1.2)
        extent = (board, board)
    look = Look(
        shape="rectangle",
        shape_seed=int(rng.integers(2**31)),
        family=world.family.textures[int(rng.integers(len(world.family.textures)))],
        grain=float(rng.uniform(3, 8)),
        middle=rng.normal(-1.7, 0.5),
        contrast=rng.uniform(*world.family.contrast),
        limbs=0,
    )
    flow = -(world.camera - world.camera[meet]) * rng.uniform(1.0, 1.4)
    angle = np.full(len(t), rng.normal(0, 0.3))
    ones = np.ones(len(t))
    return object_sprites(world, look, extent, path[meet] + flow + world.shake - world.shake[meet], (angle, ones, ones))


def _shadow(world: World) -> Sprite:
    """A soft patch of shade or light that glides over everything."""
    rng, (height, width) = world.rng, world.sensor_hw
    side = int(rng.uniform(0.35, 0.6) * height)
    axis = np.linspace(-1, 1, side)
    dome = np.clip(1.15 - np.hypot(*np.meshgrid(axis, axis)), 0, 1)
    alpha = np.clip(dome * 3, 0, 1).astype(np.float32)
    alpha[[0, -1]] = 0
    alpha[:, [0, -1]] = 0
    factor = np.exp(-rng.uniform(0.4, 1.0) if world.chance(0.7) else rng.uniform(0.3, 0.7))
    path = wander(rng, world.times_s, low=np.zeros(2), high=np.array([width, height]), speed=rng.uniform(20, 120))
    matrix = np.tile(np.eye(2), (len(path), 1, 1))
    return Sprite(np.full((side, side, 3), factor, np.float32), alpha, matrix, path, adds=True)
