"""Evaluates trackers beside the baselines a user would otherwise pick: our own, and result folders of any other.

had-snn evaluate checkpoint=tiny split=test
had-snn evaluate checkpoint=null baselines=[static] results=[DIR,DIR] split=test
had-snn evaluate protocol=clock skip_us=40000 data.label_hz=500 teacher_checkpoint=PATH limit=40
had-snn evaluate results=DIR annotations=DIR absent=DIR sequences=LIST protocol=toolkit
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from had_snn.checkpoint import load_student, load_teacher
from had_snn.commands import evaluate_report
from had_snn.commands.options import BASELINES
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import open_run
from had_snn.commands.sources import sequences
from had_snn.commands.start import lock_folder
from had_snn.data.sequence import TrackingSequence, first_label
from had_snn.errors import InputError, MissingExtraError
from had_snn.evaluate.baselines import baseline
from had_snn.evaluate.folders import read_annotations, score_first_box, score_folder
from had_snn.evaluate.one_pass import Tracker, evaluate_tracker
from had_snn.evaluate.results import EvaluationResult, results_to_json, write_result_folder
from had_snn.files import written_together
from had_snn.tracking import OnlineTracker, TeacherTracker
from had_snn.tracking.budget import measured_budget_us

log = logging.getLogger("had_snn")


def trackers(cfg: DictConfig) -> list[Tracker]:
    """Our trackers that a config names."""
    ours: list[Tracker] = []
    if cfg.checkpoint is not None:
        for carry in (False, True) if cfg.carry == "both" else (cfg.carry,):
            tracker = OnlineTracker(load_student(cfg.checkpoint, n_steps=cfg.n_steps), carry=carry)
            if cfg.protocol == "clock":
                if cfg.latency_us is None:
                    tracker.budget_us = measured_budget_us(tracker.network, threads=tracker.threads)
                else:
                    tracker.budget_us = float(cfg.latency_us)
            ours.append(tracker)
            if cfg.carry == "both" and carry:
                ours[-1].name = "student_carried"
    if cfg.teacher_checkpoint is not None:
        ours.append(TeacherTracker(load_teacher(cfg.teacher_checkpoint), modalities=tuple(cfg.teacher_modalities)))
    return ours


def baselines(cfg: DictConfig, chosen: Sequence[Any]) -> tuple[list[Tracker], list[str]]:
    """The baselines that a config names; of `all`, those that can run here, and what is said about the others."""
    if cfg.baselines != "all":
        return [baseline(name) for name in cfg.baselines], []
    found, notes = [], []
    for name in BASELINES:
        if name.endswith("frames") and any(s.frames is None for s in chosen):
            notes.append(f"{name} is missing: not every sequence holds camera frames.")
            continue
        try:
            found.append(baseline(name))
        except MissingExtraError as error:
            notes.append(f"{name} is missing: {error}")
    return found, notes


def without_first(chosen: Sequence[TrackingSequence], skip_us: int) -> list[TrackingSequence]:
    """Sequences without the labels of their first `skip_us` microseconds, whose events show the first box's target."""
    found = []
    for sequence in chosen:
        times = np.asarray(sequence.label_times_us)
        later = times >= int(sequence.events.t_start) + skip_us
        if not later.any():
            raise InputError(f"{sequence.name} is over before skip_us={skip_us}: no label is left")
        found.append(
            replace(
                sequence,
                label_times_us=times[later],
                boxes_xywh=np.asarray(sequence.boxes_xywh)[later],
                visible=np.asarray(sequence.visible)[later],
            )
        )
    return found


def folders(value: Any) -> list[str]:
    """`results` as a list of folders."""
    return [] if value is None else list(value)


