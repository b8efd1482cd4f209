"""Fitting norms to another number of micro-steps: only norms change, and the student fires as it did."""

from __future__ import annotations

import pytest
import torch
from drifting import drifting_sequence

from had_snn.data.clips import ClipGeometry, ClipSampler
from had_snn.models import student_tiny
from had_snn.models.neurons import BatchNorm
from had_snn.models.step_norms import norm_numbers
from had_snn.train.loop import FitConfig, fit
from had_snn.train.norm_fitting import NormFit, fit_norms
from had_snn.train.tasks import StudentTask


@pytest.fixture
def clip_sampler() -> ClipSampler:
    sequences = [drifting_sequence(seed=seed) for seed in range(3)]
    return ClipSampler(sequences, ClipGeometry.of(student_tiny().config), modalities=("events",))


def test_only_norms_change(clip_sampler):
    torch.manual_seed(0)
    student = student_tiny()
    student.norms_at = {8: norm_numbers(student)}
    before = {name: value.clone() for name, value in student.state_dict().items()}
    told: list[tuple[int, int]] = []
    how = NormFit(statistics=3, iterations=2, batch_size=2)
    numbers = fit_norms(student, clip_sampler, 16, how, progress=lambda *at: told.append(at))
    assert told == [(i, 8) for i in range(8)]
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert student.norms_at.keys() == {8}
    assert numbers.keys() == norm_numbers(student).keys()
    changed = {name for name, part in numbers.items() if not torch.equal(part, before[name])}
    # Weights that start at 1 and biases that start at 0 have moved; so have all statistics.
    assert changed == numbers.keys()


def test_statistics_are_those_of_the_clips_cut_into_that_many_micro_steps(clip_sampler):
    torch.manual_seed(0)
    student, how = student_tiny(), NormFit(statistics=2, iterations=0, batch_size=2)
    numbers = fit_norms(student, clip_sampler, 8, how)
    currents = []
    for first in (4, 6):
        batch = clip_sampler.collate([clip_sampler[i] for i in (first, first + 1)])
        for events in (batch.template_events, batch.search_events):
            counts = student.stem(events, n_steps=8)[0].detach()
            currents.append(student.backbone.conv1.conv(counts.flatten(0, 1)))
    means = torch.stack([current.mean(dim=(0, 2, 3)) for current in currents]).mean(dim=0)
    torch.testing.assert_close(numbers["backbone.conv1.norm.running_mean"], means.detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(numbers["backbone.conv1.norm.weight"], torch.ones(len(means)))


def test_training_by_one_process_runs_the_students_own_norms(clip_sampler, tmp_path):
    """Norms that keep their output, and not those that many processes share."""
    student = student_tiny()
    fit(StudentTask(student), clip_sampler, FitConfig(iterations=1, batch_size=1), run_dir=tmp_path)
    norms = [module for module in student.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {type(norm) for norm in norms} == {BatchNorm}
