"""What a tracker does with a target at a constant speed: overlap, lag, dither, windows, looks and what they cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from had_snn.evaluate.lag import measure_lag
from had_snn.evaluate.protocols import box_overlap
from had_snn.evaluate.results import TrackResult

if TYPE_CHECKING:
    from had_snn.data.sequence import TrackingSequence
    from had_snn.tracking import OnlineTracker

#: Pixels a second below which a target rests: its speed in rounded boxes is not exactly 0.
SLOWEST = 1e-3


@dataclass(frozen=True)
class Steadiness:
    """Means over the targets of one speed.

    Attributes:
        iou: Mean overlap.
        worst_iou: Mean overlap of the worst target.
        last_iou: Mean overlap of the last tenth of the labels.
        held_iou: Mean overlap of a box that never moves.
        lag_ms: How late boxes are (`lag.measure_lag`); None without motion.
        lag_windows: The same in windows.
        dither: Root mean square of what a box's place errs by from one label to the next, over the square root of 2, in
            sizes: the noise of a box that errs independently each time.
        lost: Share of labels at which the target counts as lost.
        window_ms: Median window.
        at_limit: Share of labels whose window is the shortest or the longest there is.
        looks_per_s: Looks in a second of recording.
        cpu_per_s: Processor seconds of tracking for a second of recording; live tracking falls behind above 1.
    """

    iou: float
    worst_iou: float
    last_iou: float
    held_iou: float
    lag_ms: float | None
    lag_windows: float | None
    dither: float
    lost: float
    window_ms: float
    at_limit: float
    looks_per_s: float
    cpu_per_s: float


def measure_steadiness(tracker: OnlineTracker, sequences: Sequence[TrackingSequence]) -> Steadiness:
    """Tracks targets of one speed from their first label to their last.

    Args:
        tracker: The tracker.
        sequences: At least one, with boxes at every label.

    Returns:
        The means.
    """
    rule, results, rows, seconds, cpu, looks = tracker.rule, [], [], 0.0, 0.0, 0
    limits = rule.length(rule.shortest), rule.length(rule.longest)
    for sequence in sequences:
        times, truth = sequence.label_times_us, np.asarray(sequence.boxes_xywh, np.float64)
        start, end = int(times[0]), int(times[-1])
        before = sequence.events.slice_time(start - tracker.context_us, start)
        begun = time.process_time()
        tracker.init(before, truth[0], t_us=start)
        found = tracker.update(sequence.events.slice_time(start, end), at_us=[int(t) for t in times[1:]])
        cpu += time.process_time() - begun
        seconds, looks = seconds + (end - start) * 1e-6, looks + tracker.looks
        boxes, scores = np.stack([truth[0], *(e.box_xywh for e in found)]), np.array([1.0, *(e.score for e in found)])
        results.append(TrackResult(sequence.name, np.asarray(times), boxes, scores, np.full(len(times), np.nan)))
        windows = np.array([e.window_us for e in found])
        centres = (boxes[:, :2] + boxes[:, 2:] / 2 - truth[:, :2] - truth[:, 2:] / 2)[1:]
        jumps = np.diff(centres / np.sqrt(truth[1:, 2:].prod(axis=1))[:, None], axis=0)
        overlap = box_overlap(boxes[1:], truth[1:])
        rows.append(
            {
                "iou": overlap.mean(),
                "last_iou": overlap[-max(1, len(overlap) // 10) :].mean(),
                "held_iou": box_overlap(np.broadcast_to(truth[0], truth[1:].shape), truth[1:]).mean(),
                "dither": np.sqrt((jumps**2).sum(axis=1).mean() / 2) if len(jumps) else 0.0,
                "lost": np.mean([e.lost for e in found]),
                "window_ms": np.median(windows) * 1e-3,
                "at_limit": np.isin(windows, limits).mean(),
            }
        )
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    lag_ms = measure_lag(results, sequences, slowest=SLOWEST).lag_ms
    known = bool(np.isfinite(lag_ms))
    return Steadiness(
        **means,
        worst_iou=float(min(row["iou"] for row in rows)),
        lag_ms=lag_ms if known else None,
        lag_windows=lag_ms / means["window_ms"] if known else None,
        looks_per_s=looks / seconds,
        cpu_per_s=cpu / seconds,
    )
