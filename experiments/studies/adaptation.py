"""What adaptation without labels gains on a domain that training never saw, and what it costs where it was trained.

    python -m experiments.studies adaptation out=runs/adaptation

Arms: `none` (the student as it is), `teacher` (`had-snn adapt`: frames and events), `events` (a teacher without
frames), `student` (it teaches itself) and `truth` (the true labels). All learn from the same recordings, from as many
clips; tested are sequences of the same domain that no arm saw, and the test set of the domain that the student is from.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from experiments.record import write_record
from experiments.worker import environment
from had_snn.checkpoint import load_student
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import open_run
from had_snn.commands.sources import sequences
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import HadError
from had_snn.evaluate.one_pass import evaluate_tracker
from had_snn.evaluate.seeds import Spread, gap_closed, paired_spread, spread
from had_snn.files import atomic_file
from had_snn.tracking import OnlineTracker

#: Options of `had-snn adapt` that make an arm.
ARMS = {
    "teacher": ["labels_from=teacher"],
    "events": ["labels_from=teacher", "modalities=[events]"],
    "student": ["labels_from=student"],
    "truth": ["labels_from=truth"],
}


def adapted(cfg: DictConfig, folder: Path, arm: str, seed: int) -> Path:
    """The student of an arm and seed: from the folder, or made now by a process on one thread."""
    out = folder / f"{arm}-{seed}"
    path = out / "student.safetensors"
    if path.is_file():
        return path
    data = [f"{name}={cfg.data[name]}" for name in ("root", "hardship", "seed")]
    options = ["data=synthetic", f"data.train_split=[{cfg.train_split}]", *(f"data.{option}" for option in data)]
    split = cfg.data.splits[cfg.train_split].items()
    options += [f"data.splits.{cfg.train_split}.{name}={str(value).replace(' ', '')}" for name, value in split]
    options += [f"checkpoint={cfg.checkpoint}", f"teacher_checkpoint={cfg.teacher_checkpoint}", f"seed={seed}"]
    options += [*ARMS[arm], *map(str, cfg.adapt_options), f"out={out}", f"tracks={folder / 'tracks'}"]
    single = environment(OMP_NUM_THREADS=1, MKL_NUM_THREADS=1)
    out.mkdir(parents=True, exist_ok=True)
    with (folder / f"{arm}-{seed}.log").open("w") as words:
        command = [sys.executable, "-m", "had_snn", "adapt", *options]
        code = subprocess.run(command, stdout=words, stderr=words, env=single, check=False).returncode
    if code != 0:
        last = (folder / f"{arm}-{seed}.log").read_text().strip().splitlines()[-1:]
        raise HadError(f"{out.name} failed with code {code}: {' '.join(last)}")
    return path


def scores(path: Path | str, name: str, chosen: list[TrackingSequence], cfg: DictConfig) -> np.ndarray:
    """SR of each sequence."""
    with progress(name, unit="sequences") as bar:
        tracker = OnlineTracker(load_student(path))
        result = evaluate_tracker(
            tracker, chosen, protocol=cfg.protocol, resamples=0, workers=cfg.workers, progress=bar
        )
    return np.array([curves.score("SR") for curves in result.curves])


def compared(table: dict[str, np.ndarray]) -> dict[str, Any]:
    """Every arm's SR, its gain over none and over teaching itself, and the share of the gap to true labels closed."""
    found: dict[str, Any] = {}
    for arm, values in table.items():
        row: dict[str, Any] = {"SR": told(spread(values))}
        if arm != "none":
            row["over_none"] = told(paired_spread(values, table["none"]))
        if arm in ("teacher", "events") and "student" in table:
            row["over_student"] = told(paired_spread(values, table["student"]))
        if arm not in ("none", "truth") and "truth" in table:
            row["gap_closed"] = told(gap_closed(values, table["none"], table["truth"]))
        found[arm] = row
    return found


def told(value: Spread) -> list[float]:
    """Mean and interval."""
    return [round(number, 3) for number in (value.mean, value.low, value.high)]


def run(cfg: DictConfig) -> dict[str, Any]:
    """Adapts what is missing, tests everything; writes `adaptation.json` and `adaptation.md` into the run folder."""
    tested = {
        split: list(sequences(cfg.data, split, limit=cfg.limit)) for split in (cfg.split, cfg.original_split) if split
    }
    load_student(cfg.checkpoint)
    folder = open_run(cfg)
    sequences(cfg.data, cfg.train_split)  # made once, before several ask for them
    arms = list(cfg.arms)
    jobs = [(arm, int(seed)) for seed in cfg.seeds for arm in arms]
    with ThreadPoolExecutor(cfg.workers) as pool, progress("adapt", unit="runs") as bar:
        paths = {}
        for done, (job, path) in enumerate(zip(jobs, pool.map(lambda j: adapted(cfg, folder, *j), jobs), strict=True)):
            paths[job] = path
            bar(done + 1, len(jobs))
    record: dict[str, Any] = {"protocol": cfg.protocol, "seeds": list(cfg.seeds), "splits": {}}
    for split, chosen in tested.items():
        table = {"none": scores(cfg.checkpoint, f"{split} none", chosen, cfg)[None]}
        for arm in arms:
            rows = [scores(paths[arm, int(seed)], f"{split} {arm} {seed}", chosen, cfg) for seed in cfg.seeds]
            table[arm] = np.stack(rows)
        record["splits"][split] = {"sequences": len(chosen), "arms": compared(table)}
    write_record(folder / "adaptation.json", record)
    with atomic_file(folder / "adaptation.md") as temporary:
        temporary.write_text(as_table(record))
    return record


def as_table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    names = ("SR", "over_none", "over_student", "gap_closed")
    lines = []
    for split, part in record["splits"].items():
        lines += [f"{split}, {part['sequences']} sequences", "", "| arm | SR | over none | over student | gap closed |"]
        lines += ["|---|---|---|---|---|"]
        for arm, row in part["arms"].items():
            cells = ["{:.2f} [{:.2f}, {:.2f}]".format(*row[name]) if name in row else "" for name in names]
            lines.append(f"| {arm} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main(cfg: DictConfig) -> None:
    print(as_table(run(cfg)), end="")
    print(f"wrote {Path(cfg.out) / 'adaptation.json'}")
