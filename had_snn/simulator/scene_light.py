"""The light of random scenes, and the sensor and frame camera that see it.

As in `scene_parts`, each function draws from the generator of its `World`.
"""

from __future__ import annotations

import numpy as np

from had_snn.simulator.description import FramePlan
from had_snn.simulator.scene_parts import World
from had_snn.simulator.sensor import SensorModel

FRAME_HZ = 25


def illumination(world: World) -> tuple[np.ndarray, dict[str, bool]]:
    """Log-illumination `[N]`, and whether it is dark, changes or flickers."""
    rng, t = world.rng, world.times_s
    low = world.challenge(0.15)
    light = np.full(len(t), rng.uniform(-3.2, -2.0) if low else rng.normal(0, 0.2))
    changes = world.challenge(0.12)
    if changes:  # a lamp is switched or a cloud passes
        when, rise = rng.uniform(0.15, 0.9) * t[-1], np.exp(rng.uniform(np.log(0.01), np.log(0.3)))
        light += rng.choice([-1, 1]) * rng.uniform(0.3, 0.9) * np.clip((t - when) / rise, 0, 1)
    flicker = world.challenge(0.12)
    if flicker:
        depth, hertz = rng.uniform(0.03, 0.12), rng.choice(world.family.flicker_hz)
        light += np.log1p(depth * np.sin(2 * np.pi * (hertz * world.seconds + rng.random())))
    return light, {"low_light": low, "light_change": changes, "flicker": flicker}


def exposures(world: World, light: np.ndarray, level: float, *, low_light: bool) -> tuple[FramePlan, dict[str, bool]]:
    """A frame ends at each multiple of the frame period; some sequences are badly exposed, long exposures blur.

    Args:
        world: The scene.
        light: Log-illumination `[N]`.
        level: Median intensity of the background under nominal light.
        low_light: Exposures are long, and the gain is limited.

    Returns:
        When and how long frames are exposed, and whether they are under- or over-exposed.
    """
    rng, t = world.rng, world.seconds
    end_us = (np.arange(int(t[-1] * FRAME_HZ + 1e-9)) + 1) * (1_000_000 // FRAME_HZ)
    exposure = rng.uniform(15e3, 38e3) if low_light else np.exp(rng.uniform(np.log(2e3), np.log(25e3)))
    mishap = rng.random()
    factor = 1.0
    if mishap < 0.15:
        factor = rng.uniform(0.05, 0.2)
    elif mishap < 0.3:
        factor = rng.uniform(2.5, 5.0)
    base = 0.2 * factor / (level * np.exp(light[0]))
    gain = min(base, 12.0) if low_light else base  # amplification ends somewhere: dark frames stay dark
    n = len(end_us)
    samples = int(np.clip(exposure / 2.5e3, 3, 10))
    plan = FramePlan(end_us.astype(np.int64), np.full(n, exposure), np.full(n, gain), samples)
    share = gain * factor / base  # of the gain that would be right
    return plan, {"under_exposed": share < 0.5, "over_exposed": share > 2}


def sensor_model(world: World, *, low_light: bool) -> SensorModel:
    """A sensor of its own for every scene; in the dark the frame camera's noise is that of a high gain."""
    rng, camera = world.rng, world.family.camera
    theta = rng.uniform(*camera.theta)
    lean = np.exp(np.clip(rng.normal(0.04, 0.12), -0.25, 0.25))  # darker events are the easier ones on many sensors
    return SensorModel(
        theta_on=theta * lean,
        theta_off=theta / lean,
        mismatch=rng.uniform(0.03, 0.09),
        jitter=rng.uniform(0.01, 0.05),
        leak_per_s=rng.uniform(*camera.leak_per_s),
        shot_hz=float(np.exp(rng.uniform(*np.log(camera.shot_hz)))),
        shot_level=0.08,
        hot_share=float(np.exp(rng.uniform(*np.log(camera.hot_share)))),
        hot_hz=rng.uniform(10, 80),
        refractory_us=float(np.exp(rng.uniform(*np.log(camera.refractory_us)))),
        cutoff_hz=float(np.exp(rng.uniform(*np.log(camera.cutoff_hz)))),
        full_well=600.0 if low_light else 6000.0,
        read_noise=0.012 if low_light else 0.004,
    )
