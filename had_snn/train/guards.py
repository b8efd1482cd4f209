"""What watches over a run: losses that are not finite, layers that are silent or never rest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.errors import HadError
from had_snn.files import atomic_file
from had_snn.models import Taps
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

    def penalty(self, rates: dict[str, Tensor]) -> Tensor:
        """Squared distance of each layer's rate from the range, relative to its nearer end; unweighted.

        Args:
            rates: Mean spikes per neuron and micro-step by layer, with their gradient.
        """
        penalty = self._distance({name: rate.detach() for name, rate in rates.items()})
        # Only now, as the gradient of a mean is as large as the spikes, and most of the time it is zero.
        return self._distance(rates) if penalty > 0 else penalty

    def _distance(self, rates: dict[str, Tensor]) -> Tensor:
        below = [F.relu(self.low - rate) / self.low for rate in rates.values()]
        above = [F.relu(rate - self.high) / self.high for name, rate in rates.items() if name != "stem"]
        return torch.stack(below + above).square().sum()


@dataclass
class RateTaps(Taps):
    """Taps for training: of a layer's spikes they take what it looks at, at once, and let them go.

    All layers' spikes together are as large as what is kept for the backward.

    Attributes:
        kept: The layer whose spikes stay, or None.
        rates: Mean spikes per neuron and micro-step by layer, over all processes, with their gradient.
        silence: Whether `loudest` is wanted, which costs a pass over all spikes.
        loudest: The most spikes of a neuron in a micro-step by layer, for each channel `[C]`.
    """

    kept: str | None = None
    rates: dict[str, Tensor] = field(default_factory=dict)
    silence: bool = False
    loudest: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, spikes: Tensor, membranes: Tensor | None) -> None:
        super().add(name, spikes, membranes)
        self.rates[name] = shared_mean(spikes.mean())
        if self.silence:
            self.loudest[name] = spikes.detach().amax(dim=(0, 1, 3, 4))
        if name != self.kept:
            del self.spikes[name]

    def add_match(self, name: str, matched: Tensor) -> None:
        """Nobody looks at these in training."""

    def silent_channels(self) -> dict[str, Tensor]:
        """Share of the channels of each layer without a single spike."""
        return {name: (most == 0).float().mean() for name, most in self.loudest.items()}

    @staticmethod
    def joined(parts: list[RateTaps]) -> RateTaps:
        """Those of windows of as many samples each, as of all at once, window-major."""

        def over(name: str, join: Callable[[list[Tensor]], Tensor]) -> dict[str, Tensor]:
            return {layer: join([getattr(part, name)[layer] for part in parts]) for layer in getattr(parts[0], name)}

        return RateTaps(
            membranes=over("membranes", lambda maps: torch.cat(maps, dim=1)),
            spikes=over("spikes", lambda maps: torch.cat(maps, dim=1)),
            rates=over("rates", lambda rates: torch.stack(rates).mean()),
            loudest=over("loudest", lambda most: torch.stack(most).amax(dim=0)),
        )


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
