"""How late a tracker's boxes are, and what lateness costs.

The error of a box's centre is split into a part along the target's own motion and one across it. A tracker that reports
where the target was `lag` ago errs by `-lag * speed` along the motion and by nothing across it, so that

    lag = -sum(along * speed) / sum(speed**2)

is the least-squares lag of all boxes that are on the target. What remains along the motion and the error across it are
the tracker's noise; timing that is finer than noise divided by speed cannot show in its boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from had_snn.data.sequence import first_label
from had_snn.errors import InputError
from had_snn.evaluate.results import TrackResult

if TYPE_CHECKING:
    from had_snn.data.sequence import TrackingSequence

#: A box whose centre is off by more than this share of `sqrt(w * h)` is not on the target.
ON_TARGET = 0.6


@dataclass(frozen=True)
class Lag:
    """Lateness of boxes in a range of speeds.

    Attributes:
        lag_ms: How long ago the target was where the boxes are; NaN without a box.
        along_px: Standard deviation of what is left along the motion once the lag is taken out.
        across_px: Standard deviation of the error across the motion.
        speed_px_per_s: Mean speed of the target.
        boxes: Boxes counted.
    """

    lag_ms: float
    along_px: float
    across_px: float
    speed_px_per_s: float
    boxes: int


def _centres(boxes_xywh: np.ndarray) -> np.ndarray:
    return boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2


def _velocity(truth: TrackingSequence) -> np.ndarray:
    """Velocity of the target's centre at each label, `[L, 2]` pixels a second; NaN beside a label without a box."""
    seconds = np.asarray(truth.label_times_us, np.float64) * 1e-6
    if len(seconds) < 2:
        raise InputError(f"{truth.name}: one label says nothing about motion; expected at least two")
    return np.gradient(_centres(np.asarray(truth.boxes_xywh, np.float64)), seconds, axis=0)


def measure_lag(
    results: Sequence[TrackResult], truths: Sequence[Any], *, slowest: float = 0.0, fastest: float = np.inf
) -> Lag:
    """Lag of a tracker with one box per label.

    Args:
        results: Its boxes; the given first box of each sequence is left out.
        truths: The annotated sequences, in the same order.
        slowest: Lowest speed of the target that counts, pixels a second.
        fastest: Speed from which on a label does not count.

    Returns:
        The lag over all visible labels at which the box is on the target.

    Raises:
        InputError: If the two do not match.
    """
    along, across, speeds = [], [], []
    for result, truth in zip(results, truths, strict=True):
        _check_pair(result, truth)
        boxes, velocity = np.asarray(truth.boxes_xywh, np.float64), _velocity(truth)
        speed = np.linalg.norm(velocity, axis=1)
        error = _centres(result.boxes_xywh) - _centres(boxes)
        near = np.linalg.norm(error, axis=1) < ON_TARGET * np.sqrt(boxes[:, 2] * boxes[:, 3])
        counts = near & np.asarray(truth.visible, bool) & (speed >= slowest) & (speed < fastest) & (speed > 0)
        counts[: first_label(truth) + 1] = False
        heading = velocity[counts] / speed[counts, None]
        along.append((error[counts] * heading).sum(axis=1))
        across.append(error[counts, 1] * heading[:, 0] - error[counts, 0] * heading[:, 1])
        speeds.append(speed[counts])
    a, c, s = (np.concatenate(values) if values else np.empty(0) for values in (along, across, speeds))
    if not len(a):
        return Lag(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    lag = -float((a * s).sum() / (s * s).sum())
    return Lag(lag * 1e3, float((a + lag * s).std()), float(c.std()), float(s.mean()), len(a))


def moved_along(result: TrackResult, truth: TrackingSequence, by_us: float) -> TrackResult:
    """The boxes, moved by what the target moves in `by_us`: what a tracker so much less late would have answered.

    It looks at the annotation, so it bounds what better timing can gain; it is no tracker. The given box stays, and so
    do boxes where the annotation does not tell how the target moves.
    """
    _check_pair(result, truth)
    boxes, after = result.boxes_xywh.copy(), first_label(truth) + 1
    boxes[after:, :2] += np.nan_to_num(_velocity(truth)[after:]) * (by_us * 1e-6)
    return replace(result, boxes_xywh=boxes)


def late_truth(truth: TrackingSequence, by_us: float) -> TrackResult:
    """The annotated boxes of `by_us` ago: what a tracker that errs in nothing but time would answer."""
    times = np.asarray(truth.label_times_us, np.float64)
    boxes = np.asarray(truth.boxes_xywh, np.float64)
    late = np.stack([np.interp(times - by_us, times, column) for column in boxes.T], axis=1)
    given, count = first_label(truth) + 1, len(times)
    late[:given] = boxes[:given]
    return TrackResult(truth.name, np.asarray(truth.label_times_us), late, np.ones(count), np.full(count, np.nan))


def _check_pair(result: TrackResult, truth: Any) -> None:
    if result.name != truth.name or len(result.boxes_xywh) != len(truth.boxes_xywh):
        raise InputError(
            f"{result.name} with {len(result.boxes_xywh)} boxes and {truth.name} with {len(truth.boxes_xywh)} labels "
            "do not belong together; a lag needs one box per label"
        )
