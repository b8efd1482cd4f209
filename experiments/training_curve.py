"""Success rate against training time: students without a teacher, each length of training a run of its own.

    python experiments/training_curve.py out=runs/curve

A longer run is not a shorter one gone on, because the learning rate falls over the whole of it. Trackers that are not
trained stand beside the curve as lines. A job whose result is there is not run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ablation_report
from ablation import data_options, run_all
from bench_kernels import machine
from entry import open_run, script
from omegaconf import DictConfig, OmegaConf

from had_snn.atomic import atomic_file
from had_snn.errors import InputError


def jobs(cfg: DictConfig, folder: Path) -> dict[str, dict[str, Any]]:
    """All trainings and baselines as `ablation_worker.py` takes them, the shortest first."""
    test = {"data": data_options(cfg), "split": cfg.split, "limit": cfg.limit, "protocol": cfg.protocol}
    found: dict[str, dict[str, Any]] = {}
    for steps in sorted(cfg.steps):
        for seed in cfg.seeds:
            name = f"steps{steps}-seed{seed}"
            options = [*data_options(cfg), "distill=none", *map(str, cfg.student_options), f"seed={seed}",
                       f"fit.iterations={steps}", "fit.checkpoint_every=0"]  # fmt: skip
            found[name] = {"kind": "student", "seed": seed, "iterations": steps, "shuffled": False,
                           "overrides": options, "folder": str(folder / name), **test}  # fmt: skip
    return found | {f"baseline-{name}": {"kind": "baseline", "baseline": name, **test} for name in cfg.baselines}


def summarise(results: Mapping[str, dict[str, Any]], *, resamples: int) -> dict[str, Any]:
    """Scores by length of training, with the computing seconds of the slowest seed, and those of the baselines."""
    lengths: dict[int, list[dict[str, Any]]] = {}
    record: dict[str, Any] = {"curve": [], "baselines": {}}
    for name, result in results.items():
        if result["job"]["kind"] == "student":
            lengths.setdefault(result["job"]["iterations"], []).append(result)
        else:
            arm = ablation_report.of_arm([result], {"resamples": resamples})
            record["baselines"][name.removeprefix("baseline-")] = arm
    for steps, runs in sorted(lengths.items()):
        seconds = round(max(run["seconds"] for run in runs), 1)
        arm = ablation_report.of_arm(runs, {"resamples": resamples})
        record["curve"].append({"steps": steps, "cpu_seconds": seconds, **arm})
    return record


def run(cfg: DictConfig) -> dict[str, Any]:
    """Runs what is missing and writes `curve.json` and `curve.png`."""
    if not cfg.steps or not cfg.seeds or min(cfg.steps) < 1:
        raise InputError(f"steps={cfg.steps}, seeds={cfg.seeds}: expected at least one of each, above 0 steps")
    folder = open_run(cfg)
    record = summarise(run_all(folder, jobs(cfg, folder), workers=cfg.workers), resamples=cfg.resamples)
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    names = ("seeds", "split", "limit", "protocol", "resamples")
    options = [option for option in map(str, cfg.student_options) if "root=" not in option]
    record["setting"] = {name: plain[name] for name in names} | {"student_options": options}
    record["setting"]["machine"] = machine(1, "cpu")
    with atomic_file(folder / "curve.json") as temporary:
        temporary.write_text(ablation_report.as_text(record))
    plot(record, folder / "curve.png")
    return record


def plot(record: Mapping[str, Any], path: Path) -> None:
    """SR with its interval over computing seconds on a logarithmic axis; baselines as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.6, 3.6))
    seconds, rates = [p["cpu_seconds"] for p in record["curve"]], [p["SR"] for p in record["curve"]]
    error = [[sr["mean"] - sr["low"] for sr in rates], [sr["high"] - sr["mean"] for sr in rates]]
    axis.errorbar(seconds, [sr["mean"] for sr in rates], yerr=error, fmt="o-", capsize=3, label="student, no teacher")
    for name, arm in record["baselines"].items():
        axis.axhline(arm["SR"]["mean"], linestyle=":", color="0.4", linewidth=1)
        axis.text(seconds[0], arm["SR"]["mean"] + 0.2, name, fontsize=7, color="0.3")
    axis.set_xscale("log")
    axis.set_xlabel("training, seconds of one core")
    axis.set_ylabel("SR, %")
    axis.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


@script("training_curve")
def main(cfg: DictConfig) -> None:
    for point in run(cfg)["curve"]:
        rate = "SR {mean:.1f} [{low:.1f}, {high:.1f}]".format(**point["SR"])
        print(f"{point['steps']:>7} steps {point['cpu_seconds']:>8.0f} s  {rate}")
    print(f"wrote {Path(cfg.out) / 'curve.json'}")


if __name__ == "__main__":
    main()
