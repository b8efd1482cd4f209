"""Paths: inside their walls, no faster than allowed, still where they stop."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.simulator.motion import bounce, stop_gate, wander

LOW, HIGH = np.array([20.0, 15.0]), np.array([220.0, 160.0])
STOPS = [(0.3, 0.6), (1.2, 1.4)]


def speeds(path: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    return np.hypot(*(np.diff(path, axis=0) / np.diff(times_s)[:, None]).T)


@pytest.mark.parametrize("law", [wander, bounce])
@pytest.mark.parametrize(("speed", "limit"), [(40.0, 400.0), (300.0, 400.0), (3000.0, 5000.0)])
def test_paths_keep_to_walls_limits_and_stops(law, speed: float, limit: float):
    times_s = np.arange(0, 2.0, 2e-4)
    fastest = 0.0
    for seed in range(6):
        path = law(np.random.default_rng(seed), times_s, low=LOW, high=HIGH, speed=speed, stops=STOPS, limit=limit)
        assert path.shape == (len(times_s), 2)
        assert (path > LOW - 12).all()  # walls of wandering are soft
        assert (path < HIGH + 12).all()
        found = speeds(path, times_s)
        assert found.max() < 1.06 * limit  # cubic interpolation may overshoot
        fastest = max(fastest, found.max())
        for start, end in STOPS:
            assert found[(times_s[:-1] > start + 0.006) & (times_s[:-1] < end - 0.006)].max() < 1e-6
        assert np.ptp(path, axis=0).min() > 3
    assert fastest > 0.8 * speed


def test_a_gate_is_smooth_and_closed_inside():
    times_s = np.linspace(0, 2, 4001)
    gate = stop_gate(times_s, STOPS)
    assert gate[(times_s >= 0.3) & (times_s <= 0.6)].max() == 0
    assert gate[np.abs(times_s - 0.9) < 0.1].min() == 1
    assert np.abs(np.diff(gate)).max() < 0.02
