"""The online tracker: chunks do not matter, silence holds the box, bad input is refused by name."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from had_snn.errors import InputError
from had_snn.events.stream import EventStream
from had_snn.models import student_tiny
from had_snn.tracker import MIN_EVENTS, OnlineTracker

BOX = np.array([100.0, 60.0, 40.0, 30.0])
SENSOR = (180, 240)


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    return student_tiny()


def blob_events(t0: int, t1: int, *, rate: int = 60_000, seed: int = 0) -> EventStream:
    """Events on a drifting blob and some noise."""
    rng = np.random.default_rng(seed)
    count = rate * (t1 - t0) // 1_000_000
    t = np.sort(rng.integers(t0, t1, count))
    x = np.clip(rng.normal(120 + (t - t0) * 5e-5, 12), 0, 239).astype(int)
    y = np.clip(rng.normal(75, 9, count), 0, 179).astype(int)
    return EventStream.from_arrays(t, x, y, rng.integers(0, 2, count), SENSOR)


def run(student, events: EventStream, cuts: list[int], **options):
    tracker = OnlineTracker(student, output_period_us=10_000, **options)
    tracker.init(events.slice_time(0, 50_000), BOX, t_us=50_000)
    rest = events.slice_time(50_000, events.t_end)
    edges = [0, *cuts, len(rest)]
    found = []
    for low, high in itertools.pairwise(edges):
        found += tracker.update(rest.slice_index(low, high))
    return found


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_boxes_do_not_depend_on_how_events_are_cut(student, chunk):
    events = blob_events(0, 130_000, rate=20_000)
    whole = run(student, events, [])
    count = len(events.slice_time(50_000, events.t_end))
    pieces = run(student, events, list(range(chunk, count, chunk)))
    assert [e.t_us for e in whole] == list(range(60_000, 130_000, 10_000))
    assert [e.t_us for e in pieces] == [e.t_us for e in whole]
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(a.box_xywh, b.box_xywh)
        assert a.score == b.score


def test_asked_times_are_answered_in_order(student):
    tracker = OnlineTracker(student)
    tracker.init(blob_events(0, 50_000), BOX, t_us=50_000)
    found = tracker.update(blob_events(50_000, 100_000, seed=1), at_us=[60_000, 61_000, 100_000])
    assert [e.t_us for e in found] == [60_000, 61_000, 100_000]
    assert all(np.isfinite(e.box_xywh).all() and 0 <= e.score <= 1 for e in found)


def test_silence_holds_the_box_while_the_score_decays(student):
    tracker = OnlineTracker(student)
    tracker.init(blob_events(0, 50_000), BOX, t_us=50_000)
    found = tracker.update(EventStream.empty(SENSOR), at_us=range(200_000, 400_000, 20_000))
    assert all((e.box_xywh == BOX).all() for e in found)
    scores = [e.score for e in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0.5


def test_without_events_before_the_box_the_template_is_read_after_it(student):
    tracker = OnlineTracker(student)
    tracker.init(EventStream.empty(SENSOR), BOX, t_us=50_000)
    assert tracker.state.kernel is None
    held = tracker.update(blob_events(50_000, 80_000), at_us=[80_000])
    assert tracker.state.kernel is None
    np.testing.assert_array_equal(held[0].box_xywh, BOX)
    tracker.update(blob_events(80_000, 100_000), at_us=[100_000])
    assert tracker.state.kernel is not None


def test_memory_does_not_grow_with_the_recording(student):
    tracker = OnlineTracker(student)
    tracker.init(blob_events(0, 50_000), BOX, t_us=50_000)
    for k in range(5):
        start = 50_000 + k * 100_000
        tracker.update(blob_events(start, start + 100_000, seed=k), at_us=[start + 100_000])
    assert len(tracker.state.buffer.stream) < 60_000 * 0.05
    assert len(tracker.state.buffer.stream) > MIN_EVENTS


def test_illegal_input_is_named(student):
    tracker = OnlineTracker(student)
    with pytest.raises(InputError, match=r"before init"):
        tracker.update(EventStream.empty(SENSOR))
    with pytest.raises(InputError, match="outside the 240x180 sensor"):
        tracker.init(EventStream.empty(SENSOR), [300, 10, 20, 20], t_us=0)
    tracker.init(blob_events(0, 50_000), BOX, t_us=50_000)
    with pytest.raises(InputError, match="before the last event"):
        tracker.update(blob_events(0, 10_000))
    with pytest.raises(InputError, match="sensor"):
        tracker.update(EventStream.empty((260, 346)))
