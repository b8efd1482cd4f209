"""Tracks and trains for a long time and tells whether anything grows: memory, file handles, threads, latency.

    python -m experiments.bench soak minutes=60 out=benchmarks/soak.json
    python -m experiments.bench soak minutes=5 parts=[tracking]

`tracking` plays recordings in a loop to one tracker in chunks of 5 ms, each at a speed drawn from 1/4 to 64 times, with
gaps, silence and bursts of noise between and in them, and saves and loads its state every minute. `training` trains
with validation and checkpoints. Each part lasts `minutes`; a row covers a thirtieth of that.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments.record import write_record
from had_snn.checkpoint import load_student
from had_snn.commands.distill_student import build_task, clips_for
from had_snn.commands.entry import compose
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import machine
from had_snn.commands.sources import sequences
from had_snn.commands.training import validator
from had_snn.data.sequence import TrackingSequence
from had_snn.events.stream import EventStream
from had_snn.tracking import OnlineTracker
from had_snn.train.loop import fit

ROWS = 30
CHUNK_US = 5_000
SPEEDS = tuple(2.0**n for n in range(-2, 7))


class Meter:
    """Rows of what a process uses, one for each thirtieth of its time."""

    def __init__(self, minutes: float, bar: Any) -> None:
        self.seconds, self.bar = 60 * minutes, bar
        self.began = self.since = time.monotonic()
        self.latencies: list[float] = []
        self.rows: list[dict[str, float]] = []

    def add(self, seconds: float) -> None:
        """One piece of work that took so long."""
        self.latencies.append(seconds)
        now = time.monotonic()
        if now - self.since < self.seconds / ROWS:
            return
        p50, p99 = (float(v) * 1e3 for v in np.quantile(self.latencies, (0.5, 0.99)))
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        self.rows.append(
            {
                "minute": (now - self.began) / 60,
                "rss_mb": resident / 2**20,
                "files": len(os.listdir("/proc/self/fd")),
                "threads": len(os.listdir("/proc/self/task")),
                "p50_ms": p50,
                "p99_ms": p99,
                "per_s": len(self.latencies) / (now - self.since),
            }
        )
        self.latencies, self.since = [], now
        self.bar(len(self.rows), ROWS, f"{self.rows[-1]['rss_mb']:.0f} MB")

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return len(self.rows) >= ROWS


def trend(rows: list[dict[str, float]]) -> dict[str, float]:
    """The last third beside the middle one, which the start has no part in: growth of what should stay."""
    middle, last = rows[len(rows) // 3 : 2 * len(rows) // 3], rows[2 * len(rows) // 3 :]

    def median(some: list[dict[str, float]], name: str) -> float:
        return float(np.median([row[name] for row in some]))

    grown = {f"{name}_more": median(last, name) - median(middle, name) for name in ("rss_mb", "files", "threads")}
    return grown | {
        f"{name}_ratio": median(last, name) / median(middle, name) for name in ("p50_ms", "p99_ms", "per_s")
    }


def disturbed(events: EventStream, draw: random.Random, from_us: int, speed: float) -> EventStream:
    """A recording at another speed and another time, one in three with silence in it and one in three with a burst."""
    t = from_us + ((events.t - events.t_start) / speed).astype(np.int64)
    kept, span = np.ones(len(t), bool), int(t[-1] - t[0])
    kind, at = draw.randrange(3), int(t[0]) + span // 3
    if kind == 1:
        kept = (t < at) | (t > at + span // 5)
    made = EventStream.from_arrays(t[kept], events.x[kept], events.y[kept], events.p[kept], events.sensor_hw)
    if kind != 2:
        return made
    rng, count = np.random.default_rng(draw.randrange(2**32)), 20_000
    height, width = events.sensor_hw
    times = np.sort(rng.integers(at, at + 10_000, count))
    pixels = rng.integers(0, width, count), rng.integers(0, height, count), rng.integers(0, 2, count)
    burst = EventStream.from_arrays(times, *pixels, events.sensor_hw)
    order = np.argsort(np.concatenate([made.t, burst.t]), kind="stable")
    t, x, y, p = (np.concatenate([getattr(made, name), getattr(burst, name)])[order] for name in "txyp")
    return EventStream.from_arrays(t, x, y, p, events.sensor_hw)


def chunks(
    chosen: Sequence[TrackingSequence], draw: random.Random
) -> Iterator[tuple[EventStream, int, np.ndarray | None]]:
    """Pieces of a stream without end: events, the time they reach, and the box to start at where a recording begins."""
    now = 0
    for sequence in itertools.cycle(chosen):
        speed, now = draw.choice(SPEEDS), now + draw.choice((0, 10_000, 2_000_000))
        events = disturbed(sequence.events, draw, now, speed)
        first = now + int((int(sequence.label_times_us[0]) - sequence.events.t_start) / speed)
        yield events.slice_time(now, first + 1), first + 1, np.asarray(sequence.boxes_xywh[0])
        stop = int(events.t[-1]) + 1
        for begin in range(first + 1, stop, CHUNK_US):
            yield events.slice_time(begin, min(begin + CHUNK_US, stop)), min(begin + CHUNK_US, stop), None
        now = stop + 1


def track(cfg: DictConfig, meter: Meter) -> dict[str, int]:
    """The tracking part; returns what was done."""
    tracker = OnlineTracker(load_student(cfg.checkpoint), output_period_us=CHUNK_US)
    chosen = sequences(cfg.data, "test", limit=cfg.sequences)
    done, saved = {"recordings": 0, "boxes": 0, "events": 0, "states": 0}, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for events, until_us, box in chunks(chosen, random.Random(cfg.seed)):
            began = time.perf_counter()
            if box is not None:
                tracker.init(events, box, t_us=until_us)
                done["recordings"] += 1
            else:
                found = tracker.update(events, at_us=[until_us])
                assert all(np.isfinite(estimate.box_xywh).all() for estimate in found)
                done["boxes"] += len(found)
            meter.add(time.perf_counter() - began)
            done["events"] += len(events)
            if time.monotonic() - saved > 60:
                tracker.save(Path(folder) / "state.safetensors")
                tracker.load(Path(folder) / "state.safetensors")
                done["states"], saved = done["states"] + 1, time.monotonic()
            if meter.over:
                break
    return done


class _Over(Exception):
    """The time is up."""


def train(cfg: DictConfig, meter: Meter) -> dict[str, int]:
    """The training part; returns what was done."""
    options = [f"data.root={cfg.data.root}", f"data.workers={cfg.data.workers}", "distill=none"]
    options += [f"data.splits.{split}.count={cfg.sequences}" for split in ("train", "val")]
    chosen = compose("distill_student", [*options, *cfg.training, "out=unused"])
    student = instantiate(chosen.student)
    task, clips = build_task(chosen, student, None), clips_for(chosen, student, None)
    validate = validator(chosen, lambda trained: OnlineTracker(trained.student))
    done, before = {"steps": 0, "validations": 0}, [time.perf_counter()]

    def told(step: int, of: int, means: dict[str, float]) -> None:
        now = time.perf_counter()
        meter.add((now - before[0]) / (step - done["steps"]))
        done["steps"], before[0] = step, now
        if meter.over:
            raise _Over

    def score(trained: torch.nn.Module) -> float:
        assert validate is not None
        done["validations"] += 1
        return validate(trained)

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Over):
        fit(task, clips, instantiate(chosen.fit, seed=cfg.seed), run_dir=folder, progress=told, validate=score)
    return done


def run(cfg: DictConfig) -> dict[str, Any]:
    """Both parts, one after the other."""
    torch.set_num_threads(cfg.threads)
    record: dict[str, Any] = {"minutes_each": cfg.minutes, "machine": machine(cfg.threads, "cpu")}
    for name in cfg.parts:
        with progress(f"soak {name}", unit="rows") as bar:
            meter = Meter(cfg.minutes, bar)
            done = {"tracking": track, "training": train}[name](cfg, meter)
        record[name] = {"done": done, "trend": trend(meter.rows), "rows": meter.rows}
    record["threads_left"] = threading.active_count()
    return record


def plot(record: dict[str, Any], path: Path) -> None:
    """Everything over time, a row of axes for each part."""
    from matplotlib.figure import Figure

    parts = [name for name in ("tracking", "training") if name in record]
    figure = Figure(figsize=(14, 2.8 * len(parts)), layout="constrained")
    for row, part in zip(figure.subplots(len(parts), 5, squeeze=False), parts, strict=True):
        rows = record[part]["rows"]
        minutes = [r["minute"] for r in rows]
        for axis, names in zip(
            row, (("rss_mb",), ("files",), ("threads",), ("p50_ms", "p99_ms"), ("per_s",)), strict=True
        ):
            for name in names:
                axis.plot(minutes, [r[name] for r in rows], label=name)
            axis.set(ylim=(0, None), xlabel="minutes", title=f"{part}: {', '.join(names)}")
    figure.savefig(path, dpi=80)


def main(cfg: DictConfig) -> None:
    record = run(cfg)
    for name in cfg.parts:
        print(name, record[name]["done"], {key: round(value, 3) for key, value in record[name]["trend"].items()})
    if cfg.out is not None:
        write_record(Path(cfg.out), record)
        plot(record, Path(cfg.out).with_suffix(".png"))
        print(f"wrote {cfg.out} and its picture")
