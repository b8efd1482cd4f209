"""A small sequence made of random events: dense on a drifting box, thin elsewhere, with noisy frames."""

from __future__ import annotations

import numpy as np

from had_snn.data.clips import ClipGeometry
from had_snn.data.sequence import TrackingSequence
from had_snn.events.stream import EventStream

#: Crops of the small networks.
GEOMETRY = ClipGeometry(40_000, 72, 2.25, 96, 3.0)


def drifting_sequence(
    *, seed: int = 0, labels: int = 12, period_us: int = 40_000, hidden: bool = False
) -> TrackingSequence:
    """A target that drifts over a 240 x 180 sensor; out of sight at two labels when `hidden`."""
    rng = np.random.default_rng(seed)
    times = period_us * np.arange(1, labels + 1)
    speed = rng.uniform(-2e-4, 2e-4, 2)
    start = np.array([100.0, 70.0])
    boxes = np.stack([np.concatenate([start + speed * t, [40.0, 32.0]]) for t in times])
    count = 400 * labels
    t = np.sort(rng.integers(0, times[-1], 2 * count))
    on_target = rng.random(2 * count) < 0.5
    inside = start + speed * t[:, None] + rng.random((2 * count, 2)) * [40, 32]
    xy = np.where(on_target[:, None], inside, rng.random((2 * count, 2)) * [240, 180]).astype(np.int64)
    xy = np.clip(xy, 0, [239, 179])
    visible = np.ones(labels, bool)
    if hidden:
        visible[5:7] = False
    return TrackingSequence(
        name=f"drifting-{seed}",
        events=EventStream.from_arrays(t, xy[:, 0], xy[:, 1], rng.integers(0, 2, 2 * count), (180, 240)),
        label_times_us=times,
        boxes_xywh=boxes,
        visible=visible,
        frames=rng.integers(0, 255, (labels, 180, 240, 3), dtype=np.uint8),
        frame_times_us=times.copy(),
    )
