"""Draws docs/first_look.png: the fast target of the packaged recording, followed through windows of its own.

python docs/first_look.py
"""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np

from had_snn import EventStream, OnlineTracker, load_student, read_events, sample_recording
from had_snn.geometry import search_crop
from had_snn.viz import event_image
from had_snn.viz.render import PALETTES, draw_box, draw_text, enlarge

SIDE, COLUMNS, ZOOM = 152, 4, 2
COLOURS = PALETTES["dark"]


def zoomed(events: EventStream, t_us: int, window_us: float, box: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What the network is shown at one time: the search region, and no events but those of the window."""
    crop = search_crop(box, factor=3.0, size=SIDE // ZOOM)
    seen = events.slice_time(t_us - round(window_us), t_us).crop(crop)
    panel = np.ascontiguousarray(enlarge(event_image(seen, style="dark"), ZOOM))
    draw_box(panel, crop.boxes_to_crop(truth) * ZOOM, colour=COLOURS.truth, dash=4)
    draw_box(panel, crop.boxes_to_crop(box) * ZOOM, colour=COLOURS.box, thickness=2)
    words = f"{t_us / 1000:.0f} ms: window {window_us / 1000:.1f} ms"
    draw_text(panel, words, (5, 4), colour=COLOURS.ink, size=11, ground=COLOURS.ground)
    panel[[0, -1]] = panel[:, [0, -1]] = (60, 66, 76)
    return panel


def main() -> None:
    sample = sample_recording()
    events, start, truth = read_events(sample.path), int(sample.times_us[0]), sample.boxes["fast"]
    tracker = OnlineTracker(load_student("tiny"))
    tracker.init(events.slice_time(0, start), truth[0], t_us=start)
    found = tracker.update(events.slice_time(start, events.t_end), at_us=sample.times_us[1:-1].tolist())
    # The sensor: 30 ms of events, and the way of the target through the second.
    now = 46
    sensor = event_image(events.slice_time(found[now].t_us - 30_000, found[now].t_us), style="dark")
    scale = 2 * SIDE / sensor.shape[0]
    rows, columns = (np.arange(round(n * scale)) / scale for n in sensor.shape[:2])
    sensor = np.ascontiguousarray(sensor[rows.astype(int)][:, columns.astype(int)])
    for estimate in found[::4]:
        draw_box(sensor, estimate.box_xywh * scale, colour=(52, 110, 80))
    draw_box(sensor, found[now].box_xywh * scale, colour=COLOURS.box, thickness=2)
    words = "the sensor: 30 ms of events, and the boxes of a second"
    draw_text(sensor, words, (6, 5), colour=COLOURS.ink, size=13, ground=COLOURS.ground)
    chosen = [found[k] for k in (2, 6, 10, 15, 22, 34, 58, 90)]
    panels = [zoomed(events, e.t_us, e.window_us, e.box_xywh, truth[e.t_us // 10_000 - 1]) for e in chosen]
    grid = [np.concatenate(panels[k : k + COLUMNS], axis=1) for k in range(0, len(panels), COLUMNS)]
    iio.imwrite(Path(__file__).with_suffix(".png"), np.concatenate([sensor, np.concatenate(grid)], axis=1))


if __name__ == "__main__":
    main()
