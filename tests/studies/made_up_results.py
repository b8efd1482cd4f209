"""Results as the ablation's worker writes them, of no training."""

from __future__ import annotations

from typing import Any

import numpy as np


def made_up(arm: str, seed: int, level: float, *, labels: float = 1.0, budget: str = "time") -> dict[str, Any]:
    """A job of an arm and what came out: SR `level + seed` and noise that all share."""
    rng = np.random.default_rng(5)
    scores = (level + seed + rng.normal(0, 10, 20)).tolist()
    job = {"kind": "student", "arm": arm, "seed": seed, "labels": labels, "budget": budget, "iterations": 10}
    job = job if arm not in ("teacher", "static") else {"kind": "teacher" if arm == "teacher" else "baseline"}
    kinds = ("SR", "PR", "NPR")
    mean = dict.fromkeys(kinds, float(np.mean(scores)))
    return {
        "job": job,
        "scores": mean,
        "seconds": 1.0,
        "seconds_per_step": 0.1,
        "sequences": [f"s{i}" for i in range(20)],
        "per_sequence": dict.fromkeys(kinds, scores),
        "by_attribute": {"blur": {**mean, "sequences": 3}},
    }
