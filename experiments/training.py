"""What the two training scripts share: the call of `fit` as a config asks for it, and validation by tracking."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from progress import progress
from sources import validation_sequences
from torch import nn

from had_snn.evaluate.one_pass import Tracker, evaluate_tracker
from had_snn.train.guards import warning_of
from had_snn.train.loop import fit


def validator(cfg: DictConfig, tracker_of: Callable[[Any], Tracker]) -> Callable[[nn.Module], float] | None:
    """SR over the validation sequences, or None when the config has none; shared out over processes.

    Args:
        cfg: A training script's config.
        tracker_of: Makes a tracker of a trained task.
    """
    if cfg.validation is None:
        return None
    chosen = validation_sequences(cfg)

    def score(task: nn.Module) -> float:
        return evaluate_tracker(tracker_of(task), chosen, resamples=0).scores["SR"]

    return score


def run_fit(
    cfg: DictConfig, title: str, task: nn.Module, clips: Any, folder: Path, tracker_of: Callable[[Any], Tracker]
) -> Any:
    """Trains a task as the config says; returns it with averaged weights."""
    validate = validator(cfg, tracker_of)
    loggers = OmegaConf.to_container(cfg.loggers, resolve=True)
    assert isinstance(loggers, dict)
    with progress(title, unit="steps") as bar:

        def show(done: int, total: int, means: dict[str, float]) -> None:
            warning = warning_of(means)
            note = f"loss {means['total']:.2f} iou {means['iou']:.2f}" + (f"  {warning}" if warning else "")
            bar(done, total, note)

        return fit(
            task,
            clips,
            instantiate(cfg.fit, seed=cfg.seed),
            run_dir=folder,
            accelerator=cfg.accelerator,
            devices=cfg.devices,
            num_nodes=cfg.num_nodes,
            progress=show,
            validate=validate,
            loggers={str(name): options for name, options in loggers.items()},
        )


def best_validation(folder: Path) -> float | None:
    """The best validation score of a run folder, which a sweep maximises; None without validation."""
    path = folder / "validation.csv"
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        return max((float(row["score"]) for row in csv.DictReader(file)), default=None)
