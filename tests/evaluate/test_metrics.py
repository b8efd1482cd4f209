"""Scores against hand-computed curves, published annotations and properties of intervals."""

from __future__ import annotations

import io
import time
import zipfile

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.evaluate.metrics import (
    SCORES,
    paired_difference,
    sequence_curves,
    summarise,
    summarise_by_attribute,
)
from had_snn.evaluate.protocols import PROTOCOLS, FrameErrors

TRUTH = np.array([[10.0, 10, 20, 10]] * 4)
NAMES = list(SCORES)


def shifted(*pixels, name="s", protocol="pytracking"):
    """A four-frame sequence whose last frames are off by so many pixels to the right."""
    predicted = TRUTH.copy()
    predicted[4 - len(pixels) :, 0] += pixels
    return sequence_curves(predicted, TRUTH, protocol=protocol, name=name)


def test_curves_by_hand():
    curves = shifted(4, 10, 30)  # overlaps 1, 16/24, 1/3, 0
    assert curves.success[[0, 6, 7, 13, 14, 20]] == pytest.approx([0.75, 0.75, 0.5, 0.5, 0.25, 0.0])
    assert curves.precision[[0, 3, 4, 10, 29, 30]] == pytest.approx([0.25, 0.25, 0.5, 0.75, 0.75, 1.0])
    assert curves.norm_precision[[0, 19, 20, 49, 50]] == pytest.approx([0.25, 0.25, 0.5, 0.5, 0.75])
    assert curves.score("SR") == pytest.approx(100 * (20 + 14 + 7) / 84)
    assert [curves.score(n) for n in NAMES[1:]] == pytest.approx([75, 50, 50, 25])
    assert curves.mean_overlap == pytest.approx((1 + 2 / 3 + 1 / 3) / 4)


def test_scores_are_read_at_a_fifth_of_the_box_and_at_twenty_pixels():
    curves = shifted(5, 7)  # normalised by the width of 20: 0.25 and 0.35
    assert curves.score("NPR") == 50.0
    assert shifted(19, 21, 39).score("PR") == 50.0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_perfect_box_reaches_twenty_of_twenty_one(protocol):
    curves = shifted(0, protocol=protocol)
    assert [curves.score(n) for n in NAMES] == pytest.approx([100 * 20 / 21, 100, 100, 100, 100])


def test_absent_frames_are_misses_in_the_toolkit_only():
    visible = np.array([True, True, True, False])
    scores = {
        p: [round(sequence_curves(TRUTH, TRUTH, protocol=p, visible=visible).score(n), 2) for n in ("SR", "PR", "NPR")]
        for p in PROTOCOLS
    }
    assert scores["toolkit"] == [71.43, 75.0, 75.0]
    assert scores["pytracking"] == scores["clock"] == scores["visible"] == [95.24, 100.0, 100.0]


def test_all_zero_sequences_leave_the_toolkit_mean():
    visible = np.zeros(4, bool)
    lost = sequence_curves(TRUTH, TRUTH, protocol="toolkit", visible=visible, name="lost")
    half = shifted(100, 100, name="half", protocol="toolkit")
    toolkit = summarise([lost, half], protocol="toolkit", resamples=0)
    assert toolkit.scores["SR"] == pytest.approx(half.score("SR"))
    assert toolkit.dropped == {"success": 1, "precision": 1, "norm_precision": 1}
    assert toolkit.sequences == 2
    kept = summarise([lost, half], protocol="pytracking", resamples=0)
    assert kept.scores["SR"] == pytest.approx(half.score("SR") / 2)


def test_dropping_is_decided_per_curve():
    far = FrameErrors(np.zeros(4), np.full(4, 30.0), np.full(4, 0.9), divisor=4)
    from had_snn.evaluate.metrics import curves_from_errors

    summary = summarise([shifted(0, protocol="toolkit"), curves_from_errors(far)], protocol="toolkit", resamples=0)
    assert summary.dropped == {"success": 1, "precision": 0, "norm_precision": 1}
    assert (summary.scores["SR"], summary.scores["PR"]) == (pytest.approx(100 * 20 / 21), pytest.approx(50.0))


