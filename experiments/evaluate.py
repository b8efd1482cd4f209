"""Evaluates trackers over a split, one pass, beside the baselines a user would otherwise pick.

    python experiments/evaluate.py checkpoint=tiny split=test
    python experiments/evaluate.py checkpoint=runs/student/student.safetensors baselines=[mean_shift,csrt_events]
"""

from __future__ import annotations

import json
from pathlib import Path

from entry import open_run, script
from omegaconf import DictConfig
from progress import progress
from sources import sequences

from had_snn.atomic import atomic_file
from had_snn.checkpoint import load_student, load_teacher
from had_snn.errors import InputError
from had_snn.evaluate.baselines import MeanShiftTracker, OpenCVTracker, StaticTracker
from had_snn.evaluate.one_pass import Tracker, evaluate_tracker
from had_snn.evaluate.results import EvaluationResult, results_to_json, write_result_folder
from had_snn.tracker import OnlineTracker
from had_snn.tracking import TeacherTracker


def baseline(name: str) -> Tracker:
    """A baseline by its name in result files."""
    if name == "static":
        return StaticTracker()
    if name == "mean_shift":
        return MeanShiftTracker()
    kind, _, source = name.partition("_")
    if kind in ("csrt", "kcf") and source in ("events", "frames"):
        return OpenCVTracker(kind=kind, source=source)
    raise InputError(f"unknown baseline {name!r}; there are static, mean_shift, and csrt|kcf _ events|frames")


def trackers(cfg: DictConfig) -> list[Tracker]:
    """The trackers that a config names, ours first."""
    ours: list[Tracker] = []
    if cfg.checkpoint is not None:
        ours.append(OnlineTracker(load_student(cfg.checkpoint)))
    if cfg.teacher_checkpoint is not None:
        ours.append(TeacherTracker(load_teacher(cfg.teacher_checkpoint), modalities=tuple(cfg.teacher_modalities)))
    return ours + [baseline(name) for name in cfg.baselines]


def run(cfg: DictConfig) -> list[EvaluationResult]:
    """Evaluates, writes `metrics.json` and a result folder per tracker, returns the results."""
    contenders = trackers(cfg)
    if not contenders:
        raise InputError("nothing to evaluate: give checkpoint=, teacher_checkpoint= or baselines=")
    chosen = sequences(cfg.data, cfg.split)[: cfg.limit]
    folder = open_run(cfg)
    results = []
    for tracker in contenders:
        with progress(f"evaluate {tracker.name}", unit="sequences") as bar:
            results.append(
                evaluate_tracker(tracker, chosen, protocol=cfg.protocol, resamples=cfg.resamples, progress=bar)
            )
        write_result_folder(folder / "results" / tracker.name, results[-1].results)
    with atomic_file(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(results_to_json(results), indent=2) + "\n")
    return results


@script("evaluate")
def main(cfg: DictConfig) -> None:
    results = run(cfg)
    print(f"protocol {cfg.protocol}, split {cfg.split}, {len(results[0].results)} sequences")
    print(f"{'tracker':<14}{'SR':>8}{'PR':>8}{'NPR':>8}{'OP50':>8}{'OP75':>8}{'ms':>9}")
    for result in results:
        scores = "".join(f"{result.scores[key]:8.1f}" for key in ("SR", "PR", "NPR", "OP50", "OP75"))
        print(f"{result.tracker:<14}{scores}{result.ms_per_output:9.2f}")
    print(f"wrote {Path(cfg.out) / 'metrics.json'}")


if __name__ == "__main__":
    main()
