"""Counts of one layer of synapses and of one population of neurons, added up in constant memory.

Counts are whole numbers (int64) and are kept by event rate of the window, in bins an octave wide, so that energy
against event rate can be read under any rule after the run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.profiling.energy import Operations, Rules

#: Bins of the event rate: below 1 kHz, an octave each, above 2**17 kHz.
RATE_BINS = 19

#: Numbers kept for each layer; the terms are those of `synops`.
COUNTS = (
    "windows",
    "input_spikes",
    "input_active",
    "input_sites",
    "synops",
    "active",
    "effective",
    "effective_graded",
    "dense",
    "textbook",
    "additions",
)


def rate_bin(events_per_second: Tensor) -> Tensor:
    """Bin of each event rate `[N]`."""
    return torch.log2(events_per_second.double() / 1e3).floor().add(1).clamp(0, RATE_BINS - 1).nan_to_num(0).long()


@dataclass
class LayerProfile:
    """Counts of one layer of synapses.

    Attributes:
        name: Where it is in the network.
        branch: `"search"` (once for each output) or `"template"` (once for each target).
        inputs: What enters: `"events"`, `"spikes"` (0 or 1), `"counts"` (whole numbers) or `"real"`.
        form: `"staged"` or `"folded"` for the two ways of computing the matching, `"host"` for what no chip computes,
            `""` for all other layers.
        position: `"first"`, `"last"` or `""`.
        parameters: Weights and biases.
        parameter_bytes: Their memory.
        counts: int64 `[RATE_BINS, len(COUNTS)]`.
    """

    name: str
    branch: str
    inputs: str
    form: str = ""
    position: str = ""
    parameters: int = 0
    parameter_bytes: int = 0
    counts: Tensor = field(default_factory=lambda: torch.zeros(RATE_BINS, len(COUNTS), dtype=torch.int64))

    @classmethod
    def of(cls, name: str, branch: str, inputs: str, weights: Iterable[Tensor] = (), **more: str) -> LayerProfile:
        """A layer with these weights and biases, not counted yet."""
        held = list(weights)
        size = sum(w.numel() * w.element_size() for w in held)
        return cls(name, branch, inputs, parameters=sum(w.numel() for w in held), parameter_bytes=size, **more)

    def add(self, bins: Tensor, **numbers: Tensor | int) -> None:
        """Adds windows: `bins` `[N]`, and for each count one number for every window or `[N]`."""
        unknown = set(numbers) - set(COUNTS)
        if unknown:
            raise InputError(f"unknown counts {sorted(unknown)}")
        rows = torch.zeros(len(bins), len(COUNTS), dtype=torch.int64)
        rows[:, 0] = 1
        for name, value in numbers.items():
            rows[:, COUNTS.index(name)] = torch.as_tensor(value).cpu()
        self.counts.index_add_(0, bins.cpu(), rows)

    def total(self, name: str, bins: slice = slice(None)) -> int:
        """A count over all windows, or over those of some bins."""
        return int(self.counts[bins, COUNTS.index(name)].sum())

    @property
    def rate(self) -> float:
        """Mean input per site and micro-step (events: per pixel, polarity and window)."""
        return self.total("input_spikes") / max(1, self.total("input_sites"))

    def operations(self, rules: Rules, bins: slice = slice(None)) -> Operations:
        """Operations of all windows under a rule."""
        n = {name: self.total(name, bins) for name in COUNTS}
        extra = float(n["additions"]) if rules.biases else 0.0
        if rules.synapses == "effective":
            return Operations(acs=n["effective"] - n["effective_graded"] + extra, macs=n["effective_graded"])
        if self.inputs == "real":
            return Operations(acs=extra, macs=n["dense"] if rules.synapses == "exact" else n["textbook"])
        if rules.synapses == "rate":
            synapses = n["input_spikes"] * n["textbook"] / max(1, n["input_sites"])
            if self.position == "last" and rules.last_at_rate_one:
                synapses = float(n["textbook"])
            if self.position == "first" and rules.first == "mac":
                return Operations(acs=extra, macs=synapses)
            return Operations(acs=synapses + extra)
        if self.inputs == "counts" and rules.counts == "multiply":
            return Operations(acs=extra, macs=n["active"])
        return Operations(acs=n["synops"] + extra)


@dataclass
class NeuronProfile:
    """Counts of one population of neurons.

    Attributes:
        name: Where it is in the network.
        branch: `"search"` or `"template"`.
        neurons: Number of neurons.
        state_bytes: Memory of their state.
        host: Whether they are read out by the host and are no part of a chip.
        updates: int64 `[RATE_BINS]`, membrane updates.
        spikes: float64 `[C, H, W]`, spikes of each neuron over all windows; None for neurons that do not spike.
        by_step: float64 `[T]`, spikes of each micro-step.
        steps: Micro-steps seen by each neuron.
        raster: Pieces int16 `[steps, neurons]` of the spike trains of some neurons, for pictures.
        raster_neurons: Which neurons these are.
        raster_full: Whether there are enough of them.
    """

    name: str
    branch: str
    neurons: int
    state_bytes: int
    host: bool = False
    updates: Tensor = field(default_factory=lambda: torch.zeros(RATE_BINS, dtype=torch.int64))
    spikes: Tensor | None = None
    by_step: Tensor | None = None
    steps: int = 0
    windows: int = 0
    raster: list[Tensor] = field(default_factory=list)
    raster_neurons: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    raster_full: bool = False

    def add(self, bins: Tensor, updates: Tensor | int, by_step: Tensor | None = None) -> None:
        """Adds windows.

        Args:
            bins: Their event-rate bins `[N]`.
            updates: Membrane updates of each window, or one number.
            by_step: Spikes of each micro-step, `[T, N]`; None for neurons that do not spike.
        """
        each = torch.as_tensor(updates).cpu().expand(len(bins))
        self.updates.index_add_(0, bins.cpu(), each)
        self.windows += len(bins)
        if by_step is None:
            return
        self.steps += by_step.numel()
        each_step = by_step.sum(dim=1, dtype=torch.float64).cpu()
        if self.by_step is None:
            self.by_step = torch.zeros_like(each_step)
        elif each_step.shape != self.by_step.shape:
            steps = f"{len(each_step)} micro-steps after {len(self.by_step)}"
            raise InputError(f"{self.name}: {steps} in one profile; use a new one for another number")
        self.by_step += each_step

    def add_spikes(self, spikes: Tensor) -> None:
        """Adds each neuron's spikes, `[C, H, W]`."""
        if self.spikes is None:
            self.spikes = torch.zeros(spikes.shape, dtype=torch.float64)
        self.spikes += spikes.cpu()

    def sample(self, spikes: Tensor, *, neurons: int = 48, steps: int = 160) -> None:
        """Keeps the first micro-steps of some neurons of `[T, N, C, H, W]`: every fourth of those busiest at first."""
        if not self.raster_neurons.numel():
            each_neuron = spikes.sum(dim=(0, 1)).flatten().cpu()
            busiest = each_neuron.topk(min(4 * neurons, each_neuron.numel())).indices
            self.raster_neurons = busiest[::4].sort().values
        places = torch.unravel_index(self.raster_neurons.to(spikes.device), spikes.shape[2:])
        part = spikes[:, :, places[0], places[1], places[2]]
        self.raster.append(part.transpose(0, 1).flatten(0, 1).to(torch.int16).cpu()[:steps])
        self.raster_full = sum(len(part) for part in self.raster) >= steps

    @property
    def first_spikes(self) -> Tensor:
        """Spikes of the sampled neurons in the first micro-steps, int16 `[steps, neurons]`."""
        return torch.cat(self.raster)[:160] if self.raster else torch.zeros(0, 0, dtype=torch.int16)

    @property
    def rates(self) -> Tensor:
        """Mean spikes of each neuron in a micro-step, float64 `[C, H, W]`."""
        if self.spikes is None:
            raise InputError(f"{self.name} does not spike")
        return self.spikes / max(1, self.steps)

    def figures(self, *, saturated_at: float = 0.9, bins: int = 20) -> dict[str, Any]:
        """Rate, shares of silent and saturated neurons, rate by micro-step, histogram of the neurons' rates."""
        if self.spikes is None or self.by_step is None:
            return {}
        rates = self.rates
        per_step = self.by_step / (max(1, self.windows) * self.neurons)
        histogram = torch.histc(rates.clamp(max=1.0), bins=bins, min=0.0, max=1.0)
        return {
            "spikes_per_window": float(self.spikes.sum()) / max(1, self.windows),
            "rate": float(rates.mean()),
            "silent": float((self.spikes == 0).double().mean()),
            "silent_channels": int((self.spikes.flatten(1).sum(dim=1) == 0).sum()),
            "saturated": float((rates >= saturated_at).double().mean()),
            "rate_by_step": per_step.tolist(),
            "rate_histogram": histogram.long().tolist(),
        }
