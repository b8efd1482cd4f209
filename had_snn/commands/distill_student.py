"""Trains a spiking student, alone or under a teacher at up to three levels.

had-snn distill distill=full teacher_checkpoint=runs/teacher/teacher.safetensors
had-snn distill distill=none
had-snn distill init=tiny distill=none data=folder data.root=recordings fit.iterations=500
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from had_snn.checkpoint import load_student, load_teacher, released
from had_snn.commands.progress import progress
from had_snn.commands.sources import clip_sampler, training_sequences
from had_snn.commands.start import differences
from had_snn.commands.training import best_validation, refuse_other_run, train
from had_snn.data.clips import MODALITIES, ClipGeometry, ClipSampler
from had_snn.data.sequence import TrackingSequence, split_by_label
from had_snn.distill.hierarchy import MODES, distillation_for
from had_snn.distill.schedule import DistillSchedule
from had_snn.errors import InputError
from had_snn.files import atomic_file
from had_snn.models import RGBETeacher, SpikingTracker
from had_snn.processes import rank
from had_snn.tracking import OnlineTracker
from had_snn.train.agreement import first_boxes, kept_labels, runs_of_labels
from had_snn.train.distillation import Distillation
from had_snn.train.following import teacher_follows
from had_snn.train.guards import RateGuard
from had_snn.train.tasks import StudentTask


def teacher_for(cfg: DictConfig, student: SpikingTracker) -> RGBETeacher | None:
    """The teacher that the `distill` config asks for; it must be shown what the student is."""
    if cfg.distill.mode == "none":
        return None
    if cfg.teacher_checkpoint is None:
        raise InputError(
            "distillation needs a teacher: give teacher_checkpoint=PATH (made by had-snn train-teacher), "
            "or train on labels alone with distill=none"
        )
    teacher = load_teacher(cfg.teacher_checkpoint)
    shown = [dataclasses.asdict(ClipGeometry.of(network.config)) for network in (student, teacher)]
    differing = [name for name in shown[0] if name != "voxel_bins" and shown[0][name] != shown[1][name]]
    if differing:
        raise InputError(f"teacher and student must look at the same crops; they differ in {', '.join(differing)}")
    return teacher


def start_from(student: SpikingTracker, init: str) -> None:
    """Gives a new student the weights of a trained one, which must be the same network.

    Raises:
        InputError: Naming the numbers in which they differ.
    """
    trained = load_student(init)
    # A config from a file holds lists where one from code holds tuples.
    ours, theirs = (json.loads(json.dumps(dataclasses.asdict(network.config))) for network in (student, trained))
    if differing := differences(theirs, ours):
        raise InputError(f"init={init} is another network: {differing}; give student=... and student.* as it was made")
    student.load_state_dict(trained.state_dict())


def build_task(cfg: DictConfig, student: SpikingTracker, teacher: nn.Module | None) -> StudentTask:
    """The student with its distillation under a teacher, as the `distill` config says."""
    weights = cfg.distill.weights
    levels = distillation_for(
        cfg.distill.mode,
        student.config.channels[2],
        0 if teacher is None else teacher.config.dim,
        weights=dict(weights) if weights else None,
    )
    taught = None if levels is None or teacher is None else Distillation(levels, teacher, schedule_of(cfg))
    guard = RateGuard(cfg.rate_weight, *cfg.rate_range)
    return StudentTask(student, distillation=taught, rate_guard=guard, carry=cfg.carry)


def schedule_of(cfg: DictConfig) -> DistillSchedule:
    """Which clips are distilled with what weight, in steps and clips of all processes."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return DistillSchedule(
        every=cfg.distill.every,
        until=None if cfg.distill.until is None else round(cfg.distill.until * cfg.fit.iterations),
        pool=cfg.distill.pool,
        clips_per_step=cfg.fit.batch_size * cfg.fit.accumulate * processes,
    )


def labelled_by(teacher: RGBETeacher, cfg: DictConfig, others: Sequence[TrackingSequence]) -> list[TrackingSequence]:
    """The parts of sequences that a teacher can label; of each, the first box alone is a true one."""
    if not others:
        return []
    refuse_other_run(cfg)
    with progress("follow unlabelled targets", unit="passes") as bar:
        follow = teacher_follows(teacher, progress=bar)
        weights = released(cfg.teacher_checkpoint, "teacher").read_bytes()
        found = kept_labels(follow, first_boxes(others), Path(cfg.tracks), who=weights)
    return [run for sequence in found for run in runs_of_labels(sequence)]


def clips_for(cfg: DictConfig, student: SpikingTracker, teacher: RGBETeacher | None) -> ClipSampler:
    """Clips with what the student and its teacher need; windows that touch when membranes are carried.

    With `labels` below 1, a student without a teacher sees the labelled sequences only; with one, the distilled clips
    come from all. The response level also learns from the boxes that the teacher followed through the sequences
    without labels, where both ways agree: they count like labels, and cost a teacher's answers once instead of for
    each clip.
    """
    modalities = ("events",) if teacher is None else MODALITIES
    grid = student.grid if cfg.carry is not None else None
    found: Sequence[TrackingSequence] = training_sequences(cfg)
    labelled, others = split_by_label(found, cfg.labels) if cfg.labels < 1 else (found, [])
    options: dict[str, Any] = {"sequences": labelled}
    if teacher is not None:
        options["distill"] = schedule_of(cfg)
        if "membrane_steps" in MODES[cfg.distill.mode]:
            options["micro_steps"] = student.config.n_steps
        taught = labelled_by(teacher, cfg, others)
        if "response" in MODES[cfg.distill.mode]:
            options["sequences"] = [*labelled, *taught]
        else:
            options["unlabelled"] = taught
    return clip_sampler(cfg, (teacher or student).config, modalities, grid=grid, **options)


def run(cfg: DictConfig) -> Path:
    """Trains and writes `student.safetensors` into the run folder; returns its path."""
    torch.manual_seed(cfg.seed)
    student = instantiate(cfg.student)
    if cfg.init is not None:
        start_from(student, cfg.init)
    teacher = teacher_for(cfg, student)
    task, clips = build_task(cfg, student, teacher), clips_for(cfg, student, teacher)
    path, trained = train(
        cfg, "distill_student", task, clips, part="student", tracker_of=lambda t: OnlineTracker(t.student)
    )
    if rank() == 0 and trained.distillation is not None:
        with atomic_file(path.with_name("alignment.pt")) as temporary:
            torch.save(trained.distillation.levels.state_dict(), temporary)
    return path


def main(cfg: DictConfig) -> float | None:
    path = run(cfg)
    print(f"wrote {path}")
    return best_validation(path.parent)
