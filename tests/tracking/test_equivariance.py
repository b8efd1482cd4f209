"""A recording played 2^m times faster is followed alike: boxes, scores, lost flags and looks agree to the last bit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest

from had_snn.checkpoint import load_student
from had_snn.data.steady import steady_sequence
from had_snn.events.stream import EventStream
from had_snn.tracking import OnlineTracker, TrackingPolicy
from had_snn.tracking.policy import WindowPolicy

SENSOR = (180, 240)
SLOWER = [16, 4, 0.25, 1 / 16, 1 / 64]
BOX = np.array([85.0, 75.0, 30.0, 30.0])


@dataclass(frozen=True)
class Played:
    """Events, when boxes are asked for, and the box given at the first of these times, on a grid of 64 us."""

    events: EventStream
    times_us: np.ndarray
    box_xywh: np.ndarray


@pytest.fixture(scope="module")
def student():
    return load_student("tiny")


def simulated() -> Played:
    """A target of the simulator that runs along a circle at 8 sizes a second."""
    made = steady_sequence(2, 8.0, seconds=0.5, label_hz=100)
    events = dataclasses.replace(made.events, t=made.events.t // 64 * 64)
    return Played(events, made.label_times_us[9:] // 64 * 64, made.boxes_xywh[9])


def outlined() -> Played:
    """The outline of `outline`."""
    return Played(outline(), np.arange(102_400, 486_400, 12_800), BOX)


def outline(*, seed: int = 0) -> EventStream:
    """A square outline that speeds up across noise, on a grid of 64 us."""
    rng = np.random.default_rng(seed)
    t = 0.5 * np.sqrt(np.sort(rng.uniform(0.01, 1, 25_000)))  # ever more events a second
    side, along = rng.integers(0, 4, len(t)), rng.uniform(-15, 15, len(t))
    edge = np.where(side % 2, 15.0, -15.0)
    x = 100 + 60 * np.maximum(0, t - 0.1) ** 2 * 4 + np.where(side < 2, along, edge)
    y = 90 + 10 * np.sin(6 * t) + np.where(side < 2, edge, along)
    noisy = rng.random(len(t)) < 0.1
    x, y = np.where(noisy, rng.uniform(0, 240, len(t)), x), np.where(noisy, rng.uniform(0, 180, len(t)), y)
    whole = (1e6 * t).astype(np.int64) // 64 * 64
    return EventStream.from_arrays(whole, x.astype(int), y.astype(int), rng.integers(0, 2, len(t)), SENSOR)


def follow(student, recording: Played, slower: float, **options):
    def scaled(t_us):
        return (np.asarray(t_us) * slower).astype(np.int64)

    played = dataclasses.replace(recording.events, t=scaled(recording.events.t))
    policy = TrackingPolicy(window=WindowPolicy(limits_us=(500 * slower, 200_000 * slower)))
    tracker = OnlineTracker(student, policy=policy, **options)
    start, *at_us = scaled(recording.times_us).tolist()
    tracker.init(played.slice_time(0, start), recording.box_xywh, t_us=start)
    return tracker.update(played.slice_time(start, played.t_end), at_us=at_us), tracker


@pytest.mark.parametrize("backend", ["dense", "spikes"])
@pytest.mark.parametrize("make", [outlined, simulated])
def test_speed_changes_no_bit_from_rest(student, make, backend):
    recording = make()
    plain, tracker = follow(student, recording, 1, backend=backend)
    assert tracker.looks > 10
    assert len({e.window_us for e in plain}) > 1
    assert not any(e.lost for e in plain)
    for slower in SLOWER:
        other, played = follow(student, recording, slower, backend=backend)
        assert played.looks == tracker.looks, slower
        assert played.state.look_us == tracker.state.look_us * slower
        assert played.state.template_n - tracker.state.template_n == 4 * np.log2(slower)
        for a, b in zip(plain, other, strict=True):
            np.testing.assert_array_equal(a.box_xywh, b.box_xywh, err_msg=f"{slower} times as long")
            assert (a.score, a.lost, a.window_us * slower) == (b.score, b.lost, b.window_us)


@pytest.mark.parametrize("make", [outlined, simulated])
def test_speed_moves_no_box_with_carried_membranes(student, make):
    recording = make()
    plain = follow(student, recording, 1, carry=True)[0]
    for slower in SLOWER:
        for a, b in zip(plain, follow(student, recording, slower, carry=True)[0], strict=True):
            np.testing.assert_allclose(a.box_xywh, b.box_xywh, atol=1e-3, err_msg=f"{slower} times as long")
            assert a.lost == b.lost


def test_asking_more_often_changes_no_box(student):
    events, found = outline(), []
    for period_us in (1_000, 8_000, 40_000):
        tracker = OnlineTracker(student, output_period_us=period_us)
        tracker.init(events.slice_time(0, 102_400), BOX, t_us=102_400)
        found.append({e.t_us: e for e in tracker.update(events.slice_time(102_400, events.t_end))})
    for often in found[:-1]:
        for t_us, e in found[-1].items():
            np.testing.assert_array_equal(often[t_us].box_xywh, e.box_xywh)
            assert often[t_us].score == e.score
