"""Each trap of the published rules, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.evaluate.protocols import PROTOCOLS, align_to_clock, check_protocol, frame_errors

TRUTH = np.array([[10.0, 10, 20, 10]] * 4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_overlap_and_distances_by_hand(protocol):
    predicted = np.add(TRUTH, [[50, 50, 0, 0], [10, 0, 0, 0], [0, 5, 0, 0], [3, 4, 0, 0]])
    errors = frame_errors(predicted, TRUTH, protocol=protocol)
    # Row 0 is given, so its wild prediction does not count. Row 1: 100 of 300; row 2: 100 of 300; row 3: 17*6 of 298.
    assert errors.overlap == pytest.approx([1.0, 1 / 3, 1 / 3, 102 / 298])
    assert errors.centre == pytest.approx([0.0, 10.0, 5.0, 5.0])
    assert errors.norm_centre == pytest.approx([0.0, 0.5, 0.5, np.hypot(3 / 20, 4 / 10)])
    assert errors.divisor == 4


def test_size_moves_the_centre():
    errors = frame_errors(np.add(TRUTH[:2], [0, 0, 4, 2]), TRUTH[:2], protocol="toolkit")
    assert errors.centre[1] == pytest.approx(np.hypot(2, 1))
    assert errors.overlap[1] == pytest.approx(200 / 288)


def test_absent_frames_stay_in_the_toolkit_divisor():
    visible = np.array([True, True, False, False])
    toolkit = frame_errors(TRUTH, TRUTH, protocol="toolkit", visible=visible)
    assert len(toolkit.overlap) == len(toolkit.centre) == 2
    assert toolkit.divisor == 4
    fair = frame_errors(TRUTH, TRUTH, protocol="visible", visible=visible)
    assert (len(fair.overlap), fair.divisor) == (2, 2)
    ignored = frame_errors(TRUTH, TRUTH, protocol="pytracking", visible=visible)
    assert (len(ignored.overlap), ignored.divisor) == (4, 4)


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("value", [0.0, -3.0])
def test_coordinate_at_or_below_zero_is_a_miss_and_two_hits_in_the_toolkit(column, value):
    truth = TRUTH.copy()
    truth[2, column] = value
    errors = frame_errors(TRUTH, truth, protocol="toolkit")
    assert (errors.overlap[2], errors.centre[2], errors.norm_centre[2]) == (-1.0, -1.0, -1.0)


def test_coordinate_below_zero_is_ordinary_elsewhere():
    truth = np.add(TRUTH, [-15, 0, 0, 0])
    for protocol in ("pytracking", "visible"):
        assert frame_errors(truth, truth, protocol=protocol).overlap == pytest.approx(1.0)


def test_zero_annotation_is_a_miss_and_a_normalised_hit_in_pytracking():
    truth = TRUTH.copy()
    truth[2] = 0
    errors = frame_errors(TRUTH, truth, protocol="pytracking")
    assert (errors.overlap[2], errors.centre[2], errors.norm_centre[2]) == (-1.0, np.inf, -1.0)
    fair = frame_errors(TRUTH, truth, protocol="visible")
    assert (len(fair.overlap), fair.divisor) == (3, 3)


@pytest.mark.parametrize("fault", [[np.nan, 1, 2, 3], [1, 1, 0, 5], [1, 1, 5, -2]])
@pytest.mark.parametrize("protocol", ["toolkit", "visible"])
def test_faulty_prediction_takes_the_previous(protocol, fault):
    predicted = np.add(TRUTH, [[0, 0, 0, 0], [10, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    predicted[2] = predicted[3] = fault
    assert frame_errors(predicted, TRUTH, protocol=protocol).overlap == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])


def test_zero_prediction_takes_the_previous_in_pytracking():
    predicted = np.add(TRUTH, [[0, 0, 0, 0], [10, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    predicted[2] = [3, 3, 0, 7]
    assert frame_errors(predicted, TRUTH, protocol="pytracking").overlap == pytest.approx([1, 1 / 3, 1 / 3, 1])


def test_previous_box_comes_from_before_the_first_is_replaced():
    """The toolkits copy first and put the given box into row 0 afterwards."""
    predicted = TRUTH.copy()
    predicted[0] = [80, 80, 5, 5]
    predicted[1] = 0
    for protocol in ("toolkit", "pytracking", "visible"):
        assert frame_errors(predicted, TRUTH, protocol=protocol).overlap[:2] == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("fault", [[np.nan, 1, 2, 3], [1, 1, 5, -2]])
def test_pytracking_refuses_nan_and_negative_sizes(fault):
    predicted = TRUTH.copy()
    predicted[2] = fault
    with pytest.raises(InputError, match=r"clip_7: prediction 2 .*protocol=toolkit"):
        frame_errors(predicted, TRUTH, protocol="pytracking", name="clip_7")


def test_nan_annotation():
    truth = TRUTH.copy()
    truth[1] = np.nan
    with pytest.raises(InputError, match="NaN in the annotations"):
        frame_errors(TRUTH, truth, protocol="pytracking")
    assert frame_errors(TRUTH, truth, protocol="toolkit").centre[1] == -1.0
    assert frame_errors(TRUTH, truth, protocol="visible").divisor == 3


def test_nan_prediction_is_kept_where_the_annotation_is_nan():
    """The toolkits' copy rule looks at the annotation, so the next faulty row copies a faulty one."""
    truth, predicted = TRUTH.copy(), TRUTH.copy()
    truth[1] = predicted[1] = predicted[2] = np.nan
    errors = frame_errors(predicted, truth, protocol="toolkit")
    assert np.isnan(errors.overlap[2])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_long_results_are_cut(protocol):
    longer = np.concatenate([TRUTH, np.full((3, 4), -9.0)])
    assert frame_errors(longer, TRUTH, protocol=protocol).overlap == pytest.approx(1.0)


