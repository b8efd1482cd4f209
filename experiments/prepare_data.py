"""Makes the simulated data set, or finds it made already, and says what it holds.

python experiments/prepare_data.py data.splits.train.count=1000
python experiments/prepare_data.py splits=[test,test_shifted] data.root=data_cache/synthetic
"""

from __future__ import annotations

import time

from entry import script
from omegaconf import DictConfig
from sources import sequences

from had_snn.data.synthetic import SplitSummary, summarise_split


def run(cfg: DictConfig) -> dict[str, tuple[SplitSummary, float]]:
    """Prepares the chosen splits, all by default; returns what each holds and the seconds it took now."""
    found = {}
    for split in cfg.splits or cfg.data.splits:
        began = time.perf_counter()
        sequences(cfg.data, split)
        found[split] = summarise_split(cfg.data.root, split), time.perf_counter() - began
    return found


@script("prepare_data")
def main(cfg: DictConfig) -> None:
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


if __name__ == "__main__":
    main()
