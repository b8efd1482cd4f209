"""Measures the student's training step beside the same network on other libraries, and training with carried state.

    python -m experiments.bench training                                # speed and memory
    python -m experiments.bench training job.size=base job.batch_size=4 job.windows=2 carried_windows=null out=FILE
    python -m experiments.bench training measure=false table=runs/ablation/ablation.json    # the SR of a finished run
    python -m experiments.bench training measure=false curve=runs/curve/curve.json          # the student of a curve

Each contender runs in processes of its own, in turns with the others. Ours keeps freed memory, as `fit` sets it up; the
libraries' users get the C allocator's defaults.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.bench.training_worker import CARRIED, CONTENDERS, LAST, RIVALS
from experiments.record import write_record
from experiments.worker import environment, worker
from had_snn.commands.run_folder import machine
from had_snn.errors import HadError, InputError

#: Trackers of the comparison by their names in the record of the study `ablation`; the student is its arm `none`.
TRACKERS = {
    "teacher": "teacher",
    "mean_shift": "mean_shift",
    "csrt": "csrt_events",
    "kcf": "kcf_events",
    "static": "static",
}


def work(cfg: DictConfig, name: str, *, windows: int) -> dict[str, Any]:
    """Runs a contender in a process of its own: seconds by stage, and peak memory."""
    job = {**dict(cfg.job), "windows": windows, "name": name, "rounds": cfg.rounds, "threads": cfg.threads}
    command = worker("bench.training_worker", json.dumps(job))
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode != 0:
        raise HadError(f"a benchmark process failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def in_turns(cfg: DictConfig, names: tuple[str, ...], *, windows: int) -> dict[str, dict[str, Any]]:
    """Median milliseconds by stage, samples per second and peak memory of contenders that take turns."""
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    peak: dict[str, float] = {}
    above: dict[str, float] = {}
    for _ in range(cfg.passes):
        for name in names:
            found = work(cfg, name, windows=windows)
            peak[name] = max(peak.get(name, 0.0), found["peak_mb"])
            above[name] = max(above.get(name, 0.0), found["above_mb"])
            for stage, values in found["seconds"].items():
                seconds[name].setdefault(stage, []).extend(values)
    table = {}
    for name, stages in seconds.items():
        median = {stage: statistics.median(values) for stage, values in stages.items()}
        table[name] = {
            "samples_per_second": round(cfg.job.batch_size * windows / sum(median.values()), 2),
            "ms_by_stage": {stage: round(1e3 * value, 2) for stage, value in median.items()},
            "peak_mb": round(peak[name], 1),
            "above_first_step_mb": round(above[name], 1),
        }
    return table


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Speed, stages and memory of every contender, and of single-window against carried training."""
    table = in_turns(cfg, CONTENDERS, windows=cfg.job.windows)
    speed = {name: row["samples_per_second"] for name, row in table.items()}
    best = {name: max(speed[name], speed[name + LAST]) for name in RIVALS}
    found: dict[str, Any] = {
        "samples_per_second": speed,
        "ratio": {name: round(speed["had"] / value, 2) for name, value in best.items()},
        "contenders": table,
    }
    if cfg.carried_windows is not None:
        carried = in_turns(cfg, CARRIED, windows=cfg.carried_windows)
        found["carried"] = carried | {"windows_per_clip": cfg.carried_windows}
    return found | {
        "job": OmegaConf.to_container(cfg.job, resolve=True),
        "machine": machine(cfg.threads, "cpu"),
    }


def success_rates(path: str) -> dict[str, Any]:
    """Mean SR and its interval of the student without a teacher and of the trackers beside it.

    Args:
        path: What `experiments/studies/ablation.py` wrote, with the arm `none` under all labels and all baselines.
    """
    try:
        record = json.loads(Path(path).read_text())
        rows = {name: record["trackers"][key] for name, key in TRACKERS.items()}
        alone = next(s["arms"]["none"] for s in record["sets"] if s["labels"] == 1 and s["budget"] == "time")
        seeds = {"student": len(alone["runs"]), "teacher": len(rows["teacher"]["runs"])}
        found = {name: row["SR"] | {"seeds": seeds.get(name, 1)} for name, row in ({"student": alone} | rows).items()}
        found["student"]["seconds"] = round(max(run["seconds"] for run in alone["runs"]))
        return found
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise InputError(f"{path}: not a finished record of experiments/studies/ablation.py ({error!r})") from error


def best_in_time(path: str, seconds: float, *, part: str = "curve") -> dict[str, Any]:
    """Mean SR and its interval of the longest training of a curve that took no more than so many computing seconds.

    Args:
        path: What `experiments/studies/training_curve.py` wrote.
        seconds: The limit.
        part: `curve` for the students, `teachers` for the teachers.
    """
    try:
        points = [point for point in json.loads(Path(path).read_text())[part] if point["cpu_seconds"] <= seconds]
        longest = max(points, key=lambda point: point["steps"])
        return longest["SR"] | {"seeds": len(longest["runs"]), "seconds": round(longest["cpu_seconds"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no curve with a training of at most {seconds:g} s ({error!r})") from error


def best_of_curve(path: str, seconds: float) -> dict[str, Any]:
    """The student within a time, and the teacher where the curve has teachers; see `best_in_time`."""
    found = {"student": best_in_time(path, seconds)}
    if json.loads(Path(path).read_text()).get("teachers"):
        found["teacher"] = best_in_time(path, seconds, part="teachers")
    return found


def run(cfg: DictConfig) -> dict[str, Any]:
    """Measures, or takes the speeds from an older file, and writes all figures."""
    out = Path(cfg.out)
    record = json.loads(out.read_text()) if out.is_file() else {}
    if cfg.table is not None:
        record["sr"] = success_rates(cfg.table)
    if cfg.curve is not None:
        record["sr"] = record.get("sr", {}) | best_of_curve(cfg.curve, cfg.at_most_seconds)
    if cfg.measure:
        record |= measure(cfg)
    write_record(out, record)
    return record


def main(cfg: DictConfig) -> None:
    print(json.dumps(run(cfg), indent=1))
