"""Scores: curves per sequence, their means, and how sure one can be of them.

With `o` the overlap, `d` the centre distance and `n` the normalised centre distance of a frame (`protocols.py`):

    success(theta)        = #{o >  theta} / frames,   theta = 0, 0.05 ... 1    SR   = mean over theta
    precision(theta)      = #{d <= theta} / frames,   theta = 0, 1 ... 50 px   PR   = precision(20)
    norm_precision(theta) = #{n <= theta} / frames,   theta = 0, 0.01 ... 0.5  NPR  = norm_precision(0.2)
                                                                               OP50 = success(0.5), OP75 = success(0.75)

Curves are averaged over sequences, not over frames. Intervals are percentile bootstrap intervals over sequences, so
they tell how the score would move with other sequences of the same kind; they do not hold the variance of training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from had_snn.errors import InputError
from had_snn.evaluate.protocols import FrameErrors, check_protocol, frame_errors

SUCCESS_THRESHOLDS = np.arange(21) / 20.0
PRECISION_THRESHOLDS = np.arange(51.0)
NORM_PRECISION_THRESHOLDS = np.arange(51) / 100.0
_TAIL = 50.0 * (1.0 - 0.95)  # percent beyond either end of an interval
CURVES = ("success", "precision", "norm_precision")
#: Each score: the curve it comes from and the index on it, None for the mean of the curve.
SCORES: dict[str, tuple[str, int | None]] = {
    "SR": ("success", None),
    "PR": ("precision", 20),
    "NPR": ("norm_precision", 20),
    "OP50": ("success", 10),
    "OP75": ("success", 15),
}


@dataclass(frozen=True)
class SequenceCurves:
    """The three curves of one sequence, as fractions.

    Attributes:
        name: The sequence.
        success: `[21]` over `SUCCESS_THRESHOLDS`.
        precision: `[51]` over `PRECISION_THRESHOLDS`.
        norm_precision: `[51]` over `NORM_PRECISION_THRESHOLDS`.
        frames: The divisor; with 0 frames the curves are NaN.
        mean_overlap: Mean overlap of the frames that can score, misses by rule counted as 0.
    """

    name: str
    success: np.ndarray
    precision: np.ndarray
    norm_precision: np.ndarray
    frames: int
    mean_overlap: float

    def score(self, name: str) -> float:
        """`SR`, `PR`, `NPR`, `OP50` or `OP75` of this sequence in percent."""
        curve, index = SCORES[name]
        values = getattr(self, curve)
        return 100.0 * float(values.mean() if index is None else values[index])


def curves_from_errors(errors: FrameErrors, *, name: str = "sequence") -> SequenceCurves:
    """Counts the frames of one sequence at every threshold."""
    divisor = errors.divisor if errors.divisor else np.nan
    scoring = np.clip(np.nan_to_num(errors.overlap), 0.0, 1.0)
    return SequenceCurves(
        name=name,
        success=(errors.overlap[:, None] > SUCCESS_THRESHOLDS).sum(axis=0) / divisor,
        precision=(errors.centre[:, None] <= PRECISION_THRESHOLDS).sum(axis=0) / divisor,
        norm_precision=(errors.norm_centre[:, None] <= NORM_PRECISION_THRESHOLDS).sum(axis=0) / divisor,
        frames=errors.divisor,
        mean_overlap=float(scoring.mean()) if len(scoring) else float("nan"),
    )


def sequence_curves(
    predicted_xywh: np.ndarray,
    truth_xywh: np.ndarray,
    *,
    protocol: str,
    visible: np.ndarray | None = None,
    name: str = "sequence",
) -> SequenceCurves:
    """The curves of one sequence; arguments as in `protocols.frame_errors`.

    Example:
        >>> truth = np.array([[10, 10, 20, 20], [12, 10, 20, 20]])
        >>> curves = sequence_curves(truth + [0, 0, 0, 0], truth, protocol="pytracking")
        >>> round(curves.score("SR"), 1), curves.score("PR")
        (95.2, 100.0)
    """
    errors = frame_errors(predicted_xywh, truth_xywh, protocol=protocol, visible=visible, name=name)
    return curves_from_errors(errors, name=name)


@dataclass(frozen=True)
class Summary:
    """Mean curves and scores over sequences.

    Attributes:
        protocol: The rule that the scores were made under.
        scores: `SR`, `PR`, `NPR`, `OP50`, `OP75` in percent.
        intervals: Low and high end of the interval of each score, in percent; empty when none was asked for.
        curves: Mean `success`, `precision` and `norm_precision`, as fractions.
        sequences: Number of sequences given.
        dropped: Sequences left out of the mean, per curve (see `toolkit`; under `visible` those without a visible
            frame).
    """

    protocol: str
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    curves: dict[str, np.ndarray]
    sequences: int
    dropped: dict[str, int]

    def to_dict(self) -> dict:
        """Plain numbers for `metrics.json`: scores, `<score>_ci` pairs, the protocol and the counts."""
        record: dict = {"protocol": self.protocol, **self.scores, "sequences": self.sequences, "dropped": self.dropped}
        record.update({f"{name}_ci": list(pair) for name, pair in self.intervals.items()})
        return record


def summarise(
    curves: Sequence[SequenceCurves],
    *,
    protocol: str,
    resamples: int = 1000,
    seed: int = 0,
) -> Summary:
    """Averages sequences and, with `resamples > 0`, puts bootstrap intervals around the scores.

    Args:
        curves: One entry per sequence, made under `protocol`.
        protocol: One of `protocols.PROTOCOLS`.
        resamples: Bootstrap resamples of the sequences; 0 for no intervals.
        seed: Seed of the resampling: equal seeds and numbers of sequences draw equal resamples.

    Returns:
        The summary.

    Raises:
        InputError: If there is no sequence.
    """
    check_protocol(protocol)
    if not curves:
        raise InputError("no sequences to average; expected at least one")
    means, dropped, kept = {}, {}, {}
    for kind in CURVES:
        values = np.stack([getattr(c, kind) for c in curves])
        kept[kind] = _kept(values, protocol)
        dropped[kind] = int((~kept[kind]).sum())
        # With every sequence left out the toolkits print NaN; 0 is what the curves say.
        means[kind] = values[kept[kind]].mean(axis=0) if kept[kind].any() else np.zeros(values.shape[1])
    scores, intervals = {}, {}
    draws = _resample_counts(len(curves), resamples, seed)
    for name, (kind, index) in SCORES.items():
        scores[name] = 100.0 * float(means[kind].mean() if index is None else means[kind][index])
        if resamples:
            values = np.array([c.score(name) for c in curves])
            intervals[name] = interval(_resampled_means(values, kept[kind], draws))
    return Summary(protocol, scores, intervals, means, len(curves), dropped)


def summarise_by_attribute(
    curves: Sequence[SequenceCurves],
    attributes: Mapping[str, Sequence[str]],
    *,
    protocol: str,
    resamples: int = 0,
    seed: int = 0,
) -> dict[str, Summary]:
    """Summaries over the sequences that carry each attribute.

    Args:
        curves: One entry per sequence.
        attributes: Attributes of each sequence by its name; sequences that are missing carry none.
        protocol: One of `protocols.PROTOCOLS`.
        resamples: As in `summarise`.
        seed: As in `summarise`.

    Returns:
        A summary per attribute, in alphabetical order.
    """
    members: dict[str, list[SequenceCurves]] = {}
    for entry in curves:
        for attribute in attributes.get(entry.name, ()):
            members.setdefault(attribute, []).append(entry)
    return {a: summarise(members[a], protocol=protocol, resamples=resamples, seed=seed) for a in sorted(members)}


@dataclass(frozen=True)
class PairedDifference:
    """How far one tracker is ahead of another on the same sequences.

    Attributes:
        difference: Score of the first minus score of the second, in percentage points.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    difference: float
    low: float
    high: float


