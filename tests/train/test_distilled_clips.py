"""Distillation on part of a batch: the distilled clips alone meet the teacher, the labelled ones alone the labels."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from drifting import GEOMETRY, drifting_sequence

from had_snn.data.clip_batch import collate
from had_snn.data.clips import ClipSampler
from had_snn.data.streaming import StreamingClips
from had_snn.distill.hierarchy import distillation_for
from had_snn.distill.schedule import DistillSchedule
from had_snn.errors import InputError
from had_snn.models import student_tiny, teacher_tiny
from had_snn.train.distillation import Distillation, TeacherAnswers
from had_snn.train.tasks import StudentTask


def clips(*seeds: int, **options) -> ClipSampler:
    return ClipSampler([drifting_sequence(seed=seed) for seed in seeds or (0,)], GEOMETRY, **options)


@pytest.fixture
def task() -> StudentTask:
    torch.manual_seed(0)
    student, teacher = student_tiny(), teacher_tiny()
    levels = distillation_for("full", student.config.channels[2], teacher.config.dim)
    return StudentTask(student, distillation=Distillation(levels, teacher, DistillSchedule(until=10)))


@pytest.fixture
def asked(task) -> list[tuple]:
    """What the teacher is shown, call by call."""
    seen = []
    task.distillation.answers.teacher.register_forward_pre_hook(lambda module, given: seen.append(given))
    return seen


def batch_of(sampler: ClipSampler, count: int = 4):
    return sampler.collate([sampler[i] for i in range(count)])


def test_some_clips_are_distilled_and_the_others_stay_as_they_are():
    every = clips(seed=2)
    some = clips(seed=2, distill=DistillSchedule(3, until=5))
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


def test_the_teacher_sees_the_distilled_clips_only(task, asked):
    batch = batch_of(clips(distill=DistillSchedule(3)))
    losses = task(batch)
    assert len(asked[0][0]) == 2
    assert len(asked[0][3]) == 2 * 2
    assert torch.equal(asked[0][2], batch.template_box[[0, 3]])
    losses["total"].backward()
    assert losses["distill/rate"] > 0


def test_a_distilled_clip_weighs_as_one_of_the_batch(task):
    sampler = clips()
    batch, some = batch_of(sampler), batch_of(clips(distill=DistillSchedule(4)))
    task.eval()
    for shown, share in ((batch, 1.0), (some, 0.25)):
        task.steps.zero_()
        losses = task(shown)
        told = losses["focal"] + losses["rate_guard"] + 2 * losses["giou"] + 5 * losses["l1"]
        assert (losses["total"] - told).item() == pytest.approx(share * losses["distill/total"].item(), rel=1e-4)


def test_unlabelled_clips_are_distilled_and_meet_no_label(task):
    labelled, other = drifting_sequence(seed=1), drifting_sequence(seed=2)
    sampler = ClipSampler([labelled], GEOMETRY, unlabelled=[other], distill=DistillSchedule(2))
    drawn = [sampler[i] for i in range(40)]
    assert all(clip.labelled for clip in drawn[1::2])
    assert 4 < sum(not clip.labelled for clip in drawn[::2]) < 18
    first = next(i for i in range(0, 40, 2) if not drawn[i].labelled)
    batch = sampler.collate([drawn[first], drawn[1], drawn[3]])
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
    weights = [task.distillation.schedule.weight(step) for step in range(12)]
    assert weights[0] == 1.0
    assert weights[:11] == sorted(weights[:11], reverse=True)
    assert weights[5] == pytest.approx(0.5)
    assert weights[10] == weights[11] == 0.0
    task.steps.fill_(10)
    assert "distill/total" not in task(batch_of(clips()))


def test_answers_about_clips_of_a_pool_are_kept(task, asked):
    pooled = clips(0, 1, 2, seed=3, distill=DistillSchedule(2, pool=3))
    fresh = clips(0, 1, 2, seed=3, distill=DistillSchedule(2))
    assert [pooled[i].pool_number for i in range(0, 14, 2)] == [0, 1, 2, 0, 1, 2, 0]
    assert torch.equal(torch.from_numpy(pooled[0].search[0].image), torch.from_numpy(pooled[6].search[0].image))
    assert (pooled[1].search[0].box_cxcywh == fresh[1].search[0].box_cxcywh).all()
    task.eval()
    first = pooled.collate([pooled[i] for i in range(4)])
    task(first)
    task(pooled.collate([pooled[i] for i in range(4, 8)]))
    task.steps.zero_()
    again = task(pooled.collate([pooled[i] for i in (6, 1, 8, 3)]))
    assert [len(given[2]) for given in asked] == [1, 1, 1], "each clip of the pool once"
    task.distillation.answers = TeacherAnswers(task.distillation.answers.teacher)
    task.steps.zero_()
    torch.testing.assert_close(again["distill/total"], task(first)["distill/total"])


def test_the_teacher_is_asked_at_the_end_of_every_micro_step(asked, task):
    torch.manual_seed(0)
    student = task.student
    levels = distillation_for("membrane_steps", student.config.channels[2], 96)
    task.distillation = Distillation(levels, task.distillation.answers.teacher)
    batch = batch_of(clips(micro_steps=student.config.n_steps), 2)
    said = task.distillation.answers.about(batch)
    assert len(asked) == student.config.n_steps
    assert said.step_features is not None
    assert said.step_features.shape == (2, 2, student.config.n_steps, *said.features.shape[2:])
    assert torch.equal(said.step_features[:, :, -1], said.features)
    assert (said.step_features[:, :, 0] != said.features).any()
    assert all(torch.equal(given[3], batch.search_image) for given in asked), "the same frame"
    losses = task(batch)
    losses["total"].backward()
    assert losses["distill/membrane_steps"] > 0
    with pytest.raises(InputError, match="needs the teacher's features at each micro-step's end"):
        task(batch_of(clips(), 2))


def test_answers_about_a_pool_do_not_depend_on_the_batch_they_came_with(task):
    """A run that is gone on with, and the rehearsal of one, ask about a clip in other company."""
    pooled = clips(0, 1, 2, seed=3, distill=DistillSchedule(pool=5))
    answers, alone = task.distillation.answers, TeacherAnswers(task.distillation.answers.teacher)
    together = answers.about(batch_of(pooled))
    for i in range(4):
        said = alone.about(pooled.collate([pooled[i]]))
        for name in ("features", "score_logits", "boxes"):
            assert torch.equal(getattr(together, name)[:, i], getattr(said, name)[:, 0])


def test_answers_are_kept_for_each_piece_of_a_clip(task):
    sequence, distill = [drifting_sequence()], DistillSchedule(pool=2)
    batch = collate([StreamingClips(sequence, GEOMETRY, grid=12, windows=4, distill=distill)[i] for i in range(2)])
    answers, whole = task.distillation.answers, TeacherAnswers(teacher_tiny())
    whole.teacher = answers.teacher
    pieces = [batch.windows(0, 2), batch.windows(2, 4)]
    for _ in range(2):
        said = torch.cat([answers.about(piece).boxes for piece in pieces])
        torch.testing.assert_close(said, whole.about(batch).boxes)


def test_the_teacher_is_no_part_of_what_is_trained_or_copied(task):
    parts = {name.split(".")[0] for name in task.state_dict()}
    assert parts == {"student", "distillation", "steps"}
    assert {name.split(".")[1] for name in task.state_dict() if name.startswith("distillation.")} == {"levels"}
    assert copy.deepcopy(task).distillation.answers is task.distillation.answers
    teacher = task.train().distillation.answers.teacher
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_schedule_counts_the_clips_of_all_processes_and_refuses_nonsense():
    schedule = DistillSchedule(every=2, until=3, clips_per_step=4)
    assert [i for i in range(20) if schedule.includes(i)] == [0, 2, 4, 6, 8, 10]
    assert schedule.pool_number(4) is None
    for name in ("every", "until", "pool", "clips_per_step"):
        with pytest.raises(InputError, match=f"{name}=0 must be at least 1"):
            DistillSchedule(**{name: 0})
