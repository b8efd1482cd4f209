"""Fits a student's norms to other numbers of micro-steps, and tells what it scores with them.

    python -m experiments.studies fit_steps checkpoint=tiny "steps=[2,8,16,32,40]" out=runs/steps

Writes OUT/student.safetensors, the same student with a set of norms for each number (`had_snn/models/step_norms.py`),
and OUT/steps.json. A number whose norms are in the run folder is not fitted again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file

from experiments.record import write_record
from had_snn.checkpoint import load_student, released, save_weights
from had_snn.commands import distill_student
from had_snn.commands.entry import compose
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import machine, open_run
from had_snn.commands.sources import sequences
from had_snn.evaluate.one_pass import evaluate_tracker
from had_snn.files import atomic_file
from had_snn.models import SpikingTracker
from had_snn.models.step_norms import NormNumbers
from had_snn.ops.memory import keep_freed_memory
from had_snn.tracking import OnlineTracker
from had_snn.train.norm_fitting import NormFit, fit_norms


def fitted(
    student: SpikingTracker, counts: Sequence[int], options: Sequence[str], how: NormFit, folder: Path
) -> dict[int, NormNumbers]:
    """Norms for each number of micro-steps, from the folder where they are there.

    Args:
        student: A trained student.
        counts: Micro-steps.
        options: Of `had-snn distill`: which clips.
        how: How to fit.
        folder: Keeps what is fitted.
    """
    found: dict[int, NormNumbers] = {}
    keep_freed_memory()
    for count in counts:
        path = folder / f"norms_{count}.safetensors"
        if not path.is_file():
            cfg = compose("distill_student", [*options, "distill=none", f"student.n_steps={count}"])
            torch.manual_seed(cfg.seed)
            clips = distill_student.clips_for(cfg, student.at_steps(count, unfitted=True), None)
            with progress(f"fit norms to {count} micro-steps", unit="batches") as bar:
                numbers = fit_norms(student, clips, count, how, progress=bar)
            with atomic_file(path) as temporary:
                save_file(numbers, str(temporary))
        found[count] = load_file(str(path))
    return found


def scores(student: SpikingTracker, counts: Sequence[int], cfg: DictConfig) -> list[dict[str, Any]]:
    """SR, PR and NPR with each number of micro-steps."""
    chosen = list(sequences(compose("evaluate", list(map(str, cfg.data_options))).data, cfg.split, limit=cfg.limit))
    rows = []
    for count in counts:
        tracker = OnlineTracker(student.at_steps(count))
        with progress(f"track with {count} micro-steps", unit="sequences") as bar:
            result = evaluate_tracker(tracker, chosen, protocol=cfg.protocol, resamples=0, progress=bar)
        rows.append({"steps": count, **{name: round(float(result.scores[name]), 2) for name in ("SR", "PR", "NPR")}})
        print("{steps:>3} micro-steps  SR {SR:.1f}  PR {PR:.1f}  NPR {NPR:.1f}".format(**rows[-1]), flush=True)
    return rows


def run(cfg: DictConfig) -> Path:
    """Fits what is missing, writes the student, and scores it."""
    student = load_student(cfg.checkpoint)
    folder = open_run(cfg)
    torch.set_num_threads(1)
    student.norms_at |= fitted(student, cfg.steps, list(map(str, cfg.data_options)), NormFit(**cfg.norms), folder)
    path, card = folder / "student.safetensors", released(cfg.checkpoint).with_suffix(".json")
    told = json.loads(card.read_text()) if card.is_file() else {}
    save_weights(path, student, card={**told, "fitted_steps": sorted(student.norms_at)})
    record: dict[str, Any] = {"rows": scores(student, cfg.score_steps, cfg)}
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    record |= {name: plain[name] for name in ("checkpoint", "steps", "split", "limit", "protocol", "norms")}
    record["data_options"] = [option for option in plain["data_options"] if "root=" not in option]
    write_record(folder / "steps.json", record | {"machine": machine(1, "cpu")})
    return path


def main(cfg: DictConfig) -> None:
    print(f"wrote {run(cfg)}")
