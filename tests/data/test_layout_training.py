"""Networks on data sets on disk: clips, one step of training of teacher and student, a short evaluation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from had_snn.data.clips import ClipGeometry, ClipSampler
from had_snn.data.tiny_layouts import TINY
from had_snn.distill.hierarchy import distillation_for
from had_snn.evaluate.one_pass import evaluate_tracker
from had_snn.models import student_tiny, teacher_tiny
from had_snn.tracking import OnlineTracker, TeacherTracker
from had_snn.train.distillation import Distillation
from had_snn.train.tasks import StudentTask, TeacherTask

WITHOUT_RGB = ("eventvot", "esot500_h")


@pytest.fixture
def networks():
    torch.manual_seed(0)
    return student_tiny(), teacher_tiny()


@pytest.mark.parametrize("name", TINY)
def test_one_step_of_teacher_and_student_and_a_short_evaluation(name, tiny, networks):
    student, teacher = networks
    layout = tiny(name).open()
    clips = ClipSampler(layout.sequences("train"), ClipGeometry.of(student.config))
    assert ("rgb" in clips.modalities) == (name not in WITHOUT_RGB)
    batch = clips.collate([clips[i] for i in range(2)])
    assert len(batch.search_events.t) > 0
    assert (batch.search_image is None) == (name in WITHOUT_RGB)
    if batch.search_image is not None:
        assert float(batch.search_image.std()) > 0.01

    step(TeacherTask(teacher), batch)
    levels = distillation_for("full", student.config.channels[2], teacher.config.dim)
    step(StudentTask(student, distillation=Distillation(levels, teacher)), batch)

    shown = layout.sequences("test")[0]
    columns = {
        c: getattr(shown, c)[:: 40 if len(shown) > 100 else 1] for c in ("label_times_us", "boxes_xywh", "visible")
    }
    short = replace(shown, **{c: values[:6] for c, values in columns.items()})
    for tracker in (OnlineTracker(student), TeacherTracker(teacher)):
        result = evaluate_tracker(tracker, [short], resamples=0)
        boxes = result.results[0].boxes_xywh
        assert boxes.shape == (len(short), 4)
        assert np.isfinite(boxes).all()
        assert 0 <= result.scores["SR"] <= 100


def step(task: torch.nn.Module, batch) -> None:
    """One step of an optimiser, which changes the network."""
    parameters = [p for p in task.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    losses = task(batch)
    assert torch.isfinite(losses["total"])
    losses["total"].backward()
    optimizer.step()
    assert any((p != b).any() for p, b in zip(parameters, before, strict=True))