def test_short_results():
    with pytest.raises(InputError, match="2 predictions for 4 labels"):
        frame_errors(TRUTH[:2], TRUTH, protocol="toolkit")
    zeros = frame_errors(TRUTH[:2], TRUTH, protocol="pytracking")
    assert zeros.overlap == pytest.approx([1, 1, 0, 0])
    # A zero box has its centre at (-0.5, -0.5); that of the annotation is (19.5, 14.5).
    assert zeros.centre[2] == pytest.approx(25.0)
    misses = frame_errors(TRUTH[:2], TRUTH, protocol="visible")
    assert misses.overlap == pytest.approx([1, 1, -1, -1])
    assert np.isinf(misses.centre[2:]).all()


def test_clock_takes_the_newest_finished_box():
    boxes = np.arange(12.0).reshape(3, 4)
    aligned = align_to_clock([0, 9, 10, 19, 25, 99], [10, 20, 30], boxes)
    assert aligned[:, 0].tolist() == [0, 0, 0, 0, 4, 8]


@pytest.mark.parametrize(
    ("finish", "boxes", "message"),
    [
        ([1, 2], np.ones((3, 4)), "expected one each"),
        ([], np.ones((0, 4)), "expected one each"),
        ([5, 4], np.ones((2, 4)), "go back"),
    ],
)
def test_clock_refuses(finish, boxes, message):
    with pytest.raises(InputError, match=message):
        align_to_clock([1], np.array(finish), boxes)


@pytest.mark.parametrize(
    ("predicted", "truth", "options", "message"),
    [
        (TRUTH[:, :3], TRUTH, {}, "expected N x 4"),
        (TRUTH[:0], TRUTH, {}, "no predictions for 4 labels"),
        (TRUTH, TRUTH[:0], {}, "no annotations"),
        (TRUTH, TRUTH, {"visible": np.ones(3, bool)}, "visibility flags"),
        (TRUTH, TRUTH, {"protocol": "lasot"}, "unknown protocol 'lasot'; expected one of toolkit"),
    ],
)
def test_refuses_what_does_not_fit(predicted, truth, options, message):
    with pytest.raises(InputError, match=message):
        frame_errors(predicted, truth, **{"protocol": "toolkit", **options})


def test_inputs_stay_as_they_were():
    predicted, truth = TRUTH + 5.0, TRUTH.copy()
    predicted[2] = 0
    before = predicted.copy()
    for protocol in PROTOCOLS:
        frame_errors(predicted, truth, protocol=protocol)
    np.testing.assert_array_equal(predicted, before)
    np.testing.assert_array_equal(truth, TRUTH)


def test_protocol_names():
    assert [check_protocol(p) for p in PROTOCOLS] == ["toolkit", "pytracking", "visible", "clock"]
