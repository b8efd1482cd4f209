"""One-pass evaluation: the tracker gets the first box and never another.

`run_one_pass` asks for a box at every label time. `run_on_clock` lets time run on while the tracker computes: when it
is ready again it gets all events up to now and is asked for a box now, so a slow tracker answers more rarely and later.

A tracker is anything with

    name: str
    init(events, box_xywh, *, t_us, frame=None) -> None
    update(events, *, at_us, frame=None) -> list[Estimate]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from had_snn.data.sequence import first_label
from had_snn.errors import InputError
from had_snn.evaluate.protocols import check_protocol
from had_snn.evaluate.results import EvaluationResult, TrackResult, score_results
from had_snn.processes import in_forks, shard, unshard

if TYPE_CHECKING:
    from had_snn.data.sequence import TrackingSequence
    from had_snn.events.stream import EventStream

#: Events before the first label that a tracker gets when it starts, if it does not say so by `context_us`.
CONTEXT_US = 100_000


class Tracker(Protocol):
    """What the harness asks of a tracker; see `had_snn.tracking.OnlineTracker`."""

    name: str

    def init(self, events: EventStream, box_xywh: Any, *, t_us: int, frame: np.ndarray | None = None) -> None:
        """Starts at a known box; `events` end at `t_us`."""
        ...

    def update(self, events: EventStream, *, at_us: Sequence[int], frame: np.ndarray | None = None) -> list:
        """Takes the events since the last call and returns one estimate per asked time."""
        ...


def _start(tracker: Tracker, sequence: TrackingSequence, row: int) -> tuple[int, float]:
    """Initialises at label `row`; returns its time and the seconds that took."""
    t_us = int(sequence.label_times_us[row])
    reach_us = getattr(tracker, "context_us", CONTEXT_US)
    context = sequence.events.slice_time(t_us - reach_us, t_us)
    frame = sequence.frame_at(t_us)
    begun = time.perf_counter()
    tracker.init(context, sequence.boxes_xywh[row], t_us=t_us, frame=frame)
    return t_us, time.perf_counter() - begun


def run_one_pass(tracker: Tracker, sequence: TrackingSequence) -> TrackResult:
    """Runs a tracker over one sequence with one box per label.

    When the first labels show no target, the tracker starts at the first that does, and those before get zero boxes.

    Args:
        tracker: The tracker; `init` is called on it.
        sequence: The sequence.

    Returns:
        As many boxes as labels; row 0 is the given box.

    Raises:
        InputError: If no label has a box to start at, or the tracker does not answer as asked.
    """
    length, row0 = len(sequence.label_times_us), first_label(sequence)
    boxes, scores, seconds = np.zeros((length, 4)), np.zeros(length), np.zeros(length)
    t_before, seconds[row0] = _start(tracker, sequence, row0)
    boxes[row0], scores[row0] = sequence.boxes_xywh[row0], 1.0
    for row in range(row0 + 1, length):
        t_us = int(sequence.label_times_us[row])
        events, frame = sequence.events.slice_time(t_before, t_us), sequence.frame_at(t_us)
        begun = time.perf_counter()
        estimates = tracker.update(events, at_us=[t_us], frame=frame)
        seconds[row] = time.perf_counter() - begun
        if len(estimates) != 1:
            raise InputError(
                f"{tracker.name} returned {len(estimates)} estimates for one asked time on {sequence.name}"
            )
        boxes[row], scores[row] = estimates[0].box_xywh, estimates[0].score
        t_before = t_us
    times = np.asarray(sequence.label_times_us, dtype=np.int64)
    return TrackResult(sequence.name, times, boxes, scores, seconds)


def run_on_clock(
    tracker: Tracker,
    sequence: TrackingSequence,
    *,
    latency_us: int | None = None,
    min_period_us: int = 1000,
) -> TrackResult:
    """Runs a tracker while time goes on: what it cannot keep up with, it misses.

    Args:
        tracker: The tracker; `init` is called on it.
        sequence: The sequence.
        latency_us: Computing time charged for each look, or for each answer of a tracker that does not count its
            `looks`; the measured one when None. A fixed value makes the run repeatable and models another machine.
        min_period_us: The tracker rests until this long after it began its last answer.

    Returns:
        The answers with their finishing times, for `protocol="clock"`.

    Raises:
        InputError: If there is no box to start at or a time is not positive.
    """
    if min_period_us < 1 or (latency_us is not None and latency_us < 0):
        raise InputError(f"min_period_us={min_period_us} must be at least 1 and latency_us={latency_us} at least 0")
    row0 = first_label(sequence)
    t_before, spent = _start(tracker, sequence, row0)
    rows = [(t_before, np.asarray(sequence.boxes_xywh[row0], np.float64), 1.0, spent, t_before)]

    def charge(spent: float, looks: int) -> int:
        return round(spent * 1e6) if latency_us is None else latency_us * looks

    now = t_before + max(min_period_us, charge(spent, 1))
    t_last = int(sequence.label_times_us[-1])
    while now <= t_last:
        events, frame = sequence.events.slice_time(t_before, now), sequence.frame_at(now)
        looks, begun = getattr(tracker, "looks", None), time.perf_counter()
        estimate = tracker.update(events, at_us=[now], frame=frame)[0]
        spent = time.perf_counter() - begun
        charged = charge(spent, 1 if looks is None else getattr(tracker, "looks", 0) - looks)
        rows.append((now, np.asarray(estimate.box_xywh, np.float64), estimate.score, spent, now + charged))
        t_before, now = now, now + max(min_period_us, charged)
    times, boxes, scores, seconds, finish = zip(*rows, strict=True)
    return TrackResult(
        name=sequence.name,
        times_us=np.array(times, np.int64),
        boxes_xywh=np.stack(boxes),
        scores=np.array(scores, np.float64),
        seconds=np.array(seconds, np.float64),
        finish_us=np.array(finish, np.int64),
    )


def evaluate_tracker(
    tracker: Tracker,
    sequences: Sequence[TrackingSequence],
    *,
    protocol: str = "pytracking",
    resamples: int = 1000,
    seed: int = 0,
    min_period_us: int = 1000,
    latency_us: int | None = None,
    workers: int = 1,
    progress: Callable[[int, int, str], None] | None = None,
) -> EvaluationResult:
    """Runs and scores a tracker over a set of sequences; in a distributed run each process takes its share of them.

    Args:
        tracker: The tracker.
        sequences: At least one sequence.
        protocol: One of `protocols.PROTOCOLS`; under `clock` the tracker runs on a clock with its measured latency.
        resamples: Bootstrap resamples for the intervals; 0 for none.
        seed: Seed of the resampling.
        min_period_us: Under `clock`, the tracker rests until this long after it began its last answer; a tracker that
            waits for camera frames answers once a frame.
        latency_us: Under `clock`, computing time charged for each look or answer; the measured one when None.
        workers: Sequences that are tracked at a time, each by a copy of the tracker on one thread; boxes and scores are
            the same (a large network's on several threads: but for rounding), computing times are of a machine that
            does more than one thing.
        progress: Called after each sequence with the number done, the number of all and the sequence's name.

    Returns:
        Scores, curves and boxes. `results.score_results` reads the same boxes under another protocol.
    """
    check_protocol(protocol)
    if protocol == "clock" and latency_us is None and workers > 1:
        raise InputError(
            f"workers={workers}: protocol=clock measures time, on a machine that does nothing else; workers=1"
        )

    def track(sequence: TrackingSequence) -> TrackResult:
        if protocol == "clock":
            return run_on_clock(tracker, sequence, latency_us=latency_us, min_period_us=min_period_us)
        return run_one_pass(tracker, sequence)

    own, found = shard(sequences), {}
    for number, result in in_forks(track, own, workers):
        found[number] = result
        if progress is not None:
            progress(len(found), len(own), own[number].name)
    results = unshard([found[number] for number in range(len(own))])
    return score_results(tracker.name, results, sequences, protocol=protocol, resamples=resamples, seed=seed)
