"""Copies the recording that comes with the package, and its boxes, into a folder, to try the other jobs on.

had-snn sample
had-snn track sample/recording.aedat4 --box sample/boxes.csv --object fast
"""

from __future__ import annotations

import shutil
from pathlib import Path

from omegaconf import DictConfig

from had_snn.data.sample import SampleRecording, sample_recording
from had_snn.files import atomic_file


def run(cfg: DictConfig) -> SampleRecording:
    """Copies both files into `cfg.out`; returns where they lie there."""
    folder, sample = Path(cfg.out), sample_recording()
    folder.mkdir(parents=True, exist_ok=True)
    for source in (sample.path, sample.boxes_path):
        with atomic_file(folder / source.name) as temporary:
            shutil.copyfile(source, temporary)
    return sample._replace(path=folder / sample.path.name, boxes_path=folder / sample.boxes_path.name)


def main(cfg: DictConfig) -> None:
    sample = run(cfg)
    print(f"{sample.path}: one second of a simulated 240x180 camera")
    print(f"{sample.boxes_path}: {len(sample.times_us)} boxes of each target, {' and '.join(sample.boxes)}")
    print(f"try: had-snn track {sample.path} --box {sample.boxes_path} --object fast")
