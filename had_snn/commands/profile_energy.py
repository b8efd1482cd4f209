"""Counts spikes, operations and estimated energy of students and of the teacher, under several papers' rules.

had-snn profile checkpoint=tiny teachers=[tiny,small,base]
had-snn profile checkpoint=[tiny,runs/a/student.safetensors] teacher_checkpoint=FILE
had-snn profile others=benchmarks/energy.json "steady.speeds=[0.1,1,10,100]"   # and over speed
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig

from had_snn.checkpoint import load_student, load_teacher
from had_snn.commands.progress import Bar, progress
from had_snn.commands.run_folder import machine, open_run
from had_snn.commands.sources import sequences
from had_snn.data.sequence import TrackingSequence
from had_snn.data.steady import steady_targets
from had_snn.errors import InputError
from had_snn.evaluate.one_pass import run_one_pass
from had_snn.evaluate.report_profile import write_profile_report
from had_snn.files import atomic_file
from had_snn.models import RGBETeacher, SpikingTracker, teacher_base, teacher_small, teacher_tiny
from had_snn.profiling import (
    COSTS,
    PUBLISHED_MJ,
    PUBLISHED_SOURCE,
    RULES,
    CountedStudent,
    Profile,
    measure,
    profile_student,
    profile_teacher,
    track_windows,
)
from had_snn.tracking import OnlineTracker
from had_snn.tracking.teacher_tracker import TeacherTracker

TEACHERS = {"teacher_tiny": teacher_tiny, "teacher_small": teacher_small, "teacher_base": teacher_base}


def names_of(checkpoints: list[str]) -> dict[str, str]:
    """A short unique name for each checkpoint: `student_tiny` for a released one, else its file or folder."""
    named: dict[str, str] = {}
    for checkpoint in checkpoints:
        path = Path(checkpoint)
        name = path.stem if path.suffix else f"student_{checkpoint}"
        name = name if name not in named else f"{path.parent.name}_{name}"
        if name in named:
            raise InputError(f"checkpoint {checkpoint} is given twice, or two share file and folder name")
        named[name] = checkpoint
    return named


def cut(chosen: Iterable[TrackingSequence], windows: int | None) -> list[TrackingSequence]:
    """Sequences shortened so that no more than `windows` labels behind the first ones are left."""
    left, kept = windows, []
    for sequence in chosen:
        labels = len(sequence) if left is None else min(len(sequence), left + 1)
        if labels < 2:
            break
        columns = {name: getattr(sequence, name)[:labels] for name in ("label_times_us", "boxes_xywh", "visible")}
        kept.append(replace(sequence, **columns))
        left = None if left is None else left - (labels - 1)
    return kept


def profile(student: SpikingTracker, name: str, chosen: list[TrackingSequence], *, crops: str, bar: Bar) -> Profile:
    """Counts a student over sequences, in the crops of its own tracker or in those of the labels."""

    def counted_off():
        for done, sequence in enumerate(chosen, start=1):
            yield sequence
            bar(done, len(chosen))

    if crops == "labels":
        return profile_student(student, (track_windows(s, student.config) for s in counted_off()), name=name)
    found = count_tracking(student, name, counted_off())
    if not found.windows:
        raise InputError(f"{name}: no window held enough events to look at; choose other sequences (split=, limit=)")
    return found


def count_tracking(student: SpikingTracker, name: str, chosen: Iterable[TrackingSequence]) -> Profile:
    """Counts a student in its own tracker; its outputs are the labels behind the first.

    The tracker looks when events ask for it: the windows of all looks are spread over the outputs.
    """
    counted = CountedStudent(student.eval(), name=name)
    seconds, outputs = 0.0, 0
    for sequence in chosen:
        run_one_pass(OnlineTracker(cast(SpikingTracker, counted)), sequence)
        outputs += len(sequence) - 1
        seconds += float(sequence.label_times_us[-1] - sequence.label_times_us[0]) * 1e-6
    found = counted.profile
    found.seconds, found.outputs = seconds, outputs
    return found


def time_tracker(network: SpikingTracker | RGBETeacher, chosen: list[TrackingSequence]) -> dict[str, Any]:
    """Measured time and energy of tracking without any counting, on the first sequences."""
    student = isinstance(network, SpikingTracker)

    def track(some: list[TrackingSequence]) -> None:
        for sequence in some:
            run_one_pass(OnlineTracker(network) if student else TeacherTracker(network), sequence)

    track(cut(chosen, 3))  # the first calls load and warm up
    chosen = cut(chosen, 100 if student else 10)
    with measure(outputs=sum(len(sequence) - 1 for sequence in chosen)) as measured:
        track(chosen)
    return measured.to_dict()


def load_teachers(cfg: DictConfig) -> dict[str, RGBETeacher]:
    """The trained teacher, and new ones by size: what a teacher costs does not depend on its weights."""
    torch.manual_seed(cfg.seed)
    found = {f"teacher_{size}": TEACHERS[f"teacher_{size}"]().eval() for size in cfg.teachers}
    return found if cfg.teacher_checkpoint is None else {"teacher": load_teacher(cfg.teacher_checkpoint), **found}


def run(cfg: DictConfig) -> dict[str, dict[str, float | None]]:
    """Profiles, writes the run folder; returns millijoules for each output by network and rule."""
    students = {name: load_student(path) for name, path in names_of(list(cfg.checkpoint)).items()}
    teachers = load_teachers(cfg)
    chosen = cut(sequences(cfg.data, cfg.split, limit=cfg.limit), cfg.windows)
    if not chosen:
        raise InputError(f"nothing to profile: split {cfg.split}, limit={cfg.limit}, windows={cfg.windows}")
    kept = {} if cfg.others is None else json.loads(Path(cfg.others).read_text())
    folder = open_run(cfg)
    profiles, measured = [], {}
    for name, student in students.items():
        with progress(f"profile {name}", unit="sequences") as bar:
            profiles.append(profile(student, name, chosen, crops=cfg.crops, bar=bar))
        if cfg.measure:
            measured[name] = time_tracker(student, chosen)
    first = profiles[0]
    served = max(1, round(first.outputs / max(1, first.tracks)))
    for name, teacher in teachers.items():
        rate = first.outputs_per_second
        profiles.append(profile_teacher(teacher, name=name, outputs_per_second=rate, outputs_per_track=served))
        if cfg.measure:
            measured[name] = time_tracker(teacher, chosen)
    over_speed = count_over_speed(students, cfg)
    about = {
        "split": cfg.split,
        "sequences": len(chosen),
        "crops": cfg.crops,
        "hardship": cfg.data.get("hardship"),
        "data": cfg.data.get("layout") or "synthetic",
        "data_seed": cfg.data.get("seed"),
        "seed": cfg.seed,
        "checkpoints": list(cfg.checkpoint),
        "note": cfg.note,
    }
    write(folder, profiles, measured, about, over_speed, kept)
    return {p.name: {rules.name: p.energy_mj(rules) for rules in RULES} for p in profiles}


def count_over_speed(students: dict[str, SpikingTracker], cfg: DictConfig) -> dict[str, Any]:
    """Energy of every student on simulated targets of one speed, by speed in sizes a second and by rule."""
    found: dict[str, Any] = {name: {} for name in students} if cfg.steady.speeds else {}
    with progress("speeds", unit="speeds") as bar:
        for done, speed in enumerate(map(float, cfg.steady.speeds), start=1):
            targets = steady_targets(speed, cfg.steady.count, cfg.seed)
            for name, student in students.items():
                counted = count_tracking(student, name, targets)
                rates = {
                    "outputs_per_s": counted.outputs_per_second,
                    "windows_per_s": counted.windows / counted.seconds,
                }
                row: dict[str, Any] = {key: float(f"{rate:.4g}") for key, rate in rates.items()}
                for rules in RULES:
                    mj = counted.energy_mj(rules) or 0.0
                    each = {"mj_per_output": mj, "mj_per_second": mj * counted.outputs_per_second}
                    row[rules.name] = {key: float(f"{value:.4g}") for key, value in each.items()}
                found[name][f"{speed:g}"] = row
            bar(done, len(cfg.steady.speeds), f"{speed:g} sizes/s")
    return found


def write(
    folder: Path,
    profiles: list[Profile],
    measured: dict[str, Any],
    about: dict[str, Any],
    over_speed: dict[str, Any],
    kept: dict[str, Any],
) -> None:
    """`energy.json` with those of `kept` that were not counted, one JSON and one CSV for each network, and the page."""
    record: dict[str, Any] = {p.name: p.summary() for p in profiles}
    others = [name for name, value in kept.items() if name not in record and "kind" in value]
    record = {name: kept[name] for name in others} | record
    record["about"] = about | {"machine": machine(torch.get_num_threads(), "cpu")}
    if others:
        record["about"]["others"] = {"networks": others, "about": kept["about"]}
    record["measured"] = {name: kept["measured"][name] for name in others if name in kept["measured"]} | measured
    record["over_sizes_per_s"] = over_speed
    record["published_mj_per_output"] = PUBLISHED_MJ | {"source": PUBLISHED_SOURCE}
    record["cost_tables"] = {cost.name: cost.source for cost in COSTS}
    record["rules"] = {rules.name: rules.source for rules in RULES}
    texts = {"energy.json": json.dumps(record, indent=2) + "\n"}
    for p in profiles:
        texts |= {f"{p.name}.json": p.to_json(), f"{p.name}.csv": p.to_csv()}
    for name, text in texts.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text)
    write_profile_report(folder / "energy.html", profiles, measured=measured)


def main(cfg: DictConfig) -> None:
    found = run(cfg)
    print("estimated mJ for each output, 45 nm fp32, template amortised")
    print(f"{'network':<22}" + "".join(f"{rules.name:>12}" for rules in RULES))
    for name, by_rule in found.items():
        print(f"{name:<22}" + "".join(f"{value:12.4f}" for value in by_rule.values()))
    for name, value in PUBLISHED_MJ.items():
        print(f"{name + ' (published)':<34}{value:.2f}, by its authors' rule")
    print(f"wrote {Path(cfg.out) / 'energy.html'}")
