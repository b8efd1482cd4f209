"""Trains an RGB+event teacher.

    python experiments/train_teacher.py fit.iterations=2000 out=runs/teacher
"""

from __future__ import annotations

from pathlib import Path

import torch
from entry import open_run, script, versions
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from progress import progress
from sources import clip_sampler

from had_snn.checkpoint import save_weights
from had_snn.train.loop import fit
from had_snn.train.tasks import TeacherTask


def run(cfg: DictConfig) -> Path:
    """Trains and writes `teacher.safetensors` into the run folder; returns its path."""
    torch.manual_seed(cfg.seed)
    teacher = instantiate(cfg.teacher)
    clips = clip_sampler(cfg, teacher.config, ("rgb", "voxel"))
    folder = open_run(cfg)
    task = TeacherTask(teacher, modality_dropout=cfg.modality_dropout)
    with progress("train teacher") as bar:
        trained = fit(
            task, clips, instantiate(cfg.fit, seed=cfg.seed), run_dir=folder,
            progress=lambda done, total, means: bar(done, total, f"loss {means['total']:.2f} iou {means['iou']:.2f}"),
        )  # fmt: skip
    card = {"made_by": "experiments/train_teacher.py", "seed": cfg.seed, "versions": versions(),
            "config": OmegaConf.to_container(cfg, resolve=True)}  # fmt: skip
    save_weights(folder / "teacher.safetensors", trained.teacher, card=card)
    return folder / "teacher.safetensors"


@script("train_teacher")
def main(cfg: DictConfig) -> None:
    print(f"wrote {run(cfg)}")


if __name__ == "__main__":
    main()
