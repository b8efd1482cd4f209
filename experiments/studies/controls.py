"""Controls: what exact timestamps are worth to the student, and what each modality is worth to the teacher.

    python -m experiments.studies controls out=runs/controls

Students with the event-driven stem, with the same stem on timestamps rounded down to 10 ms, and with a stem of equal
size on counts per micro-step; teachers that are shown RGB and events, events alone, or RGB alone. All students take
equally many steps of equally many clips, and so do all teachers. Differences, also of the event-driven student to each
teacher, are given over all test sequences and over those with each attribute. A job whose result is there is not run
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from experiments.record import write_record
from experiments.studies import ablation_report
from experiments.studies.ablation import data_options, run_all
from had_snn.commands.run_folder import machine, open_run
from had_snn.commands.sources import sequences
from had_snn.evaluate.seeds import paired_spread

#: What a teacher can be shown, by the name of its arm.
TEACHERS = {"rgb+events": ["rgb", "events"], "events": ["events"], "rgb": ["rgb"]}
#: Differences to report: (kind, first, second). Across kinds the student, whose stem is `events`, is called so.
PAIRS = (
    ("stems", "events", "quantised"),
    ("stems", "events", "binned"),
    ("teachers", "rgb+events", "events"),
    ("teachers", "rgb+events", "rgb"),
    ("teachers", "events", "rgb"),
    ("across", "student", "rgb+events"),
    ("across", "student", "events"),
    ("across", "student", "rgb"),
)


def jobs(cfg: DictConfig, folder: Path) -> dict[str, dict[str, Any]]:
    """All trainings as `ablation_worker.py` takes them, seed by seed."""
    test = {"data": data_options(cfg), "split": cfg.split, "limit": cfg.limit, "protocol": cfg.protocol}
    found: dict[str, dict[str, Any]] = {}
    for seed in cfg.seeds:
        for stem in cfg.stems:
            name = f"stem-{stem}-seed{seed}"
            options = [
                *data_options(cfg),
                "distill=none",
                *map(str, cfg.student_options),
                f"student.stem={stem}",
                f"seed={seed}",
                f"fit.iterations={cfg.student_steps}",
                "fit.checkpoint_every=0",
            ]
            found[name] = {
                "kind": "student",
                "arm": stem,
                "seed": seed,
                "shuffled": False,
                "overrides": options,
                "folder": str(folder / name),
                **test,
            }
        for arm in cfg.teachers:
            name = f"teacher-{arm}-seed{seed}"
            options = [
                *data_options(cfg),
                *map(str, cfg.teacher_options),
                f"modalities=[{','.join(TEACHERS[arm])}]",
                f"seed={seed}",
                f"fit.iterations={cfg.teacher_steps}",
                "fit.checkpoint_every=0",
            ]
            found[name] = {
                "kind": "new_teacher",
                "arm": arm,
                "seed": seed,
                "modalities": TEACHERS[arm],
                "overrides": options,
                "folder": str(folder / name),
                **test,
            }
    return found


def differences(
    arms: dict[str, list[dict[str, Any]]],
    pairs: list[tuple[str, str]],
    attributes: list[tuple[str, ...]],
    *,
    resamples: int,
) -> dict[str, Any]:
    """SR of each pair's first arm minus its second, over all sequences and over those with each attribute."""
    found: dict[str, Any] = {}
    for first, second in pairs:
        a, b = (np.array([run["per_sequence"]["SR"] for run in arms[arm]]) for arm in (first, second))
        entry = {"all": ablation_report.rounded(paired_spread(a, b, resamples=resamples)) | {"sequences": a.shape[1]}}
        for name in sorted({name for own in attributes for name in own}):
            chosen = np.array([name in own for own in attributes])
            spread = paired_spread(a[:, chosen], b[:, chosen], resamples=resamples)
            entry[name] = ablation_report.rounded(spread) | {"sequences": int(chosen.sum())}
        found[f"{first}_vs_{second}"] = entry
    return found


def comparisons(
    results: Mapping[str, dict[str, Any]], attributes: list[tuple[str, ...]], *, resamples: int
) -> dict[str, Any]:
    """Scores of all stems and teachers and the differences between those that were run."""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {"stems": {}, "teachers": {}, "across": {}}
    for result in results.values():
        kind = "stems" if result["job"]["kind"] == "student" else "teachers"
        groups[kind].setdefault(result["job"]["arm"], []).append(result)
    if "events" in groups["stems"]:
        groups["across"] = {**groups["teachers"], "student": groups["stems"]["events"]}
    record: dict[str, Any] = {}
    for kind, arms in groups.items():
        pairs = [(a, b) for k, a, b in PAIRS if k == kind and a in arms and b in arms]
        if kind != "across":
            record[kind] = {name: ablation_report.of_arm(runs, {"resamples": resamples}) for name, runs in arms.items()}
        record[f"{kind}_differences"] = differences(arms, pairs, attributes, resamples=resamples)
    return record


def run(cfg: DictConfig) -> dict[str, Any]:
    """Runs what is missing and writes `controls.json`."""
    folder = open_run(cfg)
    results = run_all(folder, jobs(cfg, folder), workers=cfg.workers)
    attributes = [tuple(s.attributes) for s in sequences(cfg.data, cfg.split, limit=cfg.limit)]
    record = comparisons(results, attributes, resamples=cfg.resamples)
    names = ("seeds", "student_steps", "teacher_steps", "split", "limit", "protocol", "resamples")
    plain = OmegaConf.to_container(cfg, resolve=True)
    record["setting"] = {name: plain[name] for name in names}  # pyright: ignore
    for name in ("data_options", "student_options", "teacher_options"):
        record["setting"][name] = [option for option in map(str, cfg[name]) if "root=" not in option]
    record["setting"]["machine"] = machine(1, "cpu")
    write_record(folder / "controls.json", record)
    return record


def table(record: dict[str, Any]) -> str:
    """Scores and differences to read."""
    lines = []
    for kind in ("stems", "teachers"):
        for name, arm in record[kind].items():
            sr = arm["SR"]
            lines.append(f"{kind:<9} {name:<11} SR {sr['mean']:5.1f} [{sr['low']:.1f}, {sr['high']:.1f}]")
    for kind in ("stems", "teachers", "across"):
        for pair, entry in record[f"{kind}_differences"].items():
            lines.append(
                f"{pair}: "
                + ", ".join(f"{name} {v['mean']:+.1f} [{v['low']:.1f}, {v['high']:.1f}]" for name, v in entry.items())
            )
    return "\n".join(lines) + "\n"


def main(cfg: DictConfig) -> None:
    print(table(run(cfg)), end="")
    print(f"wrote {Path(cfg.out) / 'controls.json'}")
