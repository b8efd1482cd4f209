"""Trains an RGB+event teacher.

had-snn train-teacher fit.iterations=2000 out=runs/teacher
had-snn train-teacher teacher=base pretrained.weights=hub:facebook/vit-mae-base
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from had_snn.commands.sources import clip_sampler
from had_snn.commands.training import best_validation, train
from had_snn.models import RGBETeacher
from had_snn.models.pretrained import PretrainedReport, load_pretrained
from had_snn.processes import rank
from had_snn.tracking import TeacherTracker
from had_snn.train.tasks import TeacherTask

log = logging.getLogger("had_snn")


def start_from_pretrained(cfg: DictConfig, teacher: RGBETeacher) -> PretrainedReport | None:
    """Loads the ViT weights that the config names, if any, and says what became of them."""
    if cfg.pretrained.weights is None:
        return None
    report = load_pretrained(
        teacher, cfg.pretrained.weights, mean=list(cfg.pretrained.mean), deviation=list(cfg.pretrained.deviation)
    )
    counts = len(report.used), len(report.unused), len(report.fresh)
    log.info("pretrained weights: %d tensors used, %d unused; %d parameters of the teacher are fresh", *counts)
    for key, reason in report.unused.items():
        log.info("unused: %s (%s)", key, reason)
    return report


def run(cfg: DictConfig) -> Path:
    """Trains and writes `teacher.safetensors` into the run folder; returns its path."""
    torch.manual_seed(cfg.seed)
    teacher = instantiate(cfg.teacher)
    origin = start_from_pretrained(cfg, teacher)
    shown = tuple(cfg.modalities)
    clips = clip_sampler(cfg, teacher.config, tuple({"rgb": "rgb", "events": "voxel"}[name] for name in shown))
    task = TeacherTask(teacher, modality_dropout=cfg.modality_dropout)

    def tracker_of(task: TeacherTask) -> TeacherTracker:
        return TeacherTracker(task.teacher, modalities=shown)

    path, _ = train(cfg, "train_teacher", task, clips, part="teacher", tracker_of=tracker_of)
    if origin is not None and rank() == 0:
        (path.parent / "pretrained.json").write_text(json.dumps(dataclasses.asdict(origin), indent=1) + "\n")
    return path


def main(cfg: DictConfig) -> float | None:
    path = run(cfg)
    print(f"wrote {path}")
    return best_validation(path.parent)
