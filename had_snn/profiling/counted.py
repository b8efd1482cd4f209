"""Counting the spiking student while it tracks: the same calls, the same results, and a record of what they cost.

    counted = CountedStudent(student)
    tracker = OnlineTracker(counted)          # or evaluate it, or feed it windows with `profile_student`
    ...
    counted.profile.energy_mj()

Which layer reads what is taken from the student's graph. Spikes come from the forward pass itself, which hands them
over (`Taps`): nothing is computed twice, no hook is set, and nothing but small sums is held. Events are counted from
their coordinates.

What the rules charge, layer by layer (`exact`; see `energy` for the others):

- stem: one addition for each event, site that sees it, and channel; one update of each neuron touched by an event. The
  window's gain scales thresholds, one division a window, and is not charged.
- convolutions: norms are folded (their shift is one bias addition for each output and micro-step).
- sums: one addition for each cell and micro-step where a current joins that is also used elsewhere (a shortcut); others
  add up in the membranes, which their synapses are charged for.
- matching: search spikes through the kernel's taps; the kernel's zeros are charged except under NeuroBench's rule.
- a 1x1 convolution of the matched maps reads real values: a MAC for each synapse (`form` `"staged"`). Because both
  steps are linear and constant for a track, a chip runs them, together with the 1x1 convolutions of the same features
  beside them, as one dense convolution on spikes (`form` `"folded"`, layer `match`); the exporter writes the same.
- read-out: an ordinary convolution on spikes; its leaky membranes are updated every micro-step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from had_snn.events.batch import EventBatch
from had_snn.models import SearchState, Taps, TrackerOutput
from had_snn.models.graph import MATCH, STEM, Graph, Mixing, Node, is_pointwise
from had_snn.models.search import AroundStudent, SearchModule
from had_snn.profiling.kernel_synapses import KernelSynapses
from had_snn.profiling.profile import Profile
from had_snn.profiling.records import LayerProfile, NeuronProfile
from had_snn.profiling.spike_sums import (
    Recorder,
    Signal,
    WindowSums,
    correlation,
    folded_shape,
    populations,
)
from had_snn.profiling.synops import ConvShape

_BYTES = 4  # float32 weights and membranes


#: Numbers held back before they are counted: small enough for any machine, large enough to count many windows at once.
_HOLD = 200_000


class CountedStudent(AroundStudent):
    """A `SearchNetwork` that counts what it does; takes its student's place in a tracker.

    Args:
        student: The network, in evaluation mode: as trained or frozen.
        name: Its name in tables.
    """

    def __init__(self, student: SearchModule, *, name: str = "student") -> None:
        super().__init__(student)
        self.graph = student.graph()
        parameters = sum(p.numel() for p in student.parameters())
        self._profile = Profile(name, "spiking", parameters=parameters)
        stem = student.stem
        self._stem = ConvShape.square(2, stem.channels, stem.kernel, stride=stem.stride, padding=stem.padding)
        self._mixings = [mixing for mixing in self.graph.mixings() if is_pointwise(mixing.conv)]
        staged = [[mixing.conv.name, *(node.name for node in mixing.beside)] for mixing in self._mixings]
        self._forms = {name: "staged" for names in staged for name in names}
        order = list(self.graph.nodes)
        #: By the last node of a mixing, behind which its folded form is listed.
        self._folds = {max(names, key=order.index): m for names, m in zip(staged, self._mixings, strict=True)}
        self._kernel_synapses = KernelSynapses(self._mixings)
        self._layers: dict[tuple[str, str], LayerProfile] = {}
        self._neurons: dict[tuple[str, str], NeuronProfile] = {}
        self._sampled = False
        self._pruned = {node.name for node in self.graph.all("conv") if (node.conv.weight == 0).any()}
        read = populations(self.graph, self._mixings)
        self._recorders = {
            branch: Recorder(self._stem, read, keep=bool(self._pruned)) for branch in ("search", "template")
        }

    @property
    def profile(self) -> Profile:
        """The counts so far."""
        self._count_waiting()
        return self._profile

    @torch.no_grad()
    def encode_template(self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None) -> Tensor:
        """See `SearchNetwork.encode_template`."""
        taps = Taps(traces=False)
        kernel = self.student.encode_template(events, boxes_cxcywh, n_steps=n_steps, taps=taps)
        self._sample(taps, "template")
        recorder, trunk = self._recorders["template"], self.graph.upto(self.graph.features)
        recorder.record(events, taps.spikes)
        sums = recorder.take()
        self._count_stem(sums, "template")
        self._count_nodes(trunk, sums, "template")
        self._count_kernel(sums, kernel)
        self._profile.tracks += len(events)
        return kernel

    def read_window(self, events: EventBatch, kernel: Tensor, **options: Any) -> TrackerOutput:
        """See `SearchNetwork.read_window`; `taps` take the inner signals."""
        return self._record(self.student.read_window, events, kernel, **options)

    def step(self, events: EventBatch, kernel: Tensor, state: SearchState | None, **options: Any) -> TrackerOutput:
        """See `SearchNetwork.step`; `taps` take the inner signals."""
        return self._record(self.student.step, events, kernel, state, **options)

    @torch.no_grad()
    def _record(
        self,
        call: Callable[..., TrackerOutput],
        events: EventBatch,
        kernel: Tensor,
        *state: SearchState | None,
        taps: Taps | None = None,
        **options: Any,
    ) -> TrackerOutput:
        """Takes the sums of a call; what was recorded for them alone stays hidden."""
        taps = Taps(traces=False) if (hidden := taps is None) else taps
        output = call(events, kernel, *state, taps=taps, **options)
        recorder = self._recorders["search"]
        if not self._sampled:
            self._sampled = self._sample(taps, "search")
        if recorder.held > _HOLD or (recorder.held and recorder.steps != len(taps.spikes[STEM])):
            self._count_waiting()
        features = self.graph.features
        matching = self._kernel_synapses.reached(kernel, taps.spikes[features])
        recorder.record(events, taps.spikes | taps.matched, matching)
        output.taps = None if hidden else taps
        self._profile.outputs += len(events)
        self._profile.windows += len(events)
        self._profile.seconds += float(events.length_us.sum()) * 1e-6
        return output

    def _sample(self, taps: Taps, branch: str) -> bool:
        """Keeps the first spike trains of some neurons, for pictures; returns whether there are enough."""
        full = True
        for name, spikes in taps.spikes.items():
            population = self._neuron(name, branch, spikes.shape[2:])
            if not population.raster_full:
                population.sample(spikes)
            full &= population.raster_full
        return full

    def _count_waiting(self) -> None:
        """Counts what was collected, all windows at once: one by one, the small sums would cost too much."""
        if self._recorders["search"].held:
            sums = self._recorders["search"].take()
            self._count_stem(sums, "search")
            self._count_nodes(self.graph, sums, "search")
            self._count_readout(sums)

    # -- what is counted -------------------------------------------------------------------------------------------

    def _count_stem(self, sums: WindowSums, branch: str) -> None:
        layer = self._layer(STEM, branch, "events", self.student.stem, position="first")
        layer.add(
            sums.bins,
            input_spikes=sums.events,
            input_active=sums.events,
            input_sites=2 * math.prod(sums.size_hw),
            synops=sums.pairs,
            active=sums.pairs,
            effective=sums.pairs,
            dense=self._stem.dense(sums.size_hw),
            textbook=self._stem.textbook(sums.size_hw),
        )
        self._population(STEM, branch, sums.bins, sums.spikes[STEM], updates=sums.pairs)

    def _count_nodes(self, graph: Graph, sums: WindowSums, branch: str) -> None:
        """Every node of a graph, in order; cells of a node are its channels times its sites."""
        cells: dict[str, int] = {}
        for name, node in graph.nodes.items():
            if node.kind == "lif":
                self._population(name, branch, sums.bins, sums.spikes[name])
            elif node.kind == "sum":
                cells[name] = cells[node.sources[0]]
                copies = sum(len(graph.readers(source)) > 1 for source in node.sources)
                if copies:
                    layer = self._layer(name, branch, "spikes")
                    layer.add(sums.bins, additions=copies * sums.spikes[STEM].steps * cells[name])
            elif node.kind == "match":
                self._count_matching(node, sums)
            elif node.kind == "conv":
                cells[name] = self._count_conv(node, branch, sums)
                if name in self._folds:
                    self._count_folded(self._folds[name], sums)

    def _count_conv(self, node: Node, branch: str, sums: WindowSums) -> int:
        """A convolution; returns its cells."""
        source = self.graph.reads(node)
        signal, shape = sums.spikes[source], ConvShape.of(node.conv)
        position = "last" if node.name == self.graph.output else ""
        kind = signal.population.kind
        layer = self._layer(
            node.name, branch, kind, node.module, position=position, form=self._forms.get(node.name, "")
        )
        cells = shape.out_channels * math.prod(shape.outputs(signal.size_hw))
        biased = node.norm is not None or node.conv.bias is not None
        weight = node.conv.weight if node.name in self._pruned else None
        layer.add(sums.bins, additions=signal.steps * cells * biased, **signal.uses(shape, weight=weight))
        return cells

    def _count_matching(self, node: Node, sums: WindowSums) -> None:
        features, layer = sums.spikes[node.source], self._layer(node.name, "search", "spikes", form="staged")
        shape = correlation(node, features.channels)
        layer.parameters = features.channels * math.prod(shape.kernel)
        layer.parameter_bytes = layer.parameters * _BYTES
        assert sums.matching is not None
        layer.add(sums.bins, **features.uses(shape) | {"effective": sums.matching[:, 0]})

    def _count_folded(self, mixing: Mixing, sums: WindowSums) -> None:
        """The matching and what mixes its maps as one dense convolution."""
        features, shape = sums.spikes[self.graph.features], folded_shape(mixing)
        name = MATCH if len(self._mixings) == 1 else f"{MATCH}.{mixing.conv.name}"
        layer = self._layer(name, "search", "spikes", form="folded")
        layer.parameters = shape.out_channels * (shape.in_channels * math.prod(shape.kernel) + 1)
        layer.parameter_bytes = layer.parameters * _BYTES
        outputs = features.steps * shape.out_channels * math.prod(features.size_hw)
        assert sums.matching is not None
        effective = sums.matching[:, 1 + self._mixings.index(mixing)]
        layer.add(sums.bins, additions=outputs, **features.uses(shape) | {"effective": effective})

    def _count_kernel(self, sums: WindowSums, kernel: Tensor) -> None:
        """Averaging, weighing and scaling the template's rates: three multiplications a tap, T - 1 additions a cell."""
        match = self.graph.all("match")[0]
        layer = self._layer(f"{match.name}.kernel", "template", "real", form="host")
        taps, features = kernel[0].numel(), sums.spikes[self.graph.features]
        layer.add(
            sums.bins,
            dense=3 * taps,
            textbook=3 * taps,
            effective=3 * taps,
            effective_graded=3 * taps,
            additions=(features.steps - 1) * features.neurons,
            input_sites=features.neurons,
            input_active=features.neurons,
        )

    def _count_readout(self, sums: WindowSums) -> None:
        """The leaky membranes behind the read-out convolution."""
        steps, cells = sums.spikes[STEM].steps, self.graph.readout.conv.out_channels * self.grid**2
        self._held("integrator", "search", cells, cells * _BYTES, host=True).add(sums.bins, steps * cells)
        self._profile.uncounted = ["window gain: one division a window", "reading the box from the maps (host)"]

    def _layer(self, name: str, branch: str, inputs: str, module: nn.Module | None = None, **more: str) -> LayerProfile:
        key = (branch, name)
        if key not in self._layers:
            weights = () if module is None else module.parameters()
            self._layers[key] = LayerProfile.of(name, branch, inputs, weights, **more)
            self._profile.layers.append(self._layers[key])
        return self._layers[key]

    def _neuron(self, name: str, branch: str, shape: Sequence[int]) -> NeuronProfile:
        """A spiking population of `[C, H, W]`; the stem's state also holds the time of each site's last event."""
        neurons = math.prod(shape)
        return self._held(name, branch, neurons, neurons * _BYTES + (8 * neurons // shape[0] if name == STEM else 0))

    def _held(self, name: str, branch: str, neurons: int, state_bytes: int, *, host: bool = False) -> NeuronProfile:
        key = (branch, name)
        if key not in self._neurons:
            self._neurons[key] = NeuronProfile(name, branch, neurons, state_bytes, host=host)
            self._profile.neurons.append(self._neurons[key])
        return self._neurons[key]

    def _population(
        self, name: str, branch: str, bins: Tensor, signal: Signal, *, updates: Tensor | None = None
    ) -> None:
        each = updates if updates is not None else signal.steps * signal.neurons
        population = self._neuron(name, branch, (signal.channels, *signal.size_hw))
        population.add(bins, each, signal.count.fired)
        if signal.over_windows is not None:
            population.add_spikes(signal.over_windows)
