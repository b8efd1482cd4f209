"""Distillation on part of a batch: the distilled clips alone meet the teacher, the labelled ones alone the labels."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from had_snn.data.clips import ClipSampler
from had_snn.distill.hierarchy import distillation_for
from had_snn.distill.schedule import DistillSchedule
from had_snn.errors import InputError
from had_snn.models import student_tiny, teacher_tiny
from had_snn.train.tasks import StudentTask

sys.path.insert(0, str(Path(__file__).parent))
from drifting import drifting_sequence

CROPS = {"search_size": 96, "search_factor": 3.0, "windows": 2}


@pytest.fixture
def task() -> StudentTask:
    torch.manual_seed(0)
    student, teacher = student_tiny(), teacher_tiny()
    distillation = distillation_for("full", student.config.channels[2], teacher.config.dim)
    return StudentTask(student, distillation=distillation, teacher=teacher, schedule=DistillSchedule(until=10))


def batch_of(sampler: ClipSampler, count: int = 4):
    return sampler.collate([sampler[i] for i in range(count)])


def test_some_clips_are_distilled_and_the_others_stay_as_they_are():
    every = ClipSampler([drifting_sequence()], seed=2, **CROPS)
    some = ClipSampler([drifting_sequence()], seed=2, distill=DistillSchedule(3, until=5), **CROPS)
    assert [some.distill.includes(i) for i in range(8)] == [True, False, False, True, False, False, False, False]
    whole, part = batch_of(every), batch_of(some)
    assert whole.distilled is None
    assert part.distilled is not None
    assert part.distilled.tolist() == [0, 3]
    assert torch.equal(part.boxes, whole.boxes)
    assert part.search_image is not None
    assert whole.search_image is not None
    wanted = whole.search_image.unflatten(0, (2, 4))[:, [0, 3]]
    assert torch.equal(part.search_image.unflatten(0, (2, 2)), wanted)
    assert torch.equal(part.windows(1, 2).search_image, wanted[1])
    assert some.collate([some[5], some[6]]).search_image is None


def test_the_teacher_sees_the_distilled_clips_only(task):
    batch = batch_of(ClipSampler([drifting_sequence()], distill=DistillSchedule(3), **CROPS))
    seen = []
    task._teacher[0].register_forward_pre_hook(lambda module, given: seen.append(given))
    losses = task(batch)
    assert len(seen[0][0]) == 2
    assert len(seen[0][3]) == 2 * 2
    assert torch.equal(seen[0][2], batch.template_box[[0, 3]])
    losses["total"].backward()
    assert losses["distill/rate"] > 0


def test_a_distilled_clip_weighs_as_one_of_the_batch(task):
    sampler = ClipSampler([drifting_sequence()], **CROPS)
    batch, some = batch_of(sampler), batch_of(ClipSampler([drifting_sequence()], distill=DistillSchedule(4), **CROPS))
    task.eval()
    for clips, share in ((batch, 1.0), (some, 0.25)):
        task.steps.zero_()
        losses = task(clips)
        told = losses["focal"] + losses["rate_guard"] + 2 * losses["giou"] + 5 * losses["l1"]
        assert (losses["total"] - told).item() == pytest.approx(share * losses["distill/total"].item(), rel=1e-4)


def test_unlabelled_clips_are_distilled_and_meet_no_label(task):
    labelled, other = drifting_sequence(seed=1), drifting_sequence(seed=2)
    sampler = ClipSampler([labelled], unlabelled=[other], distill=DistillSchedule(2), **CROPS)
    clips = [sampler[i] for i in range(40)]
    assert all(clip.labelled for clip in clips[1::2])
    assert 4 < sum(not clip.labelled for clip in clips[::2]) < 18
    first = next(i for i in range(0, 40, 2) if not clips[i].labelled)
    batch = sampler.collate([clips[first], clips[1], clips[3]])
    assert batch.labelled is not None
    assert batch.labelled.tolist() == [False, True, True]
    moved = replace(batch, boxes=batch.boxes.clone())
    moved.boxes[:, 0] += 0.2
    task.eval()
    before, after = task(batch), task(moved)
    assert before["giou"] == after["giou"]
    assert before["focal"] == after["focal"]
    moved.boxes[:, 1] += 0.2
    assert task(moved)["giou"] != before["giou"]


def test_distillation_fades_and_the_teacher_rests_afterwards(task):
    weights = [task.schedule.weight(step) for step in range(12)]
    assert weights[0] == 1.0
    assert weights[:11] == sorted(weights[:11], reverse=True)
    assert weights[5] == pytest.approx(0.5)
    assert weights[10] == weights[11] == 0.0
    task.steps.fill_(10)
    assert "distill/total" not in task(batch_of(ClipSampler([drifting_sequence()], **CROPS)))


def test_answers_about_clips_that_come_again_are_kept(task):
    options = {"seed": 3, **CROPS}
    pooled = ClipSampler([drifting_sequence(seed=i) for i in range(3)], distill=DistillSchedule(2, pool=3), **options)
    fresh = ClipSampler([drifting_sequence(seed=i) for i in range(3)], distill=DistillSchedule(2), **options)
    assert [pooled[i].pool_number for i in range(0, 14, 2)] == [0, 1, 2, 0, 1, 2, 0]
    assert torch.equal(torch.from_numpy(pooled[0].search[0].image), torch.from_numpy(pooled[6].search[0].image))
    assert (pooled[1].search[0].box_cxcywh == fresh[1].search[0].box_cxcywh).all()
    asked = []
    task._teacher[0].register_forward_pre_hook(lambda module, given: asked.append(len(given[2])))
    task.eval()
    first = pooled.collate([pooled[i] for i in range(4)])
    task(first)
    task(pooled.collate([pooled[i] for i in range(4, 8)]))
    task.steps.zero_()
    again = task(pooled.collate([pooled[i] for i in (6, 1, 8, 3)]))
    assert asked == [2, 1], "clips 0 and 1 of the pool, then 2 alone"
    task._answers.clear()
    task.steps.zero_()
    torch.testing.assert_close(again["distill/total"], task(first)["distill/total"])


def test_the_schedule_counts_the_clips_of_all_processes_and_refuses_nonsense():
    schedule = DistillSchedule(every=2, until=3, clips_per_step=4)
    assert [i for i in range(20) if schedule.includes(i)] == [0, 2, 4, 6, 8, 10]
    assert schedule.pool_number(4) is None
    for name in ("every", "until", "pool", "clips_per_step"):
        with pytest.raises(InputError, match=f"{name}=0 must be at least 1"):
            DistillSchedule(**{name: 0})
