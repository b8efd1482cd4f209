"""Success rate against training time: students without a teacher and teachers, each length a run of its own.

    python -m experiments.studies training_curve out=runs/curve
    python -m experiments.studies training_curve out=runs/curve steps=[3500] teacher_steps=[1540] seeds=[0,1,2]
    python -m experiments.studies training_curve out=runs/curve beside=FOLDER     # beside an earlier version's run

A longer run is not a shorter one gone on, because the learning rate falls over the whole of it. Trackers that are not
trained stand beside the curves as lines. A job whose result is there is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.record import write_record
from experiments.studies import ablation_report
from experiments.studies.ablation import data_options, run_all
from had_snn.commands.run_folder import machine, open_run
from had_snn.errors import InputError


def jobs(cfg: DictConfig, folder: Path) -> dict[str, dict[str, Any]]:
    """All trainings and baselines as `ablation_worker.py` takes them, the shortest first."""
    test = {"data": data_options(cfg), "split": cfg.split, "limit": cfg.limit, "protocol": cfg.protocol}
    found: dict[str, dict[str, Any]] = {}
    for steps in sorted(cfg.steps):
        for seed in cfg.seeds:
            name = f"steps{steps}-seed{seed}"
            options = [
                *data_options(cfg),
                "distill=none",
                *map(str, cfg.student_options),
                f"seed={seed}",
                f"fit.iterations={steps}",
                "fit.checkpoint_every=0",
            ]
            found[name] = {
                "kind": "student",
                "seed": seed,
                "iterations": steps,
                "shuffled": False,
                "overrides": options,
                "folder": str(folder / name),
                **test,
            }
    for steps in sorted(cfg.teacher_steps):
        for seed in cfg.seeds:
            name = f"teacher-steps{steps}-seed{seed}"
            options = [
                *data_options(cfg),
                *map(str, cfg.teacher_options),
                f"seed={seed}",
                f"fit.iterations={steps}",
                "fit.checkpoint_every=0",
            ]
            found[name] = {
                "kind": "new_teacher",
                "seed": seed,
                "iterations": steps,
                "modalities": ["rgb", "events"],
                "overrides": options,
                "folder": str(folder / name),
                **test,
            }
    return found | {f"baseline-{name}": {"kind": "baseline", "baseline": name, **test} for name in cfg.baselines}


#: Students of another run of this study, where there is one.
BESIDE = "beside"
#: The part of the record that each kind of job goes into.
CURVES = {"student": "curve", "new_teacher": "teachers", BESIDE: BESIDE}


def beside(folder: Path) -> dict[str, dict[str, Any]]:
    """Students of another run of this study, of another version for example, by names of their own.

    Raises:
        InputError: If the folder holds none.
    """
    found = {path.parent.name: json.loads(path.read_text()) for path in sorted(folder.glob("steps*/result.json"))}
    if not found:
        raise InputError(f"beside={folder}: expected results of this study, steps*/result.json; found none")
    return {f"{BESIDE}-{name}": {**result, "job": {**result["job"], "kind": BESIDE}} for name, result in found.items()}


def summarise(results: Mapping[str, dict[str, Any]], *, resamples: int) -> dict[str, Any]:
    """Scores by length of training, with the computing seconds of the slowest seed, those of the baselines, and leads.

    Args:
        results: Results of `ablation_worker.py` by job name.
        resamples: Bootstrap resamples.

    Returns:
        `curve` (students), `teachers`, `beside` (students of another run), `baselines`, and in `lead` the SR of the
        longest student minus each baseline's, of the longest teacher minus that student's, and of the students minus
        those beside them at equal steps, over seeds and sequences.
    """
    options: dict[str, Any] = {"resamples": resamples}
    lengths: dict[str, dict[int, list[dict[str, Any]]]] = {part: {} for part in CURVES.values()}
    lines: dict[str, dict[str, Any]] = {}
    for name, result in results.items():
        if (part := CURVES.get(result["job"]["kind"])) is not None:
            lengths[part].setdefault(result["job"]["iterations"], []).append(result)
        else:
            lines[name.removeprefix("baseline-")] = result
    record: dict[str, Any] = {part: [] for part in lengths}
    for part, by_steps in lengths.items():
        for steps, runs in sorted(by_steps.items()):
            seconds = round(max(run["seconds"] for run in runs), 1)
            record[part].append({"steps": steps, "cpu_seconds": seconds, **ablation_report.of_arm(runs, options)})
    record["baselines"] = {name: ablation_report.of_arm([result], options) for name, result in lines.items()}
    longest = {part: by_steps[max(by_steps)] for part, by_steps in lengths.items() if by_steps}
    pairs = {f"student_vs_{name}": (longest["curve"], [line]) for name, line in lines.items()}
    if "teachers" in longest:
        pairs["teacher_vs_student"] = (longest["teachers"], longest["curve"])
    for steps in sorted(lengths["curve"].keys() & lengths[BESIDE].keys()):
        pairs[f"steps{steps}_vs_beside"] = (lengths["curve"][steps], lengths[BESIDE][steps])
    record["lead"] = {name: ablation_report.difference(*pair, **options) for name, pair in pairs.items()}
    return record


def run(cfg: DictConfig) -> dict[str, Any]:
    """Runs what is missing and writes `curve.json` and `curve.png`."""
    folder = open_run(cfg)
    others = {} if cfg.beside is None else beside(Path(cfg.beside))
    results = run_all(folder, jobs(cfg, folder), workers=cfg.workers)
    record = summarise({**results, **others}, resamples=cfg.resamples)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    names = ("seeds", "split", "limit", "protocol", "resamples")
    record["setting"] = {name: plain[name] for name in names}
    for name in ("student_options", "teacher_options"):
        record["setting"][name] = [option for option in map(str, cfg[name]) if "root=" not in option]
    record["setting"]["machine"] = machine(1, "cpu")
    write_record(folder / "curve.json", record)
    plot(record, folder / "curve.png")
    return record


def plot(record: Mapping[str, Any], path: Path) -> None:
    """SR with its interval over computing seconds on a logarithmic axis; baselines as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure, axis = plt.subplots(figsize=(5.6, 3.6))
    drawn = (
        ("curve", "o-", "student, no teacher"),
        (BESIDE, "d:", "student, before"),
        ("teachers", "s--", "teacher, RGB + events"),
    )
    for part, fmt, label in drawn:
        seconds, rates = [p["cpu_seconds"] for p in record[part]], [p["SR"] for p in record[part]]
        error = [[sr["mean"] - sr["low"] for sr in rates], [sr["high"] - sr["mean"] for sr in rates]]
        if rates:
            axis.errorbar(seconds, [sr["mean"] for sr in rates], yerr=error, fmt=fmt, capsize=3, label=label)
    for name, arm in record["baselines"].items():
        axis.axhline(arm["SR"]["mean"], linestyle=":", color="0.4", linewidth=1)
        axis.text(record["curve"][0]["cpu_seconds"], arm["SR"]["mean"] + 0.2, name, fontsize=7, color="0.3")
    axis.set_xscale("log")
    # Few plain numbers: the default labels of a log axis lie upon each other over so few decades.
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("training, seconds of one core")
    axis.set_ylabel("SR, %")
    axis.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(cfg: DictConfig) -> None:
    record = run(cfg)
    text = "SR {mean:.1f} [{low:.1f}, {high:.1f}]"
    for part, who in (("curve", "student"), (BESIDE, "before"), ("teachers", "teacher")):
        for point in record[part]:
            rate = text.format(**point["SR"])
            print(f"{who} {point['steps']:>7} steps {point['cpu_seconds']:>8.0f} s  {rate}")
    for name, lead in record["lead"].items():
        print(f"{name:<22} {text.format(**lead)}")
    print(f"wrote {Path(cfg.out) / 'curve.json'}")
