"""What the two training scripts share: what is tried before a run, the call of `fit`, and validation by tracking."""

from __future__ import annotations

import copy
import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from had_snn.checkpoint import released, require_saveable, save_weights
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import device_of, open_run, versions
from had_snn.commands.sources import train_splits, validation_sequences
from had_snn.commands.start import check_same, differences, noted_versions
from had_snn.data.sequence import TrackingSequence, first_label
from had_snn.errors import InputError
from had_snn.evaluate.one_pass import Tracker, evaluate_tracker, run_one_pass
from had_snn.processes import rank
from had_snn.threads import use_what_is_available
from had_snn.train.guards import warning_of
from had_snn.train.loop import fit

#: Options of a training that do not change its result: where it runs, how fast, what is written when, and where files
#: are whose labels tell what they hold.
FREE = (
    "out",
    "recording",
    "box",
    "accelerator",
    "devices",
    "num_nodes",
    "loggers",
    "tracks",
    "teacher_checkpoint",
    "fit.log_every",
    "fit.checkpoint_every",
    "fit.loader_threads",
    "fit.loader_processes",
    "data.root",
    "data.cache",
    "data.workers",
    "replay.root",
    "replay.workers",
)
MAY_GROW = ("fit.iterations",)


def validator(cfg: DictConfig, tracker_of: Callable[[Any], Tracker]) -> Callable[[nn.Module], float] | None:
    """SR over the validation sequences, or None when the config has none; shared out over processes.

    Args:
        cfg: A training script's config.
        tracker_of: Makes a tracker of a trained task.
    """
    if cfg.validation is None:
        return None
    chosen = validation_sequences(cfg)
    for sequence in chosen:  # refused now, and not after hours
        if not sequence.usable[first_label(sequence) + 1 :].any():
            raise InputError(f"{sequence.name}: validation needs boxes behind the first one, and there is none")

    def score(task: nn.Module) -> float:
        return evaluate_tracker(tracker_of(task), chosen, resamples=0).scores["SR"]

    return score


def refuse_other_run(cfg: DictConfig) -> None:
    """Refuses a run folder of other options before a teacher labels for minutes; `train` looks at the labels, too."""
    check_same(Path(cfg.out), _made_with_options(cfg), may_grow=MAY_GROW, later=("labels_sha256",))


def made_with(cfg: DictConfig, sequences: list[TrackingSequence]) -> dict[str, Any]:
    """What the result of a training depends on: options by name, and digests of labels, teacher and first weights."""
    labels = hashlib.sha256()
    for sequence in sequences:
        labels.update(sequence.name.encode())
        for column in (sequence.label_times_us, sequence.boxes_xywh, sequence.visible):
            labels.update(np.ascontiguousarray(column).tobytes())
    return _made_with_options(cfg) | {"labels_sha256": labels.hexdigest()[:16]}


def _made_with_options(cfg: DictConfig) -> dict[str, Any]:
    """The part of `made_with` that is known before any sequence is opened."""
    options = dict(_flat(OmegaConf.to_container(cfg, resolve=True)))
    splits = {*train_splits(cfg.data), (cfg.validation or {}).get("split")}
    used = {
        name: value
        for name, value in options.items()
        if not _free(name) and not _of_another_split(name, {"data": splits, "replay": {"train"}})
    }
    used["processes"] = int(os.environ.get("WORLD_SIZE", "1"))
    for name in ("teacher_checkpoint", "pretrained.weights", "init", "checkpoint"):
        given = str(options.get(name))
        kind = "teacher" if name == "teacher_checkpoint" else "student"
        path = Path(given) if name == "pretrained.weights" else released(given, kind)
        if path.is_file():
            used[f"{name}_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return used


def refuse_other(weights: Path, cfg: DictConfig) -> None:
    """Refuses weights that were trained with other options than a config's; their card says which."""
    card = json.loads(weights.with_suffix(".json").read_text())
    before, now = (
        {name: value for name, value in _flat(config) if not _free(name)}
        for config in (card["config"], OmegaConf.to_container(cfg, resolve=True))
    )
    if told := differences(before, json.loads(json.dumps(now))):
        raise InputError(f"{weights} was made with {told}; give another out= folder, or remove it")


def _free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in FREE)


