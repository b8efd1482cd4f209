"""A budget of looks: a slow machine looks more rarely, and nothing queues up."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.checkpoint import load_student
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import InputError
from had_snn.evaluate.one_pass import run_on_clock
from had_snn.events.stream import EventStream
from had_snn.tracking import OnlineTracker
from had_snn.tracking.budget import measured_budget_us

SENSOR = (180, 240)


@pytest.fixture(scope="module")
def student():
    return load_student("tiny")


def fast_outline() -> TrackingSequence:
    """A square outline that moves at ten sizes a second and makes 200,000 events a second: short windows."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.uniform(0, 0.5, 100_000))
    side, along = rng.integers(0, 4, len(t)), rng.uniform(-15, 15, len(t))
    edge = np.where(side % 2, 15.0, -15.0)
    x = 50 + 250 * t + np.where(side < 2, along, edge)
    y = 90 + np.where(side < 2, edge, along)
    columns = (1e6 * t).astype(np.int64), x.astype(int), y.astype(int), rng.integers(0, 2, len(t))
    times = np.arange(100_000, 480_001, 20_000)
    boxes = np.stack([35 + 250e-6 * times, np.full(len(times), 75.0), *np.full((2, len(times)), 30.0)], axis=1)
    return TrackingSequence(
        name="outline",
        events=EventStream.from_arrays(*columns, SENSOR),
        label_times_us=times,
        boxes_xywh=boxes,
        visible=np.ones(len(times), bool),
        frames=None,
        frame_times_us=None,
    )


def test_a_budget_spaces_looks(student):
    sequence, looks = fast_outline(), []
    for budget_us in (0.0, 5_000.0, 20_000.0):
        tracker = OnlineTracker(student, budget_us=budget_us)
        tracker.init(sequence.events.slice_time(0, 100_000), sequence.boxes_xywh[0], t_us=100_000)
        tracker.update(sequence.events.slice_time(100_000, 480_000), at_us=[480_000])
        looks.append(tracker.looks)
    assert looks[0] > 76 >= looks[1] > 19 >= looks[2] > 10


@pytest.mark.parametrize("latency_us", [1_000, 10_000])
def test_nothing_queues_up_on_the_clock(student, latency_us):
    sequence = fast_outline()
    result = run_on_clock(OnlineTracker(student, budget_us=latency_us), sequence, latency_us=latency_us)
    late = result.finish_us - result.times_us
    assert late[1:].max() <= 2 * latency_us
    # Boxes between looks are predicted: they cost nothing, and there is one each time the tracker rests.
    assert np.diff(result.times_us).max() <= max(1_000, 2 * latency_us)
    assert np.abs(result.boxes_xywh[-1] - sequence.boxes_xywh[-1]).max() < 15


def test_a_measured_budget_is_a_time(student):
    budget_us = measured_budget_us(OnlineTracker(student).network, events=500, repeats=3)
    assert 50 < budget_us < 2e6
    with pytest.raises(InputError, match="events=0"):
        measured_budget_us(OnlineTracker(student).network, events=0)
    with pytest.raises(InputError, match="budget_us=-1"):
        OnlineTracker(student, budget_us=-1)


def test_a_long_time_without_a_look_is_no_sign_that_the_target_is_gone(student):
    """A still target among as many events as it makes itself: windows of a millisecond, looks 40 ms apart."""
    rng, height, width, until_us = np.random.default_rng(1), 60, 60, 300_000
    t = np.sort(rng.integers(0, until_us, 540_000))  # 500 events a pixel and second
    columns = rng.integers(0, width, len(t)), rng.integers(0, height, len(t)), rng.integers(0, 2, len(t))
    events = EventStream.from_arrays(t, *columns, (height, width))
    tracker = OnlineTracker(student, budget_us=40_000.0)
    tracker.init(events.slice_time(0, 100_000), [20.0, 20.0, 20.0, 20.0], t_us=100_000)
    tracker.update(events.slice_time(100_000, until_us), at_us=[until_us - 1])
    assert tracker.state.n < -12  # an eighth of the nominal window at most
    assert tracker.state.seen_us == tracker.state.look_us
