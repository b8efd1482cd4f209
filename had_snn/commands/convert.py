"""Converts a recording of events into another format, piece by piece.

had-snn convert in=drive.aedat4 out=drive.h5
had-snn convert in=events.txt out=events.raw read.columns=xypt read.time_unit=s
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from omegaconf import DictConfig

from had_snn.commands.progress import progress
from had_snn.commands.reading import read_options
from had_snn.errors import InputError
from had_snn.recordings.cache import open_cached
from had_snn.recordings.recording import Recording
from had_snn.recordings.writers import SUFFIXES, write_events


def run(cfg: DictConfig) -> Recording:
    """Converts `cfg.in` to `cfg.out`; returns what was read."""
    source, target = Path(cfg["in"]), Path(cfg.out)
    if cfg.format is None and target.suffix.lower() not in SUFFIXES:
        raise InputError(f"out={target}: expected a suffix of {', '.join(SUFFIXES)}, or format=...")
    if source.resolve() == target.resolve():
        raise InputError(f"in and out are both {source}")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Through memory-mapped columns, so that a recording larger than memory can be converted too.
    with tempfile.TemporaryDirectory(prefix=".convert.", dir=target.parent) as folder:
        with progress("reading", unit="B") as bar:
            recording = open_cached(source, cfg.cache or folder, progress=bar, **read_options(cfg.read))
        frames = recording.frames if cfg.frames else None
        with progress("writing", unit="events") as bar:
            write_events(recording.events, target, frames=frames, format=cfg.format, progress=bar)
        return recording


def main(cfg: DictConfig) -> None:
    recording = run(cfg)
    events = recording.events
    height, width = events.sensor_hw
    seconds = (events.t_end - events.t_start) / 1e6
    pictures = f", {len(recording.frames)} frames" if recording.frames is not None else ""
    print(
        f"{cfg.out}: {len(events)} events in {seconds:.3f} s, {width}x{height} ({recording.info['sensor']}){pictures}; "
        f"read as {recording.info['format']}"
    )
