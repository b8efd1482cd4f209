"""Simulated targets at a constant speed in sizes a second, from one that creeps to one that crosses the sensor at once.

The target runs along a circle, so that its direction changes and a tracker that guesses one is caught. Its speed is
constant in units of its size, which may grow. `experiments/studies/lag.py` draws its curves over speed with these, and
`had-snn profile` counts their energy.
"""

from __future__ import annotations

import math

import numpy as np

from had_snn.data.sequence import TrackingSequence
from had_snn.errors import InputError
from had_snn.simulator.description import Scene
from had_snn.simulator.scene import FAMILIES, tight_boxes
from had_snn.simulator.scene_light import illumination, sensor_model
from had_snn.simulator.scene_parts import World, background, camera_motion, draw_look, object_sprites
from had_snn.simulator.sensor import simulate

#: Radius of the circle in heights of the sensor, and what a target moves in one render step at most, in sizes.
RADIUS, STEP = 0.22, 0.004


def steady_sequence(
    seed: int,
    speed: float,
    *,
    seconds: float,
    label_hz: float = 25.0,
    growth: float = 0.0,
    side: float = 26.0,
    sensor_hw: tuple[int, int] = (260, 346),
    family: str = "val",
) -> TrackingSequence:
    """Simulates one target.

    Args:
        seed: Fixes everything.
        speed: Sizes a second; a size is `sqrt(w * h)` of the target.
        seconds: Length.
        label_hz: Rate of labels; the first comes after one period.
        growth: Share that the target grows by in a second.
        side: Its size at first, pixels.
        sensor_hw: Height and width in pixels.
        family: Which looks and backgrounds, a name of `simulator.scene.FAMILIES`.

    Returns:
        The recording and the truth; the camera stands still.

    Raises:
        InputError: If the speed is below 0, or the length holds no two labels.
    """
    if not (speed >= 0 and seconds * label_hz >= 2 and growth > -1):
        raise InputError(
            f"speed={speed:g}, seconds={seconds:g}, label_hz={label_hz:g}: expected a speed from 0 and two labels"
        )
    rng = np.random.default_rng([seed, 77])
    step_us = min(2000, max(20, int(1e6 * STEP / max(speed, STEP))))
    count = math.ceil(seconds * 1e6 / step_us)
    times_s = np.arange(count + 1) * step_us * 1e-6
    matrix, camera, shake = camera_motion(rng, times_s, sensor_hw, ego=False)
    world = World(rng, FAMILIES[family], sensor_hw, times_s, camera, shake, 1e6, 0.0)
    level = float(rng.normal(-1.7, 0.25))
    look, aspect, scale = draw_look(world, level), math.exp(rng.normal(0, 0.2)), (1 + growth) ** times_s
    travelled = np.concatenate([[0], np.cumsum((scale[1:] + scale[:-1]) / 2 * np.diff(times_s))]) * speed * side
    radius = RADIUS * sensor_hw[0]
    angle = rng.uniform(0, 2 * np.pi) + travelled / radius * rng.choice([-1, 1])
    middle = np.array(sensor_hw[::-1]) / 2
    path = middle + radius * np.stack([np.cos(angle), np.sin(angle)], -1) + shake
    pose = np.full(len(times_s), rng.uniform(0, 2 * np.pi)), scale, np.ones(len(times_s))
    target = object_sprites(world, look, (side * aspect, side / aspect), path, pose)
    plane, _ = background(world, level)
    light, _ = illumination(world)
    offset = camera - matrix @ middle - (matrix @ shake[..., None])[..., 0]
    scene = Scene(
        sensor_hw=sensor_hw,
        step_us=step_us,
        plane=plane,
        plane_matrix=matrix,
        plane_offset=offset,
        sprites=target,
        light_log=light,
        frames=None,
    )
    name = f"steady-{speed:g}-{seed}"
    seen = simulate(scene, sensor_model(world, low_light=False), seed=seed, source=name)
    labels = np.rint((np.arange(int(seconds * label_hz + 1e-9)) + 1) * 1e6 / label_hz).astype(np.int64)
    return TrackingSequence(
        name=name,
        events=seen.events,
        label_times_us=labels,
        boxes_xywh=tight_boxes(target, np.minimum(labels / step_us, count)),
        visible=np.ones(len(labels), bool),
        frames=None,
        frame_times_us=None,
    )


def steady_targets(speed: float, count: int, seed: int) -> list[TrackingSequence]:
    """Simulates some targets of one speed for as long as the speed needs.

    Args:
        speed: Sizes a second; up to 1 they are seen for 10 s and grow by a tenth a second where they move at all,
            with 25 labels a second, else for 40 sizes, with 10 labels a size.
        count: How many.
        seed: Fixes everything; the targets of the next seed are all but one the same.

    Returns:
        The recordings.
    """
    if speed <= 1:
        return [steady_sequence(seed + k, speed, seconds=10, growth=0.1 if speed else 0.0) for k in range(count)]
    return [steady_sequence(seed + k, speed, seconds=40 / speed, label_hz=10 * speed) for k in range(count)]
