"""The comparisons: plain distillation learns, the published forms keep their faults."""

from __future__ import annotations

import torch

from had_snn.distill.comparisons import PlainDistillation, PublicCodeDistillation, centre_focal, single_point_transport
from had_snn.distill.signals import StudentSignals, TeacherSignals


def arguments(rates: torch.Tensor, features: torch.Tensor, score: torch.Tensor) -> dict:
    windows, clips = rates.shape[:2]
    boxes = torch.tensor([0.5, 0.5, 0.25, 0.25]).expand(windows, clips, 4)
    maps = boxes[..., None, None].expand(-1, -1, 4, *score.shape[2:])
    return {
        "student": StudentSignals(torch.zeros(windows, 1, clips, 1, 2, 2), rates, score, boxes, maps),
        "teacher": TeacherSignals(features, score, boxes),
        "boxes": boxes,
        "visible": torch.ones(windows, clips),
    }


def test_plain_form_falls_to_zero_on_a_student_that_can_copy():
    torch.manual_seed(0)
    plain = PlainDistillation(4, 4)
    features = torch.randn(2, 3, 4, 6, 6)
    rates = torch.nn.functional.layer_norm(features.movedim(2, -1), (4,)).movedim(-1, 2)
    given = arguments(rates, features, torch.randn(2, 3, 6, 6))
    optimiser = torch.optim.Adam(plain.parameters(), lr=0.1)
    for _ in range(120):
        optimiser.zero_grad()
        named = plain(**given)
        named["total"].backward()
        optimiser.step()
    assert named["total"] < 1e-2


def test_published_grus_are_never_trained_and_always_the_same():
    one, other = PublicCodeDistillation(4, 6), PublicCodeDistillation(4, 6)
    assert {name for name, p in one.named_parameters() if p.requires_grad} == {"project.weight", "project.bias"}
    torch.testing.assert_close(one.teacher_gru.weight_hh_l0, other.teacher_gru.weight_hh_l0)


def test_published_transport_is_a_plain_distance():
    maps = torch.zeros(3, 16, 16)
    maps[0, 8, 2] = maps[1, 8, 3] = maps[2, 8, 14] = 0.5
    near, far = (single_point_transport(maps[i : i + 1], maps[:1]) for i in (1, 2))
    torch.testing.assert_close(near, far)
    # The value that was computed for one-cell peaks of a halved map.
    torch.testing.assert_close(near, torch.tensor(0.00357), atol=1e-5, rtol=0)


def test_published_response_prefers_silence_to_the_teachers_map():
    torch.manual_seed(0)
    teacher = torch.rand(2, 8, 8) / 2
    assert centre_focal(torch.zeros(2, 8, 8), teacher) < centre_focal(teacher, teacher)


def test_published_total_has_its_fixed_weights():
    torch.manual_seed(0)
    public = PublicCodeDistillation(4, 6)
    named = public(**arguments(torch.rand(2, 2, 4, 4, 4), torch.randn(2, 2, 6, 4, 4), torch.randn(2, 2, 4, 4)))
    wanted = sum(weight * named[name] for name, weight in public.WEIGHTS.items())
    torch.testing.assert_close(named["total"], wanted)
