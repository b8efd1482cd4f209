"""Real recordings with boxes, defaults, the shipped student: how well, and that their speed does not matter."""

from __future__ import annotations

import csv
import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest

from had_snn.checkpoint import load_student
from had_snn.evaluate.protocols import box_overlap
from had_snn.events.stream import EventStream
from had_snn.recordings.readers import read_events
from had_snn.tracking import Estimate, OnlineTracker, TrackingPolicy
from had_snn.tracking.policy import WindowPolicy

#: File of boxes, object in it, recording.
DESK, CARS = "eTLD_monitor_initial_boxes.csv", "davis346_cars_boxes.csv"
TARGETS = {
    "head": (DESK, "HEAD", "monitor_initial.txt"),
    "monitor": (DESK, "MONITOR", "monitor_initial.txt"),
    "cup": (DESK, "CUP", "monitor_initial.txt"),
    "books": (DESK, "BOOKS", "monitor_initial.txt"),
    "drone": (DESK, "DRONE", "monitor_initial.txt"),
    "mat car": ("example_data_car_boxes.csv", None, "example_data.mat"),
    "near car": (CARS, "car_near", "event-vision-library/**/sample.aedat4"),
    "far car": (CARS, "car_far", "event-vision-library/**/sample.aedat4"),
    "ball": ("thrown_ball_boxes.csv", None, "DVS_Avoidance/*.aedat4"),
}
SLOWER = (16, 4, 0.25, 1 / 16, 1 / 64)


@functools.cache
def recording(folder: Path, pattern: str) -> EventStream:
    return read_events(sorted(folder.rglob(pattern))[0], origin=1 if pattern.endswith(".mat") else None)


def target(real_data: Path, name: str) -> tuple[EventStream, np.ndarray, np.ndarray]:
    """Events, label times `[L]` in microseconds and boxes `[L, 4]`."""
    file, wanted, pattern = TARGETS[name]
    lines = [line for line in (real_data / "gt" / file).read_text().splitlines() if not line.startswith("#")]
    rows = [row for row in csv.DictReader(lines) if wanted is None or row["object"] == wanted]
    times = np.array([int(row["t_us"]) for row in rows])
    return recording(real_data, pattern), times, np.array([[float(row[k]) for k in "xywh"] for row in rows])


@functools.cache
def student():
    return load_student("tiny")


def follow(
    events: EventStream, times: np.ndarray, box: np.ndarray, *, slower: float = 1.0, **options
) -> tuple[list[Estimate], OnlineTracker]:
    def scaled(t_us):
        return (np.asarray(t_us) * slower).astype(np.int64)

    played, at_us = dataclasses.replace(events, t=scaled(events.t)), scaled(times).tolist()
    policy = TrackingPolicy(window=WindowPolicy(limits_us=(500 * slower, 200_000 * slower)))
    tracker = OnlineTracker(student(), policy=policy, **options)
    tracker.init(played.slice_time(at_us[0] - tracker.context_us, at_us[0]), box, t_us=at_us[0])
    return tracker.update(played.slice_time(at_us[0], at_us[-1]), at_us=at_us[1:]), tracker


def test_real_targets_are_followed(real_data):
    found = {}
    for name in TARGETS:
        events, times, boxes = target(real_data, name)
        estimates, _ = follow(events, times, boxes[0])
        found[name] = float(box_overlap(np.stack([e.box_xywh for e in estimates]), boxes[1:]).mean())
    assert np.mean(list(found.values())) >= 0.74, found
    assert found["ball"] >= 0.75, found
    assert min(found.values()) >= 0.5, found


@pytest.mark.parametrize("name", TARGETS)
def test_speed_changes_no_bit(real_data, name):
    events, times, boxes = target(real_data, name)
    events, times = dataclasses.replace(events, t=events.t // 64 * 64), times // 64 * 64
    for backend, speeds in (("spikes", SLOWER), ("dense", (SLOWER[0], SLOWER[-1]))):
        plain, tracker = follow(events, times, boxes[0], backend=backend)
        for slower in speeds:
            other, played = follow(events, times, boxes[0], slower=slower, backend=backend)
            assert played.looks == tracker.looks
            assert played.state.look_us == tracker.state.look_us * slower
            for a, b in zip(plain, other, strict=True):
                np.testing.assert_array_equal(a.box_xywh, b.box_xywh)
                assert (a.score, a.lost, a.window_us * slower) == (b.score, b.lost, b.window_us)


@pytest.mark.parametrize("name", TARGETS)
def test_speed_moves_no_box_with_carried_membranes(real_data, name):
    events, times, boxes = target(real_data, name)
    events, times = dataclasses.replace(events, t=events.t // 64 * 64), times // 64 * 64
    plain, _ = follow(events, times, boxes[0], carry=True)
    for slower in SLOWER:
        other, _ = follow(events, times, boxes[0], slower=slower, carry=True)
        for a, b in zip(plain, other, strict=True):
            np.testing.assert_allclose(a.box_xywh, b.box_xywh, atol=1e-3)
            assert a.lost == b.lost
