"""Trains an RGB+event teacher.

    python experiments/train_teacher.py fit.iterations=2000 out=runs/teacher
"""

from __future__ import annotations

from pathlib import Path

import torch
from entry import open_run, script, versions
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from sources import clip_sampler
from training import run_fit

from had_snn.checkpoint import save_weights
from had_snn.collective import rank
from had_snn.errors import InputError
from had_snn.tracker import TeacherTracker
from had_snn.train.tasks import TeacherTask


def run(cfg: DictConfig) -> Path:
    """Trains and writes `teacher.safetensors` into the run folder; returns its path."""
    torch.manual_seed(cfg.seed)
    teacher = instantiate(cfg.teacher)
    shown = tuple(cfg.modalities)
    if not shown or not set(shown) <= {"rgb", "events"}:
        raise InputError(f"modalities={list(shown)}: a teacher is shown [rgb, events], [rgb] or [events]")
    clips = clip_sampler(cfg, teacher.config, tuple({"rgb": "rgb", "events": "voxel"}[name] for name in shown))
    folder = open_run(cfg)
    task = TeacherTask(teacher, modality_dropout=cfg.modality_dropout)
    trained = run_fit(
        cfg, "train teacher", task, clips, folder, lambda task: TeacherTracker(task.teacher, modalities=shown)
    )
    card = {"made_by": "experiments/train_teacher.py", "seed": cfg.seed, "versions": versions(),
            "config": OmegaConf.to_container(cfg, resolve=True)}  # fmt: skip
    if rank() == 0:
        save_weights(folder / "teacher.safetensors", trained.teacher, card=card)
    return folder / "teacher.safetensors"


@script("train_teacher")
def main(cfg: DictConfig) -> None:
    print(f"wrote {run(cfg)}")


if __name__ == "__main__":
    main()
