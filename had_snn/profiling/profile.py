"""The profile of a network: its layers and neurons, and what they cost under any rule and cost table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from had_snn.profiling.energy import COSTS, EXACT, HOROWITZ_FP32, RULES, CostTable, Operations, Rules
from had_snn.profiling.records import COUNTS, RATE_BINS, LayerProfile, NeuronProfile

Template = Literal["amortised", "every", "none"]


@dataclass
class Profile:
    """Everything that was counted for one network.

    Attributes:
        name: The network.
        kind: `"spiking"` or `"ann"`.
        outputs: Boxes put out.
        windows: Search windows looked at: one for each output, more where a tracker searches for a lost target.
        tracks: Template windows, one for each target.
        seconds: Time that was tracked; windows are taken to follow each other without gaps unless it is set.
        parameters: Trainable numbers of the whole network.
        layers: Layers of synapses.
        neurons: Populations of neurons.
        uncounted: What the network does besides, by name.
    """

    name: str
    kind: str
    outputs: int = 0
    windows: int = 0
    tracks: int = 0
    seconds: float = 0.0
    parameters: int = 0
    layers: list[LayerProfile] = field(default_factory=list)
    neurons: list[NeuronProfile] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)

    @property
    def outputs_per_second(self) -> float:
        """Outputs for each second of tracking."""
        return self.outputs / self.seconds if self.seconds else 0.0

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
        self,
        rules: Rules = EXACT,
        cost: CostTable = HOROWITZ_FP32,
        *,
        template: Template = "amortised",
        folded: bool = False,
    ) -> float | None:
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

    def memory_mj(self) -> float:
        """Estimated memory traffic of one output in millijoules (exact rule, 45 nm fp32), if nothing were ever reused;
        never part of `energy_mj`."""
        return (self.operations().memory_pj(HOROWITZ_FP32) or 0.0) * 1e-9

    def energy_by_layer(self) -> dict[str, float]:
        """Millijoules of one output by layer (exact rule, 45 nm fp32)."""
        parts = self._parts(EXACT, template="amortised", folded=False)
        return {name: (operations.energy_pj(HOROWITZ_FP32) or 0.0) * 1e-9 for name, operations in parts}

    def energy_by_event_rate(self) -> list[dict[str, float]]:
        """Millijoules of one output (exact rule, 45 nm fp32, without the template) by octave of the crop's event
        rate."""
        first = next((layer for layer in self.layers if layer.inputs == "events" and layer.branch == "search"), None)
        rows = []
        for index in range(RATE_BINS if first is not None else 0):
            bins = slice(index, index + 1)
            windows = first.total("windows", bins) if first is not None else 0
            if not windows:
                continue
            parts = self._parts(EXACT, template="none", folded=False, bins=bins)
            energy = sum((operations for _, operations in parts), Operations()).energy_pj(HOROWITZ_FP32) or 0.0
            low, high = (0.0 if index == 0 else 1e3 * 2.0 ** (index - 1)), 1e3 * 2.0**index
            mj = energy * 1e-9 * max(1, self.outputs) / windows
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
            windows = max(1, (self.windows or self.outputs) if layer.branch == "search" else self.tracks)
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
            "kind": self.kind,
            "outputs": self.outputs,
            "windows": self.windows or self.outputs,
            "tracks": self.tracks,
            "parameters": self.parameters,
            "state_bytes": self.state_bytes,
            "seconds": self.seconds,
        }
        for rules in RULES:
            operations = self.operations(rules)
            energy = self.energy_mj(rules)
            found[rules.name] = {
                "mj_per_output": energy,
                "mj_per_second": None if energy is None else energy * self.outputs_per_second,
                "mj_per_output_template_every_output": self.energy_mj(rules, template="every"),
                "mj_per_output_without_template": self.energy_mj(rules, template="none"),
                "mj_per_output_matching_folded": self.energy_mj(rules, folded=True),
                "acs": operations.acs,
                "macs": operations.macs,
                "updates": operations.updates,
            }
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
