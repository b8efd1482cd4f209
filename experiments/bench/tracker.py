"""Measures the tracker: latency per output, events a second in real time, cost against firing rate, memory.

    python -m experiments.bench tracker out=benchmarks/tracker.json
    python -m experiments.bench tracker parts=[live] out=benchmarks/tracker.json     # one part, the others are kept

`cost` times the network alone on search windows of simulated sequences; the other parts time `OnlineTracker.update`,
cropping and box rules included, on a stream of even rate: a moving outline makes `target_share` of the events, the
others fall anywhere on the sensor.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from experiments.bench.tracker_parts import (
    WINDOW_US,
    busy_base,
    live_stream,
    replay,
    resident_mb,
    search_windows,
    shifted,
)
from experiments.bench.tracker_plot import plot
from experiments.record import write_record
from had_snn.checkpoint import load_student
from had_snn.commands.run_folder import machine
from had_snn.commands.sources import sequences
from had_snn.evaluate.baselines import MeanShiftTracker, OpenCVTracker
from had_snn.models import SpikingTracker, Taps, teacher_tiny
from had_snn.models.frozen import freeze
from had_snn.models.spike_driven import SpikeDrivenStudent
from had_snn.tracking import OnlineTracker, TeacherTracker
from had_snn.tracking.budget import measured_budget_us


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds at the usual percentiles."""
    found = np.percentile(np.array(seconds) * 1e3, [50, 90, 99, 100])
    return {name: round(float(v), 3) for name, v in zip(("p50", "p90", "p99", "max"), found, strict=True)}


