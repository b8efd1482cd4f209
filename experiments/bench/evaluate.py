"""Times the evaluator: result files of many sequences, read and scored under every protocol, on one core.

python -m experiments.bench evaluate
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from experiments.record import write_record
from had_snn.commands.run_folder import versions
from had_snn.evaluate.box_files import write_boxes
from had_snn.evaluate.folders import read_annotations, score_folder
from had_snn.evaluate.metrics import sequence_curves, summarise


def make_files(folder: Path, *, sequences: int, frames: int) -> None:
    """Random walks, a tracker that is off by a little, and flags with a tenth of the frames absent."""
    rng = np.random.default_rng(0)
    for index in range(sequences):
        corners = 100 + rng.normal(0, 2, (frames, 2)).cumsum(axis=0)
        truth = np.concatenate([corners, rng.uniform(20, 60, (frames, 2))], axis=1)
        visible = rng.random(frames) > 0.1
        write_boxes(folder / "results" / f"s{index:04d}.txt", truth + rng.normal(0, 3, (frames, 4)), decimals=2)
        write_boxes(folder / "annotations" / f"s{index:04d}.txt", truth * visible[:, None], decimals=2)
        flags = folder / "absent" / f"s{index:04d}.txt"
        flags.parent.mkdir(exist_ok=True)
        flags.write_text("\n".join("1" if v else "0" for v in visible))


def measure(folder: Path, resamples: int) -> dict:
    """Seconds for reading, and per protocol for scoring boxes in memory and for files to scores."""
    began = time.process_time()
    truths = read_annotations(folder / "annotations", folder / "absent")
    seconds: dict = {"read_annotations": time.process_time() - began, "score": {}, "files_to_scores": {}}
    for protocol in ("toolkit", "pytracking", "visible"):
        began = time.process_time()
        result = score_folder(folder / "results", truths, protocol, resamples=resamples)
        seconds["files_to_scores"][protocol] = time.process_time() - began + seconds["read_annotations"]
        began = time.process_time()
        curves = [
            sequence_curves(r.boxes_xywh, t.boxes_xywh, protocol=protocol, visible=t.visible, name=t.name)
            for r, t in zip(result.results, truths, strict=True)
        ]
        summarise(curves, protocol=protocol, resamples=resamples)
        seconds["score"][protocol] = time.process_time() - began
    return seconds


def main(cfg: DictConfig) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), sequences=cfg.sequences, frames=cfg.frames)
        seconds = measure(Path(folder), cfg.resamples)
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    record = {
        "machine": {"cpu": models[0] if models else platform.processor(), "cores": os.cpu_count(), "threads_used": 1},
        "versions": versions(),
        "sequences": cfg.sequences,
        "frames": cfg.frames,
        "resamples": cfg.resamples,
        "processor_seconds": seconds,
    }
    write_record(cfg.out, record)
    print(json.dumps(seconds, indent=2))
    print(f"wrote {cfg.out}")
