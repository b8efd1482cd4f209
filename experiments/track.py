"""Tracks one target through a recording: boxes as CSV, a video, a summary.

    python experiments/track.py recording=recording.aedat4 box=[42,225,44,17]
"""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
from entry import open_run, script
from omegaconf import DictConfig, ListConfig
from progress import progress

from had_snn.atomic import atomic_file
from had_snn.checkpoint import load_student
from had_snn.errors import InputError
from had_snn.events.readers import read_events
from had_snn.events.stream import EventStream
from had_snn.geometry import check_box
from had_snn.tracker import Estimate, OnlineTracker
from had_snn.viz import overlay_frames, write_video


def parse_box(box: str | ListConfig | None, sensor_hw: tuple[int, int]) -> np.ndarray:
    """The first box from `[x,y,w,h]` or `"x,y,w,h"`, checked against the sensor."""
    if box is None:
        raise InputError("no first box: give box=[x,y,w,h] in pixels (top-left corner, width, height)")
    parts = box.split(",") if isinstance(box, str) else list(box)
    try:
        numbers = np.array([float(v) for v in parts])
    except (TypeError, ValueError) as error:
        raise InputError(f"box={box}: expected four numbers, box=[x,y,w,h]") from error
    return check_box(numbers, sensor_hw)


def track(
    tracker: OnlineTracker, events: EventStream, box: np.ndarray, start_us: int, end_us: int
) -> tuple[list[Estimate], np.ndarray]:
    """Follows a recording in chunks of one output period; returns the estimates and the seconds each chunk took."""
    step = tracker.output_period_us
    tracker.init(events.slice_time(start_us - tracker.window_us, start_us), box, t_us=start_us)
    found, seconds = [Estimate(start_us, box, 1.0)], []
    times = range(start_us + step, end_us + 1, step)
    with progress("track", unit="boxes") as bar:
        for done, t_us in enumerate(times, start=1):
            chunk = events.slice_time(t_us - step, t_us)
            began = time.perf_counter()
            found += tracker.update(chunk, at_us=[t_us])
            seconds.append(time.perf_counter() - began)
            bar(done, len(times), f"score {found[-1].score:.2f}")
    return found, np.array(seconds)


def write_boxes_csv(path: Path, estimates: list[Estimate]) -> None:
    """Writes `t_us,x,y,w,h,score,lost`, one line per box."""
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["t_us", "x", "y", "w", "h", "score", "lost"])
        for e in estimates:
            writer.writerow([e.t_us, *(f"{v:.3f}" for v in e.box_xywh), f"{e.score:.4f}", int(e.lost)])


def run(cfg: DictConfig) -> dict:
    """Tracks and writes `boxes.csv`, the video and `summary.json` into the run folder; returns the summary."""
    events = read_events(cfg.recording)
    if len(events) == 0:
        raise InputError(f"{cfg.recording} holds no events")
    box = parse_box(cfg.box, events.sensor_hw)
    start_us = int(cfg.start_us) if cfg.start_us is not None else events.t_start
    end_us = int(cfg.end_us) if cfg.end_us is not None else events.t_end
    if not events.t_start <= start_us < events.t_end:
        raise InputError(f"start_us={start_us} is outside the recording, {events.t_start} to {events.t_end} us")
    tracker = OnlineTracker(load_student(cfg.checkpoint), output_period_us=cfg.output_period_us)
    folder = open_run(cfg)
    found, seconds = track(tracker, events, box, start_us, end_us)
    write_boxes_csv(folder / "boxes.csv", found)
    span = (end_us - start_us) * 1e-6
    summary = {
        "recording": str(cfg.recording), "events": len(events), "sensor_hw": list(events.sensor_hw),
        "boxes": len(found), "seconds_of_recording": span, "lost_share": float(np.mean([e.lost for e in found])),
        "mean_score": float(np.mean([e.score for e in found])),
        "real_time_factor": span / max(float(seconds.sum()), 1e-9),
        "ms_per_box": {f"p{q}": float(np.percentile(seconds, q) * 1e3) for q in (50, 95, 99)} if len(seconds) else {},
    }  # fmt: skip
    if cfg.video is not None:
        shown = found[:: max(1, round(cfg.video_period_us / tracker.output_period_us))]
        pictures = overlay_frames(
            events, [e.t_us for e in shown], np.stack([e.box_xywh for e in shown]),
            scores=np.array([e.score for e in shown]), window_us=cfg.video_window_us, scale=cfg.video_scale,
        )  # fmt: skip
        summary["video"] = str(write_video(folder / cfg.video, pictures, fps=cfg.video_fps))
    with atomic_file(folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    return summary


@script("track")
def main(cfg: DictConfig) -> None:
    for key, value in run(cfg).items():
        print(f"{key:<22}{value}")
    print(f"{'folder':<22}{cfg.out}")


if __name__ == "__main__":
    main()
