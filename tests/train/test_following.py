"""A teacher that follows many targets at once follows each as it would by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from drifting import drifting_sequence

from had_snn.data.sequence import first_label
from had_snn.errors import InputError
from had_snn.evaluate.one_pass import run_one_pass
from had_snn.models import teacher_tiny
from had_snn.tracking import TeacherTracker, TrackingPolicy
from had_snn.train.following import follow_together, teacher_follows


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
    for sequence, (boxes, scores) in zip(found, together, strict=True):
        alone = run_one_pass(TeacherTracker(teacher, policy=policy), sequence)
        np.testing.assert_allclose(boxes, alone.boxes_xywh, atol=1e-3)
        row, held = first_label(sequence), scores > 0
        np.testing.assert_array_equal(boxes[row], sequence.boxes_xywh[row])
        assert scores[row] == 1
        np.testing.assert_allclose(scores[held], alone.scores[held], atol=1e-5)
    assert said == [(3, 3, "drifting-2")]


def test_each_is_seen_as_it_would_be_alone():
    """With and without frames, with some that begin late, that stop early, and one that is over before the others."""
    torch.manual_seed(0)
    teacher = teacher_tiny().eval()
    found = [drifting_sequence(seed=seed, labels=8) for seed in range(4)]
    found[1] = replace(found[1], frames=None, frame_times_us=None)
    found[2] = replace(found[2], frames=found[2].frames[4:], frame_times_us=found[2].frame_times_us[4:])
    found[3] = replace(found[3], frames=found[3].frames[:2], frame_times_us=found[3].frame_times_us[:2])
    found[0] = replace(
        found[0],
        label_times_us=found[0].label_times_us[:5],
        boxes_xywh=found[0].boxes_xywh[:5],
        visible=found[0].visible[:5],
    )
    together = follow_together(teacher, found)
    for sequence, track in zip(found, together, strict=True):
        (alone,) = follow_together(teacher, [sequence])
        np.testing.assert_allclose(track.boxes_xywh, alone.boxes_xywh, atol=1e-3)
        np.testing.assert_allclose(track.scores, alone.scores, atol=1e-4)
    without = replace(found[2], frames=None, frame_times_us=None)
    (blind,) = follow_together(teacher, [without])
    np.testing.assert_allclose(together[2].boxes_xywh[:4], blind.boxes_xywh[:4], atol=1e-3)
    assert np.abs(together[2].scores[5:] - blind.scores[5:]).max() > 1e-4, "from then on it has frames"


def test_frames_alone_need_frames():
    teacher, sequence = teacher_tiny().eval(), drifting_sequence(labels=6)
    assert len(follow_together(teacher, [sequence], modalities=("rgb",))[0].scores) == 6
    late = replace(sequence, frames=sequence.frames[2:], frame_times_us=sequence.frame_times_us[2:])
    with pytest.raises(InputError, match=r"drifting-0: no frame by 40000 us.*modalities=\[rgb,events\]"):
        follow_together(teacher, [late], modalities=("rgb",))
