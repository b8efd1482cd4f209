"""Makes the student that comes with the package: training, test, energy, and the card that tells of them.

    python -m experiments.studies release_student out=runs/release
    python -m experiments.studies release_student out=runs/release install=true   # ... into had_snn/weights

On a CPU training runs on one thread, so that the same processor gives the same weights again; a GPU adds up gradients
in any order and gives others each time. A step whose result is in the run folder is not run again, an interrupted
training goes on from its checkpoint, and a folder that was made with other options is refused: its card would tell of
weights that are not there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from experiments.record import write_record
from experiments.release import install, scored, tell, trained_on
from experiments.studies.fit_steps import fitted
from had_snn.checkpoint import load_student, load_teacher, round_to_half, save_weights
from had_snn.commands import distill_student, train_teacher
from had_snn.commands.entry import compose
from had_snn.commands.profile_energy import profile
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import open_run, versions
from had_snn.commands.sources import sequences
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import InputError
from had_snn.evaluate.baselines import baseline
from had_snn.evaluate.one_pass import Tracker
from had_snn.models import SpikingTracker
from had_snn.profiling import RULES
from had_snn.tracking import OnlineTracker, TeacherTracker
from had_snn.train.norm_fitting import NormFit

#: Options that results in a run folder depend on.
MADE_WITH = (
    "seed",
    "train_options",
    "first_options",
    "teacher_options",
    "student_options",
    "fitted_steps",
    "norms",
    "test_options",
    "baselines",
    "split",
    "limit",
    "protocol",
    "energy_sequences",
    "half",
)
WHAT = "spiking event-only tracker, event-driven stem, clocked stages, depth-wise matching, centre head"


def trained(cfg: DictConfig, folder: Path) -> tuple[Path, Path | None]:
    """The student's and its teacher's weights, from the run folder or trained now; no teacher with `distill=none`.

    Where there are `first_options`, the student goes on from one that was trained with these, without a teacher.
    """
    shared = [*map(str, cfg.train_options), f"seed={cfg.seed}"]
    student, teacher = folder / "student" / "student.safetensors", None
    options = [*shared, *map(str, cfg.student_options), f"out={student.parent}"]
    if cfg.first_options:
        first = folder / "first" / "student.safetensors"
        if not first.is_file():
            own = [*shared, "distill=none", *map(str, cfg.first_options), f"out={first.parent}"]
            distill_student.run(compose("distill_student", own))
        options.append(f"init={first}")
    if compose("distill_student", options).distill.mode != "none":
        teacher = folder / "teacher" / "teacher.safetensors"
        options.append(f"teacher_checkpoint={teacher}")
        if not teacher.is_file():
            own = [*shared, *map(str, cfg.teacher_options), f"out={teacher.parent}"]
            train_teacher.run(compose("train_teacher", own))
    if not student.is_file():
        distill_student.run(compose("distill_student", options))
    return student, teacher


def tested(trackers: Sequence[Tracker], chosen: Sequence[TrackingSequence], cfg: DictConfig) -> dict[str, Any]:
    """Scores of each tracker, SR with its 95 % interval over the sequences."""
    found: dict[str, Any] = {"protocol": cfg.protocol, "sequences": len(chosen), "split": cfg.split}
    return found | {tracker.name: scored(tracker.name, tracker, chosen, protocol=cfg.protocol) for tracker in trackers}


def energy(student: SpikingTracker, chosen: Sequence[TrackingSequence]) -> dict[str, Any]:
    """Estimated millijoules for each output by rule, 45 nm fp32, template amortised."""
    with progress("count spikes", unit="sequences") as bar:
        counted = profile(student, "student", list(chosen), crops="tracker", bar=bar)
    by_rule = {rules.name: round(float(counted.energy_mj(rules) or 0.0), 5) for rules in RULES}
    return {"mj_per_output": by_rule, "sequences": len(chosen), "cost": "45 nm fp32, additions and multiplications"}


def card(
    cfg: DictConfig, student: SpikingTracker, figures: dict[str, Any], spent: dict[str, Any], made_on: dict[str, Any]
) -> dict[str, Any]:
    """What a user should know of the weights."""
    train = compose("distill_student", [*map(str, cfg.train_options), *map(str, cfg.student_options)])
    splits, (height, width) = [train.data.splits[name] for name in train.data.train_split], train.data.sensor_hw
    told = [
        f"{split.count} simulated sequences of {split.seconds:g} s"
        + (f" at {split.pace[0]:g} to {split.pace[1]:g} times the pace" if split.get("pace") else "")
        for split in splits
    ]
    mode = train.distill.mode
    return {
        "name": f"student_{cfg.name}",
        "what": WHAT,
        "numbers_stored": sum(value.numel() for value in student.state_dict().values()),
        "command": "python -m experiments.studies release_student",
        "options": {
            name: [o for o in map(str, cfg[name]) if "root=" not in o]
            for name in ("train_options", "first_options", "teacher_options", "student_options", "test_options")
        },
        "seed": cfg.seed,
        "data": f"{' and '.join(told)}, {width}x{height}, data.hardship={train.data.hardship:g}; no real recording "
        "was seen",
        "fitted_steps": sorted(student.norms_at),
        "teacher": None if mode == "none" else f"RGB+event transformer of the same run, distillation mode {mode}",
        "figures": figures,
        "energy": spent,
        "limits": list(cfg.limits),
        "versions": versions(),
        "trained_on": made_on,
    }


def run(cfg: DictConfig) -> Path:
    """Trains, tests and counts what is missing; writes the weights and their card, and returns the weights' path."""
    if not str(cfg.name).isidentifier():
        raise InputError(f"name={cfg.name!r}: give the plain name that load_student shall know, e.g. name=tiny")
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    folder = open_run(cfg, made_with={name: plain[name] for name in MADE_WITH})
    torch.set_num_threads(1)
    student_path, teacher_path = trained(cfg, folder)
    student = load_student(student_path)
    if cfg.half:
        round_to_half(student)
    student.norms_at = fitted(
        student, cfg.fitted_steps, list(map(str, cfg.train_options)), NormFit(**cfg.norms), folder
    )
    tested_on = compose("evaluate", list(map(str, cfg.test_options))).data
    chosen = list(sequences(tested_on, cfg.split, limit=cfg.limit))
    kept = folder / "figures.json"
    if not kept.is_file():
        ours: list[Tracker] = [OnlineTracker(student)]
        ours += [] if teacher_path is None else [TeacherTracker(load_teacher(teacher_path))]
        figures = tested([*ours, *map(baseline, cfg.baselines)], chosen, cfg)
        record = {"figures": figures, "energy": energy(student, chosen[: cfg.energy_sequences])}
        write_record(kept, record)
    record = json.loads(kept.read_text())
    path = folder / f"student_{cfg.name}.safetensors"
    told = card(cfg, student, record["figures"], record["energy"], trained_on(student_path))
    save_weights(path, student, card=told, half=cfg.half)
    if cfg.install:
        install(path)
    return path


def main(cfg: DictConfig) -> None:
    tell(run(cfg), installed=cfg.install)