def test_a_curve_that_is_nearly_zero_is_not_dropped():
    from had_snn.evaluate.metrics import curves_from_errors

    grazed = curves_from_errors(FrameErrors(np.array([0.04, 0, 0, 0]), np.full(4, 60.0), np.full(4, 0.9), divisor=4))
    assert grazed.success.sum() == pytest.approx(0.25)
    summary = summarise([shifted(0, protocol="toolkit"), grazed], protocol="toolkit", resamples=0)
    assert summary.dropped["success"] == 0
    assert summary.scores["SR"] == pytest.approx((100 * 20 / 21 + 25 / 21) / 2)


def test_curves_end_where_the_benchmarks_end_them():
    curves = shifted(4)
    assert [len(getattr(curves, name)) for name in ("success", "precision", "norm_precision")] == [21, 51, 51]


def test_every_sequence_dropped_scores_zero():
    lost = sequence_curves(TRUTH, TRUTH, protocol="toolkit", visible=np.zeros(4, bool))
    summary = summarise([lost], protocol="toolkit")
    assert summary.scores["SR"] == 0.0
    assert summary.intervals["SR"] == (0.0, 0.0)


def test_sequence_without_visible_frame_is_left_out():
    unseen = sequence_curves(TRUTH, TRUTH, protocol="visible", visible=np.zeros(4, bool), name="unseen")
    assert np.isnan(unseen.score("SR"))
    summary = summarise([unseen, shifted(0, protocol="visible")], protocol="visible")
    assert summary.scores["PR"] == 100.0
    assert summary.dropped["success"] == 1
    assert np.isfinite(summary.intervals["SR"]).all()


def test_mean_is_over_sequences_not_frames():
    short = sequence_curves(TRUTH[:1], TRUTH[:1], protocol="pytracking", name="short")
    frames = np.tile(TRUTH, (50, 1))
    long = sequence_curves(np.add(frames, [500, 0, 0, 0]), frames, protocol="pytracking")
    assert summarise([short, long], protocol="pytracking", resamples=0).scores["PR"] == pytest.approx(50.25)


def published(protocol_data):
    """Annotated boxes and visibility of COESOT's test sequences."""
    with zipfile.ZipFile(protocol_data / "coesot_test_annos.zip") as archive:
        for entry in sorted(archive.namelist()):
            if entry.endswith("/groundtruth.txt"):
                folder = entry.rsplit("/", 1)[0]
                boxes = np.loadtxt(io.BytesIO(archive.read(entry)), delimiter=",", ndmin=2)
                visible = np.loadtxt(io.BytesIO(archive.read(f"{folder}/absent.txt")), ndmin=1) == 1
                yield folder.rsplit("/", 1)[1], boxes, visible


def test_perfect_tracker_on_published_annotations(protocol_data):
    expected = {"toolkit": [86.5, 93.0, 93.0], "pytracking": [89.9, 93.0, 100.0], "visible": [95.2, 100.0, 100.0]}
    sequences = list(published(protocol_data))
    assert sum(len(boxes) for _, boxes, _ in sequences) == 176_589
    for protocol, scores in expected.items():
        curves = [
            # One annotation has a negative width, which pytracking refuses as a prediction.
            sequence_curves(
                np.maximum(boxes, 0) if protocol == "pytracking" else boxes,
                boxes,
                protocol=protocol,
                visible=visible,
                name=name,
            )
            for name, boxes, visible in sequences
        ]
        summary = summarise(curves, protocol=protocol, resamples=0)
        assert [round(summary.scores[n], 1) for n in ("SR", "PR", "NPR")] == scores, protocol


def test_thousand_sequences_of_a_thousand_frames_in_seconds():
    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.uniform(0, 300, (1000, 2)), rng.uniform(10, 60, (1000, 2))], axis=1)
    predictions = truth + rng.normal(0, 8, (1000, 1000, 4))
    begun = time.perf_counter()
    curves = [sequence_curves(p, truth, protocol="toolkit", name=str(i)) for i, p in enumerate(predictions)]
    summarise(curves, protocol="toolkit")
    assert time.perf_counter() - begun < 10.0


