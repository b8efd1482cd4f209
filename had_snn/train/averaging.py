"""What shapes an optimiser's path: the schedule, which parameters decay, and the running average of the weights."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from had_snn.train.config import FitConfig


def parameter_groups(task: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits parameters into decayed ones (two or more dimensions) and the rest."""
    decayed = [p for p in task.parameters() if p.requires_grad and p.ndim >= 2]
    plain = [p for p in task.parameters() if p.requires_grad and p.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def learning_rate_at(step: int, config: FitConfig) -> float:
    """Linear warm-up to the peak over `warmup` steps, then a half cosine to zero at `iterations`."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.iterations - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def part_of_the_way(before: nn.Module, after: nn.Module, share: float) -> nn.Module:
    """A network between one and what became of it by more training, running statistics included.

    What is learnt on top moves the weights little, and between them lies a network that knows most of the new and has
    forgotten little of the old (WiSE-FT; Wortsman et al., arXiv 2109.01903).

    Args:
        before: The network it was.
        after: The same network, trained on.
        share: How far to go, from 0 (`before`) to 1 (`after`).

    Returns:
        A copy of `after` with those weights.
    """
    between = copy.deepcopy(after)
    for value, first in zip(between.state_dict().values(), before.state_dict().values(), strict=True):
        if value.dtype.is_floating_point:
            value.copy_(torch.lerp(first.to(value), value, share))
    return between


class WeightAverage:
    """Exponential moving average of everything in a module's state, running statistics included.

    Args:
        module: The module that is trained.
        decay: Decay once warmed up; at step `n` it is `min(decay, (1 + n) / (10 + n))`.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Moves the average towards the module's present state."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mean, value in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value.to(mean.dtype), 1 - decay)
            else:
                mean.copy_(value)
