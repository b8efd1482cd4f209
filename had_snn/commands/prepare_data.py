"""Makes the simulated data set, or finds it made already, and says what it holds; decodes a data set on disk.

had-snn simulate data.splits.train.count=1000
had-snn simulate splits=[test,test_shifted] data.root=simulated
had-snn simulate data=fe108 data.root=/data/FE108
"""

from __future__ import annotations

import time

from omegaconf import DictConfig

from had_snn.commands.sources import data_layout, decode, sequences
from had_snn.data.synthetic import SplitSummary, summarise_split


def run(cfg: DictConfig) -> dict[str, tuple[SplitSummary, float]]:
    """Prepares the chosen splits, all by default; returns what each holds and the seconds it took now."""
    found = {}
    for split in cfg.splits or cfg.data.splits:
        began = time.perf_counter()
        sequences(cfg.data, split)
        seconds = time.perf_counter() - began
        found[split] = summarise_split(cfg.data.root, split, count=cfg.data.splits[split].count), seconds
    return found


def decode_all(cfg: DictConfig) -> dict[str, int]:
    """Decodes the recordings of the chosen splits of a data set on disk, all by default; returns their sequences."""
    return {split: decode(cfg.data, split) for split in cfg.splits or data_layout(cfg.data).splits[-1:]}


def main(cfg: DictConfig) -> None:
    if cfg.data.get("layout") is not None:
        for split, count in decode_all(cfg).items():
            print(f"{split}: {count} sequences of {cfg.data.root}, decoded in {cfg.data.cache}")
        return
    for split, (summary, seconds) in run(cfg).items():
        print(
            f"{split}: {summary.sequences} sequences, {summary.seconds:.0f} s, {summary.events / 1e6:.1f} million "
            f"events, {summary.megabytes:.0f} MB in {cfg.data.root}; made or found in {seconds:.1f} s"
        )
        print(
            f"  target visible at {summary.visible} of {summary.labels} labels; "
            f"median of its fast speeds {summary.fastest_px_per_s:.0f} px/s"
        )
        print("  " + ", ".join(f"{name} {count}" for name, count in summary.attributes.items()))
