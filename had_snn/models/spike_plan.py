"""A frozen graph as calls of the spike kernels, with all memory laid out once.

Between layers travel lists of spikes; a convolution adds up the weights of the spikes in reach and its neurons fire at
once (`had_snn.ops.spike_conv`). A large layer whose input is busier than `DENSE_ABOVE` runs as an ordinary convolution
instead, to the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from had_snn.events.batch import EventBatch
from had_snn.models.frozen import COUNT_LIMIT, FrozenStudent
from had_snn.models.graph import STEM, Node
from had_snn.models.micro_steps import MicroSteps
from had_snn.models.search_state import SearchState
from had_snn.ops import EventLIFState, decay_factor, lif_multi_step
from had_snn.ops.event_lif_call import EventLIFCall
from had_snn.ops.spike_conv import SpikeConvCall, SpikeCorrelateCall, SpikeList, SpikeListCall, SpikeWeights

#: Spikes per neuron and micro-step from which the dense convolution of a layer is the faster one, when its weights are
#: larger than a core's cache; smaller layers are faster from spike to spike at any rate. Both measured by
#: `experiments/bench/tracker.py` (the curves of the large and of the small student in `benchmarks/tracker.json`).
DENSE_ABOVE = 0.4
LARGE_WEIGHTS_BYTES = 1 << 19


@dataclass
class _Call:
    """What the parts of a plan need to know of one call, and what they leave for each other.

    Attributes:
        kernel: Template kernels `[N, C, k, k]`.
        dt_us: Length of a micro-step.
        before: Potentials before the call; None for rest.
        after: Where potentials after it go; None when nobody asks.
        rates: Spikes per neuron and micro-step by population.
    """

    kernel: Tensor
    dt_us: float
    before: dict[str, Tensor] | None
    after: dict[str, Tensor] | None
    rates: dict[str, float]


class _Layer:
    """Neurons and the convolution of spikes in front of them, for one number of micro-steps and samples.

    Args:
        node: The neurons.
        conv: What the convolution reads by name, as a list, and its weights; None where all currents are in `added`.
        added: Currents that are added, `[T, N, Ho, Wo, K]`.
        keep_current: Whether something else needs the whole current.
        keep_fired: Whether something needs the spikes as numbers.
        dense_above: Input rate from which the convolution runs dense; by the size of its weights when None.

    Attributes:
        output: The spikes.
        fired: The same as numbers `[T, N, Ho, Wo, K]`, or None.
        current: The whole current `[T, N, Ho, Wo, K]`, or None.
    """

    def __init__(
        self,
        node: Node,
        conv: tuple[str, SpikeList, SpikeWeights] | None,
        added: Tensor | None,
        *,
        keep_current: bool = False,
        keep_fired: bool = False,
        dense_above: float | None = None,
    ) -> None:
        self.name, self.lif, self.conv, self.added, self.call = node.name, node.lif, conv, added, None
        if conv is None:
            assert added is not None
            self.fired, self.current = torch.empty_like(added), None
            self.output, self.dense_above = SpikeListCall(self.fired).spikes, 0.0
        else:
            _, spikes, weights = conv
            large = weights.weight.numel() * weights.weight.element_size() > LARGE_WEIGHTS_BYTES
            self.dense_above = dense_above if dense_above is not None else DENSE_ABOVE if large else math.inf
            self.call = SpikeConvCall(spikes, weights, current=added, keep_current=keep_current, keep_fired=keep_fired)
            assert self.call.spikes is not None
            self.output, self.fired, self.current = self.call.spikes, self.call.fired, self.call.current
        steps, samples, channels, height, width = self.output.shape
        self._state_shape = (samples, height, width, channels)
        self.neurons = steps * samples * channels * height * width
        self._decays: dict[float, float] = {}

    def run(self, call: _Call) -> None:
        """Runs the layer."""
        v0 = None if call.before is None else call.before[self.name].permute(0, 2, 3, 1).contiguous()
        v = None if call.after is None else torch.empty(self._state_shape)
        if self.call is None or self.conv is None or call.rates[self.conv[0]] > self.dense_above:
            fired = self._dense(call.dt_us, v0, v)
        else:
            fired = self.call(self._decay(call.dt_us), v0, v)
        if call.after is not None and v is not None:
            call.after[self.name] = v.permute(0, 3, 1, 2)
        call.rates[self.name] = fired / self.neurons

    def _decay(self, dt_us: float) -> float:
        """Decay per micro-step as `lif_multi_step` takes it."""
        if dt_us not in self._decays:
            self._decays[dt_us] = float(decay_factor(self.lif.tau_us, dt_us))
        return self._decays[dt_us]

    def _dense(self, dt_us: float, v0: Tensor | None, v: Tensor | None) -> int:
        current = self.added
        if self.conv is not None:
            _, spikes, weights = self.conv
            x = spikes.dense()
            current = F.conv2d(x.flatten(0, 1), weights.dense, stride=weights.stride, padding=weights.padding)
            current = current.unflatten(0, x.shape[:2]).movedim(2, -1) + weights.bias
            current = current if self.added is None else self.added + current
        assert current is not None
        spikes, last, _ = lif_multi_step(current, v0, tau=self.lif.tau_us, dt=dt_us)
        if v is not None:
            v.copy_(last)
        for kept, value in ((self.current, current), (self.fired, spikes)):
            if kept is not None:
                kept.copy_(value)
        return SpikeListCall(spikes.contiguous(), self.output)()


class SpikePlan:
    """All layers with their memory, for one number of micro-steps and samples.

    The neurons of each LIF node run together with a convolution in front of them, the last one whose current they
    need; the other currents that meet there are computed before and added.
    """

    def __init__(
        self,
        student: FrozenStudent,
        packed: dict[str, SpikeWeights],
        *,
        steps: int,
        samples: int,
        dense_above: float | None,
    ) -> None:
        config, stem, self.graph = student.config, student.stem, student.graph()
        self.packed, self.dense_above, self.match_kernel = packed, dense_above, config.match_kernel
        self.stem = EventLIFCall(
            stem.weight,
            stem.tau_us,
            samples=samples,
            n_steps=steps,
            size_hw=(config.search_size, config.search_size),
            stride=stem.stride,
            padding=stem.padding,
        )
        self.list_counts = SpikeListCall(self.stem.counts, valued=True, most=COUNT_LIMIT)
        self.spikes: dict[str, SpikeList] = {STEM: self.list_counts.spikes}
        self.fired: dict[str, Tensor] = {}
        self._currents: dict[str, Tensor] = {}
        self._work: list[Callable[[_Call], object]] = []
        for node in self.graph.all("lif"):
            self._add_neurons(node)
        readout = self.graph.readout
        self.readout = SpikeConvCall(self.spikes[readout.source], packed[readout.name], neurons=False)

    def _add_neurons(self, node: Node) -> None:
        """The neurons of a node, and whatever must be computed before them."""
        name = node.source
        conv, others = self._last_convolution(name)
        added = self._summed(others) if others else None
        layer = _Layer(
            node,
            None if conv is None else (conv.source, self.spikes[conv.source], self.packed[conv.name]),
            added,
            keep_current=conv is not None and len(self.graph.readers(name)) > 1,
            keep_fired=any(reader.kind == "match" for reader in self.graph.readers(node.name)),
            dense_above=self.dense_above,
        )
        self._work.append(layer.run)
        self.spikes[node.name] = layer.output
        if layer.current is not None:
            self._currents[name] = layer.current
        if layer.fired is not None:
            self.fired[node.name] = layer.fired

    def _last_convolution(self, name: str) -> tuple[Node | None, list[str]]:
        """The convolution to run together with the neurons that read a current, and what must be added to it."""
        node = self.graph.nodes[name]
        if name not in self._currents:
            for source in reversed(node.sources if node.kind == "sum" else (name,)):
                conv = self.graph.nodes[source]
                alone = source == name or (source not in self._currents and len(self.graph.readers(source)) == 1)
                if alone and conv.kind == "conv" and conv.source in self.spikes:
                    return conv, [other for other in node.sources if source != name and other != source]
        return None, [name]

    def _summed(self, names: Sequence[str]) -> Tensor:
        """Where the sum of some currents `[T, N, H, W, K]` will be found."""
        total = None
        for name in names:
            total = self._current(name, total)
        assert total is not None
        return total

    def _current(self, name: str, added: Tensor | None) -> Tensor:
        """Where a current will be found, with another one added to it."""
        node = self.graph.nodes[name]
        if added is not None and (name in self._currents or len(self.graph.readers(name)) > 1):
            return self._plus(self._current(name, None), added)
        if name not in self._currents:
            if node.kind == "sum":
                made = self._summed(node.sources)
            elif node.source in self.spikes:
                call = SpikeConvCall(self.spikes[node.source], self.packed[name], neurons=False, current=added)
                self._work.append(lambda _: call())
                made, added = call.current, None
            else:
                made = self._matched(node)
            assert made is not None
            if added is not None:
                made = self._plus(made, added)
            if len(self.graph.readers(name)) == 1:
                return made
            self._currents[name] = made
        return self._currents[name]

    def _plus(self, current: Tensor, added: Tensor) -> Tensor:
        total = torch.empty_like(current)
        self._work.append(lambda _: torch.add(current, added, out=total))
        return total

    def _matched(self, node: Node) -> Tensor:
        """The current of a 1x1 convolution of the matched maps."""
        match, weight, bias = self.graph.nodes[node.source], node.conv.weight[:, :, 0, 0], node.conv.bias
        assert bias is not None
        weight, fired = weight.T.contiguous(), self.fired[match.source]
        correlate = SpikeCorrelateCall(fired, self.spikes[match.source], self.match_kernel)
        mixed = torch.empty(*fired.shape[:-1], len(bias))

        def mix(call: _Call) -> None:
            torch.addmm(bias, correlate(call.kernel).flatten(0, 3), weight, out=mixed.flatten(0, 3))

        self._work.append(mix)
        return mixed

    def run(
        self,
        events: EventBatch,
        kernel: Tensor,
        gain: Tensor,
        state: SearchState | None,
        steps: MicroSteps,
        after: dict[str, Tensor] | None,
    ) -> tuple[Tensor, EventLIFState]:
        """Read-out maps `[T, N, 5, G, G]` and the stem's new state; membranes go into `after`."""
        stem = self.stem(events, gain, None if state is None else state.stem)
        earlier = None if state is None else state.under_way(steps)
        if earlier is not None:
            self.stem.counts.add_(earlier.permute(0, 1, 3, 4, 2))
        rates = {STEM: self.list_counts() / self.stem.counts.numel()}
        call = _Call(kernel, steps.dt_us, None if state is None else state.membranes, after, rates)
        for work in self._work:
            work(call)
        self.readout()
        assert self.readout.current is not None
        return self.readout.current.permute(0, 1, 4, 2, 3).contiguous(), stem
