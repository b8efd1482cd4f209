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
from had_snn.train.agreement import SHORTEST, agreeing, first_box_only, kept_labels, runs_of_labels

SEQUENCE = drifting_sequence(labels=25)
ASKED = first_box_only(SEQUENCE, period_us=20_000)


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
            tracks.append(np.stack([self.other(t) if s else self.box(t) for t, s in zip(times, strayed, strict=True)]))
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
    with pytest.raises(InputError, match="nothing to follow behind the first box"):
        first_box_only(SEQUENCE, period_us=99_000_000)


def test_labels_are_wanted_where_a_teacher_sees_a_new_frame():
    wanted = first_box_only(SEQUENCE).label_times_us
    np.testing.assert_array_equal(wanted, SEQUENCE.frame_times_us[SEQUENCE.frame_times_us <= SEQUENCE.events.t_end])
    fast = np.arange(40_000, 400_000, 3_000)
    film = replace(SEQUENCE, frames=np.zeros((len(fast), 2, 2, 3), np.uint8), frame_times_us=fast)
    assert set(np.diff(first_box_only(film).label_times_us)) == {21_000}
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
            tracks.append(boxes)
        return tracks

    (labelled,) = agreeing(follow, [sequence], segment_us=200_000, least_iou=0.1)
    np.testing.assert_array_equal(labelled.visible, labelled.label_times_us - start <= whole)


def test_a_lag_both_ways_cancels():
    def late(found):
        tracks = []
        for sequence in found:
            backward = sequence.name.endswith("backwards")
            times = sequence.label_times_us
            times = ASKED.label_times_us[-1] + AROUND_US - times if backward else times
            lag = -5_000 if backward else 5_000
            tracks.append(np.stack([Follower.box(int(t) - lag) for t in times]))
        return tracks

    (labelled,) = agreeing(late, [asked()], segment_us=10**9, least_iou=0.5)
    wanted = np.stack([Follower.box(int(t)) for t in labelled.label_times_us])
    np.testing.assert_allclose(labelled.boxes_xywh[1:], wanted[1:])


def test_a_tracker_of_this_package_labels_what_drifts():
    tracker = baseline("mean_shift")

    def follow(found):
        return [run_one_pass(tracker, sequence).boxes_xywh for sequence in found]

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


def test_labels_are_kept_and_asked_for_anew_where_anything_differs(tmp_path):
    asked_of: list[int] = []

    def follow(found):
        asked_of.append(len(found))
        return [np.stack([Follower.box(0) for _ in one.label_times_us]) for one in found]

    first = kept_labels(follow, [ASKED], tmp_path, who=b"one")
    assert len(asked_of) == 2, "ahead and back"
    again = kept_labels(follow, [ASKED], tmp_path, who=b"one")
    assert len(asked_of) == 2
    np.testing.assert_array_equal(first[0].boxes_xywh, again[0].boxes_xywh)
    np.testing.assert_array_equal(first[0].visible, again[0].visible)
    moved = replace(ASKED, boxes_xywh=ASKED.boxes_xywh + 1)
    for found, options in (([ASKED], {"who": b"two"}), ([moved], {"who": b"one"}), ([ASKED, ASKED], {"who": b"one"})):
        before = len(asked_of)
        kept_labels(follow, found, tmp_path, **options)
        assert len(asked_of) == before + 2
    kept_labels(follow, [ASKED], tmp_path, who=b"one", least_iou=0.9)
    assert len(asked_of) == 10
    assert len(list(tmp_path.iterdir())) == 5
