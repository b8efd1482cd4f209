"""Describes recordings and simulated sequences by the same few numbers, as a table.

    python -m experiments.studies event_statistics recordings=[FILE,FILE]
    python -m experiments.studies event_statistics splits=[test,test_shifted] limit=60

A row of a recording describes all of it; a row of a split shows the median over its sequences and, in brackets, their
10th and 90th percentile, apart for still and moving cameras.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from had_snn.commands.progress import progress
from had_snn.commands.sources import sequences
from had_snn.errors import InputError
from had_snn.events.statistics import EventStatistics, describe
from had_snn.files import atomic_file
from had_snn.recordings.readers import read_events

HEADER = (
    "| recording | sensor | s | events / s / pixel | ON | interval ms | below 50 us | isolated | active pixels |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def columns(found: EventStatistics) -> np.ndarray:
    """The numbers of a row, in the order of `HEADER`."""
    return np.array(
        [
            found.rate_per_pixel,
            found.on_share,
            *found.interval_ms,
            found.repeat_share,
            found.isolated_share,
            found.active_share,
        ]
    )


def number(value: float) -> str:
    """Two significant digits without an exponent."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def row(name: str, hw: tuple[int, int], seconds: float, cells: list[str]) -> str:
    """A line of the table; `cells` are eight, in the order of `columns`."""
    middle = f"{cells[0]} | {cells[1]} | {' / '.join(cells[2:5])} | {' | '.join(cells[5:])}"
    return f"| {name} | {hw[1]}x{hw[0]} | {seconds:.2f} | {middle} |"


def recording_row(path: str) -> str:
    """A recording, whole."""
    events = read_events(path)
    found = describe(events)
    name = f"{Path(path).parts[-2]}, `{Path(path).name}`" if len(Path(path).parts) > 1 else f"`{path}`"
    return row(name, events.sensor_hw, found.seconds, [number(v) for v in columns(found)])


def split_rows(cfg: DictConfig, split: str) -> list[str]:
    """Still and moving cameras of a split."""
    chosen = sequences(cfg.data, split, limit=cfg.limit)
    end_us, rows = int(cfg.seconds * 1e6), []
    with progress(f"describe {split}", unit="sequences") as bar:
        table = []
        for sequence in chosen:
            table.append(columns(describe(sequence.events.slice_time(0, end_us))))
            bar(len(table), len(chosen))
    for camera in ("still", "moving"):
        picked = np.array(
            [v for v, s in zip(table, chosen, strict=True) if ("ego_motion" in s.attributes) == (camera == "moving")]
        )
        if len(picked) == 0:
            continue
        middle, low, high = np.median(picked, 0), *np.percentile(picked, (10, 90), axis=0)
        cells = [f"{number(m)} ({number(a)}-{number(b)})" for m, a, b in zip(middle, low, high, strict=True)]
        rows.append(row(f"`{split}`, {camera} camera ({len(picked)})", chosen[0].sensor_hw, cfg.seconds, cells))
    return rows


def run(cfg: DictConfig) -> str:
    """The whole table."""
    if not cfg.recordings and not cfg.splits:
        raise InputError("nothing to describe: give recordings=[FILE,...] or splits=[test,...]")
    rows = [recording_row(path) for path in cfg.recordings]
    return "\n".join([HEADER, *rows, *(r for split in cfg.splits for r in split_rows(cfg, split))])


def main(cfg: DictConfig) -> None:
    table = run(cfg)
    print(table)
    if cfg.out is not None:
        Path(cfg.out).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(Path(cfg.out)) as temporary:
            temporary.write_text(table + "\n")
