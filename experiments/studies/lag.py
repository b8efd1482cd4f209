"""How late boxes are, by the target's speed, and what lateness costs: timing that cannot show in boxes has no worth.

    python -m experiments.studies lag checkpoints=[tiny] teacher_checkpoint=PATH
    python -m experiments.studies lag limit=0      # only the second table

A second table is over speed in sizes a second, on simulated targets that keep one (`had_snn/data/steady.py`): overlap,
lag, dither, window, looks, and what they cost in time and energy.

Beside each tracker stands what its boxes would score if they were moved along the target's own motion, and what the
annotated boxes score when they come late. Both look at the annotation: they bound what better timing can gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from experiments.record import write_record
from had_snn.checkpoint import load_student, load_teacher
from had_snn.commands.profile_energy import count_tracking
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import machine, open_run
from had_snn.commands.sources import sequences
from had_snn.data.sequence import TrackingSequence
from had_snn.data.steady import steady_targets
from had_snn.errors import InputError
from had_snn.evaluate.lag import late_truth, measure_lag, moved_along
from had_snn.evaluate.one_pass import run_one_pass
from had_snn.evaluate.results import TrackResult, score_results
from had_snn.evaluate.steadiness import measure_steadiness
from had_snn.models import SpikingTracker
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


def by_speed(students: dict[str, SpikingTracker], cfg: DictConfig) -> dict[str, Any]:
    """Steadiness and energy of every student at every speed."""
    found: dict[str, Any] = {name: {} for name in students}
    with progress("speeds", unit="speeds") as bar:
        for done, speed in enumerate(map(float, cfg.steady.speeds), start=1):
            targets = steady_targets(speed, cfg.steady.count, cfg.seed)
            for name, student in students.items():
                steady, counted = (
                    measure_steadiness(OnlineTracker(student), targets),
                    count_tracking(student, name, targets),
                )
                mj = counted.energy_mj() or 0.0
                energy = {
                    "mj_per_window": mj * counted.outputs / max(1, counted.windows),
                    "mj_per_output": mj,
                    "mj_per_s": mj * counted.outputs_per_second,
                }
                numbers = {"outputs_per_s": counted.outputs_per_second} | asdict(steady) | energy
                found[name][f"{speed:g}"] = {
                    key: value if value is None else float(f"{value:.4g}") for key, value in numbers.items()
                }
            bar(done, len(cfg.steady.speeds), f"{speed:g} sizes/s")
    return found


def run(cfg: DictConfig) -> dict[str, Any]:
    """Writes `lag.json` of every tracker and the late annotation, and `speeds.json` of the targets of one speed."""
    students = {str(path): load_student(path) for path in cfg.checkpoints}
    if len(students) < len(cfg.checkpoints):
        raise InputError(f"checkpoints names a student twice: {', '.join(map(str, cfg.checkpoints))}")
    chosen = sequences(cfg.data, cfg.split, limit=cfg.limit) if cfg.limit != 0 else []
    folder, record = open_run(cfg), {}
    if chosen:
        record = of_sequences(students, chosen, cfg)
        write(folder / "lag.json", record)
    if cfg.steady.speeds:
        speeds = ",".join(f"{float(speed):g}" for speed in cfg.steady.speeds)
        options = f"checkpoints=[{','.join(students)}] steady.speeds=[{speeds}] steady.count={cfg.steady.count}"
        about = {
            "command": f"python -m experiments.studies lag limit=0 seed={cfg.seed} {options}",
            "machine": machine(torch.get_num_threads(), "cpu"),
        }
        record |= {"by_sizes_per_s": by_speed(students, cfg)}
        write(folder / "speeds.json", about | {"by_sizes_per_s": record["by_sizes_per_s"]})
    return record


def of_sequences(
    students: dict[str, SpikingTracker], chosen: Sequence[TrackingSequence], cfg: DictConfig
) -> dict[str, Any]:
    """Every tracker and the late annotation on sequences of a data set."""
    trackers: dict[str, Any] = {name: OnlineTracker(student) for name, student in students.items()}
    if cfg.teacher_checkpoint is not None:
        trackers["teacher"] = TeacherTracker(load_teacher(cfg.teacher_checkpoint))
    record: dict[str, Any] = {"split": cfg.split, "sequences": len(chosen), "protocol": "pytracking"}
    record["SR_of_annotation_late_by_ms"] = {
        f"{ms:g}": success([late_truth(s, 1e3 * ms) for s in chosen], chosen, cfg.attribute)
        for ms in map(float, cfg.late_ms)
    }
    record["trackers"] = {name: of_tracker(tracker, chosen, cfg, name) for name, tracker in trackers.items()}
    return record


def write(path: Path, record: dict[str, Any]) -> None:
    """JSON, whole or not at all."""
    write_record(path, record)


def table(record: dict[str, Any]) -> str:
    """The record to read."""

    def scores(by_ms: dict[str, dict[str, float]]) -> str:
        return ", ".join(f"{ms} ms " + "/".join(f"{v:.1f}" for v in found.values()) for ms, found in by_ms.items())

    lines = []
    if "trackers" in record:
        lines.append(f"annotation, late by: SR {scores(record['SR_of_annotation_late_by_ms'])}")
    for name, found in record.get("trackers", {}).items():
        lines.append(f"{name}, moved by: SR {scores(found['SR_moved_by_ms'])}")
        lines += [
            f"  {speed:>8} px/s: {lag['lag_ms']:6.1f} ms late, noise along {lag['along_px']:.1f} and across "
            f"{lag['across_px']:.1f} px, {lag['boxes']} boxes"
            if lag["boxes"]
            else f"  {speed:>8} px/s: no box on the target"
            for speed, lag in found["by_speed"].items()
        ]
    for name, speeds in record.get("by_sizes_per_s", {}).items():
        lines += ["", f"{name}, simulated targets of one speed:", "", *steady_table(speeds)]
    return "\n".join(lines) + "\n"


def steady_table(speeds: dict[str, dict[str, float | None]]) -> list[str]:
    """A row for each speed."""
    columns = {
        "IoU": "iou",
        "worst": "worst_iou",
        "frozen box": "held_iou",
        "lag, windows": "lag_windows",
        "dither, sizes": "dither",
        "lost": "lost",
        "window, ms": "window_ms",
        "at limit": "at_limit",
        "looks/s": "looks_per_s",
        "outputs/s": "outputs_per_s",
        "CPU s/s": "cpu_per_s",
        "mJ/window": "mj_per_window",
        "mJ/output": "mj_per_output",
        "mJ/s": "mj_per_s",
    }
    rows = [["sizes/s", *columns], ["---"] * (len(columns) + 1)]
    for speed, found in speeds.items():
        values = (found[key] for key in columns.values())
        rows.append([speed, *("" if value is None else f"{value:.3g}" for value in values)])
    return ["| " + " | ".join(row) + " |" for row in rows]


def main(cfg: DictConfig) -> None:
    print(table(run(cfg)), end="")
    print(f"wrote {cfg.out}")