def random_curves(count=60, *, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.uniform(0, 12, count)
    return [shifted(h + offset, h + offset, h + offset, name=f"s{i}") for i, h in enumerate(hard)]


def test_interval_holds_the_score_is_seeded_and_narrows():
    curves = random_curves()
    summary = summarise(curves, protocol="pytracking", seed=3)
    assert summary.intervals == summarise(curves, protocol="pytracking", seed=3).intervals
    for name in ("SR", "NPR"):
        low, high = summary.intervals[name]
        assert low < summary.scores[name] < high
    wide = summarise(curves[:15], protocol="pytracking").intervals["SR"]
    assert np.diff(wide) > np.diff(summary.intervals["SR"])
    values = np.array([c.score("SR") for c in curves])
    normal = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert np.diff(summary.intervals["SR"])[0] == pytest.approx(normal, rel=0.15)


def test_interval_of_the_toolkit_leaves_out_what_the_mean_leaves_out():
    lost = sequence_curves(TRUTH, TRUTH, protocol="toolkit", visible=np.zeros(4, bool), name="lost")
    same = [shifted(0, protocol="toolkit")] * 30
    summary = summarise([lost, *same], protocol="toolkit")
    assert summary.intervals["SR"] == pytest.approx((100 * 20 / 21, 100 * 20 / 21))


def test_paired_difference_is_sharper_than_two_intervals():
    better, worse = random_curves(offset=0.0), random_curves(offset=1.0)
    gain = paired_difference(better, worse, protocol="pytracking")
    summary = summarise(better, protocol="pytracking")
    assert gain.difference == pytest.approx(summary.scores["SR"] - summarise(worse, protocol="pytracking").scores["SR"])
    assert 0 < gain.low < gain.difference < gain.high
    assert gain.high - gain.low < np.diff(summary.intervals["SR"])[0] / 2
    none = paired_difference(better, better, protocol="pytracking")
    assert (none.difference, none.low, none.high) == (0.0, 0.0, 0.0)


def test_paired_difference_refuses_other_sequences():
    with pytest.raises(InputError, match="same sequences"):
        paired_difference(random_curves(5), random_curves(6), protocol="pytracking")
    with pytest.raises(InputError, match="unknown score 'AUC'"):
        paired_difference(random_curves(5), random_curves(5), protocol="pytracking", score="AUC")


def test_numbers_that_are_not_asked_for_are_those_of_the_docstrings():
    curves, others = random_curves(), random_curves(offset=0.1, seed=1)
    named = {"resamples": 1000, "seed": 0}
    assert summarise(curves, protocol="visible").intervals == summarise(curves, protocol="visible", **named).intervals
    named = {"resamples": 2000, "seed": 0}
    asked = paired_difference(curves, others, protocol="visible", **named)
    assert paired_difference(curves, others, protocol="visible") == asked
    groups = {curve.name: ("blur",) for curve in curves}
    by_attribute = summarise_by_attribute(curves, groups, protocol="visible")["blur"]
    assert by_attribute.intervals == {}
    drawn = [
        summarise_by_attribute(curves, groups, protocol="visible", resamples=50, **seed) for seed in ({}, {"seed": 0})
    ]
    assert drawn[0]["blur"].intervals == drawn[1]["blur"].intervals


def test_attributes():
    curves = [shifted(0, name="a"), shifted(100, 100, 100, name="b"), shifted(0, name="c")]
    summaries = summarise_by_attribute(curves, {"a": ["blur", "clutter"], "b": ["blur"]}, protocol="pytracking")
    assert list(summaries) == ["blur", "clutter"]
    assert summaries["blur"].scores["PR"] == pytest.approx(62.5)
    assert summaries["clutter"].sequences == 1


def test_summary_as_plain_numbers():
    record = summarise([shifted(0)], protocol="pytracking").to_dict()
    assert record["protocol"] == "pytracking"
    assert record["SR"] == pytest.approx(95.238, abs=1e-3)
    assert record["SR_ci"] == pytest.approx([95.238, 95.238], abs=1e-3)


def test_nothing_to_average():
    with pytest.raises(InputError, match="no sequences"):
        summarise([], protocol="toolkit")
