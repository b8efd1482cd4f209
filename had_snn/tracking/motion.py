"""Where a target is, how it moves, and how large it is: a Kalman filter whose gains follow what a look could see.

A look at time `t` reads a box. Measured on simulated targets, its centre is that of `read_age` windows ago, with a
noise of `place_noise` sizes, and the fewer events `rho` there are near the target per pixel of its box, the more it
repeats the place that was looked at: it is trusted by `rho / (rho + repeat_place)`. Sides follow at a steady rate.

The centre moves at a velocity that is driven by noise, stronger when it is fast: a resting target is averaged over
many looks, a moving one followed at once (the idea of the One-Euro filter, Casiez et al., CHI 2012, with the gains of a
Kalman filter). A reading that is off by much more than the filter believes possible widens its belief first (strong
tracking filter, Zhou and Frank, 1996). Where there are few events there is little motion: the speed is at most
`top_speed * rho` sizes a window.

All noises are in sizes and windows, so nothing depends on the speed at which a recording is played.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from had_snn.tracking.policy import MotionPolicy

_Cov = tuple[float, float, float]


@dataclass
class Motion:
    """State of the filter.

    Attributes:
        t_us: Time it is about.
        centre: x and y, pixels.
        velocity: Pixels per microsecond.
        log_sides: Logarithms of width and height.
        place_cov: Variance of place, covariance with velocity, variance of velocity, the same for x and y, in sizes
            and windows of `window_us`.
        window_us: The window that the variances are in.
    """

    t_us: int
    centre: tuple[float, float]
    velocity: tuple[float, float]
    log_sides: tuple[float, float]
    place_cov: _Cov
    window_us: float

    @property
    def size(self) -> float:
        """`sqrt(w * h)` in pixels."""
        return math.exp((self.log_sides[0] + self.log_sides[1]) / 2)

    @property
    def speed(self) -> float:
        """Sizes per microsecond."""
        return math.hypot(*self.velocity) / self.size

    def away(self, read_cxcywh: tuple[float, float, float, float]) -> float:
        """How far a reading is from the centre, in sizes."""
        return math.hypot(read_cxcywh[0] - self.centre[0], read_cxcywh[1] - self.centre[1]) / self.size

    def box_at(self, t_us: int) -> np.ndarray:
        """The box at a time, xywh; nothing moves for longer than a window without a look, as it would make events."""
        dt = min(float(t_us - self.t_us), self.window_us)
        w, h = (math.exp(v) for v in self.log_sides)
        x, y = (c + v * dt for c, v in zip(self.centre, self.velocity, strict=True))
        return np.array([x - w / 2, y - h / 2, w, h])


def start(box_xywh: np.ndarray, t_us: int, window_us: float) -> Motion:
    """At a given box, with unknown velocity."""
    x, y, w, h = (float(v) for v in box_xywh)
    centre, sides = (x + w / 2, y + h / 2), (math.log(w), math.log(h))
    return Motion(t_us, centre, (0.0, 0.0), sides, (0.02**2, 0.0, 0.1**2), window_us)


def advance(motion: Motion, t_us: int, window_us: float, policy: MotionPolicy) -> None:
    """Moves the state on to `t_us`, in variances of windows of `window_us`."""
    dt = min(float(t_us - motion.t_us), motion.window_us)
    passed = min((t_us - motion.t_us) / window_us, 2.0)
    travel = motion.speed * window_us
    change = window_us / motion.window_us
    level, both, rate = motion.place_cov
    drive = policy.rest_drive**2 + (policy.speed_drive * travel) ** 2
    motion.place_cov = _later((level, both * change, rate * change**2), passed, drive)
    motion.centre = (motion.centre[0] + motion.velocity[0] * dt, motion.centre[1] + motion.velocity[1] * dt)
    motion.t_us, motion.window_us = t_us, window_us


def _later(cov: _Cov, passed: float, drive: float) -> _Cov:
    level, both, rate = cov
    level += 2 * passed * both + passed**2 * rate + drive * passed**3 / 3
    both += passed * rate + drive * passed**2 / 2
    return level, both, rate + drive * passed


def slow_down(motion: Motion, rho: float, window_us: float, policy: MotionPolicy) -> None:
    """Limits the speed to what so few events allow."""
    top = policy.top_speed * rho / window_us
    if motion.speed > top:
        share = top / motion.speed
        motion.velocity = (motion.velocity[0] * share, motion.velocity[1] * share)


def correct(
    motion: Motion,
    read_cxcywh: tuple[float, float, float, float],
    rho: float,
    passed: float,
    window_us: float,
    policy: MotionPolicy,
) -> None:
    """Takes a reading in, `passed` windows after the one before."""
    size, age = motion.size, policy.read_age * window_us
    rho = max(rho, 1e-3)
    trust = rho / (rho + policy.repeat_place)
    off = [
        (read - c + age * v) / size for read, c, v in zip(read_cxcywh[:2], motion.centre, motion.velocity, strict=True)
    ]
    level, rate, motion.place_cov = _gains(
        motion.place_cov, trust, policy.read_age, policy.place_noise, off, policy.surprise
    )
    motion.centre = (motion.centre[0] + level * off[0] * size, motion.centre[1] + level * off[1] * size)
    gain = rate * size / window_us
    motion.velocity = (motion.velocity[0] + gain * off[0], motion.velocity[1] + gain * off[1])
    rate = 1 - math.exp(-passed / policy.size_windows)
    w, h = (side + rate * (math.log(read) - side) for side, read in zip(motion.log_sides, read_cxcywh[2:], strict=True))
    motion.log_sides = (w, h)


def limit(motion: Motion, before: Motion, most: float, passed_us: float) -> None:
    """Keeps a step from what was before within `most`, in sizes, and growth within as many logarithmic units.

    What is known to move may go on, at up to twice its speed; what is not is slowed down with its step.

    An outline that moves by a size, or grows by a factor of e, sweeps an area of two boxes, and makes events there.
    """
    going = 2 * before.speed * passed_us
    allowed = max(most, going)
    step = before.away((*motion.centre, 0.0, 0.0))
    if step > allowed:
        share = allowed / step
        x, y = (old + share * (new - old) for old, new in zip(before.centre, motion.centre, strict=True))
        motion.centre = (x, y)
        if going < most:
            motion.velocity = (share * motion.velocity[0], share * motion.velocity[1])
    sides = zip(before.log_sides, motion.log_sides, strict=True)
    w, h = (old + min(max(new - old, -allowed), allowed) for old, new in sides)
    motion.log_sides = (w, h)


def _gains(
    cov: _Cov, trust: float, age: float, noise: float, off: list[float], surprise: float
) -> tuple[float, float, _Cov]:
    """Kalman gains of level and rate for a reading of `trust * (level - age * rate)`, and the variances after it."""
    level, both, rate = cov
    spread = level - 2 * age * both + age**2 * rate + (noise / trust) ** 2
    wonder = (off[0] ** 2 + off[1] ** 2) / (2 * surprise * spread)
    if wonder > 1:
        level, both, rate = level * wonder, both * wonder, rate * wonder
        spread = level - 2 * age * both + age**2 * rate + (noise / trust) ** 2
    a, b = level - age * both, both - age * rate
    return a / spread, b / spread, (level - a * a / spread, both - a * b / spread, rate - b * b / spread)
