"""Scores of several trained seeds on the same sequences: means and intervals over both.

A score moves with the sequences and with the training's seed, so both are drawn anew in each bootstrap resample: seeds
with replacement, sequences with replacement, the same draw for both sides of a difference. With few seeds the interval
is on the narrow side, as three seeds cannot show how far a fourth may lie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from had_snn.errors import InputError
from had_snn.evaluate.metrics import interval


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and sequences with its interval.

    Attributes:
        mean: The mean.
        low: Lower end of the interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def resampled_means(scores: npt.ArrayLike, *, resamples: int, seed: int) -> np.ndarray:
    """Means of bootstrap resamples over seeds and sequences.

    Args:
        scores: `[seeds, sequences]`.
        resamples: How many.
        seed: Of the draws; arrays of one shape get the same draws under one seed, which pairs them.

    Returns:
        float64 `[resamples]`.

    Raises:
        InputError: If there is nothing to draw from or a score is not finite.
    """
    table = np.asarray(scores, np.float64)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise InputError(f"scores must be a finite [seeds, sequences] table, found shape {table.shape}")
    rng, (seeds, sequences) = np.random.default_rng(seed), table.shape
    means = np.empty(resamples)
    for i in range(resamples):
        rows, columns = rng.integers(0, seeds, seeds), rng.integers(0, sequences, sequences)
        means[i] = table[rows].mean(axis=0)[columns].mean()
    return means


def spread(scores: npt.ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Spread:
    """Mean of `[seeds, sequences]` with its interval."""
    means = resampled_means(scores, resamples=resamples, seed=seed)
    return Spread(float(np.mean(np.asarray(scores, np.float64))), *interval(means))


def paired_spread(first: npt.ArrayLike, second: npt.ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Spread:
    """Difference `first - second` of two `[seeds, sequences]` tables with the same seeds and sequences.

    A table with one row (a tracker that is not trained, one teacher for all) is compared with each seed of the other.

    Raises:
        InputError: If the two cannot be paired.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    seeds_fit = a.ndim == b.ndim == 2 and (len(a) == len(b) or 1 in (len(a), len(b)))
    if not seeds_fit or a.shape[1] != b.shape[1]:
        raise InputError(f"cannot pair scores of shapes {a.shape} and {b.shape}: the seeds or the sequences differ")
    return spread(a - b, resamples=resamples, seed=seed)


def gap_closed(
    arm: npt.ArrayLike,
    start: npt.ArrayLike,
    goal: npt.ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Spread:
    """Share of the way from `start` to `goal` that `arm` has gone: `(arm - start) / (goal - start)`, of the means."""
    gained = np.asarray(arm, np.float64) - np.asarray(start, np.float64)
    whole = np.broadcast_to(np.asarray(goal, np.float64) - np.asarray(start, np.float64), gained.shape)
    numerator = resampled_means(gained, resamples=resamples, seed=seed)
    denominator = resampled_means(whole, resamples=resamples, seed=seed)
    return Spread(float(gained.mean() / whole.mean()), *interval(numerator / denominator))
