"""The packaged recording: small, what its simulation makes, and within reach of the shipped student."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn import OnlineTracker, load_student, read_events, sample_recording
from had_snn.data.sample import SENSOR_HW, TARGETS, write_sample
from had_snn.evaluate.protocols import box_overlap

SAMPLE = sample_recording()


def test_it_is_small_and_its_boxes_belong_to_it():
    assert SAMPLE.path.stat().st_size + SAMPLE.boxes_path.stat().st_size <= 500_000
    events = read_events(SAMPLE.path)
    assert events.sensor_hw == SENSOR_HW
    assert events.t_start >= 0
    assert events.t_end <= SAMPLE.times_us[-1] == 1_000_000
    for name in TARGETS:
        boxes = SAMPLE.boxes[name]
        assert boxes.shape == (100, 4)
        # The target's outline makes more events than the rest of the picture, for its size.
        t_us, (x, y, w, h) = SAMPLE.times_us[50], boxes[50]
        near = events.slice_time(t_us - 10_000, t_us)
        inside = (near.x >= x - 8) & (near.x < x + w + 8) & (near.y >= y - 8) & (near.y < y + h + 8)
        assert inside.mean() > 3 * (w + 16) * (h + 16) / (SENSOR_HW[0] * SENSOR_HW[1])


def test_it_can_be_made_again(tmp_path):
    events, boxes = write_sample(tmp_path)
    shipped, written = read_events(SAMPLE.path), read_events(tmp_path / "recording.aedat4")
    for name in "txyp":
        assert (getattr(written, name) == getattr(events, name)).all()
        assert (getattr(written, name) == getattr(shipped, name)).all()
    assert (tmp_path / "boxes.csv").read_text() == SAMPLE.boxes_path.read_text()
    for name in TARGETS:
        np.testing.assert_allclose(boxes[name], SAMPLE.boxes[name], atol=0.005)


@pytest.mark.parametrize(("target", "shortest", "longest"), [("fast", 0, 20_000), ("slow", 30_000, 200_000)])
def test_the_shipped_student_follows_both_targets_through_windows_of_their_own(target, shortest, longest):
    events, boxes, first = read_events(SAMPLE.path), SAMPLE.boxes[target], int(SAMPLE.times_us[3])
    tracker = OnlineTracker(load_student("tiny"))
    tracker.init(events.slice_time(0, first), boxes[3], t_us=first)
    found = tracker.update(events.slice_time(first, events.t_end), at_us=SAMPLE.times_us[4:].tolist())
    assert box_overlap(np.stack([e.box_xywh for e in found]), boxes[4:]).mean() > 0.6
    assert shortest <= np.median([e.window_us for e in found]) <= longest
