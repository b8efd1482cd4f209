"""What is kept of a forward pass: sums over its spikes, from which all counts are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from had_snn.events.batch import EventBatch
from had_snn.models.graph import STEM, Graph, Mixing, Node
from had_snn.ops import SpikeCount, SpikeCounter
from had_snn.profiling.records import rate_bin
from had_snn.profiling.synops import ConvShape, effective_synops, event_synops


@dataclass(frozen=True)
class Population:
    """What puts out spikes, or maps that convolutions read.

    Attributes:
        kind: What it puts out: `"spikes"` of 0 or 1, `"counts"`, or `"real"` numbers.
        readers: The convolutions that read it.
    """

    kind: str
    readers: tuple[ConvShape, ...]


def correlation(node: Node, channels: int) -> ConvShape:
    """The matching as a convolution."""
    side = node.side
    return ConvShape.square(channels, channels, side, padding=side // 2, groups=channels)


def folded_shape(mixing: Mixing) -> ConvShape:
    """The matching and what mixes its maps as one convolution."""
    conv, side = mixing.conv.conv, mixing.match.side
    return ConvShape.square(conv.in_channels, conv.out_channels, side, padding=side // 2)


def populations(graph: Graph, mixings: Sequence[Mixing]) -> dict[str, Population]:
    """What convolutions read, by name, with every convolution that reads it."""
    kinds = {STEM: "counts"}
    kinds |= {node.name: "spikes" for node in graph.all("lif")} | {node.name: "real" for node in graph.all("match")}
    readers: dict[str, list[ConvShape]] = {name: [] for name in kinds}
    for node in graph.all("conv"):
        readers[graph.reads(node)].append(ConvShape.of(node.conv))
    for node in graph.all("match"):
        readers[node.source].append(correlation(node, graph.channels(node.source)))
    for mixing in mixings:
        readers[mixing.match.source].append(folded_shape(mixing))
    return {name: Population(kind, tuple(readers[name])) for name, kind in kinds.items()}


class Signal:
    """A population's sums over some windows.

    Attributes:
        count: The sums.
        population: What put them out.
        steps: Micro-steps of a window.
        channels: Channels.
        size_hw: Rows and columns.
        over_windows: Spikes of each neuron over these windows, int32 `[C, H, W]`; None for kind `"real"`.
        kept: What was not zero, `[T, N, C, H, W]`, if the windows' neurons were kept.
    """

    def __init__(
        self,
        count: SpikeCount,
        population: Population,
        shape: torch.Size,
        over_windows: Tensor | None,
        kept: Tensor | None,
    ) -> None:
        self.count, self.population = count, population
        self.steps, self.channels, self.size_hw = shape[0], shape[2], (shape[3], shape[4])
        self.over_windows, self.kept = over_windows, kept

    @property
    def neurons(self) -> int:
        """Neurons of a window."""
        return self.channels * self.size_hw[0] * self.size_hw[1]

    def uses(self, shape: ConvShape, *, weight: Tensor | None = None) -> dict[str, Any]:
        """Counts of a convolution that reads these spikes.

        Args:
            shape: The convolution, one of the population's readers.
            weight: The weights when some are zero, which only the effective count needs.

        Returns:
            Values for `LayerProfile.add`.
        """
        at, count = self.population.readers.index(shape), self.count
        each = count.active_synapses[at]
        used: dict[str, Any] = {
            "input_spikes": count.fired.sum(dim=0),
            "input_active": count.active.sum(dim=0),
            "input_sites": self.steps * self.neurons,
            "synops": count.synapses[at].sum(dim=0),
            "active": each.sum(dim=0),
            "dense": self.steps * shape.dense(self.size_hw),
            "textbook": self.steps * shape.textbook(self.size_hw),
        }
        if weight is not None and self.kept is not None:
            each = effective_synops(self.kept.flatten(0, 1), weight, shape).reshape(each.shape)
        used["effective"] = each.sum(dim=0)
        if self.population.kind == "counts":
            used["effective_graded"] = (each * (count.active != count.fired)).sum(dim=0)
        elif self.population.kind == "real":
            used |= {"input_spikes": 0, "synops": 0, "effective_graded": used["effective"]}
        return used


@dataclass(frozen=True)
class WindowSums:
    """What some windows did.

    Attributes:
        bins: Event-rate bin of each window, `[N]`.
        events: Events of each window, `[N]`.
        pairs: Their synaptic operations in the stem, `[N]`.
        size_hw: Size of the crop.
        spikes: Signals of the populations by name.
        matching: Non-zero synapses that the features reach, see `KernelSynapses.reached`; None of templates.
    """

    bins: Tensor
    events: Tensor
    pairs: Tensor
    size_hw: tuple[int, int]
    spikes: dict[str, Signal]
    matching: Tensor | None


class Recorder:
    """Collects what a branch does, call by call, until somebody takes it.

    Args:
        stem: The stem as a convolution.
        populations: By name; the stem's is the first.
        keep: Whether to hold the windows' neurons themselves, for readers with zero weights.
    """

    def __init__(self, stem: ConvShape, populations: Mapping[str, Population], *, keep: bool = False) -> None:
        self.stem, self.populations, self.keep = stem, populations, keep
        self.counter: SpikeCounter | None = None
        self.running: dict[str, Tensor] = {}
        self.shapes: dict[str, torch.Size] = {}
        self._clear()

    @property
    def steps(self) -> int:
        """Micro-steps of the windows that are held."""
        return next(iter(self.shapes.values()))[0]

    def _clear(self) -> None:
        self.events: list[tuple[Tensor, Tensor, Tensor]] = []
        self.rows: list[Tensor] = []
        self.matching: list[Tensor] = []
        self.counts: dict[str, list[SpikeCount]] = {}
        self.kept: dict[str, list[Tensor]] = {}
        self.held = 0

    def record(self, events: EventBatch, outputs: Mapping[str, Tensor], matching: Tensor | None = None) -> None:
        """Takes the sums of a call.

        Args:
            events: What went in.
            outputs: What the populations put out, `[T, N, C, H, W]` by name.
            matching: See `WindowSums`.
        """
        trains = list(outputs.values())
        if self.counter is None or not self.counter.fits(trains):
            self._settle()
            self.counter = self._new_counter(outputs)
        self.rows.append(self.counter(trains))
        self.matching += [] if matching is None else [matching]
        count = events.offsets[1:] - events.offsets[:-1]
        self.events.append((count, events.t_end - events.t_begin, event_synops(events, self.stem)))
        self.size_hw = events.size_hw
        self.held += self.counter.size
        if self.keep:
            for name, values in outputs.items():
                self.kept.setdefault(name, []).append((values != 0).float())
                self.held += values.numel()

    def _new_counter(self, outputs: Mapping[str, Tensor]) -> SpikeCounter:
        self.shapes = {name: values.shape for name, values in outputs.items()}
        reach, running = [], []
        for name, values in outputs.items():
            size_hw, population = (int(values.shape[3]), int(values.shape[4])), self.populations[name]
            maps = [shape.fan_out(size_hw).int() for shape in population.readers]
            reach.append(torch.stack(maps).to(values.device))
            running.append(None if population.kind == "real" else self._running_sums(name, values))
        kinds = [self.populations[name].kind for name in outputs]
        return SpikeCounter(list(outputs.values()), reach, kinds=kinds, running=running)

    def _running_sums(self, name: str, values: Tensor) -> Tensor:
        """Sums of each neuron in the memory order that the population has now; those so far come along."""
        before = self.running.get(name)
        if before is None or before.stride() != values.stride()[2:]:
            self.running[name] = torch.zeros_like(values[0, 0], dtype=torch.int32)
            if before is not None:
                self.running[name] += before
        return self.running[name]

    def _settle(self) -> None:
        """Takes the rows of the present counter apart, before another one takes its place."""
        if self.counter is not None and self.rows:
            for name, count in zip(self.shapes, self.counter.split(self.rows), strict=True):
                self.counts.setdefault(name, []).append(count)
        self.rows = []

    def take(self) -> WindowSums:
        """Everything since the last call, joined; starts afresh."""
        self._settle()
        count, length, pairs = (torch.cat(parts) for parts in zip(*self.events, strict=True))
        spikes = {}
        for name, counts in self.counts.items():
            kept = torch.cat(self.kept[name], dim=1) if name in self.kept else None
            running = self.running[name].clone() if name in self.running else None
            spikes[name] = Signal(_joined(counts), self.populations[name], self.shapes[name], running, kept)
        for running in self.running.values():
            running.zero_()
        matching, bins = torch.cat(self.matching) if self.matching else None, rate_bin(count.double() * 1e6 / length)
        self._clear()
        return WindowSums(bins, count, pairs, self.size_hw, spikes, matching)


def _joined(counts: list[SpikeCount]) -> SpikeCount:
    """The windows of several counts, one after the other."""
    columns = {"fired": 1, "active": 1, "synapses": 2, "active_synapses": 2}
    return SpikeCount(**{name: torch.cat([getattr(c, name) for c in counts], dim=dim) for name, dim in columns.items()})