def compare(jobs: dict[str, list[Callable[[], Any]]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each job's calls, the jobs taking turns."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, calls in jobs.items():
            for call in calls:
                began = time.perf_counter()
                call()
                if turn:  # the first turn warms up
                    times[name].append(time.perf_counter() - began)
    return {name: round(float(np.median(values)) * 1e3, 3) for name, values in times.items()}


def cost(cfg: DictConfig) -> list[dict]:
    """One output's network time: students dense and spike-driven, and the RGB+event teacher on the same windows."""
    student = load_student(cfg.checkpoint)
    found = sequences(cfg.data, "test", limit=cfg.sequences)
    jobs: dict[str, list[Callable[[], Any]]] = {}
    rates = {}
    for name, network in (("tiny", student), ("base", busy_base(found, seed=cfg.seed))):
        frozen = freeze(network)
        driven, windows = SpikeDrivenStudent(frozen), search_windows(frozen, found, count=cfg.windows)
        rates[name] = firing_rate(frozen, windows)
        trained = [(lambda b=b, k=k, n=network: n.read_window(b, k)) for b, k in windows]
        spikes = [(lambda b=b, k=k, n=driven: n.read_window(b, k)) for b, k in windows]
        jobs |= {f"student_{name} dense": trained, f"student_{name} spikes": spikes}
        assert all(_same(frozen.read_window(b, k), driven.read_window(b, k)) for b, k in windows), name
    teacher = teacher_tiny().eval()
    size, bins = teacher.config.search_size, teacher.config.voxel_bins
    small = teacher.config.template_size
    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    template = teacher.encode_template(torch.rand(1, 3, small, small), torch.rand(1, bins, small, small), box)
    image, voxel = torch.rand(1, 3, size, size), torch.rand(1, bins, size, size)
    jobs["teacher_tiny (ANN)"] = [lambda: teacher.forward_search(image, voxel, template)] * cfg.windows
    rows = []
    for threads in cfg.threads:
        torch.set_num_threads(threads)
        rows.append({"threads": threads, "ms": compare(jobs, cfg.rounds), "firing_rate": rates})
    return rows


def firing_rate(student: SpikingTracker, windows: list) -> float:
    """Mean spikes per clocked neuron and micro-step."""
    fired = neurons = 0.0
    for batch, kernel in windows:
        taps = student.read_window(batch, kernel, taps=Taps()).taps
        assert taps is not None
        clocked = [spikes for name, spikes in taps.spikes.items() if name != "stem"]
        fired += float(sum(s.sum() for s in clocked))
        neurons += sum(s.numel() for s in clocked)
    return round(fired / neurons, 4)


def _same(a, b) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("score_logits", "offsets", "sizes"))


def curve(cfg: DictConfig) -> list[dict]:
    """The network's time against its firing rate, which a shift of every neuron's input moves; one thread."""
    torch.set_num_threads(1)
    found = sequences(cfg.data, "test", limit=cfg.sequences)
    rows = []
    for name, network in (("tiny", load_student(cfg.checkpoint)), ("base", busy_base(found, seed=cfg.seed))):
        for shift in cfg.shifts:
            frozen = freeze(shifted(network, float(shift)))
            windows = search_windows(frozen, found, count=6 if name == "tiny" else 2)
            always, never = SpikeDrivenStudent(frozen, dense_above=2.0), frozen
            jobs = {
                "spikes": [(lambda b=b, k=k, n=always: n.read_window(b, k)) for b, k in windows],
                "dense": [(lambda b=b, k=k, n=never: n.read_window(b, k)) for b, k in windows],
            }
            rows.append({"student": name, "rate": firing_rate(frozen, windows), "ms": compare(jobs, cfg.rounds)})
    return sorted(rows, key=lambda row: (row["student"], row["rate"]))


def rates(cfg: DictConfig) -> list[dict]:
    """Latency per output and sustained events a second, as fast as it goes, by event rate and output period.

    Without a budget: an output waits for every look that events made due since the one before it.
    """
    rows = []
    for rate in cfg.rates:
        for period in cfg.periods_us:
            most = min(cfg.max_seconds * 1e6, cfg.max_events / rate * 1e6 - WINDOW_US) / period
            outputs = max(2, int(min(cfg.max_outputs, most)))
            stream = live_stream(rate, outputs * period, cfg)
            for threads in cfg.threads:
                torch.set_num_threads(threads)
                tracker = OnlineTracker(load_student(cfg.checkpoint))
                service, _, in_crop = replay(tracker, stream, period_us=period, outputs=outputs)
                recorded = outputs * period * 1e-6
                rows.append(
                    {
                        "rate": rate,
                        "period_us": period,
                        "threads": threads,
                        "outputs": outputs,
                        "in_crop": in_crop,
                        "latency_ms": percentiles(service),
                        "events_per_s": round(rate * recorded / sum(service)),
                        "real_time": bool(sum(service) < recorded),
                    }
                )
    return rows


def live(cfg: DictConfig) -> list[dict]:
    """The stream comes at the pace of the clock: time from a box's due time until it is there, queueing included."""
    rows = []
    for row in cfg.live:
        outputs = int(row.seconds * 1e6 / row.period_us)
        stream = live_stream(row.rate, outputs * row.period_us, cfg)
        for threads in cfg.threads:
            torch.set_num_threads(threads)
            tracker = OnlineTracker(load_student(cfg.checkpoint), carry=row.carry)
            tracker.budget_us = measured_budget_us(tracker.network, threads=tracker.threads)
            service, late, in_crop = replay(tracker, stream, period_us=row.period_us, outputs=outputs, paced=True)
            busy = sum(service) / (outputs * row.period_us * 1e-6)
            rows.append(
                {
                    "rate": row.rate,
                    "period_us": row.period_us,
                    "carry": row.carry,
                    "budget_us": round(tracker.budget_us),
                    "looks_per_s": round(tracker.looks / (outputs * row.period_us * 1e-6)),
                    "threads": threads,
                    "outputs": outputs,
                    "in_crop": in_crop,
                    "latency_ms": percentiles(late),
                    "busy": round(busy, 3),
                    "behind_at_the_end_ms": round(late[-1] * 1e3, 3),
                }
            )
    return rows


def rivals(cfg: DictConfig) -> list[dict]:
    """Time per output of other trackers on the same stream; ours look as often as events ask for, the others once."""
    plan = cfg.rivals
    stream = live_stream(plan.rate, plan.outputs * plan.period_us, cfg)
    frame = np.random.default_rng(cfg.seed).integers(0, 255, (*cfg.sensor_hw, 3), dtype=np.uint8)
    makers: dict[str, Callable[[], Any]] = {
        "student_tiny (spikes)": lambda: OnlineTracker(load_student(cfg.checkpoint)),
        "student_tiny (dense)": lambda: OnlineTracker(load_student(cfg.checkpoint), backend="dense"),
        "teacher_tiny (ANN, RGB + events)": lambda: TeacherTracker(teacher_tiny()),
        "CSRT on event frames": lambda: OpenCVTracker(kind="csrt"),
        "KCF on event frames": lambda: OpenCVTracker(kind="kcf"),
        "event mean-shift": MeanShiftTracker,
    }
    rows = []
    for threads in cfg.threads:
        torch.set_num_threads(threads)
        _opencv_threads(threads)
        found = {}
        for name, make in makers.items():
            service, _, _ = replay(make(), stream, period_us=plan.period_us, outputs=plan.outputs, frame=frame)
            found[name] = percentiles(service)
        rows.append({"threads": threads, "rate": plan.rate, "period_us": plan.period_us, "latency_ms": found})
    return rows


def _opencv_threads(threads: int) -> None:
    import cv2

    cv2.setNumThreads(threads)


def memory(cfg: DictConfig) -> dict:
    """Resident memory while events are streamed, once a minute of recording, faster than real time."""
    plan = cfg.memory
    torch.set_num_threads(1)
    tracker = OnlineTracker(load_student(cfg.checkpoint))
    per_minute = 60_000_000 // plan.period_us
    seconds, marks, offset = 0.0, [], 0
    for minute in range(plan.minutes):
        stream = live_stream(plan.rate, 60_000_000, cfg, t0=offset)
        began = time.perf_counter()
        replay(tracker, stream, period_us=plan.period_us, outputs=per_minute, go_on=minute > 0)
        seconds += time.perf_counter() - began
        offset = stream.end_us
        del stream
        marks.append(resident_mb())
    growth = round(marks[-1] - marks[min(1, len(marks) - 1)], 1)  # the first minute still fills what is kept
    return dict(plan) | {"megabytes": marks, "growth_mb": growth, "wall_seconds": round(seconds)}


PARTS = {"cost": cost, "curve": curve, "rates": rates, "live": live, "rivals": rivals, "memory": memory}


def main(cfg: DictConfig) -> None:
    out = None if cfg.out is None else Path(cfg.out)
    record = json.loads(out.read_text()) if out is not None and out.exists() else {}
    for part in cfg.parts:
        with torch.no_grad():
            record[part] = PARTS[part](cfg)
        print(part, json.dumps(record[part]), flush=True)
        record["machine"] = machine(max(cfg.threads), "cpu")
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_record(out, record)
    if out is not None and {"curve", "rates"} <= record.keys():
        plot(record, out.with_suffix(".png"))
