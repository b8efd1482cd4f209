"""How late boxes are, by the target's speed, and what lateness costs: timing that cannot show in boxes has no worth.

    python experiments/lag.py checkpoints=[tiny] teacher_checkpoint=PATH

Beside each tracker stands what its boxes would score if they were moved along the target's own motion, and what the
annotated boxes score when they come late. Both look at the annotation: they bound what better timing can gain.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from entry import open_run, script
from omegaconf import DictConfig
from progress import progress
from sources import sequences

from had_snn.atomic import atomic_file
from had_snn.checkpoint import load_student, load_teacher
from had_snn.errors import InputError
from had_snn.evaluate.lag import late_truth, measure_lag, moved_along
from had_snn.evaluate.one_pass import run_one_pass
from had_snn.evaluate.results import TrackResult, score_results
from had_snn.tracking import OnlineTracker, TeacherTracker


def success(results: Sequence[TrackResult], truths: Sequence[Any], attribute: str) -> dict[str, float]:
    """SR over all sequences and over those with an attribute, where there are any."""
    found = score_results("boxes", results, truths, protocol="pytracking", resamples=0)
    scores = {"all": round(found.scores["SR"], 2)}
    if attribute in found.by_attribute:
        scores[attribute] = round(found.by_attribute[attribute].scores["SR"], 2)
    return scores


def of_tracker(tracker: Any, chosen: Sequence[Any], cfg: DictConfig, name: str) -> dict[str, Any]:
    """Lag by speed and SR with the boxes moved in time."""
    results = []
    with progress(f"track {name}", unit="sequences") as bar:
        for sequence in chosen:
            results.append(run_one_pass(tracker, sequence))
            bar(len(results), len(chosen), sequence.name)
    edges = [*map(float, cfg.speeds), np.inf]
    lags = {
        f"{low:g}+" if high == np.inf else f"{low:g}-{high:g}": {
            key: value if key == "boxes" else round(value, 2) if np.isfinite(value) else None
            for key, value in asdict(measure_lag(results, chosen, slowest=low, fastest=high)).items()
        }
        for low, high in pairwise(edges)
    }
    moved = {
        f"{ms:g}": success(
            [moved_along(r, s, 1e3 * ms) for r, s in zip(results, chosen, strict=True)], chosen, cfg.attribute
        )
        for ms in map(float, cfg.moved_ms)
    }
    return {"by_speed": lags, "SR_moved_by_ms": moved}


def run(cfg: DictConfig) -> dict[str, Any]:
    """Measures every tracker and the late annotation; writes `lag.json`."""
    trackers: list[tuple[str, Any]] = [(str(path), OnlineTracker(load_student(path))) for path in cfg.checkpoints]
    if cfg.teacher_checkpoint is not None:
        trackers.append(("teacher", TeacherTracker(load_teacher(cfg.teacher_checkpoint))))
    names = [name for name, _ in trackers]
    if len(set(names)) < len(names):
        raise InputError(f"checkpoints names a student twice: {', '.join(names)}")
    chosen = list(sequences(cfg.data, cfg.split))[: cfg.limit]
    folder = open_run(cfg)
    record: dict[str, Any] = {"split": cfg.split, "sequences": len(chosen), "protocol": "pytracking"}
    record["SR_of_annotation_late_by_ms"] = {
        f"{ms:g}": success([late_truth(s, 1e3 * ms) for s in chosen], chosen, cfg.attribute)
        for ms in map(float, cfg.late_ms)
    }
    record["trackers"] = {name: of_tracker(tracker, chosen, cfg, name) for name, tracker in trackers}
    with atomic_file(folder / "lag.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n")
    return record


def table(record: dict[str, Any]) -> str:
    """The record to read."""

    def scores(by_ms: dict[str, dict[str, float]]) -> str:
        return ", ".join(f"{ms} ms " + "/".join(f"{v:.1f}" for v in found.values()) for ms, found in by_ms.items())

    lines = [f"annotation, late by: SR {scores(record['SR_of_annotation_late_by_ms'])}"]
    for name, found in record["trackers"].items():
        lines.append(f"{name}, moved by: SR {scores(found['SR_moved_by_ms'])}")
        lines += [
            f"  {speed:>8} px/s: {lag['lag_ms']:6.1f} ms late, noise along {lag['along_px']:.1f} and across "
            f"{lag['across_px']:.1f} px, {lag['boxes']} boxes"
            if lag["boxes"]
            else f"  {speed:>8} px/s: no box on the target"
            for speed, lag in found["by_speed"].items()
        ]
    return "\n".join(lines) + "\n"


@script("lag")
def main(cfg: DictConfig) -> None:
    print(table(run(cfg)), end="")
    print(f"wrote {Path(cfg.out) / 'lag.json'}")


if __name__ == "__main__":
    main()
