"""Tracks one target through a recording or a live stream: boxes as CSV, a video, a summary.

python experiments/track.py recording=recording.aedat4 box=[42,225,44,17]
CAMERA_TOOL | python experiments/track.py --live box=[42,225,44,17]
"""

from __future__ import annotations

import csv
import itertools
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from entry import open_run, script
from first_box import TimedBoxes, draw_box_by_hand, first_box, read_timed_boxes
from omegaconf import DictConfig
from progress import progress
from reading import read_options

from had_snn.checkpoint import load_student
from had_snn.errors import InputError
from had_snn.evaluate.protocols import box_overlap
from had_snn.events.stream import EventStream, concatenate
from had_snn.files import atomic_file
from had_snn.geometry import check_box
from had_snn.recordings.live import LiveReader
from had_snn.recordings.readers import read_events
from had_snn.tracking import Estimate, OnlineTracker
from had_snn.tracking.budget import measured_budget_us
from had_snn.viz import event_image, overlay_frame, write_video
from had_snn.viz.rerun_log import RerunLog

STRIP_STEPS = 96


class Run:
    """Feeds a tracker, keeps its boxes and times, and draws what is asked for while events are at hand.

    Args:
        tracker: An initialised tracker.
        first: The given box.
        cfg: The script's config.
        truth: Annotated boxes to draw and compare with, or None.
        rerun: Where boxes are logged for the Rerun viewer, or None.
    """

    def __init__(
        self, tracker: OnlineTracker, first: Estimate, cfg: DictConfig, truth: TimedBoxes | None, rerun: RerunLog | None
    ) -> None:
        self.tracker, self.cfg, self.truth, self.rerun = tracker, cfg, truth, rerun
        self.found, self.seconds = [first], []
        self.activity: list[np.ndarray] = []
        self.recent: EventStream | None = None
        self.next_picture_us = first.t_us
        self.events = 0

    def pictures(self, chunks: Iterator[tuple[EventStream, Sequence[int]]]) -> Iterator[np.ndarray]:
        """Tracks; yields a picture every `video_period_us` when a video is wanted."""
        for events, at_us in chunks:
            self.events += len(events)
            if self.cfg.video is not None or self.rerun is not None:
                self.recent = events if self.recent is None else concatenate([self.recent, events])
            began = time.perf_counter()
            estimates = self.tracker.update(events, at_us=at_us)
            self.seconds += [(time.perf_counter() - began) / max(1, len(estimates))] * len(estimates)
            for estimate in estimates:
                yield from self._show(estimate)
            if self.recent is not None:
                now = self.found[-1].t_us
                self.recent = self.recent.slice_time(now - self.cfg.video_window_us, self.recent.t_end)

    def _show(self, estimate: Estimate) -> Iterator[np.ndarray]:
        self.found.append(estimate)
        if self.cfg.print_boxes:
            print(",".join(map(str, csv_row(estimate))), flush=True)
        if estimate.activity is not None:
            self.activity = [*self.activity[1 - STRIP_STEPS :], estimate.activity]
        due = estimate.t_us >= self.next_picture_us
        if not due or self.recent is None:
            return
        self.next_picture_us += max(self.cfg.video_period_us, estimate.t_us - self.next_picture_us)
        t_us = estimate.t_us
        if self.rerun is not None:
            window = self.recent.slice_time(t_us - self.cfg.video_window_us, t_us)
            self.rerun.add(t_us, event_image(window), estimate.box_xywh, estimate.score, lost=estimate.lost)
        if self.cfg.video is not None:
            activity = np.array(self.activity) if self.activity else np.zeros((1, 8), np.float32)
            yield overlay_frame(
                self.recent,
                t_us,
                estimate.box_xywh,
                start_us=self.found[0].t_us,
                score=estimate.score,
                truth_xywh=truth_at(self.truth, t_us),
                spikes=activity,
                label=label(estimate),
                window_us=self.cfg.video_window_us,
                scale=self.cfg.video_scale,
                strip_steps=STRIP_STEPS,
            )


def label(e: Estimate) -> str:
    """The window that was looked through, and whether the target is lost."""
    return f"window {e.window_us * 1e-3:.3g} ms" + (", lost" if e.lost else "")


