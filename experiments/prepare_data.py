"""Makes the simulated data set, or finds it made already.

    python experiments/prepare_data.py data.splits.train.count=1000
"""

from __future__ import annotations

from entry import script
from omegaconf import DictConfig
from sources import sequences


def run(cfg: DictConfig) -> dict[str, int]:
    """Prepares every split; returns sequences per split."""
    return {split: len(sequences(cfg.data, split)) for split in cfg.data.splits}


@script("prepare_data")
def main(cfg: DictConfig) -> None:
    for split, count in run(cfg).items():
        print(f"{split}: {count} sequences in {cfg.data.root}")


if __name__ == "__main__":
    main()
