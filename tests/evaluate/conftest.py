"""A small moving target in noise, and a tracker that knows the answer."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from had_snn.data.sequence import TrackingSequence
from had_snn.events.stream import EventStream

SENSOR_HW = (120, 160)


def build_sequence(seed: int = 0, *, name: str = "moving", labels: int = 20, attributes: tuple[str, ...] = ()):
    """A cloud of events, 30 px wide, that moves right at 60 px/s and sways; 30 % of the events are noise."""
    rng = np.random.default_rng(seed)
    period, count = 40_000, 1500 * labels
    t = np.sort(rng.integers(0, period * (labels + 1), count))

    def centre(t_us):
        return np.stack([40 + 60e-6 * t_us, 60 + 15 * np.sin(4e-6 * t_us)], axis=-1)

    spots = centre(t) + rng.uniform(-15, 15, (count, 2))
    noise = rng.uniform((0, 0), (SENSOR_HW[1], SENSOR_HW[0]), (count, 2))
    spots = np.where(rng.random((count, 1)) < 0.7, spots, noise)
    x = spots[:, 0].clip(0, SENSOR_HW[1] - 1).astype(int)
    y = spots[:, 1].clip(0, SENSOR_HW[0] - 1).astype(int)
    events = EventStream.from_arrays(t, x, y, rng.integers(0, 2, count), SENSOR_HW)
    times = period * np.arange(1, labels + 1)
    boxes = np.concatenate([centre(times) - 15, np.full((labels, 2), 30.0)], axis=1)
    background = rng.integers(60, 120, (*SENSOR_HW, 3), dtype=np.uint8)
    patch = rng.integers(120, 255, (30, 30, 3), dtype=np.uint8)
    frames = np.repeat(background[None], labels, axis=0)
    for frame, (left, top) in zip(frames, boxes[:, :2].round().astype(int), strict=True):
        frame[top : top + 30, left : left + 30] = patch
    return TrackingSequence(name, events, times, boxes, np.ones(labels, bool), frames, times.copy(), attributes)


class Oracle:
    """Answers the annotation, shifted by a fixed number of pixels."""

    def __init__(self, sequence, shift=(0.0, 0.0), name="oracle"):
        self.sequence, self.shift, self.name = sequence, shift, name
        self.calls = []

    def init(self, events, box_xywh, *, t_us, frame=None):
        self.calls.append(("init", len(events), t_us, frame is not None))

    def update(self, events, *, at_us, frame=None):
        self.calls.append(("update", len(events), list(at_us), frame is not None))
        times, boxes = self.sequence.label_times_us, self.sequence.boxes_xywh
        answers = [[np.interp(t, times, boxes[:, k]) for k in range(4)] for t in at_us]
        move = np.array([*self.shift, 0.0, 0.0])
        return [
            SimpleNamespace(t_us=t, box_xywh=np.array(a) + move, score=0.9) for t, a in zip(at_us, answers, strict=True)
        ]


@pytest.fixture(scope="session")
def make_sequence():
    return build_sequence


@pytest.fixture
def sequence():
    return build_sequence()


@pytest.fixture(scope="session")
def oracle():
    def build(sequence, **options):
        return Oracle(sequence, **options)

    build.type = Oracle
    return build
