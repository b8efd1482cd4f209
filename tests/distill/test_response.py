"""Response level: minimal at the teacher's answer, silent when the teacher is no better than the student."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from had_snn.distill.response import (
    ResponseDistillation,
    ResponseOptions,
    regression_weight,
    score_distribution,
    score_divergence,
    teacher_quality,
)

LABEL = torch.tensor([0.5, 0.5, 0.2, 0.2])


def shifted(dx: float) -> torch.Tensor:
    return LABEL + torch.tensor([dx, 0.0, 0.0, 0.0])


def respond(student_logits, student_boxes, teacher_logits, teacher_boxes, *, boxes=None, visible=None, **options):
    """The level on `[K, B]` windows, all labelled `LABEL` unless said."""
    shape = student_logits.shape[:2]
    maps = student_boxes[..., None, None].expand(-1, -1, -1, *student_logits.shape[2:])
    return ResponseDistillation(options=ResponseOptions(**options))(
        student_logits,
        student_boxes,
        maps,
        teacher_logits=teacher_logits,
        teacher_boxes=teacher_boxes,
        boxes=LABEL.expand(*shape, 4) if boxes is None else boxes,
        visible=torch.ones(shape) if visible is None else visible,
    )


@given(st.integers(0, 10_000), st.floats(0.5, 4.0), st.floats(-5, 5))
@settings(max_examples=30)
def test_divergence_is_minimal_exactly_at_the_teachers_map(seed, temperature, offset):
    draw = torch.Generator().manual_seed(seed)
    teacher = 2 * torch.randn(2, 6, 6, generator=draw)
    here = (teacher + offset).requires_grad_()
    value = score_divergence(here, teacher, temperature=temperature)
    assert value.abs().max() < 1e-4
    (gradient,) = torch.autograd.grad(value.sum(), here)
    assert gradient.abs().max() < 1e-5
    elsewhere = teacher + torch.randn(2, 6, 6, generator=draw)
    assert (score_divergence(elsewhere, teacher, temperature=temperature) > value + 1e-5).all()


def test_descent_finds_the_teachers_map():
    torch.manual_seed(0)
    teacher = 2 * torch.randn(1, 5, 5)
    student = torch.zeros(1, 5, 5, requires_grad=True)
    optimiser = torch.optim.Adam([student], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        score_divergence(student, teacher, temperature=2.0).sum().backward()
        optimiser.step()
    found = score_distribution(student.detach(), (5, 5), temperature=1.0)
    torch.testing.assert_close(found, score_distribution(teacher, (5, 5), temperature=1.0), atol=5e-3, rtol=0)


def test_halving_a_grid_adds_up_probabilities():
    logits = torch.randn(3, 8, 8)
    fine = score_distribution(logits, (8, 8), temperature=1.0).view(3, 4, 2, 4, 2).sum(dim=(2, 4)).flatten(1)
    torch.testing.assert_close(score_distribution(logits, (4, 4), temperature=1.0), fine)


@pytest.mark.parametrize("grid_hw", [(16, 16), (5, 7), (8, 16)])
def test_any_grid_gets_a_distribution(grid_hw):
    out = score_distribution(torch.randn(2, 8, 8), grid_hw, temperature=1.0)
    assert out.shape == (2, grid_hw[0] * grid_hw[1])
    torch.testing.assert_close(out.sum(dim=1), torch.ones(2))


def test_quality_is_zero_for_a_worse_teacher_and_grows_with_its_lead():
    leads = [0.15, 0.1, 0.08, 0.06, 0.05, 0.04, 0.0]
    student = shifted(0.05)
    quality = torch.stack([teacher_quality(shifted(dx), student, LABEL, margin=0.1) for dx in leads])
    assert (quality[:5] == 0).all()
    assert (quality[5:] > 0).all()
    assert quality[6] > quality[5]
    assert quality[6] == pytest.approx(1.0)


def test_a_teacher_worse_than_the_student_teaches_nothing():
    logits = torch.randn(2, 3, 6, 6, requires_grad=True)
    boxes = shifted(0.03).expand(2, 3, 4).clone().requires_grad_()
    out = respond(logits, boxes, torch.randn(2, 3, 6, 6), shifted(0.08).expand(2, 3, 4))
    out["response"].backward()
    assert out["response"] == 0
    assert out["teacher_weight"] == 0
    assert (logits.grad == 0).all()
    assert (boxes.grad == 0).all()


def test_a_better_teacher_pulls_score_and_box():
    logits = torch.zeros(1, 1, 6, 6, requires_grad=True)
    boxes = shifted(0.08).expand(1, 1, 4).clone().requires_grad_()
    teacher_logits = torch.full((1, 1, 6, 6), -3.0)
    teacher_logits[..., 2, 3] = 3.0
    out = respond(logits, boxes, teacher_logits, shifted(0.01).expand(1, 1, 4))
    out["response"].backward()
    assert logits.grad[0, 0].argmin() == 2 * 6 + 3
    assert boxes.grad[0, 0, 0] > 0, "the box must move left"


def test_cells_regress_where_the_teacher_sees_the_target_wherever_the_student_looks():
    teacher_logits = torch.full((1, 1, 6, 6), -6.0)
    teacher_logits[..., 2, 3], teacher_logits[..., 2, 4] = 3.0, 1.0
    student_logits = torch.zeros(1, 1, 6, 6)
    student_logits[..., 5, 0] = 4.0
    maps = shifted(0.08)[:, None, None].expand(1, 1, 4, 6, 6).clone().requires_grad_()
    out = ResponseDistillation()(
        student_logits,
        shifted(0.3).expand(1, 1, 4),
        maps,
        teacher_logits=teacher_logits,
        teacher_boxes=shifted(0.0).expand(1, 1, 4),
        boxes=LABEL.expand(1, 1, 4),
        visible=torch.ones(1, 1),
    )
    (out["response_giou"] + out["response_l1"]).backward()
    touched = maps.grad.abs().sum(dim=2)[0, 0] > 0
    assert touched.nonzero().tolist() == [[2, 3], [2, 4]]
    assert maps.grad[0, 0, 0, 2, 3] > maps.grad[0, 0, 0, 2, 4] > 0


@pytest.mark.parametrize("grid_hw", [(6, 6), (12, 12), (3, 3)])
def test_regression_weights_sum_to_one_on_any_grid(grid_hw):
    weight = regression_weight(2 * torch.randn(3, 6, 6), grid_hw)
    assert weight.shape == (3, *grid_hw)
    torch.testing.assert_close(weight.sum(dim=(1, 2)), torch.ones(3))


def test_total_is_the_weighted_sum_of_its_terms():
    out = respond(
        torch.randn(2, 2, 6, 6),
        shifted(0.06).expand(2, 2, 4),
        torch.randn(2, 2, 6, 6),
        shifted(0.0).expand(2, 2, 4),
        kl=0.5,
        giou=2.0,
        l1=3.0,
    )
    wanted = 0.5 * out["response_kl"] + 2 * out["response_giou"] + 3 * out["response_l1"]
    torch.testing.assert_close(out["response"], wanted)


def test_unseen_windows_weigh_nothing_whatever_their_label():
    logits = torch.randn(1, 2, 6, 6, requires_grad=True)
    student = shifted(0.06).expand(1, 2, 4).clone().requires_grad_()
    labels = LABEL.expand(1, 2, 4).clone()
    labels[0, 1] = torch.nan
    out = respond(
        logits,
        student,
        torch.randn(1, 2, 6, 6),
        LABEL.expand(1, 2, 4),
        boxes=labels,
        visible=torch.tensor([[1.0, 0.0]]),
    )
    out["response"].backward()
    assert torch.isfinite(out["response"])
    assert (logits.grad[0, 1] == 0).all()
    assert (student.grad[0, 1] == 0).all()
    assert logits.grad[0, 0].abs().sum() > 0


def test_a_rarely_better_teacher_says_little():
    student = shifted(0.06).expand(1, 4, 4)
    teacher = shifted(0.1).expand(1, 4, 4).clone()
    logits, guide = torch.randn(1, 1, 6, 6).expand(1, 4, 6, 6), torch.randn(1, 1, 6, 6).expand(1, 4, 6, 6)
    teacher[0, 0] = LABEL
    once = respond(logits, student, guide, teacher)["response"]
    always = respond(logits, student, guide, LABEL.expand(1, 4, 4))["response"]
    torch.testing.assert_close(once * 4, always)
