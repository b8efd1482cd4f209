"""What watches over a run: losses that are not finite, layers that are silent or never rest."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.errors import HadError
from had_snn.files import atomic_file
from had_snn.processes import shared_mean

#: A layer with fewer spikes per neuron and micro-step is dead; it passes on next to nothing and hardly learns.
DEAD_RATE = 1e-3
#: A clocked layer with more is saturated: it says the same whatever comes in. The stem counts and has no such limit.
SATURATED_RATE = 0.9


class NonFiniteLossError(HadError):
    """The loss became infinite or NaN; the batch was saved for inspection."""


@dataclass(frozen=True)
class RateGuard:
    """A penalty on layers whose mean spikes per neuron and micro-step leave a range: they hardly learn.

    Attributes:
        weight: Of the penalty in the total loss.
        low: Lower end of the range.
        high: Its upper end; the stem, which counts, has none.
    """

    weight: float = 1.0
    low: float = 0.01
    high: float = 0.4

    def penalty(self, spikes: dict[str, Tensor], rates: dict[str, Tensor]) -> Tensor:
        """Squared distance of each layer's rate from the range, relative to its nearer end; unweighted.

        Args:
            spikes: `[T, N, C, H, W]` by layer.
            rates: Their `mean_rates`, without gradient.
        """
        penalty = self._distance(rates)
        # Only now, as the gradient of a mean is as large as the spikes, and most of the time it is zero.
        return self._distance(mean_rates(spikes)) if penalty > 0 else penalty

    def _distance(self, rates: dict[str, Tensor]) -> Tensor:
        below = [F.relu(self.low - rate) / self.low for rate in rates.values()]
        above = [F.relu(rate - self.high) / self.high for name, rate in rates.items() if name != "stem"]
        return torch.stack(below + above).square().sum()


def mean_rates(spikes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Mean spikes per neuron and micro-step of each layer, over all processes."""
    return {name: shared_mean(train.mean()) for name, train in spikes.items()}


@torch.no_grad()
def silent_channels(spikes: Tensor) -> Tensor:
    """Share of the channels of `[T, N, C, H, W]` without a single spike."""
    return (spikes.amax(dim=(0, 1, 3, 4)) == 0).float().mean()


def verdict(layer: str, rate: float) -> str:
    """`dead`, `saturated` or `ok` for a layer's mean spikes per neuron and micro-step."""
    if rate < DEAD_RATE or math.isnan(rate):
        return "dead"
    return "saturated" if rate > SATURATED_RATE and layer != "stem" else "ok"


def layer_report(means: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Rate, share of silent channels and verdict of each layer, from means that hold `rate/LAYER`, `silent/LAYER`."""
    report = {}
    for name, rate in means.items():
        kind, _, layer = name.partition("/")
        if kind == "rate":
            silent = means.get(f"silent/{layer}", math.nan)
            report[layer] = {"rate": rate, "silent_channels": silent, "verdict": verdict(layer, rate)}
    return report


def warning_of(means: dict[str, float]) -> str:
    """For a progress line: which layers are dead or saturated; empty when all is well."""
    report = layer_report(means)
    parts = []
    for bad in ("dead", "saturated"):
        layers = [layer for layer, entry in report.items() if entry["verdict"] == bad]
        if layers:
            parts.append(f"{bad}: {', '.join(layers)}")
    return "; ".join(parts)


def require_finite(
    losses: dict[str, Tensor], batch: Any, task: nn.Module, path: Path, *, iteration: int, rng: Tensor
) -> None:
    """Stops a run whose total loss is not finite, with everything that is needed to repeat the step.

    Args:
        losses: Named losses with a `total`.
        batch: What they were computed from, a dataclass.
        task: The network, before the step.
        path: File for the batch, the losses, the weights and the random state before the forward pass; read it with
            `torch.load(path, weights_only=True)`.
        iteration: Number of the step, from 1.
        rng: Random state before the forward pass.

    Raises:
        NonFiniteLossError: If the total is infinite or NaN.
    """
    total = losses["total"].detach()
    if torch.isfinite(total).item():
        return
    record = {
        "iteration": iteration,
        "losses": {name: float(value.detach()) for name, value in losses.items()},
        "batch": dataclasses.asdict(batch),
        "task": task.state_dict(),
        "rng": rng,
    }
    with atomic_file(path) as temporary:
        torch.save(record, temporary)
    raise NonFiniteLossError(
        f"loss is {float(total)} at iteration {iteration}; the batch and the weights were saved to {path}; "
        "lower the learning rate (fit.learning_rate) or the gradient clip (fit.gradient_clip)"
    )
