"""What `tracker.py` measures with: streams of an even rate, their replay, search windows, students of any rate."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from had_snn.data.sequence import TrackingSequence
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.geometry import search_crop
from had_snn.models import SpikingTracker, student_base

WINDOW_US = 40_000
TARGET_WH = (60, 45)


@dataclass
class LiveStream:
    """Events of an even rate and the box at the end of the first window."""

    events: EventStream
    start_us: int
    end_us: int
    box_xywh: np.ndarray


def live_stream(rate: int, duration_us: int, cfg: DictConfig, *, t0: int = 0) -> LiveStream:
    """A window of events and then `duration_us` of them; the outline's centre moves on a slow circle."""
    rng = np.random.default_rng([cfg.seed, t0 & 0xFFFFFFFF])
    height, width = cfg.sensor_hw
    length = WINDOW_US + duration_us
    count = int(rate * length * 1e-6)
    t = t0 + (np.arange(count) * (length / count)).astype(np.int64)

    def centre(times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        phase = times * 1e-6 * 0.5
        return width / 2 + 80 * np.cos(phase), height / 2 + 60 * np.sin(phase)

    x, y = rng.integers(0, width, count, dtype=np.uint16), rng.integers(0, height, count, dtype=np.uint16)
    on_target = np.flatnonzero(rng.random(count, dtype=np.float32) < cfg.target_share)
    w, h = TARGET_WH
    along, side = rng.random(len(on_target)) - 0.5, rng.integers(0, 4, len(on_target))
    cx, cy = centre(t[on_target])
    x[on_target] = cx + np.where(side < 2, along, side - 2.5) * w
    y[on_target] = cy + np.where(side < 2, side - 0.5, along) * h
    events = EventStream(t, x, y, rng.integers(0, 2, count, dtype=np.uint8), (height, width))
    start = t0 + WINDOW_US
    cx, cy = centre(np.array([start]))
    return LiveStream(events, start, t0 + length, np.array([cx[0] - w / 2, cy[0] - h / 2, w, h]))


def replay(
    tracker: Any,
    stream: LiveStream,
    *,
    period_us: int,
    outputs: int,
    paced: bool = False,
    go_on: bool = False,
    frame: np.ndarray | None = None,
) -> tuple[list[float], list[float], int]:
    """Feeds a tracker one period of events after the other.

    Args:
        tracker: Anything with `init` and `update`.
        stream: The events.
        period_us: Time between outputs.
        outputs: How many.
        paced: Hand each chunk over when the clock says that its last event has happened.
        go_on: The tracker runs already.
        frame: A picture for those that want one.

    Returns:
        Seconds of each `update`; seconds from each box's due time until it was there (paced only); events in the crop
        of the last window (students only, otherwise 0).
    """
    chunks = [
        stream.events.slice_time(stream.start_us + i * period_us, stream.start_us + (i + 1) * period_us)
        for i in range(outputs)
    ]
    before = stream.events.slice_time(stream.start_us - WINDOW_US, stream.start_us)
    if go_on:
        tracker.update(before, at_us=[stream.start_us])
    else:
        tracker.init(before, stream.box_xywh, t_us=stream.start_us, frame=frame)
    service, late = [], []
    clock = time.perf_counter()
    for i, chunk in enumerate(chunks):
        due = clock + (i + 1) * period_us * 1e-6
        while paced and (wait := due - time.perf_counter()) > 0:
            if wait > 1e-3:
                time.sleep(wait - 5e-4)
        began = time.perf_counter()
        tracker.update(chunk, at_us=[stream.start_us + (i + 1) * period_us], frame=frame)
        ended = time.perf_counter()
        service.append(ended - began)
        late.append(ended - due)
    in_crop = 0
    if getattr(tracker, "state", None) is not None:
        end = stream.start_us + outputs * period_us
        crop = tracker.follower.regions(tracker.state.follower)[0]
        in_crop = len(tracker.state.buffer.window(end - WINDOW_US, end, crop))
    return service, late, in_crop


@torch.no_grad()
def search_windows(
    student: SpikingTracker, found: Sequence[TrackingSequence], *, count: int
) -> list[tuple[EventBatch, Tensor]]:
    """Search windows around the true boxes and the templates that belong to them."""
    config, per_sequence = student.config, -(-count // len(found))
    windows = []
    for sequence in found:
        kernel = None
        times = np.flatnonzero(sequence.label_times_us - sequence.events.t_start >= WINDOW_US)
        for index in times[np.linspace(0, len(times) - 1, per_sequence + 1).astype(int)]:
            box, t = sequence.boxes_xywh[index], int(sequence.label_times_us[index])
            size, factor = config.search_size, config.search_factor
            if kernel is None:
                size, factor = config.template_size, config.template_factor
            crop = search_crop(box, factor=factor, size=size)
            batch = EventBatch.pack([sequence.events.slice_time(t - WINDOW_US, t).crop(crop)], [t - WINDOW_US], [t])
            if kernel is None:
                target = torch.from_numpy(crop.relative_box(box)[None]).float()
                kernel = student.encode_template(batch, target)
            else:
                windows.append((batch, kernel))
    return windows[:count]


@torch.no_grad()
def busy_base(found: Sequence[TrackingSequence], *, seed: int) -> SpikingTracker:
    """An untrained large student that fires like a trained one: its norms have seen real windows."""
    torch.manual_seed(seed)
    student = student_base()
    student.eval()
    windows = search_windows(student, found, count=4)
    for _ in range(20):
        student.train()
        for batch, kernel in windows:
            student.read_window(batch, kernel)
        student.eval()
        windows = search_windows(student, found, count=4)
    return student


@torch.no_grad()
def shifted(student: SpikingTracker, shift: float) -> SpikingTracker:
    """A copy with `shift` added to the input of every clocked neuron."""
    moved = copy.deepcopy(student)
    for name, module in moved.named_modules():
        if isinstance(module, nn.BatchNorm2d) and not name.startswith(("match_norm", "mix_match")):
            module.bias.add_(shift)
    return moved


def resident_mb() -> float:
    """Resident memory of this process."""
    line = next(li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024, 1)
