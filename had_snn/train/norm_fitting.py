"""Fits a trained student's norms to another number of micro-steps; all its other numbers stay what they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from had_snn.data.clips import ClipSampler
from had_snn.models import SpikingTracker
from had_snn.models.step_norms import NormNumbers, norm_numbers
from had_snn.train.tasks import StudentTask


@dataclass(frozen=True)
class NormFit:
    """How norms are fitted.

    Attributes:
        statistics: Batches that the mean and the variance of each norm are taken from, before and after the rest.
        iterations: Steps in which weight and bias of each norm learn from the labels, as in training.
        batch_size: Clips of a batch.
        learning_rate: Of the first steps; it falls to 0 along a cosine.
    """

    statistics: int = 40
    iterations: int = 600
    batch_size: int = 8
    learning_rate: float = 3e-3


#: Steps until the full learning rate.
_WARMUP = 20


def fit_norms(
    student: SpikingTracker,
    clips: ClipSampler,
    count: int,
    how: NormFit = NormFit(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> NormNumbers:
    """The numbers of a student's norms for windows of `count` micro-steps.

    Args:
        student: A trained student, which is left as it is.
        clips: Clips with labels.
        count: Micro-steps of a window.
        how: Batches, steps and learning rate.
        progress: Called with the batches read so far and their number.
    """
    fitting = student.at_steps(count, unfitted=True).requires_grad_(requires_grad=False)
    task = StudentTask(fitting).train()
    norms = [module for module in fitting.modules() if isinstance(module, nn.BatchNorm2d)]
    numbers = iter(range(total := 2 * how.statistics + how.iterations))

    def loss() -> torch.Tensor:
        number = next(numbers)
        if progress is not None:
            progress(number, total)
        first = number * how.batch_size
        return task(clips.collate([clips[i] for i in range(first, first + how.batch_size)]))["total"]

    def take_statistics() -> None:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean of all batches
        with torch.no_grad():
            for _ in range(how.statistics):
                loss()

    take_statistics()
    for norm in norms:
        norm.requires_grad_()
    optimizer = torch.optim.AdamW([p for norm in norms for p in norm.parameters()], weight_decay=0.0)
    for step in range(how.iterations):
        share = min(1.0, (step + 1) / _WARMUP) * (1 + math.cos(math.pi * step / how.iterations)) / 2
        for group in optimizer.param_groups:
            group["lr"] = how.learning_rate * share
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
    take_statistics()
    return norm_numbers(fitting)
