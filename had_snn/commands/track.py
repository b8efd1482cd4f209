"""Tracks one target through a recording or a live stream: boxes as CSV, a video, a summary.

had-snn track recording.aedat4 --box 42,225,44,17
CAMERA_TOOL | had-snn track --live --box 42,225,44,17
had-snn track --camera --box 42,225,44,17
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from had_snn.checkpoint import load_student
from had_snn.commands.first_box import first_box, moment, read_timed_boxes
from had_snn.commands.progress import progress
from had_snn.commands.reading import read_options
from had_snn.commands.run_folder import open_run
from had_snn.commands.track_output import Chunk, Run, summarise
from had_snn.errors import InputError, MissingExtraError
from had_snn.events.stream import EventStream, concatenate
from had_snn.files import atomic_file
from had_snn.geometry import check_box
from had_snn.recordings.camera import CameraReader
from had_snn.recordings.live import LiveReader
from had_snn.recordings.readers import read_events
from had_snn.tracking import Estimate, OnlineTracker
from had_snn.tracking.budget import measured_budget_us
from had_snn.viz.by_hand import draw_box_by_hand
from had_snn.viz.live_window import LiveWindow
from had_snn.viz.rerun_log import RerunLog

log = logging.getLogger("had_snn")

#: Whether the user wants the run to end; what was tracked by then is kept.
Stopped = Callable[[], bool]


class Source(NamedTuple):
    """Where events come from.

    Attributes:
        name: The file, the stream or the camera.
        before: The events up to the first box, as far back as the tracker may look.
        zero_us: The recording's start.
        start_us: The first box's time.
        box: The first box, or None for one that is yet to be drawn.
        rest: What comes after; to be taken once the tracker is initialised.
    """

    name: str
    before: EventStream
    zero_us: int
    start_us: int
    box: Any
    rest: Callable[[OnlineTracker], Iterator[Chunk]]


def open_file(cfg: DictConfig, reach_us: int, stopped: Stopped) -> Source:
    """A recording."""
    events = read_events(cfg.recording, **read_options(cfg.read))
    if len(events) == 0:
        raise InputError(f"{cfg.recording} holds no events")
    given = moment(cfg.start_us, cfg.start_s, "start", events.t_start)
    box, start = first_box(cfg.box, start_us=given, target=cfg.object, zero_us=events.t_start)
    start = events.t_start if start is None else start
    wanted = moment(cfg.end_us, cfg.end_s, "end", events.t_start)
    end = events.t_end if wanted is None else min(wanted, events.t_end)
    if not events.t_start <= start < events.t_end:
        raise InputError(f"start_us={start} is outside the recording, {events.t_start} to {events.t_end} us")
    if start + cfg.output_period_us > end:
        raise InputError(f"no box is due from {start} to {end} us with output_period_us={cfg.output_period_us}")

    def rest(tracker: OnlineTracker) -> Iterator[Chunk]:
        period_us = tracker.output_period_us
        times = range(start + period_us, end + 1, period_us)
        with progress("track", unit="boxes") as bar:
            for done, t_us in enumerate(times, start=1):
                if stopped():
                    return
                yield events.slice_time(t_us - period_us, t_us), [t_us]
                bar(done, len(times))

    return Source(str(cfg.recording), events.slice_time(start - reach_us, start), events.t_start, start, box, rest)


def live_reader(cfg: DictConfig, stopped: Stopped, stack: ExitStack) -> LiveReader | CameraReader:
    """A camera or a stream, open until the stack ends."""
    if cfg.camera:
        return stack.enter_context(CameraReader(None if cfg.camera is True else cfg.camera, stopped=stopped))
    if cfg.recording == "-":
        file = sys.stdin.buffer
    elif not Path(cfg.recording).exists():
        raise InputError(f"{cfg.recording}: no such file or pipe; live streams come from a file, a pipe, or - (stdin)")
    else:
        file = stack.enter_context(Path(cfg.recording).open("rb", buffering=0))  # noqa: SIM115 (the stack closes it)
    return LiveReader(file, name=str(cfg.recording), idle_s=cfg.idle_s, stopped=stopped)


def open_live(cfg: DictConfig, reach_us: int, window_us: int, stopped: Stopped, stack: ExitStack) -> Source:
    """Events that are still coming."""
    moment(cfg.start_us, cfg.start_s, "start", 0)  # refuses both
    box, start = first_box(cfg.box, start_us=cfg.start_us, target=cfg.object, zero_us=None)
    counted = cfg.start_s is not None  # from the first event, which has yet to come
    start = None if counted else start
    reader = live_reader(cfg, stopped, stack)
    chunks, before, now, zero = iter(reader), EventStream.empty(reader.sensor_hw), None, None
    while now is None or start is None or now < start:
        chunk = next(chunks, None)
        if chunk is None:
            when = "" if start is None else f", {start} us"
            raise InputError(f"{reader.name}: the stream ended before the first box's time{when}")
        before, now = concatenate([before, chunk.events]), chunk.now_us
        zero = before.t_start if zero is None and len(before) else zero
        if start is None and zero is not None:
            start = zero + window_us
            if counted:
                given = moment(None, cfg.start_s, "start", zero)
                box, start = first_box(cfg.box, start_us=given, target=cfg.object, zero_us=zero)
        if start is not None:
            before = before.slice_time(start - reach_us, max(before.t_end, start))
    zero = start if zero is None else zero
    end = moment(cfg.end_us, cfg.end_s, "end", zero)
    rest = before.slice_time(start, before.t_end)
    context = before.slice_time(start - reach_us, start)
    return Source(reader.name, context, zero, start, box, lambda tracker: live_chunks(chunks, tracker, rest, now, end))


def live_chunks(
    chunks: Iterator[Any], tracker: OnlineTracker, rest: EventStream, now_us: int, end_us: int | None
) -> Iterator[Chunk]:
    """A live stream, with the boxes that are due by each chunk."""
    while True:
        assert tracker.state is not None
        last = now_us if end_us is None else min(now_us, end_us)
        due: Sequence[int] = range(tracker.state.next_t_us, last + 1, tracker.output_period_us)
        yield rest, due
        if end_us is not None and now_us >= end_us:
            return
        chunk = next(chunks, None)
        if chunk is None:
            return
        rest, now_us = chunk.events, chunk.now_us


def live_window(cfg: DictConfig, name: str) -> LiveWindow | None:
    """The window that is asked for; a camera has one wherever one can be opened."""
    if not (bool(cfg.camera) if cfg.window is None else cfg.window):
        return None
    try:
        return LiveWindow(name)
    except (InputError, MissingExtraError) as error:
        if cfg.window:
            raise
        log.info("tracking without a window: %s", error)
        return None


def interruptible(stack: ExitStack) -> Stopped:
    """Makes the first Ctrl-C end the tracking and not the job; the second one ends it at once."""
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        before = signal.getsignal(signal.SIGINT)

        def end(*_: Any) -> None:
            stop.set()
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, end)
        stack.callback(signal.signal, signal.SIGINT, before)
    return stop.is_set


def run(cfg: DictConfig) -> dict:
    """Tracks and writes `boxes.csv`, the video and `summary.json` into the run folder; returns the summary."""
    truth = read_timed_boxes(cfg.truth, cfg.object) if cfg.truth is not None else None
    student = load_student(cfg.checkpoint, n_steps=cfg.n_steps, device=cfg.device)
    tracker = OnlineTracker(student, output_period_us=cfg.output_period_us, carry=cfg.carry)
    if cfg.budget_us is not None:
        tracker.budget_us = float(cfg.budget_us)
    elif cfg.live:
        tracker.budget_us = measured_budget_us(tracker.network, threads=tracker.threads)
    with ExitStack() as stack:
        stopped = interruptible(stack)
        reach_us = tracker.context_us
        source = (
            open_live(cfg, reach_us, student.config.window_us, stopped, stack)
            if cfg.live
            else open_file(cfg, reach_us, stopped)
        )
        truth = None if truth is None else truth.on_clock(source.zero_us)
        sensor_hw = source.before.sensor_hw
        box = source.box if source.box is not None else draw_box_by_hand(source.before, cfg.video_window_us)
        box = check_box(box, sensor_hw)
        window = live_window(cfg, source.name)
        if window is not None:
            stack.callback(window.close)
        folder = open_run(cfg)
        tracker.init(source.before, box, t_us=source.start_us)
        rerun = RerunLog(folder / cfg.rerun) if cfg.rerun is not None else None
        first = Estimate(source.start_us, box, 1.0)
        made = Run(tracker, first, cfg, folder / "boxes.csv", truth=truth, rerun=rerun, window=window)
        for name in ("summary.json", *([cfg.video] if cfg.video is not None else [])):
            (folder / name).unlink(missing_ok=True)  # of the boxes that were there before
        try:
            made.follow(source.rest(tracker), folder / cfg.video if cfg.video is not None else None)
        finally:
            if rerun is not None:
                rerun.close()
            summary = summarise(made, source.name, sensor_hw)
            for name in ("video", "rerun"):
                if cfg[name] is not None and (folder / cfg[name]).exists():
                    summary[name] = str(folder / cfg[name])
            with atomic_file(folder / "summary.json") as temporary:
                temporary.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def main(cfg: DictConfig) -> None:
    if cfg.camera:
        if cfg.recording is not None:
            raise InputError(f"recording={cfg.recording} and --camera are both given; one of them is enough")
        cfg.live = True
    elif cfg.recording is None and not cfg.live:
        raise InputError(
            "no recording: give recording=FILE, or --live for a stream on standard input, or --camera for a camera"
        )
    elif cfg.recording is None:
        cfg.recording = "-"
    summary = run(cfg)
    out = sys.stderr if cfg.print_boxes else sys.stdout  # boxes on standard output stay alone there
    for key, value in summary.items():
        print(f"{key:<22}{value}", file=out)
    print(f"{'folder':<22}{cfg.out}", file=out)
