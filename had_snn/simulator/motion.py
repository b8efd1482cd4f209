"""How things move: smooth random paths, stops, turns, zoom and shaking hands."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

_TICK_S = 0.005  # paths are integrated on this grid, or a finer one for fast things, and interpolated smoothly between
_EASE_S, _MEMORY_S = 0.06, 0.35  # how long a stop takes, and time over which a wandering thing forgets its direction
_TICK_PX = 4.0  # a path moves no further than this within a tick


def smooth_noise(rng: Generator, times_s: np.ndarray, *, scale_s: float) -> np.ndarray:
    """A smooth random function of time with mean 0 and deviation about 1.

    Args:
        rng: Source of randomness.
        times_s: Instants `[N]` in seconds.
        scale_s: Time over which it forgets its value.
    """
    count = 6
    rate = rng.uniform(0.15, 1.0, count) / scale_s
    phase = rng.uniform(0, 2 * np.pi, count)
    return np.sqrt(2.0 / count) * np.sin(rate[:, None] * times_s * np.pi + phase[:, None]).sum(0)


def _resample(path: np.ndarray, ticks_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Cubic Hermite interpolation of `[M, D]` on an even grid at `times_s`."""
    slope = np.gradient(path, axis=0)
    position = np.clip(times_s / (ticks_s[1] - ticks_s[0]), 0, len(path) - 1.001)
    i = position.astype(int)
    f = (position - i)[:, None]
    p0, p1, m0, m1 = path[i], path[i + 1], slope[i], slope[i + 1]
    return (1 + 2 * f) * (1 - f) ** 2 * p0 + f * (1 - f) ** 2 * m0 + f * f * (3 - 2 * f) * p1 + f * f * (f - 1) * m1


def stop_gate(times_s: np.ndarray, stops: list[tuple[float, float]]) -> np.ndarray:
    """Factor on speed `[N]`: 0 inside the given intervals (start, end in seconds), 1 outside, smooth between."""
    gate = np.ones_like(times_s)
    for start, end in stops:
        outside = np.maximum(np.maximum(start - times_s, times_s - end), 0) / _EASE_S
        gate *= np.clip(outside, 0, 1) ** 2 * (3 - 2 * np.clip(outside, 0, 1))
    return gate


def wander(
    rng: Generator,
    times_s: np.ndarray,
    *,
    low: np.ndarray,
    high: np.ndarray,
    speed: float,
    stops: list[tuple[float, float]] | None = None,
    limit: float = np.inf,
) -> np.ndarray:
    """A path by Ornstein-Uhlenbeck velocity inside a rectangle with soft walls.

    Args:
        rng: Source of randomness.
        times_s: Instants `[N]` in seconds, from 0.
        low: Left and top of the rectangle, `[2]`.
        high: Right and bottom, `[2]`.
        speed: Root mean square speed in pixels a second.
        stops: Intervals in seconds during which it stands still.
        limit: Highest speed in pixels a second; three times `speed` at most.

    Returns:
        Positions `[N, 2]`.
    """
    limit = min(limit, 3 * speed)
    tick = min(_TICK_S, _TICK_PX / limit)
    ticks = np.arange(0, times_s[-1] + 2 * tick, tick)
    gate = stop_gate(ticks, stops or [])
    room = np.maximum(high - low, 1.0)
    position = low + rng.random(2) * room
    heading = rng.uniform(0, 2 * np.pi)
    velocity = speed * np.array([np.cos(heading), np.sin(heading)])
    kicks = rng.standard_normal((len(ticks), 2)) * speed * np.sqrt(tick / _MEMORY_S)
    wall = np.minimum(0.18 * room, 30.0)
    path = np.empty((len(ticks), 2))
    for i in range(len(ticks)):
        path[i] = position
        # Near a wall the velocity is turned inward; a faster thing turns harder, so that all of them stay inside.
        depth = np.clip((low + wall - position) / wall, 0, 2) - np.clip((position - high + wall) / wall, 0, 2)
        push = depth * (speed**2 / wall + 4 * np.abs(velocity) * speed / wall)
        velocity = velocity * (1 - tick / _MEMORY_S) + kicks[i] + push * tick
        velocity *= min(1.0, limit / max(float(np.hypot(*velocity)), 1e-9))
        position = position + gate[i] * velocity * tick
    return _resample(path, ticks, times_s)


def bounce(
    rng: Generator,
    times_s: np.ndarray,
    *,
    low: np.ndarray,
    high: np.ndarray,
    speed: float,
    stops: list[tuple[float, float]] | None = None,
    limit: float = np.inf,
) -> np.ndarray:
    """A straight line that swings from side to side and is thrown back by walls: a motion law for held-out tests.

    Arguments and result are those of `wander`, but for `speed`, which is along the line, and `limit`, to which line and
    swing are slowed down together.
    """
    room = np.maximum(high - low, 1.0)
    heading = rng.uniform(0, 2 * np.pi)
    reach, rate = 0.5 * rng.uniform(0.1, 0.5, 2) * room, 2 * np.pi / rng.uniform(0.6, 1.8, 2)
    pace = min(1.0, limit / (speed + float(np.hypot(*(reach * rate)))))
    gate = stop_gate(times_s, stops or [])
    moved = np.concatenate([[0.0], np.cumsum(0.5 * (gate[1:] + gate[:-1]) * np.diff(times_s))])[:, None]
    along = speed * moved * np.array([np.cos(heading), np.sin(heading)])
    straight = rng.random(2) * room + pace * along + reach * np.sin(pace * rate * moved)
    folded = np.mod(straight, 2 * room)
    return low + np.where(folded > room, 2 * room - folded, folded)


def turned(angle: np.ndarray, scale: np.ndarray, squash: np.ndarray | float = 1.0) -> np.ndarray:
    """Matrices `[N, 2, 2]` that squash along the own x axis, then rotate by `angle` and scale."""
    squash = np.broadcast_to(squash, angle.shape)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack(
        [
            np.stack([scale * c * squash, -scale * s / squash], -1),
            np.stack([scale * s * squash, scale * c / squash], -1),
        ],
        -2,
    )
