"""The harness: which events, frames and boxes a tracker gets to see, and what comes back."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from had_snn.checkpoint import load_student
from had_snn.errors import InputError
from had_snn.evaluate import one_pass
from had_snn.evaluate.one_pass import evaluate_tracker, run_on_clock, run_one_pass
from had_snn.evaluate.results import score_results
from had_snn.processes import WorkerDiedError, in_forks
from had_snn.tracking import OnlineTracker


def test_every_event_is_given_once(sequence, oracle):
    tracker = oracle(sequence)
    result = run_one_pass(tracker, sequence)
    kinds, counts, times, frames = zip(*tracker.calls, strict=True)
    labels = sequence.label_times_us
    assert kinds == ("init", *["update"] * (len(labels) - 1))
    assert counts[0] == len(sequence.events.slice_time(labels[0] - one_pass.CONTEXT_US, labels[0]))
    assert sum(counts[1:]) == len(sequence.events.slice_time(labels[0], labels[-1]))
    assert [times[0], *[t[0] for t in times[1:]]] == labels.tolist()
    assert all(frames)
    np.testing.assert_allclose(result.boxes_xywh, sequence.boxes_xywh)
    assert result.scores[0] == 1.0
    assert result.scores[1:] == pytest.approx(0.9)
    assert (result.seconds > 0).all()


def test_starts_at_the_first_visible_box(sequence, oracle):
    sequence.visible[0] = False
    sequence.boxes_xywh[1] = 0.0
    tracker = oracle(sequence)
    result = run_one_pass(tracker, sequence)
    assert tracker.calls[0][2] == sequence.label_times_us[2]
    assert (result.boxes_xywh[:2] == 0).all()
    np.testing.assert_allclose(result.boxes_xywh[2:], sequence.boxes_xywh[2:])


def test_nothing_to_start_at(sequence, oracle):
    sequence.visible[:] = False
    with pytest.raises(InputError, match="moving: no label shows a visible box"):
        run_one_pass(oracle(sequence), sequence)


def test_tracker_that_does_not_answer(sequence, oracle):
    class Mute(oracle.type):
        def update(self, events, *, at_us, frame=None):
            return []

    with pytest.raises(InputError, match="oracle returned 0 estimates"):
        run_one_pass(Mute(sequence), sequence)


def test_evaluation_scores_and_reports_progress(sequence, oracle, make_sequence):
    tracker, seen = oracle(sequence, shift=(3.0, 0.0)), []
    other = make_sequence(name="again", attributes=("sway",))
    evaluation = evaluate_tracker(tracker, [sequence, other], progress=lambda *step: seen.append(step))
    assert seen == [(1, 2, "moving"), (2, 2, "again")]
    assert (evaluation.tracker, evaluation.protocol) == ("oracle", "pytracking")
    # Off by 3 of 30 px: overlap 27/33 in every frame but the given one.
    expected = 100 * (19 * 17 + 20) / 20 / 21
    # The given box itself may round to an overlap above 1, which adds one threshold in one of 20 frames.
    assert evaluation.scores["SR"] == pytest.approx(expected, abs=100 / 20 / 21 + 1e-9)
    assert evaluation.scores["PR"] == evaluation.scores["NPR"] == 100.0
    assert list(evaluation.by_attribute) == ["sway"]
    record = evaluation.to_dict()
    assert record["per_sequence"]["again"]["SR"] == pytest.approx(expected, abs=0.25)
    assert record["per_attribute"]["sway"]["sequences"] == 1
    assert record["ms_per_output"] > 0
    toolkit = score_results("oracle", evaluation.results, [sequence, other], protocol="toolkit", resamples=0)
    assert toolkit.scores["SR"] == evaluation.scores["SR"]


def test_clock_charges_the_latency(sequence, oracle):
    result = run_on_clock(oracle(sequence), sequence, latency_us=15_000)
    assert np.diff(result.times_us).tolist() == [15_000] * (len(result.times_us) - 1)
    assert result.finish_us[0] == sequence.label_times_us[0]
    assert (result.finish_us[1:] - result.times_us[1:] == 15_000).all()
    assert result.times_us[-1] <= sequence.label_times_us[-1]


def test_a_tracker_of_frames_answers_once_a_frame_on_the_clock(sequence, oracle):
    often, rarely = (
        evaluate_tracker(oracle(sequence), [sequence], protocol="clock", resamples=0, min_period_us=period_us)
        for period_us in (1_000, 160_000)
    )
    assert np.diff(rarely.results[0].times_us).min() >= 160_000
    assert len(often.results[0].times_us) > 10 * len(rarely.results[0].times_us)
    assert often.scores["SR"] > rarely.scores["SR"]


def test_a_fixed_latency_makes_the_clock_repeatable(sequence, oracle):
    runs = [
        evaluate_tracker(oracle(sequence), [sequence], protocol="clock", resamples=0, latency_us=3_000).results[0]
        for _ in range(2)
    ]
    assert np.array_equal(runs[0].finish_us, runs[1].finish_us)
    assert (runs[0].finish_us[1:] - runs[0].times_us[1:] == 3_000).all()


def test_the_clock_charges_each_look(sequence, oracle):
    class Looking(type(oracle(sequence))):
        looks = 0

        def update(self, events, *, at_us, frame=None):
            self.looks += 3
            return super().update(events, at_us=at_us, frame=frame)

    result = run_on_clock(Looking(sequence), sequence, latency_us=5_000)
    assert (result.finish_us[1:] - result.times_us[1:] == 15_000).all()


def test_slow_trackers_score_lower_on_the_clock(sequence, oracle):
    sequence = replace(sequence, label_times_us=sequence.label_times_us - 1)  # labels just before an answer
    scores = []
    for latency_us in (1_000, 100_000, 400_000):
        result = run_on_clock(oracle(sequence), sequence, latency_us=latency_us)
        scores.append(score_results("oracle", [result], [sequence], protocol="clock").scores["SR"])
    assert scores[0] > 90
    assert scores[0] > scores[1] > scores[2]


def test_one_pass_results_are_queued_for_the_clock(sequence, oracle):
    result = run_one_pass(oracle(sequence), sequence)
    late = replace(result, seconds=np.full(20, 0.06))
    # 60 ms of work every 40 ms: the queue grows by 20 ms with each label.
    waiting = late.finish_times() - late.times_us
    assert waiting[1:4].tolist() == [60_000, 80_000, 100_000]
    unknown = replace(result, seconds=np.full(20, np.nan))
    with pytest.raises(InputError, match="no computing times"):
        score_results("oracle", [unknown], [sequence], protocol="clock")


def test_clock_runs_are_scored_on_the_clock_only(sequence, oracle):
    result = run_on_clock(oracle(sequence), sequence, latency_us=5_000)
    with pytest.raises(InputError, match="only be scored with protocol=clock"):
        score_results("oracle", [result], [sequence], protocol="toolkit")


@pytest.mark.parametrize("options", [{"min_period_us": 0}, {"latency_us": -1}])
def test_clock_refuses_times_that_stand_still(sequence, oracle, options):
    with pytest.raises(InputError, match="at least"):
        run_on_clock(oracle(sequence), sequence, **options)


def test_results_of_other_sequences(sequence, oracle):
    result = run_one_pass(oracle(sequence), sequence)
    with pytest.raises(InputError, match="not of the same sequences"):
        score_results("oracle", [result], [], protocol="toolkit")


def test_unknown_protocol_is_refused_before_any_work(sequence, oracle):
    tracker = oracle(sequence)
    with pytest.raises(InputError, match="unknown protocol"):
        evaluate_tracker(tracker, [sequence], protocol="lasot")
    assert tracker.calls == []


def test_workers_share_the_sequences_and_give_the_same_boxes(sequence, oracle, make_sequence):
    chosen, seen = [sequence, *(make_sequence(name=f"another {n}") for n in range(3))], []
    alone = evaluate_tracker(oracle(sequence, shift=(3.0, 0.0)), chosen, resamples=0)
    shared = evaluate_tracker(
        oracle(sequence, shift=(3.0, 0.0)), chosen, resamples=0, workers=2, progress=lambda *step: seen.append(step)
    )
    assert shared.scores == alone.scores
    assert [r.name for r in shared.results] == [s.name for s in chosen]
    assert [step[:2] for step in seen] == [(n, 4) for n in range(1, 5)]
    assert sorted(step[2] for step in seen) == sorted(s.name for s in chosen)


def test_an_error_in_a_worker_is_the_callers(sequence, oracle):
    sequence.visible[:] = False
    with pytest.raises(InputError, match="moving: no label shows a visible box"):
        evaluate_tracker(oracle(sequence), [sequence, sequence], workers=2)


def test_a_worker_that_is_killed_is_named(sequence, oracle):
    class Killed(oracle.type):
        def update(self, events, *, at_us, frame=None):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerDiedError, match="one of 2 processes was ended"):
        evaluate_tracker(Killed(sequence), [sequence, sequence], workers=2)


def test_measured_time_is_not_shared(sequence, oracle):
    with pytest.raises(InputError, match=r"workers=2: protocol=clock measures time"):
        evaluate_tracker(oracle(sequence), [sequence], protocol="clock", workers=2)
    options = {"protocol": "clock", "resamples": 0, "latency_us": 3_000}
    alone, shared = (evaluate_tracker(oracle(sequence), [sequence] * 2, workers=n, **options) for n in (1, 2))
    assert alone.scores == shared.scores


def test_a_tracker_on_two_threads_gives_its_boxes_in_workers_too(sequence):
    chosen = [sequence, sequence]
    tracker = OnlineTracker(load_student("tiny"), threads=2)
    alone = evaluate_tracker(tracker, chosen, resamples=0)  # wakes threads that a fork has no copies of
    shared = evaluate_tracker(tracker, chosen, resamples=0, workers=2)
    for one, other in zip(alone.results, shared.results, strict=True):
        np.testing.assert_array_equal(one.boxes_xywh, other.boxes_xywh)
    assert list(in_forks(len, [], 2)) == []