def _of_another_split(name: str, used: Mapping[str, set[str]]) -> bool:
    group, *below = name.split(".")
    return group in used and below[:1] == ["splits"] and below[1] not in used[group]


def _flat(value: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from _flat(item, f"{above}.{name}" if above else str(name))
    else:
        yield above, value


def rehearse(task: nn.Module, clips: Any, tracker_of: Callable[[Any], Tracker]) -> None:
    """Does once, on copies, what would otherwise fail after hours: a batch through the task, a box from the tracker.

    Raises:
        InputError: If torch refuses the shapes.
    """
    state, copied = torch.get_rng_state(), copy.deepcopy(task)
    try:
        with torch.no_grad():
            batch = clips.collate([clips[0], clips[1]])
            for piece in getattr(copied, "pieces", lambda batch: [batch])(batch):
                copied.train()(piece)
        sequence = next((s for s in clips.sequences if s.usable.any()), clips.sequences[0])
        rows = slice(first_label(sequence), first_label(sequence) + 2)
        columns = {name: getattr(sequence, name)[rows] for name in ("label_times_us", "boxes_xywh", "visible")}
        run_one_pass(tracker_of(copied.eval()), replace(sequence, **columns))
    except RuntimeError as error:
        raise InputError(f"network, crops and clips of these options do not fit together: {error}") from error
    finally:
        torch.set_rng_state(state)


def train(
    cfg: DictConfig,
    job: str,
    task: nn.Module,
    clips: Any,
    *,
    part: str,
    tracker_of: Callable[[Any], Tracker],
    finish: Callable[[Any], nn.Module] = lambda network: network,
    told: Mapping[str, Any] | None = None,
) -> tuple[Path, Any]:
    """Trains a task as the config says and writes its network with a card.

    What can be known to fail is tried first: validation data, a step, a tracked box, the card, the space on the disk;
    a folder that holds a run made with other options is refused.

    Args:
        cfg: The script's config.
        job: Its name.
        task: What is trained.
        clips: Its clips.
        part: The task's network that is written: `student` or `teacher`.
        tracker_of: Makes a tracker of a task.
        finish: Makes of the trained network the one that is written.
        told: What else the card says.

    Returns:
        The path of the weights, and the task with averaged weights.
    """
    use_what_is_available()
    validate = validator(cfg, tracker_of)
    depends = made_with(cfg, clips.sequences)
    check_same(Path(cfg.out), depends, may_grow=MAY_GROW)
    card: dict[str, Any] = {
        "made_by": f"experiments/{job}.py",
        "seed": cfg.seed,
        "config": OmegaConf.to_container(cfg, resolve=True),
        "made_with": depends,
        **(told or {}),
    }
    require_saveable(getattr(task, part), card)
    if rank() == 0:
        rehearse(task, clips, tracker_of)
    size = sum(value.numel() * value.element_size() for value in task.state_dict().values())
    # Weights, their average, the best of them, two moments; twice, as a checkpoint replaces one that is whole.
    folder = open_run(cfg, made_with=depends, may_grow=MAY_GROW, needed=10 * size + (16 << 20))
    trained = run_fit(cfg, job.replace("_", " "), task, clips, folder, validate)
    path = folder / f"{part}.safetensors"
    if rank() == 0:
        network = finish(getattr(trained, part))
        card |= {"versions": versions(), "device": device_of(network), "trained_by": noted_versions(folder)}
        save_weights(path, network, card=card)
    return path, trained


def run_fit(
    cfg: DictConfig,
    title: str,
    task: nn.Module,
    clips: Any,
    folder: Path,
    validate: Callable[[nn.Module], float] | None,
) -> Any:
    """Trains a task as the config says; returns it with averaged weights."""
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
