"""The online tracker: chunks do not matter, state can be saved, bad input is refused by name."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from had_snn.checkpoint import load_student
from had_snn.errors import CheckpointError, InputError
from had_snn.events.stream import EventStream
from had_snn.models import student_tiny
from had_snn.tracking import OnlineTracker, TrackingPolicy
from had_snn.tracking.window import MIN_EVENTS

BOX = np.array([100.0, 60.0, 40.0, 30.0])
SENSOR = (180, 240)
MODES = pytest.mark.parametrize("carry", [False, True], ids=["from_rest", "carried"])


@pytest.fixture(scope="module")
def student():
    return load_student("tiny")


def blob_events(t0: int, t1: int, *, rate: int = 60_000, seed: int = 0) -> EventStream:
    """Events on a drifting blob and some noise."""
    rng = np.random.default_rng(seed)
    count = rate * (t1 - t0) // 1_000_000
    t = np.sort(rng.integers(t0, t1, count))
    x = np.clip(rng.normal(120 + (t - t0) * 2e-4, 12), 0, 239).astype(int)
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


def assert_same(ours, theirs):
    assert [e.t_us for e in ours] == [e.t_us for e in theirs]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.box_xywh, b.box_xywh)
        assert (a.score, a.lost) == (b.score, b.lost)


@MODES
@pytest.mark.parametrize("chunk", [1, 7, 1000, "1 ms"])
def test_boxes_do_not_depend_on_how_events_are_cut(student, chunk, carry):
    events = blob_events(0, 130_000, rate=20_000)
    rest = events.slice_time(50_000, events.t_end)
    if chunk == "1 ms":
        cuts = np.searchsorted(rest.t, np.arange(51_000, 130_000, 1000)).tolist()
    else:
        cuts = list(range(chunk, len(rest), chunk))
    whole = run(student, events, [], carry=carry)
    assert [e.t_us for e in whole] == list(range(60_000, 130_000, 10_000))
    assert not (whole[-1].box_xywh == BOX).all()
    assert_same(run(student, events, cuts, carry=carry), whole)


@MODES
@pytest.mark.parametrize("period_us", [1_000, 5_000, 40_000, 100_000])
def test_boxes_at_any_rate(student, period_us, carry):
    tracker = OnlineTracker(student, output_period_us=period_us, carry=carry)
    events = blob_events(0, 50_000 + max(12 * period_us, 60_000))
    tracker.init(events.slice_time(0, 50_000), BOX, t_us=50_000)
    found = tracker.update(events.slice_time(50_000, events.t_end))
    assert np.diff([e.t_us for e in found]).tolist() == [period_us] * (len(found) - 1)
    assert len(found) >= 11
    assert all(np.isfinite(e.box_xywh).all() and 0 < e.score <= 1 for e in found)
    looked = [e.activity for e in found if e.activity is not None]
    assert looked
    assert all(a.shape == (48,) and 0 <= a.min() <= a.max() <= 1 for a in looked)


def test_carried_state_is_read_where_it_helps(student):
    """The first output reads a window from rest in both modes; later ones differ, and the crop keeps to its grid."""
    events = blob_events(0, 200_000)
    rest, carried = run(student, events, []), run(student, events, [], carry=True)
    np.testing.assert_array_equal(rest[0].box_xywh, carried[0].box_xywh)
    assert any((a.box_xywh != b.box_xywh).any() for a, b in zip(rest, carried, strict=True))
    tracker = OnlineTracker(student, output_period_us=10_000, carry=True)
    tracker.init(events.slice_time(0, 50_000), BOX, t_us=50_000)
    crops = []
    for t in range(50_000, 190_000, 10_000):
        tracker.update(events.slice_time(t, t + 10_000), at_us=[t + 10_000])
        if tracker.state.carried is not None:
            crops.append(tracker.state.carried.crop)
    moves = 0
    for a, b in itertools.pairwise(crops):
        if a.scale == b.scale:
            cells = np.array([b.x0 - a.x0, b.y0 - a.y0]) * a.scale / 8
            np.testing.assert_allclose(cells, cells.round(), atol=1e-9)
            moves += bool(cells.round().any())
    assert moves > 0


@MODES
def test_state_goes_on_from_a_file(student, tmp_path, carry):
    events = blob_events(0, 150_000)
    first = OnlineTracker(student, output_period_us=5_000, carry=carry)
    first.init(events.slice_time(0, 50_000), BOX, t_us=50_000)
    first.update(events.slice_time(50_000, 97_500))
    first.save(tmp_path / "state.safetensors")
    went_on = first.update(events.slice_time(97_500, 150_000))
    second = OnlineTracker(student, output_period_us=5_000, carry=carry)
    second.load(tmp_path / "state.safetensors")
    assert_same(second.update(events.slice_time(97_500, 150_000)), went_on)
    assert len(went_on) == 10


def test_states_of_other_trackers_are_refused(student, tmp_path):
    path = tmp_path / "state.safetensors"
    tracker = OnlineTracker(student)
    with pytest.raises(InputError, match="before init"):
        tracker.save(path)
    tracker.init(EventStream.empty(SENSOR), BOX, t_us=50_000)
    tracker.save(path)
    with pytest.raises(InputError, match=r"another tracker: carry False \(here True\)"):
        OnlineTracker(student, carry=True).load(path)
    with pytest.raises(InputError, match="student"):
        OnlineTracker(student_tiny(match_kernel=3)).load(path)
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        tracker.load(tmp_path / "nothing.safetensors")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        tracker.load(path)


def test_asked_times_are_answered_in_order(student):
    tracker = OnlineTracker(student)
    tracker.init(blob_events(0, 50_000), BOX, t_us=50_000)
    found = tracker.update(blob_events(50_000, 100_000, seed=1), at_us=[60_000, 61_000, 100_000])
    assert [e.t_us for e in found] == [60_000, 61_000, 100_000]
    assert all(np.isfinite(e.box_xywh).all() and 0 <= e.score <= 1 for e in found)


def test_without_events_before_the_box_the_template_is_read_after_it(student):
    tracker = OnlineTracker(student)
    tracker.init(EventStream.empty(SENSOR), BOX, t_us=50_000)
    assert tracker.state.kernel is None
    held = tracker.update(blob_events(50_000, 80_000), at_us=[80_000])
    assert tracker.state.kernel is None
    np.testing.assert_allclose(held[0].box_xywh, BOX, rtol=1e-12)
    tracker.update(blob_events(80_000, 100_000), at_us=[100_000])
    assert tracker.state.kernel is not None


@MODES
def test_a_template_from_part_of_a_window_is_read_anew_from_a_whole_one(student, carry, tmp_path):
    events = blob_events(0, 130_000)
    tracker = OnlineTracker(student, carry=carry)
    tracker.init(events.slice_time(0, 10_000), BOX, t_us=10_000)
    partial, n = tracker.state.kernel.clone(), tracker.state.template_n
    due_us = tracker.state.template_due_us
    assert due_us == events.t_start + int(np.ceil(tracker.rule.length(n + 1))) > 10_000
    tracker.save(tmp_path / "state.safetensors")
    whole = []
    for at_us in ([due_us, 60_000, 90_000], [90_000]):  # whenever the next box is asked for
        tracker.load(tmp_path / "state.safetensors")
        tracker.update(events.slice_time(10_000, 90_000), at_us=at_us)
        assert tracker.state.template_due_us is None
        assert tracker.state.template_n > n
        whole.append(tracker.state.kernel.clone())
    assert torch.equal(*whole)
    assert not torch.equal(whole[0], partial)
    tracker.update(events.slice_time(90_000, 130_000), at_us=[130_000])
    assert torch.equal(tracker.state.kernel, whole[0])


def test_a_template_from_a_whole_window_stays(student):
    events = blob_events(0, 130_000)
    tracker = OnlineTracker(student)
    tracker.init(events.slice_time(0, 40_000), BOX, t_us=40_000)
    kernel = tracker.state.kernel.clone()
    tracker.update(events.slice_time(40_000, 130_000), at_us=[60_000, 130_000])
    assert torch.equal(tracker.state.kernel, kernel)


def test_memory_does_not_grow_with_the_recording(student):
    tracker = OnlineTracker(student)
    tracker.init(blob_events(0, 50_000), BOX, t_us=50_000)
    for k in range(5):
        start = 50_000 + k * 100_000
        tracker.update(blob_events(start, start + 100_000, seed=k), at_us=[start + 100_000])
    kept = tracker.state.buffer.joined()
    assert MIN_EVENTS < len(kept) < 60_000 * 0.4


def test_illegal_input_is_named(student):
    tracker = OnlineTracker(student)
    with pytest.raises(InputError, match=r"before init"):
        tracker.update(EventStream.empty(SENSOR))
    for box, says in (
        ([300, 10, 20, 20], "outside the 240x180 sensor"),
        ([10, 10, 0.5, 20], "1 pixel to twice"),
        ([10, 10, 1e300, 1e300], "1 pixel to twice"),
        ([10, 10, float("nan"), 20], "four numbers"),
    ):
        with pytest.raises(InputError, match=says):
            tracker.init(EventStream.empty(SENSOR), box, t_us=0)
    tracker.init(blob_events(0, 50_000), BOX, t_us=50_000)
    with pytest.raises(InputError, match="before the last event"):
        tracker.update(blob_events(0, 10_000))
    with pytest.raises(InputError, match="sensor"):
        tracker.update(EventStream.empty((260, 346)))
    with pytest.raises(InputError, match="expected an EventStream, found ndarray"):
        tracker.update(np.zeros((5, 4)))
    for times, says in (
        ([50_000], "times must increase"),
        ([70_000, 70_000], "after one at 70000"),
        ([60_000.5], "whole microseconds"),
        ([True], "whole microseconds"),
    ):
        with pytest.raises(InputError, match=says):
            tracker.update(EventStream.empty(SENSOR), at_us=times)
    # What was refused left nothing behind.
    assert [e.t_us for e in tracker.update(blob_events(50_000, 91_000))] == [90_000]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lost_share": 1.5}, "lost_share=1.5"),
        ({"look_share": 0}, "look_share=0"),
        ({"size_limits": (2, 8)}, "low <= 1 <= high"),
        ({"silence_windows": float("nan")}, "silence_windows=nan"),
        ({"lost_widening": 0.5}, "lost_widening"),
        ({"max_events": 0}, "max_events=0"),
    ],
)
def test_illegal_policies_are_named(options, says):
    with pytest.raises(InputError, match=says):
        TrackingPolicy(**options)
    with pytest.raises(InputError, match="output_period_us=-1"):
        OnlineTracker(student_tiny(), output_period_us=-1)
