"""Records of what a tracker did and how it scored."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from had_snn.data.labels import has_area
from had_snn.errors import InputError
from had_snn.evaluate.box_files import write_boxes
from had_snn.evaluate.metrics import (
    SCORES,
    SequenceCurves,
    Summary,
    sequence_curves,
    summarise,
    summarise_by_attribute,
)
from had_snn.evaluate.protocols import align_to_clock


@dataclass(frozen=True)
class TrackResult:
    """What one tracker answered on one sequence.

    Attributes:
        name: The sequence.
        times_us: int64 `[M]` times of the boxes; the label times unless the tracker ran on a clock.
        boxes_xywh: float64 `[M, 4]`; row 0 is the given box.
        scores: float64 `[M]` confidences in [0, 1]; NaN where the source does not know them.
        seconds: float64 `[M]` computing time of each box; row 0 is the initialisation. NaN where unknown.
        finish_us: int64 `[M]` times at which boxes were ready, for a run on a clock; None otherwise.
    """

    name: str
    times_us: np.ndarray
    boxes_xywh: np.ndarray
    scores: np.ndarray
    seconds: np.ndarray
    finish_us: np.ndarray | None = None

    def finish_times(self) -> np.ndarray:
        """Times at which boxes were ready; of a one-pass run, those of a queue that skips nothing."""
        if self.finish_us is not None:
            return self.finish_us
        if np.isnan(self.seconds).any():
            raise InputError(
                f"{self.name}: these results hold no computing times, so the clock protocol cannot say when a box was "
                "ready; run the tracker itself (one_pass.run_on_clock) or use another protocol"
            )
        finish, ready = np.empty(len(self.times_us), np.int64), self.times_us[0]
        for row, (time, seconds) in enumerate(zip(self.times_us, self.seconds, strict=True)):
            ready = max(int(time), int(ready)) + (round(seconds * 1e6) if row else 0)
            finish[row] = ready
        return finish


@dataclass(frozen=True)
class Truth:
    """The annotation that a result is compared with: a `TrackingSequence` without its events, or a folder's files.

    Attributes:
        name: The sequence.
        boxes_xywh: float64 `[L, 4]`.
        visible: bool `[L]`.
        label_times_us: int64 `[L]`, or None when only frame numbers are known.
        attributes: Names of the challenges in this sequence.
    """

    name: str
    boxes_xywh: np.ndarray
    visible: np.ndarray
    label_times_us: np.ndarray | None = None
    attributes: tuple[str, ...] = ()

    @property
    def usable(self) -> np.ndarray:
        """Labels bool `[L]` that show the target; see `TrackingSequence.usable`."""
        return self.visible & has_area(self.boxes_xywh)


@dataclass(frozen=True)
class EvaluationResult:
    """One tracker over a set of sequences, under one protocol.

    Attributes:
        tracker: Its name.
        summary: Scores, intervals and mean curves.
        curves: One entry per sequence.
        results: The boxes, one entry per sequence, in the same order.
        by_attribute: A summary per attribute.
    """

    tracker: str
    summary: Summary
    curves: list[SequenceCurves]
    results: list[TrackResult] = field(repr=False, default_factory=list)
    by_attribute: dict[str, Summary] = field(default_factory=dict)

    @property
    def protocol(self) -> str:
        """The protocol of all scores in here."""
        return self.summary.protocol

    @property
    def scores(self) -> dict[str, float]:
        """`SR`, `PR`, `NPR`, `OP50`, `OP75` in percent."""
        return self.summary.scores

    @property
    def ms_per_output(self) -> float:
        """Median computing time per box in milliseconds, initialisations left out; NaN when unknown."""
        times = [r.seconds[1:] for r in self.results]
        seconds = np.concatenate(times) if times else np.empty(0)
        seconds = seconds[np.isfinite(seconds)]
        return float(np.median(seconds) * 1e3) if len(seconds) else float("nan")

    def to_dict(self) -> dict:
        """Plain numbers for `metrics.json`."""
        record = self.summary.to_dict()
        if np.isfinite(self.ms_per_output):
            record["ms_per_output"] = self.ms_per_output
        record["per_attribute"] = {
            name: {**{s: summary.scores[s] for s in SCORES}, "sequences": summary.sequences}
            for name, summary in self.by_attribute.items()
        }
        record["per_sequence"] = {c.name: {s: _json_number(c.score(s)) for s in SCORES} for c in self.curves}
        return record


def score_results(
    tracker: str,
    results: Sequence[TrackResult],
    truths: Sequence[Any],
    *,
    protocol: str,
    resamples: int = 1000,
    seed: int = 0,
) -> EvaluationResult:
    """Scores boxes that are there already, so one run can be read under several protocols.

    Args:
        tracker: Name for tables and files.
        results: One entry per sequence.
        truths: The annotations of the same sequences in the same order; anything with the fields of `Truth`, such as
            `TrackingSequence`.
        protocol: One of `protocols.PROTOCOLS`.
        resamples: Bootstrap resamples for the intervals; 0 for none.
        seed: Seed of the resampling.

    Returns:
        Scores, curves and per-attribute scores.

    Raises:
        InputError: If the two lists do not match or a protocol refuses the boxes.
    """
    if [r.name for r in results] != [t.name for t in truths]:
        raise InputError(f"{tracker}: results and annotations are not of the same sequences in the same order")
    curves, attributes = [], {}
    for result, truth in zip(results, truths, strict=True):
        boxes = result.boxes_xywh
        if protocol == "clock":
            if truth.label_times_us is None:
                raise InputError(f"{truth.name}: the clock protocol needs label times, which these annotations lack")
            boxes = align_to_clock(truth.label_times_us, result.finish_times(), boxes)
        elif result.finish_us is not None:
            raise InputError(f"{result.name}: boxes from a run on a clock can only be scored with protocol=clock")
        curves.append(
            sequence_curves(boxes, truth.boxes_xywh, protocol=protocol, visible=truth.visible, name=truth.name)
        )
        attributes[truth.name] = truth.attributes
    summary = summarise(curves, protocol=protocol, resamples=resamples, seed=seed)
    by_attribute = summarise_by_attribute(curves, attributes, protocol=protocol, resamples=resamples, seed=seed)
    return EvaluationResult(tracker, summary, curves, list(results), by_attribute)


def write_result_folder(folder: str | os.PathLike[str], results: Sequence[TrackResult]) -> Path:
    """Writes one `<sequence>.txt` per result, as `folders.evaluate_folder` and the public toolkits expect."""
    for result in results:
        write_boxes(Path(folder) / f"{result.name}.txt", result.boxes_xywh)
    return Path(folder)


def results_to_json(evaluations: Sequence[EvaluationResult]) -> Mapping[str, dict]:
    """`to_dict` of each tracker under its name."""
    return {e.tracker: e.to_dict() for e in evaluations}


def _json_number(value: float) -> float | None:
    """JSON has no NaN: a sequence without a frame that counts has no score."""
    return value if np.isfinite(value) else None
