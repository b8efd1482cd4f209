"""Trackers without training: what they follow, what they refuse, and the order of their scores."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest

from had_snn.errors import InputError, MissingExtraError
from had_snn.evaluate.baselines import MeanShiftTracker, OpenCVTracker, StaticTracker
from had_snn.evaluate.one_pass import evaluate_tracker, run_one_pass
from had_snn.events.stream import EventStream

TRACKERS = [StaticTracker, MeanShiftTracker]


def opencv(**options):
    pytest.importorskip("cv2", reason="OpenCV is not installed (extra baselines)")
    return OpenCVTracker(**options)


def test_static_never_moves(sequence):
    result = run_one_pass(StaticTracker(), sequence)
    assert (result.boxes_xywh == sequence.boxes_xywh[0]).all()


def test_mean_shift_follows_the_cloud(sequence):
    result = run_one_pass(MeanShiftTracker(), sequence)
    off = np.abs(result.boxes_xywh - sequence.boxes_xywh)
    assert off[:, :2].max() < 6.0
    assert (off[:, 2:] == 0).all()
    assert ((result.scores >= 0) & (result.scores <= 1)).all()
    static = evaluate_tracker(StaticTracker(), [sequence], resamples=0).scores["SR"]
    assert evaluate_tracker(MeanShiftTracker(), [sequence], resamples=0).scores["SR"] > static + 20


def test_mean_shift_keeps_the_offset_of_the_first_box(sequence):
    sequence.boxes_xywh[:, 0] += 6.0  # a box that is not centred on its events
    off = run_one_pass(MeanShiftTracker(), sequence).boxes_xywh - sequence.boxes_xywh
    assert abs(off[1:, 0].mean()) < 3.0


@pytest.mark.parametrize("kind", TRACKERS)
def test_silence_and_several_times_at_once(kind, sequence):
    tracker, silence = kind(), EventStream.empty(sequence.sensor_hw)
    tracker.init(silence, [40, 50, 20, 10], t_us=1_000_000)
    estimates = tracker.update(silence, at_us=[1_001_000, 2_000_000, 60_000_000])
    assert [e.t_us for e in estimates] == [1_001_000, 2_000_000, 60_000_000]
    for estimate in estimates:
        assert estimate.box_xywh.tolist() == [40, 50, 20, 10]
        assert 0 <= estimate.score <= 1


def test_mean_shift_does_not_depend_on_chunks(sequence):
    times = sequence.label_times_us
    boxes = []
    for chunks in (1, 7):
        tracker = MeanShiftTracker()
        tracker.init(sequence.events.slice_time(0, times[0]), sequence.boxes_xywh[0], t_us=int(times[0]))
        for k in range(1, len(times)):
            cuts = np.linspace(times[k - 1], times[k], chunks + 1).astype(int)
            for t0, t1 in pairwise(cuts[:-1]):
                assert tracker.update(sequence.events.slice_time(t0, t1), at_us=[]) == []
            answer = tracker.update(sequence.events.slice_time(cuts[-2], cuts[-1]), at_us=[int(times[k])])
            boxes.append(answer[0].box_xywh)
    np.testing.assert_array_equal(boxes[: len(boxes) // 2], boxes[len(boxes) // 2 :])


def test_target_at_the_border_stays_on_the_sensor(sequence):
    tracker = MeanShiftTracker()
    tracker.init(sequence.events.slice_time(0, 0), [-10, 100, 20, 30], t_us=0)
    corner = EventStream.from_arrays(
        np.arange(2000), np.zeros(2000, int), np.full(2000, 119), np.ones(2000, int), sequence.sensor_hw
    )
    box = tracker.update(corner, at_us=[3000])[0].box_xywh
    assert box[0] + box[2] > 0
    assert box[1] < 120


@pytest.mark.parametrize("kind", TRACKERS)
@pytest.mark.parametrize("box", [[1, 2, 0, 4], [500, 5, 10, 10], [1, 2, 3]])
def test_refuses_a_box_that_is_none(kind, box, sequence):
    with pytest.raises(InputError, match="box"):
        kind().init(sequence.events, box, t_us=0)


def test_mean_shift_refuses(sequence):
    with pytest.raises(InputError, match="before init"):
        MeanShiftTracker().update(sequence.events, at_us=[1])
    with pytest.raises(InputError, match="must be positive"):
        MeanShiftTracker(reach=0.0)


@pytest.mark.parametrize(
    ("kind", "source"), [("csrt", "events"), ("csrt", "frames"), ("kcf", "events"), ("kcf", "frames")]
)
def test_opencv_follows(kind, source, sequence):
    tracker = opencv(kind=kind, source=source)
    assert tracker.name == f"{kind}_{source}"
    evaluation = evaluate_tracker(tracker, [sequence], resamples=0)
    static = evaluate_tracker(StaticTracker(), [sequence], resamples=0)
    assert evaluation.scores["SR"] > static.scores["SR"] + 15
    assert np.isfinite(evaluation.results[0].boxes_xywh).all()


def test_opencv_repeats_its_box_until_the_next_frame(sequence):
    tracker = opencv(kind="kcf", source="frames")
    nothing = EventStream.empty(sequence.sensor_hw)
    tracker.init(nothing, sequence.boxes_xywh[0], t_us=0, frame=sequence.frames[0])
    first = tracker.update(nothing, at_us=[1, 2], frame=sequence.frames[3])
    assert first[0].box_xywh.tolist() == first[1].box_xywh.tolist()
    again = tracker.update(nothing, at_us=[3], frame=sequence.frames[3])
    assert again[0].box_xywh.tolist() == first[0].box_xywh.tolist()


def test_opencv_refuses(sequence, monkeypatch):
    with pytest.raises(InputError, match="expected csrt or kcf"):
        OpenCVTracker(kind="mosse")
    tracker = opencv(source="frames")
    with pytest.raises(InputError, match="needs a camera frame"):
        tracker.init(sequence.events, sequence.boxes_xywh[0], t_us=0)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"had-snn\[baselines\]"):
        OpenCVTracker()
