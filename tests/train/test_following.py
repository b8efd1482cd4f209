"""A teacher that follows many targets at once follows each as it would by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from drifting import drifting_sequence

from had_snn.data.sequence import first_label
from had_snn.evaluate.one_pass import run_one_pass
from had_snn.models import teacher_tiny
from had_snn.tracking import TeacherTracker, TrackingPolicy
from had_snn.train.following import teacher_follows


def test_following_together_gives_the_boxes_of_following_one_by_one():
    torch.manual_seed(0)
    teacher = teacher_tiny().eval()
    found = [drifting_sequence(seed=seed, labels=10) for seed in range(3)]
    found[1] = replace(
        found[1],
        label_times_us=found[1].label_times_us[:6],
        boxes_xywh=found[1].boxes_xywh[:6] + 4,
        visible=np.arange(6) > 1,
    )
    policy = TrackingPolicy(lost_widening=1.0)
    said: list[tuple[int, int, str]] = []
    together = teacher_follows(teacher, progress=lambda *words: said.append(words))(found)
    for sequence, boxes in zip(found, together, strict=True):
        alone = run_one_pass(TeacherTracker(teacher, policy=policy), sequence)
        np.testing.assert_allclose(boxes, alone.boxes_xywh, atol=1e-3)
        row = first_label(sequence)
        np.testing.assert_array_equal(boxes[row], sequence.boxes_xywh[row])
    assert said == [(3, 3, "drifting-2")]
