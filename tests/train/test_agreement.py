"""Labels from following both ways: what leads back is believed, what does not is not, nor what comes after it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drifting import drifting_sequence
from hypothesis import given
from hypothesis import strategies as st

from had_snn.data.backwards import AROUND_US
from had_snn.errors import InputError
from had_snn.evaluate.baselines import baseline
from had_snn.evaluate.one_pass import run_one_pass
from had_snn.train.agreement import (
    PERIOD_US,
    SHORTEST,
    Track,
    agreeing,
    first_box_only,
    first_boxes,
    kept_labels,
    runs_of_labels,
)

SEQUENCE = drifting_sequence(labels=25)
ASKED = first_box_only(SEQUENCE, period_us=20_000)


def sure(boxes) -> Track:
    return Track(np.stack(boxes), np.ones(len(boxes)))


class Follower:
    """Knows where things are at any time; goes astray from some time on, and then follows the other thing for good.

    Going back from there it follows what it went astray to.
    """

    def __init__(self, astray_us: int, *, segment_us: int) -> None:
        self.astray_us, self.segment_us = astray_us, segment_us

    def __call__(self, found):
        tracks = []
        for sequence in found:
            backward = sequence.name.endswith("backwards")
            times, start = sequence.label_times_us, sequence.boxes_xywh[0]
            if backward:  # the clock began where the segment's end was
                ends = ASKED.label_times_us[0] + self.segment_us * np.arange(1, 100)
                ends = np.append(ends[ends < ASKED.label_times_us[-1]], ASKED.label_times_us[-1])
                end = next(e for e in ends if np.allclose(self.box(e), start) or np.allclose(self.other(e), start))
                times = end + AROUND_US - times
                strayed = np.full(len(times), not np.allclose(self.box(end), start))
            else:
                strayed = times >= self.astray_us
            boxes = [self.other(t) if s else self.box(t) for t, s in zip(times, strayed, strict=True)]
            tracks.append(sure(boxes))
        return tracks

    @staticmethod
    def box(t_us: int) -> np.ndarray:
        return np.array([40 + 60e-6 * t_us, 50, 30, 20])

    @staticmethod
    def other(t_us: int) -> np.ndarray:
        return np.array([180 - 60e-6 * t_us, 120, 30, 20])


def asked():
    boxes = ASKED.boxes_xywh.copy()
    boxes[0] = Follower.box(int(ASKED.label_times_us[0]))
    return replace(ASKED, boxes_xywh=boxes)


def test_one_box_is_all_that_is_known():
    assert ASKED.usable.sum() == 1
    np.testing.assert_array_equal(ASKED.boxes_xywh[0], SEQUENCE.boxes_xywh[0])
    assert (ASKED.boxes_xywh[1:] == 0).all()
    assert set(np.diff(ASKED.label_times_us)) == {20_000}
    assert SEQUENCE.events.t_end - ASKED.label_times_us[-1] <= 20_000
    with pytest.raises(InputError, match="give a shorter period_us"):
        first_box_only(SEQUENCE, period_us=99_000_000)


def test_labels_are_wanted_where_a_teacher_sees_a_new_frame():
    wanted = first_box_only(SEQUENCE).label_times_us
    np.testing.assert_array_equal(wanted, SEQUENCE.frame_times_us[SEQUENCE.frame_times_us <= SEQUENCE.events.t_end])
    fast = np.arange(40_000, 400_000, 3_000)
    film = replace(SEQUENCE, frames=np.zeros((len(fast), 2, 2, 3), np.uint8), frame_times_us=fast)
    found = first_box_only(film).label_times_us
    assert set(np.diff(found[found < 400_000])) == {21_000}
    blind = replace(SEQUENCE, frames=None, frame_times_us=None)
    assert set(np.diff(first_box_only(blind).label_times_us)) == {40_000}


def test_who_is_never_wrong_labels_everything():
    (labelled,) = agreeing(Follower(10**9, segment_us=200_000), [asked()], segment_us=200_000, least_iou=0.5)
    assert labelled.visible.all()
    wanted = np.stack([Follower.box(int(t)) for t in labelled.label_times_us])
    np.testing.assert_allclose(labelled.boxes_xywh, wanted)


@given(astray=st.integers(2, 45), least_iou=st.sampled_from([0.3, 0.5, 0.8]))
def test_whoever_goes_astray_is_not_believed_from_that_segment_on(astray, least_iou):
    sequence, segment_us = asked(), 200_000
    astray_us = int(sequence.label_times_us[astray])
    follower = Follower(astray_us, segment_us=segment_us)
    (labelled,) = agreeing(follower, [sequence], segment_us=segment_us, least_iou=least_iou)
    times = labelled.label_times_us - labelled.label_times_us[0]
    whole = (astray_us - 1 - labelled.label_times_us[0]) // segment_us * segment_us
    np.testing.assert_array_equal(labelled.visible, times <= whole)


@pytest.mark.parametrize(("leaves_us", "whole"), [(410_000, 400_000), (80_000, 80_000)])
def test_a_target_that_leaves_the_sensor_is_labelled_as_far_as_it_is_there(leaves_us, whole):
    sequence = asked()
    start = int(sequence.label_times_us[0])

    def follow(found):
        tracks = []
        for one in found:
            boxes = np.stack([Follower.box(0)] * len(one))
            if not one.name.endswith("backwards"):
                boxes[one.label_times_us - start > leaves_us, 0] = 232  # its centre lies outside
            tracks.append(sure(boxes))
        return tracks

    (labelled,) = agreeing(follow, [sequence], segment_us=200_000, least_iou=0.1)
    np.testing.assert_array_equal(labelled.visible, labelled.label_times_us - start <= whole)


def test_what_stands_still_where_nothing_is_is_not_believed():
    sequence = asked()
    half = sequence.label_times_us[len(sequence) // 2]

    def follow(found):
        tracks = []
        for one in found:
            ahead = not one.name.endswith("backwards")
            scores = np.where(ahead & (one.label_times_us > half), 0.1, 1.0)
            tracks.append(Track(np.stack([Follower.box(0)] * len(one)), scores))
        return tracks

    (labelled,) = agreeing(follow, [sequence], segment_us=10**9, least_iou=0.1)
    np.testing.assert_array_equal(labelled.visible, sequence.label_times_us <= half)


@pytest.mark.parametrize("count", [1, 200])
def test_pieces_are_played_backwards_some_at_a_time(count):
    at_once: list[int] = []

    def follow(found):
        at_once.append(len(found))
        return [sure([Follower.box(0)] * len(one)) for one in found]

    labelled = agreeing(follow, [asked()] * count, segment_us=500_000, least_iou=0.1)
    assert len(labelled) == count
    assert all(one.visible.all() for one in labelled)
    assert sum(at_once) == count + 2 * count
    assert max(at_once[1:]) <= 64


@pytest.mark.parametrize(
    ("frames", "wanted"),
    [
        ([], [40, 80, 120, 160, 200, 240]),
        ([140], [40, 80, 140, 180, 220]),
        ([50, 60, 70, 110, 230], [40, 60, 110, 150, 190, 230]),
        ([35, 95], [40, 95, 135, 175, 215]),
        ([100, 250, 400], [40, 100, 140, 180, 220]),
    ],
)
def test_labels_are_wanted_where_frames_are_and_where_none_are(frames, wanted):
    """Frames that begin late, stop early, come seldom or often."""
    times = np.array(frames, np.int64) * 1000
    events = SEQUENCE.events.slice_time(0, 240_001)
    film = replace(SEQUENCE, events=events, frames=np.zeros((len(times), 2, 2, 3), np.uint8), frame_times_us=times)
    assert events.t_end > 239_000
    found = first_box_only(film).label_times_us
    np.testing.assert_array_equal(found, [t for t in np.array(wanted) * 1000 if t <= events.t_end])


def test_targets_with_nothing_to_follow_are_left_out_and_named(caplog):
    late = replace(SEQUENCE, name="late", visible=np.arange(len(SEQUENCE)) == len(SEQUENCE) - 1)
    before = replace(SEQUENCE, name="before", label_times_us=SEQUENCE.label_times_us - 10**9)
    short = replace(SEQUENCE, name="short", events=SEQUENCE.events.slice_time(0, 60_000))
    found = [late, SEQUENCE, before, short]
    (kept,) = first_boxes(found)
    assert kept.name == SEQUENCE.name
    for name in ("late", "before: its first box is at -999960000 us", "short: from its first box"):
        assert f"left out: {name}" in caplog.text
    with pytest.raises(InputError, match="late"):
        first_boxes([late, short])
    assert PERIOD_US == 40_000


def test_a_lag_both_ways_cancels():
    def late(found):
        tracks = []
        for sequence in found:
            backward = sequence.name.endswith("backwards")
            times = sequence.label_times_us
            times = ASKED.label_times_us[-1] + AROUND_US - times if backward else times
            lag = -5_000 if backward else 5_000
            tracks.append(sure([Follower.box(int(t) - lag) for t in times]))
        return tracks

    (labelled,) = agreeing(late, [asked()], segment_us=10**9, least_iou=0.5)
    wanted = np.stack([Follower.box(int(t)) for t in labelled.label_times_us])
    np.testing.assert_allclose(labelled.boxes_xywh[1:], wanted[1:])


def test_a_tracker_of_this_package_labels_what_drifts():
    tracker = baseline("mean_shift")

    def follow(found):
        results = [run_one_pass(tracker, sequence) for sequence in found]
        return [sure(result.boxes_xywh) for result in results]

    (labelled,) = agreeing(follow, [ASKED], segment_us=300_000, least_iou=0.5)
    assert labelled.visible.mean() > 0.8
    found = labelled.boxes_xywh[labelled.visible]
    true = np.stack([SEQUENCE.box_at(int(t))[0] for t in labelled.label_times_us[labelled.visible]])
    assert np.median(np.abs(found[:, :2] - true[:, :2])) < 3  # of a box of 40 by 32, which leaves the sensor at last


@given(st.lists(st.booleans(), min_size=2, max_size=30))
def test_no_run_reaches_over_a_gap(flags):
    times = 1000 * np.arange(len(flags)) + 1000
    boxes = np.tile([10.0, 10, 20, 20], (len(flags), 1))
    whole = replace(SEQUENCE, label_times_us=times, boxes_xywh=boxes, visible=np.array(flags))
    runs = runs_of_labels(whole)
    covered = np.concatenate([run.label_times_us for run in runs]) if runs else np.empty(0, int)
    longest, streak = [], []
    for t, flag in zip([*times, 0], [*flags, False], strict=True):
        streak = [*streak, t] if flag else (longest.extend(streak if len(streak) >= SHORTEST else []) or [])
    np.testing.assert_array_equal(covered, longest)
    assert all(run.visible.all() and len(run) >= SHORTEST for run in runs)
    assert len({run.name for run in runs}) == len(runs)


def test_labels_are_kept_and_asked_for_anew_where_anything_differs(tmp_path, caplog):
    asked_of: list[int] = []

    def follow(found):
        asked_of.append(len(found))
        return [sure([Follower.box(0) for _ in one.label_times_us]) for one in found]

    first = kept_labels(follow, [ASKED], tmp_path, who=b"one")
    assert len(asked_of) == 2, "ahead and back"
    again = kept_labels(follow, [ASKED], tmp_path, who=b"one")
    assert len(asked_of) == 2
    np.testing.assert_array_equal(first[0].boxes_xywh, again[0].boxes_xywh)
    np.testing.assert_array_equal(first[0].visible, again[0].visible)
    events = ASKED.events
    mirrored = replace(events, x=np.uint16(events.sensor_hw[1] - 1) - events.x)
    changed = [
        replace(ASKED, boxes_xywh=ASKED.boxes_xywh + 1),
        replace(ASKED, events=mirrored),
        replace(ASKED, events=replace(events, p=1 - events.p)),
        replace(ASKED, frames=255 - ASKED.frames),
        replace(ASKED, frame_times_us=ASKED.frame_times_us + 1),
    ]
    for number, found in enumerate([[ASKED, ASKED], *([one] for one in changed)], start=1):
        kept_labels(follow, found, tmp_path, who=b"one")
        assert len(asked_of) == 2 + 2 * number
    kept_labels(follow, [ASKED], tmp_path, who=b"one", least_iou=0.9)
    kept_labels(follow, [ASKED], tmp_path, who=b"two")
    assert len(asked_of) == 2 + 2 * len(changed) + 6
    assert len(list(tmp_path.iterdir())) == 4 + len(changed)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    kept_labels(follow, [ASKED], tmp_path, who=b"one")
    assert len(asked_of) == 2 + 2 * len(changed) + 8
    assert "so the labels are made again" in caplog.text