def truth_at(truth: TimedBoxes | None, t_us: int) -> np.ndarray | None:
    """The annotated box at a time, interpolated; None outside the annotated span."""
    if truth is None or truth.times_us is None or not truth.times_us[0] <= t_us <= truth.times_us[-1]:
        return None
    return np.array([np.interp(t_us, truth.times_us, truth.boxes_xywh[:, k]) for k in range(4)])


def csv_row(e: Estimate) -> list[Any]:
    """`t_us,x,y,w,h,score,lost` of one box."""
    return [e.t_us, *(f"{v:.3f}" for v in e.box_xywh), f"{e.score:.4f}", int(e.lost)]


def write_boxes_csv(path: Path, estimates: Sequence[Estimate]) -> None:
    """Writes `t_us,x,y,w,h,score,lost`, one line per box."""
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["t_us", "x", "y", "w", "h", "score", "lost"])
        writer.writerows(csv_row(e) for e in estimates)


def recorded_chunks(
    events: EventStream, start_us: int, end_us: int, period_us: int
) -> Iterator[tuple[EventStream, list[int]]]:
    """A recording in steps of one output."""
    times = range(start_us + period_us, end_us + 1, period_us)
    with progress("track", unit="boxes") as bar:
        for done, t_us in enumerate(times, start=1):
            yield events.slice_time(t_us - period_us, t_us), [t_us]
            bar(done, len(times))


def live_chunks(
    chunks: Iterator[Any], tracker: OnlineTracker, rest: EventStream, now_us: int, end_us: int | None
) -> Iterator[tuple[EventStream, Sequence[int]]]:
    """A live stream, with the boxes that are due by each chunk."""
    while True:
        assert tracker.state is not None
        last = now_us if end_us is None else min(now_us, end_us)
        yield rest, range(tracker.state.next_t_us, last + 1, tracker.output_period_us)
        chunk = next(chunks, None)
        if chunk is None or (end_us is not None and now_us >= end_us):
            return
        rest, now_us = chunk.events, chunk.now_us


def summarise(cfg: DictConfig, run: Run, sensor_hw: tuple[int, int]) -> dict:
    """The run in numbers."""
    found, seconds = run.found, np.array(run.seconds)
    span = (found[-1].t_us - found[0].t_us) * 1e-6
    summary = {
        "recording": str(cfg.recording),
        "events": run.events,
        "sensor_hw": list(sensor_hw),
        "boxes": len(found),
        "seconds_of_recording": span,
        "lost_share": float(np.mean([e.lost for e in found])),
        "looks": run.tracker.looks,
        "budget_us": round(run.tracker.budget_us, 1),
        "window_ms": [round(float(v) * 1e-3, 3) for v in np.quantile([e.window_us for e in found[1:]], (0, 0.5, 1))]
        if len(found) > 1
        else None,
        "mean_score": float(np.mean([e.score for e in found])),
        "real_time_factor": span / max(float(seconds.sum()), 1e-9),
        "ms_per_box": {f"p{q}": float(np.percentile(seconds, q) * 1e3) for q in (50, 95, 99)} if len(seconds) else {},
    }
    if run.truth is not None and run.truth.times_us is not None:
        times = np.array([e.t_us for e in found])
        boxes = np.stack([e.box_xywh for e in found])
        rows = np.flatnonzero((run.truth.times_us > times[0]) & (run.truth.times_us <= times[-1]))
        at = np.stack([np.interp(run.truth.times_us[rows], times, boxes[:, k]) for k in range(4)], axis=1)
        overlap = np.clip(box_overlap(at, run.truth.boxes_xywh[rows]), 0, 1)
        summary["compared_with_truth"] = len(rows)
        if len(rows):
            iou = {"mean_iou": overlap.mean(), "last_iou": overlap[-1], "min_iou": overlap.min()}
            summary |= {name: float(value) for name, value in iou.items()}
    return summary


