"""Fast targets: the student beside trackers with one window for all speeds, each at the length that suits it best.

    python -m experiments.studies fast checkpoint=tiny

A rival's window is chosen on a validation split, then everything is scored once on the test split. `fixed` is the
student through windows of its nominal length. `paces` shows the plain test set two ways: played faster by its
timestamps alone, and scenes of its kind simulated anew, before a sensor that stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from experiments.record import write_record
from had_snn.checkpoint import load_student
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import open_run
from had_snn.commands.sources import sequences
from had_snn.data.sequence import TrackingSequence
from had_snn.data.synthetic import prepare_split
from had_snn.evaluate.baselines import baseline
from had_snn.evaluate.metrics import paired_difference
from had_snn.evaluate.one_pass import Tracker, evaluate_tracker
from had_snn.evaluate.results import EvaluationResult
from had_snn.events.stream import EventStream
from had_snn.files import atomic_file
from had_snn.tracking import OnlineTracker
from had_snn.tracking.policy import TrackingPolicy, WindowPolicy


def score(tracker: Tracker, chosen: Sequence[TrackingSequence], name: str, protocol: str) -> EvaluationResult:
    """A tracker over sequences, under a name of its own."""
    with progress(name, unit="sequences") as bar:
        return evaluate_tracker(tracker, chosen, protocol=protocol, resamples=1000, progress=bar)


def best_window(name: str, chosen: Sequence[TrackingSequence], cfg: DictConfig) -> tuple[float, dict[str, float]]:
    """The window in ms with which a rival scores highest, and the scores of all."""
    scores = {
        f"{ms:g}": score(baseline(name, window_us=round(1000 * ms)), chosen, f"{name} {ms:g} ms", cfg.protocol).scores[
            "SR"
        ]
        for ms in cfg.windows_ms
    }
    return float(max(scores, key=lambda ms: scores[ms])), scores


def played(sequence: TrackingSequence, pace: float) -> TrackingSequence:
    """A recording whose clock runs so many times faster; labels and events alike."""
    old, times = sequence.events, np.asarray(sequence.label_times_us)
    t = np.round(np.asarray(old.t) / pace).astype(np.int64)
    events = EventStream.from_arrays(t, old.x, old.y, old.p, old.sensor_hw, old.source, validate=False)
    labels = np.round(times / pace).astype(np.int64)
    return replace(sequence, events=events, label_times_us=labels, frames=None, frame_times_us=None)


def simulated(cfg: DictConfig, pace: float) -> list[TrackingSequence]:
    """Scenes of the test set's kind whose motion is so many times faster."""
    split: dict[str, Any] = {str(k): v for k, v in dict(cfg.data.splits[cfg.paced_split]).items()}
    options = {name: cfg.data[name] for name in ("sensor_hw", "hardship", "label_hz")} | split
    options |= {"count": cfg.paced_limit, "sensor_hw": tuple(options["sensor_hw"]), "pace": (pace, pace)}
    options["label_hz"] = options["label_hz"] * max(1.0, pace)
    with progress(f"simulate pace {pace:g}", unit="sequences") as bar:
        return prepare_split(
            Path(cfg.data.root) / f"pace-{pace:g}", cfg.paced_split, seed=cfg.data.seed, progress=bar, **options
        )


def curve(cfg: DictConfig) -> Iterator[dict[str, float]]:
    """SR of the student over pace, both ways."""
    plain = sequences(cfg.data, cfg.paced_split, limit=cfg.paced_limit)
    for pace in cfg.paces:
        row = {"pace": float(pace)}
        for way, chosen in (("played", [played(s, pace) for s in plain]), ("simulated", simulated(cfg, float(pace)))):
            tracker = OnlineTracker(load_student(cfg.checkpoint))
            row[way] = score(tracker, chosen, f"{way} {pace:g}", cfg.protocol).scores["SR"]
        yield row


def run(cfg: DictConfig) -> dict[str, Any]:
    """Writes `fast.json` and `fast.md` into the run folder."""
    student = load_student(cfg.checkpoint)
    validation = sequences(cfg.data, cfg.validation_split, limit=cfg.limit)
    chosen = sequences(cfg.data, cfg.split, limit=cfg.limit)
    folder = open_run(cfg)
    nominal = float(student.config.window_us)
    fixed = TrackingPolicy(window=WindowPolicy(limits_us=(nominal, nominal)))
    results = {
        "student": score(OnlineTracker(student), chosen, "student", cfg.protocol),
        "fixed": score(OnlineTracker(student, policy=fixed), chosen, "fixed", cfg.protocol),
    }
    windows: dict[str, Any] = {}
    for name in cfg.rivals:
        ms, scores = best_window(name, validation, cfg)
        windows[name] = {"best_ms": ms, "validation": scores}
        results[name] = score(baseline(name, window_us=round(1000 * ms)), chosen, name, cfg.protocol)
    ahead = {}
    for name, result in results.items():
        if name != "student":
            won = paired_difference(results["student"].curves, result.curves, protocol=cfg.protocol)
            ahead[name] = {"difference": won.difference, "interval": [won.low, won.high]}
    record = {
        "options": OmegaConf.to_container(cfg.data.splits[cfg.split], resolve=True),
        "protocol": cfg.protocol,
        "sequences": len(chosen),
        "scores": {name: {key: r.scores[key] for key in ("SR", "PR", "NPR")} for name, r in results.items()},
        "windows": windows,
        "student_ahead": ahead,
        "paces": list(curve(cfg)),
    }
    write_record(folder / "fast.json", record)
    with atomic_file(folder / "fast.md") as temporary:
        temporary.write_text(table(record))
    return record


def table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = ["| tracker | window | SR | PR | NPR | student ahead by |", "|---|---|---|---|---|---|"]
    for name, scores in record["scores"].items():
        chosen = record["windows"].get(name)
        won = record["student_ahead"].get(name)
        told = "" if won is None else f"{won['difference']:.1f} [{won['interval'][0]:.1f}, {won['interval'][1]:.1f}]"
        window = "its own" if name == "student" else "nominal" if chosen is None else f"{chosen['best_ms']:g} ms"
        figures = " | ".join(f"{scores[key]:.1f}" for key in ("SR", "PR", "NPR"))
        lines.append(f"| {name} | {window} | {figures} | {told} |")
    lines += ["", "| pace | played | simulated anew |", "|---|---|---|"]
    lines += [f"| {row['pace']:g} | {row['played']:.1f} | {row['simulated']:.1f} |" for row in record["paces"]]
    return "\n".join(lines) + "\n"


def main(cfg: DictConfig) -> None:
    print(table(run(cfg)), end="")
    print(f"wrote {Path(cfg.out) / 'fast.json'}")