def refuse_twice(names: Sequence[str]) -> None:
    """Refuses results that would be taken for one another's.

    Raises:
        InputError: Naming the tracker.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"two trackers are called {twice[0]}; rename the result folder")


def evaluate_files(cfg: DictConfig) -> tuple[list[EvaluationResult], Sequence[Any], list[str]]:
    """Result folders against annotation folders: no events, no tracker."""
    truths = read_annotations(
        cfg.annotations,
        cfg.absent,
        cfg.sequences,
        ones=cfg.ones,
        attributes_dir=cfg.attributes,
        length_tolerance=cfg.length_tolerance,
    )[: cfg.limit]
    options = {"protocol": cfg.protocol, "resamples": cfg.resamples, "seed": cfg.seed}
    results = [score_folder(folder, truths, **options) for folder in folders(cfg.results)]
    results.append(score_first_box(truths, **options))
    refuse_twice([result.tracker for result in results])
    return results, truths, ["Baselines that need events or frames are missing: annotations were given without them."]


def evaluate_trackers(cfg: DictConfig) -> tuple[list[EvaluationResult], Sequence[Any], list[str]]:
    """Our trackers and the baselines, run here, and result folders beside them, on one split of a data set."""
    ours = trackers(cfg)
    chosen = sequences(cfg.data, cfg.split, limit=cfg.limit)
    chosen = without_first(chosen, cfg.skip_us) if cfg.skip_us else chosen
    options = {"protocol": cfg.protocol, "resamples": cfg.resamples, "seed": cfg.seed}
    running = {"latency_us": cfg.latency_us, "workers": cfg.workers}
    foreign = [score_folder(folder, chosen, **options) for folder in folders(cfg.results)]
    others, notes = baselines(cfg, chosen)
    if not ours and not foreign and not others:
        raise InputError("nothing to evaluate: give checkpoint=, teacher_checkpoint=, results= or baselines=")
    refuse_twice([*(tracker.name for tracker in [*ours, *others]), *(result.tracker for result in foreign)])
    for sequence in chosen if ours or others else ():
        first_label(sequence)  # refuses one that no box is given of, before the others have run
    results: list[EvaluationResult] = []
    for tracker in [*ours, *others]:
        period_us = cfg.teacher_period_us if isinstance(tracker, TeacherTracker) else cfg.period_us
        with progress(f"evaluate {tracker.name}", unit="sequences") as bar:
            results.append(
                evaluate_tracker(tracker, chosen, progress=bar, min_period_us=period_us, **running, **options)
            )
    return [*results[: len(ours)], *foreign, *results[len(ours) :]], chosen, notes


def run(cfg: DictConfig) -> list[EvaluationResult]:
    """Evaluates; writes `metrics.json`, a result folder per tracker that was run, and the report."""
    if cfg.annotations is not None and not folders(cfg.results):
        raise InputError("annotations= without results=: give results=DIR with one <sequence>.txt per sequence")
    if Path(cfg.out).is_dir():
        lock_folder(Path(cfg.out))  # another run there ends this one now, not when all is done
    results, chosen, notes = evaluate_files(cfg) if cfg.annotations is not None else evaluate_trackers(cfg)
    for note in notes:
        log.warning("%s", note)
    folder = open_run(cfg)
    with written_together(folder, "metrics.json", whole=["results"]) as draft:
        if cfg.annotations is None:
            for result in results:
                write_result_folder(draft / "results" / result.tracker, result.results)
        (draft / "metrics.json").write_text(json.dumps(results_to_json(results), indent=2) + "\n")
        if cfg.report is not None:
            source = cfg.annotations if cfg.annotations is not None else f"{cfg.data.root}, split {cfg.split}"
            evaluate_report.write(
                draft / cfg.report,
                results,
                chosen,
                subtitle=f"{len(chosen)} sequences of {source}",
                config=(folder / "config.yaml").read_text(),
                notes=notes,
                limit=cfg.report_sequences,
            )
    return results


def main(cfg: DictConfig) -> None:
    results = run(cfg)
    source = cfg.annotations if cfg.annotations is not None else f"split {cfg.split}"
    print(f"protocol {cfg.protocol}, {source}, {len(results[0].results)} sequences")
    print(f"{'tracker':<14}{'SR':>8}{'PR':>8}{'NPR':>8}{'OP50':>8}{'OP75':>8}{'ms':>9}")
    for result in results:
        scores = "".join(f"{result.scores[key]:8.1f}" for key in ("SR", "PR", "NPR", "OP50", "OP75"))
        print(f"{result.tracker:<14}{scores}{result.ms_per_output:9.2f}")
    print(f"wrote {Path(cfg.out) / 'metrics.json'}" + (f" and {cfg.report}" if cfg.report is not None else ""))