def open_source(cfg: DictConfig, start_us: int | None, tracker: OnlineTracker, stack: ExitStack) -> tuple:
    """The events up to the first box, its time, and what yields the rest once the tracker is there."""
    reach_us = tracker.context_us
    if not cfg.live:
        events = read_events(cfg.recording, **read_options(cfg.read))
        if len(events) == 0:
            raise InputError(f"{cfg.recording} holds no events")
        start = start_us if start_us is not None else events.t_start
        end = int(cfg.end_us) if cfg.end_us is not None else events.t_end
        if not events.t_start <= start < events.t_end:
            raise InputError(f"start_us={start} is outside the recording, {events.t_start} to {events.t_end} us")
        if start + cfg.output_period_us > end:
            raise InputError(f"no box is due from {start} to {end} us with output_period_us={cfg.output_period_us}")
        context = events.slice_time(start - reach_us, start)
        return context, start, lambda t: recorded_chunks(events, start, end, t.output_period_us)
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, lambda *_: stop.set())  # the first Ctrl-C ends the stream, not the script
    if cfg.recording == "-":
        file = sys.stdin.buffer
    elif not Path(cfg.recording).exists():
        raise InputError(f"{cfg.recording}: no such file or pipe; live streams come from a file, a pipe, or - (stdin)")
    else:
        file = stack.enter_context(Path(cfg.recording).open("rb", buffering=0))  # noqa: SIM115 (the stack closes it)
    reader = LiveReader(file, name=str(cfg.recording), idle_s=cfg.idle_s, stopped=stop.is_set)
    chunks, before, now = iter(reader), EventStream.empty(reader.sensor_hw), None
    while now is None or start_us is None or now < start_us:
        chunk = next(chunks, None)
        if chunk is None:
            raise InputError(f"{cfg.recording}: the stream ended before the first box's time, {start_us} us")
        before, now = concatenate([before, chunk.events]), chunk.now_us
        if start_us is None and len(before):
            start_us = before.t_start + tracker.student.config.window_us
    end = int(cfg.end_us) if cfg.end_us is not None else None
    rest = before.slice_time(start_us, before.t_end)
    context = before.slice_time(start_us - reach_us, start_us)
    return context, start_us, lambda t: live_chunks(chunks, t, rest, now, end)


def run(cfg: DictConfig) -> dict:
    """Tracks and writes `boxes.csv`, the video and `summary.json` into the run folder; returns the summary."""
    given = int(cfg.start_us) if cfg.start_us is not None else None
    box, start_us = first_box(cfg.box, start_us=given, target=cfg.object)
    truth = read_timed_boxes(cfg.truth, cfg.object) if cfg.truth is not None else None
    tracker = OnlineTracker(load_student(cfg.checkpoint), output_period_us=cfg.output_period_us, carry=cfg.carry)
    if cfg.budget_us is not None:
        tracker.budget_us = float(cfg.budget_us)
    elif cfg.live:
        tracker.budget_us = measured_budget_us(tracker.network)
    with ExitStack() as stack:
        before, start_us, open_rest = open_source(cfg, start_us, tracker, stack)
        if box is None:
            box = draw_box_by_hand(before, cfg.video_window_us)
        box = check_box(box, before.sensor_hw)
        folder = open_run(cfg)
        tracker.init(before, box, t_us=start_us)
        rerun = RerunLog(folder / cfg.rerun) if cfg.rerun is not None else None
        made = Run(tracker, Estimate(start_us, box, 1.0), cfg, truth, rerun)
        pictures = made.pictures(open_rest(tracker))
        shown = next(pictures, None)  # without a video nothing is drawn, and this runs to the end
        if shown is not None:
            write_video(folder / cfg.video, itertools.chain([shown], pictures), fps=cfg.video_fps)
        if rerun is not None:
            rerun.close()
    write_boxes_csv(folder / "boxes.csv", made.found)
    summary = summarise(cfg, made, before.sensor_hw)
    for name in ("video", "rerun"):
        if cfg[name] is not None and (folder / cfg[name]).exists():
            summary[name] = str(folder / cfg[name])
    with atomic_file(folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


@script("track")
def main(cfg: DictConfig) -> None:
    if cfg.recording is None and not cfg.live:
        raise InputError("no recording: give recording=FILE, or --live for a stream on standard input")
    if cfg.recording is None:
        cfg.recording = "-"
    summary = run(cfg)
    out = sys.stderr if cfg.print_boxes else sys.stdout  # boxes on standard output stay alone there
    for key, value in summary.items():
        print(f"{key:<22}{value}", file=out)
    print(f"{'folder':<22}{cfg.out}", file=out)


if __name__ == "__main__":
    sys.argv[1:] = ["live=true" if argument == "--live" else argument for argument in sys.argv[1:]]
    main()
