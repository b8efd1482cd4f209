"""Makes the teacher that comes with the package, which `had-snn adapt` asks: training, test, and the card.

    python -m experiments.studies release_teacher out=runs/release_teacher install=true

A step whose result is in the run folder is not run again; an interrupted training goes on from its checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.record import write_record
from experiments.release import install, scored, tell, trained_on
from had_snn.checkpoint import load_teacher, round_to_half, save_weights
from had_snn.commands import train_teacher
from had_snn.commands.entry import compose
from had_snn.commands.run_folder import open_run, versions
from had_snn.commands.sources import sequences
from had_snn.models import RGBETeacher
from had_snn.tracking import TeacherTracker

#: Options that results in a run folder depend on.
MADE_WITH = ("seed", "train_options", "test_options", "split", "limit", "protocol")


def tested(cfg: DictConfig, teacher: RGBETeacher) -> dict[str, Any]:
    """Scores with frames and events, and with either alone; SR with its 95 % interval over the sequences."""
    data = compose("evaluate", list(map(str, cfg.test_options))).data
    chosen = list(sequences(data, cfg.split, limit=cfg.limit))
    found: dict[str, Any] = {"protocol": cfg.protocol, "sequences": len(chosen), "split": cfg.split}
    for name, modalities in (("both", ("rgb", "events")), ("events", ("events",)), ("rgb", ("rgb",))):
        tracker = TeacherTracker(teacher, modalities=modalities)
        found[name] = scored(name, tracker, chosen, protocol=cfg.protocol, workers=cfg.workers)
    return found


def run(cfg: DictConfig) -> Path:
    """Trains and tests what is missing; writes the weights and their card, and returns the weights' path."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    folder = open_run(cfg, made_with={name: plain[name] for name in MADE_WITH})
    trained = folder / "teacher" / "teacher.safetensors"
    if not trained.is_file():
        own = [*map(str, cfg.train_options), f"seed={cfg.seed}", f"out={trained.parent}"]
        train_teacher.run(compose("train_teacher", own))
    teacher = load_teacher(trained)
    round_to_half(teacher)
    kept = folder / "figures.json"
    if not kept.is_file():
        write_record(kept, tested(cfg, teacher))
    path = folder / f"teacher_{cfg.name}.safetensors"
    card = {
        "name": f"teacher_{cfg.name}",
        "what": "RGB+event transformer, depth-wise matching, centre head; kernels stored as float16",
        "numbers_stored": sum(value.numel() for value in teacher.state_dict().values()),
        "command": "python -m experiments.studies release_teacher",
        "options": [option for option in map(str, cfg.train_options) if "root=" not in option],
        "seed": cfg.seed,
        "data": "simulated sequences only; no real recording was seen",
        "figures": json.loads(kept.read_text()),
        "limits": list(cfg.limits),
        "versions": versions(),
        "trained_on": trained_on(trained),
    }
    save_weights(path, teacher, card=card, half=True)
    if cfg.install:
        install(path)
    return path


def main(cfg: DictConfig) -> None:
    tell(run(cfg), installed=cfg.install)
