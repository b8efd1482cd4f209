"""The weighing of the levels, the modes of the ablation, and what is trained and checkpointed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from had_snn.distill.hierarchy import (
    FORMS,
    LEVELS,
    MODES,
    TRAINS_ALIGNMENT,
    HierarchicalDistillation,
    StudentSignals,
    TeacherSignals,
    distillation_for,
)
from had_snn.errors import InputError

WINDOWS, STEPS, CLIPS, CHANNELS, DIM = 2, 3, 2, 5, 6


def some_boxes() -> torch.Tensor:
    return torch.tensor([0.5, 0.5, 0.25, 0.25]) + 0.05 * torch.randn(WINDOWS, CLIPS, 4)


def signals(*, requires_grad: bool = False) -> dict:
    """Keyword arguments of a distillation module; the teacher's boxes are the labels."""
    torch.manual_seed(0)
    labels = some_boxes()
    student = StudentSignals(
        membranes=torch.randn(STEPS, WINDOWS, CLIPS, CHANNELS, 8, 8).transpose(0, 1),
        rates=torch.rand(WINDOWS, CLIPS, CHANNELS, 8, 8),
        score_logits=torch.randn(WINDOWS, CLIPS, 8, 8),
        boxes=some_boxes(),
        box_maps=some_boxes()[..., None, None] + 0.05 * torch.randn(WINDOWS, CLIPS, 4, 8, 8),
    )
    teacher = TeacherSignals(
        features=torch.randn(WINDOWS, CLIPS, DIM, 4, 4),
        score_logits=torch.randn(WINDOWS, CLIPS, 4, 4),
        boxes=labels,
        step_features=torch.randn(WINDOWS, CLIPS, STEPS, DIM, 4, 4),
    )
    if requires_grad:
        for record in (student, teacher):
            for field in dataclasses.fields(record):
                getattr(record, field.name).requires_grad_()
    return {"student": student, "teacher": teacher, "boxes": labels.detach(), "visible": torch.ones(WINDOWS, CLIPS)}


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
def test_every_mode_gives_finite_losses_and_trains_the_student(mode):
    distillation = distillation_for(mode, CHANNELS, DIM)
    given = signals(requires_grad=True)
    named = distillation(**given)
    named["total"].backward()
    assert all(torch.isfinite(value) for value in named.values())
    reached = {f.name for f in dataclasses.fields(StudentSignals) if getattr(given["student"], f.name).grad is not None}
    wanted = {
        "membrane": {"membranes"},
        "rate": {"rates"},
        "response": {"score_logits", "box_maps"},
        "full": {"membranes", "rates", "score_logits", "box_maps"},
        "plain": {"rates", "score_logits"},
        "public": {"rates", "score_logits"},
        "membrane_steps": {"membranes"},
        "localisation": {"score_logits", "box_maps", "rates"},
    }
    assert reached == wanted[mode]
    assert all(getattr(given["teacher"], f.name).grad is None for f in dataclasses.fields(TeacherSignals))


def test_none_is_nothing():
    assert distillation_for("none", CHANNELS, DIM) is None


def test_total_is_the_weighted_sum():
    weights = {"membrane": 0.3, "rate": 2.0, "response": 5.0, "membrane_steps": 0.7, "localisation": 0.2}
    named = HierarchicalDistillation(CHANNELS, DIM, levels=tuple(weights), weights=weights)(**signals())
    wanted = sum(weight * named[level] for level, weight in weights.items())
    wanted = wanted + sum(weights[level] * named[name] for level, name in TRAINS_ALIGNMENT.items())
    torch.testing.assert_close(named["total"], wanted)


@pytest.mark.parametrize("level", [*LEVELS, *FORMS])
def test_a_level_brings_its_own_modules_only(level):
    distillation = HierarchicalDistillation(CHANNELS, DIM, levels=(level,))
    assert {name.split(".")[0] for name in distillation.state_dict()} <= {level}
    assert level in distillation(**signals())


def test_alignment_is_trained_and_restored():
    torch.manual_seed(1)
    distillation = HierarchicalDistillation(CHANNELS, DIM)
    untrained = {name: value.clone() for name, value in distillation.state_dict().items()}
    optimiser = torch.optim.Adam(distillation.parameters(), lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        distillation(**signals())["total"].backward()
        optimiser.step()
    for name, value in distillation.state_dict().items():
        assert not torch.equal(untrained[name], value), name
    other = HierarchicalDistillation(CHANNELS, DIM)
    other.load_state_dict(distillation.state_dict())
    torch.testing.assert_close(other.eval()(**signals())["total"], distillation.eval()(**signals())["total"])


def test_nothing_visible_teaches_nothing():
    given = {**signals(requires_grad=True), "visible": torch.zeros(WINDOWS, CLIPS)}
    HierarchicalDistillation(CHANNELS, DIM)(**given)["total"].backward()
    student = given["student"]
    assert all((t.grad == 0).all() for t in (student.membranes, student.rates, student.score_logits, student.box_maps))


def test_runs_under_autocast_in_full_precision():
    distillation = HierarchicalDistillation(CHANNELS, DIM).eval()
    plain = distillation(**signals())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = distillation(**signals())
    assert all(torch.equal(plain[name], cast[name]) for name in plain)


def test_half_precision_signals_are_accepted():
    given = signals()
    halved = {
        name: type(record)(*(getattr(record, f.name).bfloat16() for f in dataclasses.fields(record)))
        for name, record in given.items()
        if name in ("student", "teacher")
    }
    total = HierarchicalDistillation(CHANNELS, DIM)(**{**given, **halved})["total"]
    assert total.dtype == torch.float32
    assert torch.isfinite(total)


def test_membranes_of_another_layer():
    given = signals()
    student = dataclasses.replace(given["student"], membranes=torch.randn(WINDOWS, STEPS, CLIPS, 9, 8, 8))
    HierarchicalDistillation(CHANNELS, DIM, membrane_channels=9)(**{**given, "student": student})


def test_refuses_unknown_names_and_unfit_shapes():
    with pytest.raises(InputError, match="unknown distillation level spikes"):
        HierarchicalDistillation(CHANNELS, DIM, levels=("spikes",))
    with pytest.raises(InputError, match="unknown distillation level spikes"):
        HierarchicalDistillation(CHANNELS, DIM, weights={"spikes": 1.0})
    with pytest.raises(InputError, match="unknown distillation mode half"):
        distillation_for("half", CHANNELS, DIM)
    given = signals()
    for name, mode in (("student", "membrane"), ("teacher", "membrane_steps")):
        lacking = dataclasses.replace(given[name], **{"membranes" if name == "student" else "step_features": None})
        with pytest.raises(InputError, match="found none"):
            distillation_for(mode, CHANNELS, DIM)(**{**given, name: lacking})
    swapped = dataclasses.replace(given["student"], membranes=given["student"].membranes.transpose(0, 1))
    with pytest.raises(InputError, match="student membranes have shape"):
        HierarchicalDistillation(CHANNELS, DIM)(**{**given, "student": swapped})
