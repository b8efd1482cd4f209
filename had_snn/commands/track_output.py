"""What a run of a tracker leaves behind: boxes as they come, a film, a summary."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from had_snn.commands.first_box import TimedBoxes
from had_snn.errors import HadError, InputError
from had_snn.evaluate.protocols import box_overlap
from had_snn.events.stream import EventStream, concatenate
from had_snn.files import append_whole, atomic_file
from had_snn.tracking import Estimate, OnlineTracker
from had_snn.viz import event_image, overlay_frame, write_video
from had_snn.viz.live_window import LiveWindow
from had_snn.viz.rerun_log import RerunLog

STRIP_STEPS = 96
HEADER = ("t_us", "x", "y", "w", "h", "score", "lost")

#: Events, and the times at which boxes are due after them.
Chunk = tuple[EventStream, Sequence[int]]


class Run:
    """Feeds a tracker, writes its boxes as they come, and draws what is asked for while events are at hand.

    Args:
        tracker: An initialised tracker.
        first: The given box.
        cfg: The job's config.
        boxes: File of the boxes, `t_us,x,y,w,h,score,lost`; whatever ends the run, those that were made are in it.
        truth: Annotated boxes to draw and compare with, or None.
        rerun: Where boxes are logged for the Rerun viewer, or None.
        window: Where pictures are shown as they are made, or None.
    """

    def __init__(
        self,
        tracker: OnlineTracker,
        first: Estimate,
        cfg: DictConfig,
        boxes: Path,
        *,
        truth: TimedBoxes | None,
        rerun: RerunLog | None,
        window: LiveWindow | None = None,
    ) -> None:
        self.tracker, self.cfg, self.truth, self.rerun, self.window = tracker, cfg, truth, rerun, window
        self.found, self.seconds = [first], []
        self.activity: list[np.ndarray] = []
        self.recent: EventStream | None = None
        self.next_picture_us = first.t_us
        self.events = 0
        self._failed: BaseException | None = None
        self.boxes = boxes
        with atomic_file(boxes) as draft:
            draft.write_text(csv_text(HEADER) + csv_text(csv_row(first)))

    def follow(self, chunks: Iterable[Chunk], film: Path | None) -> None:
        """Tracks to the end of the chunks; a film that fails takes no box with it.

        Raises:
            InputError: At the end, if the film failed.
        """
        pictures = self._pictures(chunks)
        first = next(pictures, None)  # without a film nothing is drawn, and this runs to the end
        if first is None or film is None:
            return
        try:
            write_video(film, itertools.chain([first], pictures), fps=self.cfg.video_fps)
        except (HadError, OSError) as error:
            if self._failed is not None:  # in tracking, which went on beneath the film
                raise
            self.cfg.video = None
            for _ in self._pictures(chunks):
                pass
            raise InputError(
                f"all {len(self.found)} boxes are in {self.boxes}, but the film failed: {error}; video=null makes none"
            ) from error

    def _pictures(self, chunks: Iterable[Chunk]) -> Iterator[np.ndarray]:
        """Tracks; yields a picture every `video_period_us` when a film is wanted."""
        for estimates in self._tracked(chunks):
            for estimate in estimates:
                yield from self._show(estimate)
            if self.recent is not None:
                now = self.found[-1].t_us
                self.recent = self.recent.slice_time(now - self.cfg.video_window_us, self.recent.t_end)

    def _tracked(self, chunks: Iterable[Chunk]) -> Iterator[list[Estimate]]:
        """Boxes, chunk by chunk, each written before anybody sees it."""
        try:
            for events, at_us in chunks:
                self.events += len(events)
                if self.cfg.video is not None or self.rerun is not None or self.window is not None:
                    self.recent = events if self.recent is None else concatenate([self.recent, events])
                began = time.perf_counter()
                estimates = self.tracker.update(events, at_us=at_us)
                self.seconds += [(time.perf_counter() - began) / max(1, len(estimates))] * len(estimates)
                for estimate in estimates:
                    self._keep(estimate)
                yield estimates
        except (HadError, OSError) as error:
            self._failed = error
            raise

    def _keep(self, estimate: Estimate) -> None:
        text = csv_text(csv_row(estimate))
        append_whole(self.boxes, text)  # and nothing of it where the disk is full
        self.found.append(estimate)
        if self.cfg.print_boxes:
            print(text, end="", flush=True)

    def _show(self, estimate: Estimate) -> Iterator[np.ndarray]:
        if estimate.activity is not None:
            self.activity = [*self.activity[1 - STRIP_STEPS :], estimate.activity]
        t_us = estimate.t_us
        if t_us < self.next_picture_us or self.recent is None:
            return
        self.next_picture_us += max(self.cfg.video_period_us, t_us - self.next_picture_us)
        if self.rerun is not None:
            events = self.recent.slice_time(t_us - self.cfg.video_window_us, t_us)
            self.rerun.add(t_us, event_image(events), estimate.box_xywh, estimate.score, lost=estimate.lost)
        shown = self.window if self.window is not None and self.window.is_due() else None
        if self.cfg.video is None and shown is None:
            return
        picture = self._picture(estimate, self.recent)
        if shown is not None:
            shown.show(picture)
        if self.cfg.video is not None:
            yield picture

    def _picture(self, estimate: Estimate, events: EventStream) -> np.ndarray:
        return overlay_frame(
            events,
            estimate.t_us,
            estimate.box_xywh,
            start_us=self.found[0].t_us,
            score=estimate.score,
            truth_xywh=truth_at(self.truth, estimate.t_us),
            spikes=np.array(self.activity) if self.activity else np.zeros((1, 8), np.float32),
            label=label(estimate, self.cfg),
            window_us=self.cfg.video_window_us,
            scale=self.cfg.video_scale,
            strip_steps=STRIP_STEPS,
        )


def label(e: Estimate, cfg: DictConfig) -> str:
    """The window that was looked through, whether the target is lost, and how fast the film plays."""
    words = [f"window {e.window_us * 1e-3:.3g} ms"]
    if abs(speed := cfg.video_fps * cfg.video_period_us * 1e-6 - 1) > 0.01:
        words.append(f"{1 / (1 + speed):.3g}x slow motion" if speed < 0 else f"{1 + speed:.3g}x time lapse")
    return ", ".join([*words, *(["lost"] if e.lost else [])])


def truth_at(truth: TimedBoxes | None, t_us: int) -> np.ndarray | None:
    """The annotated box at a time, interpolated; None outside the annotated span and where it is out of sight."""
    if truth is None or truth.times_us is None or not truth.times_us[0] <= t_us <= truth.times_us[-1]:
        return None
    after = int(np.searchsorted(truth.times_us, t_us))
    if not truth.visible[after if truth.times_us[after] == t_us else slice(after - 1, after + 1)].all():
        return None
    return np.array([np.interp(t_us, truth.times_us, truth.boxes_xywh[:, k]) for k in range(4)])


def csv_text(row: Sequence[Any]) -> str:
    """A row as a line of text; no value holds a comma."""
    return ",".join(map(str, row)) + "\n"


def csv_row(e: Estimate) -> list[Any]:
    """`t_us,x,y,w,h,score,lost` of one box."""
    return [e.t_us, *(f"{v:.3f}" for v in e.box_xywh), f"{e.score:.4f}", int(e.lost)]


def summarise(run: Run, recording: str, sensor_hw: tuple[int, int]) -> dict[str, Any]:
    """The run in numbers."""
    found, seconds = run.found, np.array(run.seconds)
    span = (found[-1].t_us - found[0].t_us) * 1e-6
    windows = [e.window_us for e in found[1:]]
    summary = {
        "recording": recording,
        "events": run.events,
        "sensor_hw": list(sensor_hw),
        "boxes": len(found),
        "seconds_of_recording": span,
        "lost_share": float(np.mean([e.lost for e in found])),
        "looks": run.tracker.looks,
        "budget_us": round(run.tracker.budget_us, 1),
        "window_ms": [round(float(v) * 1e-3, 3) for v in np.quantile(windows, (0, 0.5, 1))] if windows else None,
        "mean_score": float(np.mean([e.score for e in found])),
        "real_time_factor": span / max(float(seconds.sum()), 1e-9),
        "ms_per_box": {f"p{q}": float(np.percentile(seconds, q) * 1e3) for q in (50, 95, 99)} if len(seconds) else {},
    }
    return summary | compared(found, run.truth)


def compared(found: Sequence[Estimate], truth: TimedBoxes | None) -> dict[str, Any]:
    """Overlap with annotated boxes, at their times."""
    if truth is None or truth.times_us is None:
        return {}
    times = np.array([e.t_us for e in found])
    boxes = np.stack([e.box_xywh for e in found])
    rows = np.flatnonzero((truth.times_us > times[0]) & (truth.times_us <= times[-1]) & truth.visible)
    if not len(rows):
        return {"compared_with_truth": 0}
    at = np.stack([np.interp(truth.times_us[rows], times, boxes[:, k]) for k in range(4)], axis=1)
    overlap = np.clip(box_overlap(at, truth.boxes_xywh[rows]), 0, 1)
    iou = {"mean_iou": overlap.mean(), "last_iou": overlap[-1], "min_iou": overlap.min()}
    return {"compared_with_truth": len(rows), **{name: float(value) for name, value in iou.items()}}
