"""The ablation of distillation: every arm, seed and share of the labels, tested beside the teacher and the baselines.

    python -m experiments.studies ablation out=runs/ablation
    python -m experiments.studies ablation out=runs/ablation workers=2 teacher_checkpoint=runs/teacher.safetensors
    python -m experiments.studies ablation out=runs/ablation "teacher_checkpoint='runs/{seed}/teacher.safetensors'"

Each job is a process of its own with one thread. A job whose result is there is not run again, so the same command goes
on where it was stopped, and a larger plan only adds what is missing.
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.record import write_record
from experiments.studies import ablation_report
from experiments.studies.ablation_plan import SHUFFLED, Cost, Job, costs, plan
from experiments.worker import environment, worker
from had_snn.checkpoint import released, released_names
from had_snn.commands import train_teacher
from had_snn.commands.entry import compose
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import device_for, machine, open_run
from had_snn.commands.sources import sequences
from had_snn.commands.training import refuse_other
from had_snn.distill.levels import MODES
from had_snn.errors import HadError

log = logging.getLogger("had_snn")


def data_options(cfg: DictConfig) -> list[str]:
    """The data of this ablation as options of another script."""
    return [str(option) for option in cfg.data_options]


def run_job(folder: Path, job: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a job: from its file when the very same job was run before, else from a process of its own.

    Args:
        folder: The job's folder.
        job: What `ablation_worker.py` takes.

    Raises:
        HadError: If the process fails; its last words are in the message, all of them in `worker.log`.
    """
    result = folder / "result.json"
    if result.is_file():
        record = json.loads(result.read_text())
        if record["job"] == job:
            return record
        log.warning("%s: the plan has changed, so this job is run again", folder.name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.json"
    path.write_text(json.dumps(job, indent=1) + "\n")
    single = environment(OMP_NUM_THREADS=1, MKL_NUM_THREADS=1, OMP_WAIT_POLICY="passive")
    command = worker("studies.ablation_worker", str(path))
    with (folder / "worker.log").open("w") as words:
        done = subprocess.run(command, stdout=words, stderr=words, env=single, check=False)
    if done.returncode != 0:
        last = (folder / "worker.log").read_text().strip().splitlines()[-1:]
        raise HadError(f"{folder.name} failed with code {done.returncode}: {' '.join(last)}")
    return json.loads(result.read_text())


def teachers(cfg: DictConfig, folder: Path, seeds: list[int]) -> dict[int, str]:
    """Each seed's teacher: the given one, `{seed}` filled in, or one of its own, trained now if it is not there."""
    if cfg.teacher_checkpoint is not None:
        given = str(cfg.teacher_checkpoint)
        if given in released_names("teacher"):
            return dict.fromkeys(seeds, given)
        return {seed: str(Path(given.replace("{seed}", str(seed))).resolve()) for seed in seeds}
    found = {}
    for seed in seeds:
        path = folder / f"teacher-seed{seed}" / "teacher.safetensors"
        own = [f"seed={seed}", f"out={path.parent}", f"accelerator={cfg.accelerator}"]
        options = [*own, *(f"fit.{k}={v}" for k, v in cfg.teacher.items())]
        training = compose("train_teacher", [*data_options(cfg), *options])
        if path.is_file():
            refuse_other(path, training)
        else:
            train_teacher.run(training)
        found[seed] = str(path.resolve())
    return found


def student_options(cfg: DictConfig, mode: str, teacher: str) -> list[str]:
    """Options of a student of one mode; a student on its own knows nothing of a teacher."""
    fixed = ["fit.checkpoint_every=0", f"accelerator={cfg.accelerator}"]
    options = [*data_options(cfg), f"distill={mode}", *map(str, cfg.student_options), *fixed]
    if mode == "none":
        return options
    how = [f"distill.{name}={'null' if value is None else value}" for name, value in cfg.distill.items()]
    return [*options, f"teacher_checkpoint={teacher}", *how]


def costs_of(cfg: DictConfig, measured: Mapping[str, Mapping[str, float]], follow: float) -> dict[str, Cost]:
    """What each mode costs over a run under this config's distillation; `follow` as in `costs`."""
    clips_per_step = compose("distill_student", data_options(cfg)).fit.batch_size / cfg.distill.every
    pool_steps = None if cfg.distill.pool is None else cfg.distill.pool / clips_per_step
    return costs(measured, until=cfg.distill.until, pool_steps=pool_steps, follow=follow)


def student_job(cfg: DictConfig, job: Job, folder: Path, teacher: str, test: Mapping[str, Any]) -> dict[str, Any]:
    """A planned job as the worker takes it."""
    own = [f"seed={job.seed}", f"labels={job.labels}", f"fit.iterations={job.iterations}"]
    options = [*student_options(cfg, job.mode, teacher), *own]
    return {
        "kind": "student",
        **job.as_dict(),
        "folder": str(folder),
        "shuffled": job.arm == SHUFFLED,
        "overrides": options,
        **test,
    }


def tested(cfg: DictConfig, folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Runs what is missing of the plan.

    Args:
        cfg: The config.
        folder: Where it is kept.

    Returns:
        Results of `ablation_worker.py` by job name, and what beside them makes up a record: seconds of a step by mode,
        seconds to label all training sequences, and the setting.
    """
    sets = [entry for entry in OmegaConf.to_container(cfg.sets, resolve=True) if entry]  # pyright: ignore
    known = compose("prepare_data", data_options(cfg))
    for split in ("train", cfg.split):
        sequences(known.data, split)
    seeds = sorted({*cfg.seeds, *(seed for entry in sets for seed in entry.get("seeds") or ())})
    taught_by = teachers(cfg, folder, seeds)
    test = {"data": data_options(cfg), "split": cfg.split, "limit": cfg.limit, "protocol": cfg.protocol}
    # Of all modes, so that more sets need no new measurement.
    modal = {mode: student_options(cfg, mode, taught_by[cfg.seeds[0]]) for mode in MODES}
    speed = {"kind": "speed", "modes": modal, "turns": cfg.speed_turns, "teacher": taught_by[cfg.seeds[0]]}
    measured = run_job(folder / "speed", speed)
    cost = costs_of(cfg, measured["speed"], measured["follow_seconds"])
    jobs = plan(sets, cfg.seeds, steps=cfg.steps, cost=cost)
    work = {job.name: student_job(cfg, job, folder / job.name, taught_by[job.seed], test) for job in jobs}
    work |= {f"baseline-{name}": {"kind": "baseline", "baseline": name, **test} for name in cfg.baselines}
    for path in dict.fromkeys(taught_by.values()) if cfg.test_teacher else ():
        name = "teacher" if len(set(taught_by.values())) == 1 else f"teacher-{Path(path).parent.name}"
        work[name] = {"kind": "teacher", "checkpoint": path, **test}
    results = run_all(folder, work, workers=cfg.workers)
    beside = {
        "seconds_per_step": {
            mode: {name: round(value, 4) for name, value in values.items()}
            for mode, values in measured["speed"].items()
        },
        "seconds_to_follow_all": round(measured["follow_seconds"], 1),
        "setting": setting(cfg, taught_by),
    }
    return results, beside


def run(cfg: DictConfig) -> dict[str, Any]:
    """Runs what is missing and writes `ablation.json` and `ablation.png`."""
    folder = open_run(cfg)
    results, beside = tested(cfg, folder)
    record = ablation_report.summarise(results, resamples=cfg.resamples) | beside
    write_record(folder / "ablation.json", record)
    ablation_report.plot(record, folder / "ablation.png")
    return record


def setting(cfg: DictConfig, taught_by: Mapping[int, str]) -> dict[str, Any]:
    """What the figures depend on, without the paths of this machine."""
    names = ("student_options", "distill", "steps", "seeds", "sets", "split", "limit", "protocol", "resamples")
    chosen = {name: OmegaConf.to_container(cfg, resolve=True)[name] for name in names}  # pyright: ignore
    chosen["data"] = [option for option in data_options(cfg) if "root=" not in option]
    modes = {entry for options in chosen["sets"] for entry in options["arms"]} & set(MODES)
    chosen["weights"] = {m: compose("distill_student", [f"distill={m}"]).distill.weights for m in sorted(modes)}
    chosen["weights"] = {m: dict(weights) for m, weights in chosen["weights"].items() if weights}
    chosen["teachers"] = len(set(taught_by.values()))
    card = json.loads(released(next(iter(taught_by.values())), "teacher").with_suffix(".json").read_text())
    made = card["config"]["fit"] if "config" in card else {"released": card["name"], "options": card["options"]}
    chosen["teacher"] = {"seed": card["seed"], **made}
    return chosen | {"machine": machine(1, device_for(cfg.accelerator))}


def run_all(folder: Path, work: Mapping[str, dict[str, Any]], *, workers: int) -> dict[str, dict[str, Any]]:
    """Results by name; jobs start in the order given, `workers` at a time, and one that fails stops the others."""
    results: dict[str, dict[str, Any]] = {}
    with progress("ablation", unit="jobs") as bar, ThreadPoolExecutor(max_workers=workers) as pool:
        waiting = {name: pool.submit(run_job, folder / name, job) for name, job in work.items()}
        try:
            for name, future in waiting.items():
                results[name] = future.result()
                bar(len(results), len(work), name)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def main(cfg: DictConfig) -> None:
    print(ablation_report.table(run(cfg)), end="")
    print(f"wrote {Path(cfg.out) / 'ablation.json'}")
