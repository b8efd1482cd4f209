"""The record of a run: counts of each layer and each population of neurons, added up in constant memory.

Counts are whole numbers (int64) and are kept by event rate of the window, in bins an octave wide, so that energy
against event rate can be read under any rule after the run.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.profiling.energy import (
    COSTS,
    EXACT,
    HOROWITZ_FP32,
    RULES,
    CostTable,
    Operations,
    Rules,
)

#: Bins of the event rate: below 1 kHz, an octave each, above 2**17 kHz.
RATE_BINS = 19

#: Numbers kept for each layer; the terms are those of `synops`.
COUNTS = (
    "windows", "input_spikes", "input_active", "input_sites", "synops", "active", "effective", "effective_graded",
    "dense", "textbook", "additions",
)  # fmt: skip

Template = Literal["amortised", "every", "none"]


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
        raster: int16 `[steps, neurons]`, a piece of the spike train of some neurons, for pictures.
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

    def add(self, bins: Tensor, updates: Tensor | int, spikes: Tensor | None, maps: Tensor | None = None) -> None:
        """Adds windows.

        Args:
            bins: Their event-rate bins `[N]`.
            updates: Membrane updates of each window, or one number.
            spikes: `[T, N, C, H, W]`, or None for neurons that do not spike.
            maps: `spikes` summed over channels, `[T, N, H, W]`, when that is already there.
        """
        each = torch.as_tensor(updates).cpu().expand(len(bins))
        self.updates.index_add_(0, bins.cpu(), each)
        self.windows += len(bins)
        if spikes is None:
            return
        self.steps += spikes.shape[0] * spikes.shape[1]
        each_neuron = spikes.sum(dim=(0, 1)).double().cpu()
        each_step = (spikes if maps is None else maps).flatten(1).sum(dim=1, dtype=torch.float64).cpu()
        if self.spikes is None or self.by_step is None:
            self.spikes, self.by_step = torch.zeros_like(each_neuron), torch.zeros_like(each_step)
        if len(each_step) != len(self.by_step):
            raise InputError(f"{self.name}: {len(each_step)} micro-steps after {len(self.by_step)} in one profile")
        self.spikes += each_neuron
        self.by_step += each_step
        self._sample(spikes, each_neuron)

    def _sample(self, spikes: Tensor, each_neuron: Tensor, *, neurons: int = 48, steps: int = 160) -> None:
        """Keeps the first micro-steps of some neurons: every fourth of those that were busiest at first."""
        if not self.raster_neurons.numel():
            busiest = each_neuron.flatten().topk(min(4 * neurons, each_neuron.numel())).indices
            self.raster_neurons = busiest[::4].sort().values
        if sum(len(part) for part in self.raster) < steps:
            part = spikes.flatten(2)[:, :, self.raster_neurons.to(spikes.device)]
            self.raster.append(part.transpose(0, 1).flatten(0, 1).to(torch.int16).cpu()[:steps])

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


@dataclass
class Profile:
    """Everything that was counted for one network.

    Attributes:
        name: The network.
        kind: `"spiking"` or `"ann"`.
        outputs: Search windows, one output each.
        tracks: Template windows, one for each target.
        outputs_per_second: Outputs for each second of tracking.
        parameters: Trainable numbers of the whole network.
        layers: Layers of synapses.
        neurons: Populations of neurons.
        uncounted: What the network does besides, by name.
    """

    name: str
    kind: str
    outputs: int = 0
    tracks: int = 0
    outputs_per_second: float = 0.0
    parameters: int = 0
    layers: list[LayerProfile] = field(default_factory=list)
    neurons: list[NeuronProfile] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)

    def _share(self, branch: str, template: Template) -> float:
        """Factor from a total over all windows to one output."""
        if branch == "search":
            return 1 / max(1, self.outputs)
        if template == "none":
            return 0.0
        return 1 / max(1, self.outputs if template == "amortised" else self.tracks)

    def _parts(
        self, rules: Rules, *, template: Template, folded: bool, host: bool = True, bins: slice = slice(None)
    ) -> Iterator[tuple[str, Operations]]:
        """Name and operations, for each output, of all that a rule charges."""
        unwanted = {"staged" if folded else "folded"} | (set() if host else {"host"})
        for layer in self.layers:
            if layer.form not in unwanted:
                name = layer.name if layer.branch == "search" else f"template.{layer.name}"
                yield name, layer.operations(rules, bins).scaled(self._share(layer.branch, template))
        for population in self.neurons if rules.updates else ():
            if population.host and not host:
                continue
            name = population.name if population.branch == "search" else f"template.{population.name}"
            updates = float(population.updates[bins].sum()) * self._share(population.branch, template)
            yield f"{name} (membranes)", Operations(updates=updates)

    def operations(
        self, rules: Rules = EXACT, *, template: Template = "amortised", folded: bool = False, host: bool = True
    ) -> Operations:
        """Operations for each output; the options are those of `energy_mj`."""
        parts = self._parts(rules, template=template, folded=folded, host=host)
        return sum((operations for _, operations in parts), Operations())

    def energy_mj(
        self, rules: Rules = EXACT, cost: CostTable = HOROWITZ_FP32, *, template: Template = "amortised",
        folded: bool = False,
    ) -> float | None:  # fmt: skip
        """Estimated energy of one output.

        Args:
            rules: What counts.
            cost: What it costs.
            template: Spread the template's energy over the outputs of its track (`"amortised"`), charge it with
                `"every"` output, or leave it out (`"none"`).
            folded: Count the matching as one dense convolution with constant weights, as on a chip, instead of the
                depth-wise correlation followed by a 1x1 convolution of real values. Hardware without MACs always
                folds, and what the host computes for it (scaling the kernel, averaging the read-out) is left out.

        Returns:
            Millijoules, or None where the hardware lacks an operation that the network needs.
        """
        chip = cost.mac_pj is None
        operations = self.operations(rules, template=template, folded=folded or chip, host=not chip)
        energy = operations.energy_pj(cost)
        return None if energy is None else energy * 1e-9

    def memory_mj(
        self, rules: Rules = EXACT, cost: CostTable = HOROWITZ_FP32, *, template: Template = "amortised"
    ) -> float | None:
        """Estimated memory traffic of one output in millijoules, if nothing were ever reused; never part of
        `energy_mj`."""
        energy = self.operations(rules, template=template).memory_pj(cost)
        return None if energy is None else energy * 1e-9

    def energy_by_layer(
        self, rules: Rules = EXACT, cost: CostTable = HOROWITZ_FP32, *, template: Template = "amortised",
        folded: bool = False,
    ) -> dict[str, float | None]:  # fmt: skip
        """Millijoules of one output by layer."""
        found: dict[str, float | None] = {}
        for name, operations in self._parts(rules, template=template, folded=folded):
            energy = operations.energy_pj(cost)
            found[name] = None if energy is None else energy * 1e-9
        return found

    def energy_by_event_rate(
        self, rules: Rules = EXACT, cost: CostTable = HOROWITZ_FP32, *, folded: bool = False
    ) -> list[dict[str, float]]:
        """Millijoules of one output (without the template) in each octave of the crop's event rate."""
        first = next((layer for layer in self.layers if layer.inputs == "events" and layer.branch == "search"), None)
        rows = []
        for index in range(RATE_BINS if first is not None else 0):
            bins = slice(index, index + 1)
            windows = first.total("windows", bins) if first is not None else 0
            if not windows:
                continue
            parts = self._parts(rules, template="none", folded=folded, bins=bins)
            energy = sum((operations for _, operations in parts), Operations()).energy_pj(cost)
            if energy is None:
                continue
            low, high = (0.0 if index == 0 else 1e3 * 2.0 ** (index - 1)), 1e3 * 2.0**index
            mj = energy * 1e-9 * self.outputs / windows
            rows.append({"events_per_second_from": low, "events_per_second_to": high, "windows": windows, "mj": mj})
        return rows

    @property
    def state_bytes(self) -> int:
        """Memory of the neurons' state in the search branch."""
        return sum(population.state_bytes for population in self.neurons if population.branch == "search")

    def to_rows(self) -> list[dict[str, Any]]:
        """One row for each layer and population; counts are means over windows, energies (45 nm fp32) per output."""
        rows: list[dict[str, Any]] = []
        for layer in self.layers:
            windows = max(1, self.outputs if layer.branch == "search" else self.tracks)
            row: dict[str, Any] = {"branch": layer.branch, "name": layer.name, "inputs": layer.inputs}
            row |= {"form": layer.form, "parameters": layer.parameters, "bytes": layer.parameter_bytes}
            row |= {"input_rate": layer.rate}
            row |= {name: layer.total(name) / windows for name in COUNTS[1:]}
            for rules in RULES:
                energy = layer.operations(rules).scaled(self._share(layer.branch, "amortised"))
                row[f"uj_{rules.name}"] = (energy.energy_pj(HOROWITZ_FP32) or 0.0) * 1e-6
            rows.append(row)
        for population in self.neurons:
            windows = max(1, population.windows)
            row = {"branch": population.branch, "name": population.name, "inputs": "membranes", "form": ""}
            row |= {"bytes": population.state_bytes, "neurons": population.neurons}
            row |= {"updates": float(population.updates.sum()) / windows}
            row |= {key: value for key, value in population.figures().items() if not isinstance(value, list)}
            updates = Operations(updates=float(population.updates.sum()) * self._share(population.branch, "amortised"))
            for rules in RULES:
                row[f"uj_{rules.name}"] = (updates.energy_pj(HOROWITZ_FP32) or 0.0) * 1e-6 if rules.updates else 0.0
            rows.append(row)
        return rows

    def summary(self) -> dict[str, Any]:
        """Energy of one output under every rule and cost table, and what else belongs in a table."""
        found: dict[str, Any] = {
            "kind": self.kind, "outputs": self.outputs, "tracks": self.tracks, "parameters": self.parameters,
            "state_bytes": self.state_bytes, "outputs_per_second": self.outputs_per_second,
        }  # fmt: skip
        for rules in RULES:
            operations = self.operations(rules)
            energy = self.energy_mj(rules)
            found[rules.name] = {
                "mj_per_output": energy,
                "mj_per_second": None if energy is None else energy * self.outputs_per_second,
                "mj_per_output_template_every_output": self.energy_mj(rules, template="every"),
                "mj_per_output_without_template": self.energy_mj(rules, template="none"),
                "mj_per_output_matching_folded": self.energy_mj(rules, folded=True),
                "acs": operations.acs, "macs": operations.macs, "updates": operations.updates,
            }  # fmt: skip
        found["other_hardware_exact_mj_per_output"] = {cost.name: self.energy_mj(EXACT, cost) for cost in COSTS}
        found["memory_traffic_mj_per_output"] = self.memory_mj()
        found["uncounted"] = self.uncounted
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        populations = {
            f"{p.branch}.{p.name}": {"neurons": p.neurons, "state_bytes": p.state_bytes, **p.figures()}
            for p in self.neurons
        }
        return {
            "name": self.name,
            "summary": self.summary(),
            "energy_by_event_rate": self.energy_by_event_rate(),
            "neurons": populations,
            "layers": self.to_rows(),
        }

    def to_json(self) -> str:
        """Everything as JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    def to_csv(self) -> str:
        """The rows as CSV text."""
        rows = self.to_rows()
        columns = list(dict.fromkeys(key for row in rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
