"""Norms for other numbers of micro-steps: which set is taken, what lies between two, and what a file holds."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from had_snn.checkpoint import load_student, save_weights
from had_snn.errors import CheckpointError
from had_snn.models import SpikingTracker, StudentConfig
from had_snn.models.step_norms import norm_numbers, norms_between, pack, unpack

SMALL = StudentConfig(stem_channels=4, channels=(6, 8, 8), template_size=40, search_size=64, match_kernel=3)


def fitted_student() -> SpikingTracker:
    """Norms at 2, 8 and 32 micro-steps, all numbers of which are that number."""
    torch.manual_seed(0)
    student = SpikingTracker(SMALL).eval()
    for count in (2, 8, 32):
        student.norms_at[count] = {
            name: torch.full_like(part, float(count)) for name, part in norm_numbers(student).items()
        }
    return student


def test_a_fitted_number_takes_its_own_norms_and_leaves_the_student_alone():
    student = fitted_student()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    other = student.at_steps(8)
    assert other.config.n_steps == 8
    assert other.norms_at == {}
    assert all(bool((part == 8).all()) for part in norm_numbers(other).values())
    assert torch.equal(other.backbone.conv1.conv.weight, student.backbone.conv1.conv.weight)
    assert student.at_steps(4) is student
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize(("count", "expected"), [(16, 20.0), (8, 8.0), (32, 32.0), (64, 32.0), (1, 2.0)])
def test_between_two_numbers_lie_those_by_the_logarithm(count: int, expected: float):
    found = norms_between({steps: {"w": torch.tensor([float(steps)])} for steps in (2, 8, 32)}, count)
    assert found["w"].item() == pytest.approx(expected)


def test_the_trained_norms_are_among_those_that_are_mixed():
    student = fitted_student()
    own, mixed = norm_numbers(student), norm_numbers(student.at_steps(6))
    share = math.log(6 / 4) / math.log(8 / 4)
    for name, part in mixed.items():
        torch.testing.assert_close(part, own[name] + share * (8 - own[name]))


def test_a_number_beyond_what_was_fitted_is_told(caplog):
    with caplog.at_level(logging.WARNING, "had_snn"):
        fitted_student().at_steps(16)
        assert not caplog.records
        fitted_student().at_steps(33)
        SpikingTracker(SMALL).at_steps(5)
    first, second = (record.getMessage() for record in caplog.records)
    assert "fit windows of 2, 4, 8, 32 micro-steps, not 33" in first
    assert "fit windows of 4 micro-steps, not 5" in second
    assert "fit_steps checkpoint=PATH steps=[5]" in second


def test_norms_come_back_from_a_file(tmp_path):
    student = fitted_student()
    save_weights(tmp_path / "s.safetensors", student, half=True)
    again = load_student(tmp_path / "s.safetensors", n_steps=16)
    assert all(bool((part == 20).all()) for part in norm_numbers(again).values())
    assert load_student(tmp_path / "s.safetensors").norms_at.keys() == {2, 8, 32}


def test_norms_of_another_network_and_wrong_names_are_refused():
    student = fitted_student()
    for bad in ({}, {"backbone.conv1.norm.weight": torch.ones(5)}, {"other.weight": torch.ones(6)}):
        wrong = {8: {**student.norms_at[8], **bad} if bad else {"backbone.conv1.norm.weight": torch.ones(6)}}
        with pytest.raises(CheckpointError, match="norms for 8 micro-steps are those of another network"):
            unpack(pack(wrong), student)
    for name in ("norms_at.x.norm.weight", "norms_at.0.norm.weight", "norms_at.-1.norm.weight"):
        with pytest.raises(CheckpointError, match="expected a number of micro-steps"):
            unpack({name: torch.ones(1)}, student)
