"""Measures what counting costs: time beside the same forward passes without it, and memory over many sequences.

    python -m experiments.bench profiling out=benchmarks/profiling.json
    python -m experiments.bench profiling checkpoint=[tiny] outputs=100 sequences=20

Plain and counted passes take turns on the same windows, so that both see the same machine. The time of counting holds
everything, from the first raster to the last tally.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig

from experiments.record import write_record
from had_snn.checkpoint import load_student
from had_snn.commands.profile_energy import names_of
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import machine
from had_snn.commands.sources import sequences
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import InputError
from had_snn.evaluate.one_pass import run_one_pass
from had_snn.models import SpikingTracker
from had_snn.profiling import CountedStudent, Profile, track_windows
from had_snn.tracking import OnlineTracker


@torch.no_grad()
def overhead(
    student: SpikingTracker, chosen: Sequence[TrackingSequence], *, outputs: int, batch: int
) -> dict[str, float]:
    """Seconds of plain and of counted passes over the same windows, in turns."""
    counted, plain_s, counted_s = CountedStudent(student), [], []
    while len(plain_s) * batch < outputs:
        for sequence in chosen:
            track = track_windows(sequence, student.config)
            kernel = counted.encode_template(track.template, track.template_box)
            if not plain_s:
                student.read_window(track.search.samples(0, batch), kernel.expand(batch, -1, -1, -1))
            for first in range(0, len(track.search) - batch + 1, batch):
                windows = track.search.samples(first, first + batch)
                shared = kernel.expand(batch, -1, -1, -1)
                began = time.perf_counter()
                student.read_window(windows, shared)
                between = time.perf_counter()
                counted.read_window(windows, shared)
                plain_s.append(between - began)
                counted_s.append(time.perf_counter() - between)
    began = time.perf_counter()
    done = counted.profile.outputs
    tally = time.perf_counter() - began
    assert done == len(plain_s) * batch
    return {
        "windows_per_call": batch,
        "calls": len(plain_s),
        "plain_ms_median": 1e3 * float(np.median(plain_s)),
        "counted_ms_median": 1e3 * float(np.median(counted_s)),
        "overhead_median": float(np.median(counted_s) / np.median(plain_s)) - 1,
        "overhead_total": (sum(counted_s) + tally) / sum(plain_s) - 1,
    }


def numbers_held(profile: Profile) -> int:
    """Numbers that a profile consists of."""
    tensors = [layer.counts for layer in profile.layers]
    for population in profile.neurons:
        found = (population.updates, population.spikes, population.by_step, population.raster_neurons)
        tensors += [t for t in (*found, *population.raster) if t is not None]
    return sum(t.numel() for t in tensors)


def anonymous_megabytes() -> float:
    """Memory of this process that no file backs; Linux only."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("RssAnon")).split()[1]) / 1024


def memory(student: SpikingTracker, chosen: Sequence[TrackingSequence]) -> dict[str, Any]:
    """Memory after each sequence of a counted tracking run."""
    counted = CountedStudent(student)
    held, resident = [], []
    with progress("memory", unit="sequences") as bar:
        for done, sequence in enumerate(chosen, start=1):
            run_one_pass(OnlineTracker(cast(SpikingTracker, counted)), sequence)
            gc.collect()
            held.append(numbers_held(counted.profile))
            resident.append(anonymous_megabytes())
            bar(done, len(chosen))
    marks = sorted({min(n, len(chosen)) for n in (1, 2, 5, 10, 20, 50, len(chosen))})
    half = len(chosen) // 2
    return {
        "sequences": len(chosen),
        "outputs": counted.profile.outputs,
        "numbers_held_after": {str(n): held[n - 1] for n in marks},
        "anonymous_mb_after": {str(n): round(resident[n - 1], 1) for n in marks},
        "mb_grown_in_second_half": round(max(resident[half:]) - max(resident[:half]), 2),
    }


def main(cfg: DictConfig) -> None:
    torch.set_num_threads(cfg.threads)
    students = {name: load_student(path) for name, path in names_of(list(cfg.checkpoint)).items()}
    chosen = sequences(cfg.data, cfg.split)
    if len(chosen) < cfg.sequences:
        raise InputError(f"{len(chosen)} sequences in split {cfg.split}, sequences={cfg.sequences} wanted")
    record: dict[str, Any] = {}
    for name, student in students.items():
        found = {}
        for batch in cfg.batches:
            row = overhead(student, chosen[:2], outputs=cfg.outputs, batch=batch)
            print(name, "  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
            found[f"batch_{batch}"] = row
        record[name] = {"overhead": found}
    if cfg.sequences:
        name = next(iter(students))
        record[name]["memory"] = memory(students[name], chosen[: cfg.sequences])
        print(name, json.dumps(record[name]["memory"]))
    record["machine"] = machine(cfg.threads, "cpu")
    if cfg.out is not None:
        Path(cfg.out).parent.mkdir(parents=True, exist_ok=True)
        write_record(Path(cfg.out), record)
