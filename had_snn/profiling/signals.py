"""What is kept of a forward pass: sums over its spikes, taken as they pass, which all counts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from had_snn.events.stream import EventBatch
from had_snn.profiling.records import rate_bin
from had_snn.profiling.synops import ConvShape, effective_synops, event_synops, reached


def _sum_first(parts: Tensor | Sequence[Tensor]) -> Tensor:
    """Sum over the first dimension by plain additions: far faster than a reduction over a handful of entries."""
    total = parts[0].float() if len(parts) == 1 else parts[0].float() + parts[1]
    for part in parts[2:]:
        total += part
    return total


class Signal:
    """What is kept of a population's spikes `[T, N, C, H, W]`: sums, taken while the spikes are still in the cache.

    Args:
        spikes: Whole numbers.
        graded: Whether values above 1 occur; otherwise spikes and active inputs are the same.
        keep: Whether to hold the windows' neurons apart, for layers with zero weights and for the matching.
    """

    def __init__(self, spikes: Tensor, *, graded: bool, keep: bool) -> None:
        self.steps, self.neurons, self.channels = spikes.shape[0], spikes[0, 0].numel(), spikes.shape[2]
        self.size_hw = (int(spikes.shape[-2]), int(spikes.shape[-1]))
        # Two passes over the spikes; all other sums are of the smaller result.
        by_neuron = _sum_first(spikes)
        self.by_step = spikes.sum(dim=(2, 3, 4), dtype=torch.float32)
        self.maps = by_neuron.sum(dim=1)
        self.over_windows = _sum_first(by_neuron)
        self.by_neuron = by_neuron if keep else by_neuron[:, :0]
        self.graded = graded
        if graded:
            alive = spikes.clamp(max=1)
            self.alive_maps = alive.sum(dim=2, dtype=torch.float32)
            self.alive = alive if keep else alive[:, :, :0]

    def join(self, others: Sequence[Signal]) -> None:
        """Appends the windows of further signals of the same population."""
        for name, dim in (("by_step", 1), ("by_neuron", 0), ("maps", 0)):
            setattr(self, name, torch.cat([getattr(signal, name) for signal in (self, *others)], dim=dim))
        if self.graded:
            for name in ("alive", "alive_maps"):
                setattr(self, name, torch.cat([getattr(signal, name) for signal in (self, *others)], dim=1))
        self.over_windows = _sum_first([signal.over_windows for signal in (self, *others)])

    @property
    def held(self) -> int:
        """Numbers held."""
        return self.by_neuron.numel() + self.maps.numel() + self.over_windows.numel()

    def uses(self, shape: ConvShape, *, weight: Tensor | None = None) -> dict[str, Any]:
        """Counts of a convolution that reads these spikes.

        Args:
            shape: The convolution.
            weight: The weights when some are zero, which only the effective count needs.

        Returns:
            Values for `LayerProfile.add`.
        """
        fired = self.by_step.sum(dim=0, dtype=torch.float64).round().long()
        synops = reached(self.maps, shape)
        used: dict[str, Any] = {
            "input_spikes": fired, "input_active": fired, "input_sites": self.steps * self.neurons, "synops": synops,
            "active": synops, "effective": synops, "dense": self.steps * shape.dense(self.size_hw),
            "textbook": self.steps * shape.textbook(self.size_hw),
        }  # fmt: skip
        if self.graded:
            by_step = each = reached(self.alive_maps, shape)
            if weight is not None:
                each = effective_synops(self.alive.flatten(0, 1), weight, shape).reshape(by_step.shape)
            alive = self.alive_maps.sum(dim=(2, 3))
            used |= {"input_active": alive.sum(dim=0).round().long(), "active": by_step.sum(dim=0)}
            used |= {"effective": each.sum(dim=0), "effective_graded": (each * (alive != self.by_step)).sum(dim=0)}
        elif weight is not None:
            used["effective"] = effective_synops(self.by_neuron, weight, shape)
        return used


@dataclass
class Heard:
    """The signals of some windows.

    Attributes:
        bins: Event-rate bin of each window, `[N]`.
        events: Events of each window, `[N]`.
        pairs: Their synaptic operations in the stem, `[N]`.
        size_hw: Size of the crop.
        kernel: Template kernels `[N, C, k, k]`; empty in the template branch.
        spikes: Signals of the populations by name.
        matched: Channels of the matched maps that are not zero, summed over micro-steps, float64 `[N, H, W]`.
        matched_sites: Values of a window's matched maps.
    """

    bins: Tensor
    events: Tensor
    pairs: Tensor
    size_hw: tuple[int, int]
    kernel: Tensor
    spikes: dict[str, Signal] = field(default_factory=dict)
    matched: Tensor = field(default_factory=lambda: torch.zeros(0, 0, 0))
    matched_sites: int = 0

    @classmethod
    def of(cls, events: EventBatch, stem: ConvShape, kernel: Tensor | None = None) -> Heard:
        """Starts with what is known before the forward pass."""
        count = events.offsets[1:] - events.offsets[:-1]
        bins = rate_bin(count.double() * 1e6 / (events.t_end - events.t_begin).double())
        return cls(
            bins, count, event_synops(events, stem), events.size_hw, torch.zeros(0) if kernel is None else kernel
        )

    def see_matched(self, maps: Tensor) -> None:
        """Looks at the matched maps `[T, N, C, H, W]`."""
        # Rates and spikes are not negative, so neither are their products.
        self.matched = _sum_first(maps.sign().sum(dim=2, dtype=torch.float32)).double()
        self.matched_sites = maps[:, 0].numel()

    @property
    def steps(self) -> int:
        """Micro-steps of a window."""
        return self.spikes["stem"].steps

    @property
    def held(self) -> int:
        """Numbers held."""
        return self.kernel.numel() + sum(signal.held for signal in self.spikes.values())

    def join(self, others: Sequence[Heard]) -> None:
        """Appends further windows."""
        for name in ("bins", "events", "pairs", "kernel", "matched"):
            setattr(self, name, torch.cat([getattr(heard, name) for heard in (self, *others)]))
        for name, signal in self.spikes.items():
            signal.join([heard.spikes[name] for heard in others])
