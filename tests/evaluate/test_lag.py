"""Lag: found to the millisecond where it is all that is wrong, untouched by other errors, undone by moving boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from had_snn.errors import InputError
from had_snn.evaluate.lag import late_truth, measure_lag, moved_along
from had_snn.evaluate.results import TrackResult, Truth

TIMES = np.arange(1, 26) * 40_000


def moving(speed_xy: tuple[float, float], *, name: str = "a", visible: np.ndarray | None = None) -> Truth:
    """A target of 40x30 pixels on a straight line."""
    seconds = TIMES[:, None] * 1e-6
    corner = np.array([50.0, 60.0]) + seconds * np.array(speed_xy)
    boxes = np.concatenate([corner, np.broadcast_to([40.0, 30.0], corner.shape)], axis=1)
    return Truth(name, boxes, np.ones(len(TIMES), bool) if visible is None else visible, TIMES)


def answered(truth: Truth, boxes: np.ndarray) -> TrackResult:
    return TrackResult(truth.name, TIMES, boxes, np.ones(len(TIMES)), np.full(len(TIMES), np.nan))


@given(
    lag_ms=st.floats(-30, 30),
    angle=st.floats(0, 6.28),
    speed=st.floats(20, 300),
    across=st.floats(-5, 5),
)
def test_a_lag_is_found_whatever_the_error_across_the_motion(lag_ms, angle, speed, across):
    heading = np.array([np.cos(angle), np.sin(angle)])
    truth = moving((speed * heading[0], speed * heading[1]))
    boxes = truth.boxes_xywh.copy()
    boxes[:, :2] += -lag_ms * 1e-3 * speed * heading + across * np.array([-heading[1], heading[0]])
    found = measure_lag([answered(truth, boxes)], [truth])
    assert found.boxes == len(TIMES) - 1
    assert found.lag_ms == pytest.approx(lag_ms, abs=1e-6)
    assert (found.along_px, found.across_px) == pytest.approx((0, 0), abs=1e-6)
    assert found.speed_px_per_s == pytest.approx(speed)
    moved = moved_along(answered(truth, boxes), truth, lag_ms * 1e3)
    assert measure_lag([moved], [truth]).lag_ms == pytest.approx(0, abs=1e-6)


def test_the_late_annotation_is_late_by_what_was_asked():
    truth = moving((120.0, -50.0))
    late = late_truth(truth, 10_000)
    assert np.array_equal(late.boxes_xywh[0], truth.boxes_xywh[0])
    assert late.boxes_xywh[1:, :2] - truth.boxes_xywh[1:, :2] == pytest.approx(np.array([[-1.2, 0.5]] * 24))
    assert measure_lag([late], [truth]).lag_ms == pytest.approx(10.0)


def test_speeds_are_told_apart_and_lost_or_hidden_targets_left_out():
    slow, fast = moving((30.0, 0.0)), moving((200.0, 0.0), name="b", visible=TIMES % 80_000 == 0)
    boxes = fast.boxes_xywh - np.array([200.0 * 0.02, 0, 0, 0])
    boxes[20:] += 1000.0
    results = [answered(slow, slow.boxes_xywh), answered(fast, boxes)]
    assert measure_lag(results, [slow, fast], slowest=100).lag_ms == pytest.approx(20.0)
    # Every second one of the first 20 is seen, and the first of those is the given box.
    assert measure_lag(results, [slow, fast], slowest=100).boxes == 9
    assert measure_lag(results, [slow, fast], fastest=100).lag_ms == pytest.approx(0.0)
    nothing = measure_lag(results, [slow, fast], slowest=1000)
    assert nothing.boxes == 0
    assert np.isnan(nothing.lag_ms)


def test_the_given_box_and_labels_without_a_box_stay_out():
    visible = np.ones(len(TIMES), bool)
    visible[[0, 1, 12]] = False
    truth = moving((100.0, 0.0), visible=visible)
    truth.boxes_xywh[12] = np.nan
    boxes = np.nan_to_num(truth.boxes_xywh)
    boxes[3:, 0] -= 100.0 * 0.015
    found = measure_lag([answered(truth, boxes)], [truth])
    assert found.lag_ms == pytest.approx(15.0)
    assert found.boxes == len(TIMES) - 3 - 3  # two hidden and the given one; the one without a box and its neighbours
    moved = moved_along(answered(truth, boxes), truth, 15_000).boxes_xywh
    assert np.array_equal(moved[:3], boxes[:3])
    assert np.isfinite(moved).all()
    assert moved[4:11, 0] == pytest.approx(truth.boxes_xywh[4:11, 0])


def test_what_does_not_belong_together_is_refused():
    truth = moving((10.0, 0.0))
    with pytest.raises(InputError, match="a with 25 boxes and b with 25 labels do not belong together"):
        measure_lag([answered(truth, truth.boxes_xywh)], [moving((10.0, 0.0), name="b")])
    alone = Truth("a", truth.boxes_xywh[:1], truth.visible[:1], TIMES[:1])
    with pytest.raises(InputError, match="one label says nothing about motion"):
        measure_lag([TrackResult("a", TIMES[:1], alone.boxes_xywh, np.ones(1), np.ones(1))], [alone])