def paired_difference(
    first: Sequence[SequenceCurves],
    second: Sequence[SequenceCurves],
    *,
    score: str = "SR",
    protocol: str,
    resamples: int = 2000,
    seed: int = 0,
) -> PairedDifference:
    """Difference of two trackers with an interval from resampling the sequences for both at once.

    Args:
        first: Curves of one tracker.
        second: Curves of the other: the same sequences in the same order.
        score: One of `SCORES`.
        protocol: The protocol of both.
        resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        The difference, positive when the first is ahead.

    Raises:
        InputError: If the two do not hold the same sequences.
    """
    check_protocol(protocol)
    if [c.name for c in first] != [c.name for c in second] or not first:
        raise InputError("a paired difference needs the same sequences in the same order for both trackers")
    if score not in SCORES:
        raise InputError(f"unknown score {score!r}; expected one of {', '.join(SCORES)}")
    kind = SCORES[score][0]
    every, draws = np.ones((1, len(first))), _resample_counts(len(first), resamples, seed)
    values, resampled = [], []
    for tracker in (first, second):
        kept = _kept(np.stack([getattr(c, kind) for c in tracker]), protocol)
        scores = np.array([c.score(score) for c in tracker])
        values.append(float(_resampled_means(scores, kept, every)[0]))
        resampled.append(_resampled_means(scores, kept, draws))
    low, high = interval(resampled[0] - resampled[1])
    return PairedDifference(values[0] - values[1], low, high)


def _kept(values: np.ndarray, protocol: str) -> np.ndarray:
    """bool `[S]`: the sequences that enter the mean of a stack of curves `[S, thresholds]`."""
    sums = values.sum(axis=1)
    return np.isfinite(sums) & (sums > 0) if protocol == "toolkit" else np.isfinite(sums)


def _resample_counts(sequences: int, resamples: int, seed: int) -> np.ndarray:
    """How often each sequence is drawn in each resample, float64 `[resamples, sequences]`."""
    draw = np.random.default_rng(seed).integers(0, sequences, size=(resamples, sequences))
    counts = np.zeros((resamples, sequences))
    np.add.at(counts, (np.arange(resamples)[:, None], draw), 1.0)
    return counts


def _resampled_means(values: np.ndarray, kept: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of the kept values in each resample; 0 where a resample holds none of them."""
    total = counts @ np.where(kept, values, 0.0)
    return total / np.maximum(counts @ kept.astype(np.float64), 1.0)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of bootstrap values."""
    low, high = np.percentile(values, [_TAIL, 100.0 - _TAIL])
    return float(low), float(high)
