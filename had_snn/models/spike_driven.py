"""The student's search branch computed from spike to spike: what is silent costs nothing.

`SpikeDrivenStudent` has the face of a `SpikingTracker` for tracking on a CPU. Between layers travel lists of spikes; a
convolution adds up the weights of the spikes in reach and its neurons fire at once (`had_snn.ops.spike_conv`). A layer
whose input is busier than `DENSE_ABOVE` runs as an ordinary convolution instead. Both give the same bits, because the
weights are those of `freeze`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from had_snn.errors import InputError
from had_snn.events.stream import EventBatch
from had_snn.models.frozen import COUNT_LIMIT, FrozenStudent, freeze
from had_snn.models.head import split_readout
from had_snn.models.neurons import LIF
from had_snn.models.outputs import TrackerOutput
from had_snn.models.state import SearchState
from had_snn.models.student import ResidualBlock, SpikingTracker
from had_snn.ops import decay_factor, lif_multi_step
from had_snn.ops.spike_conv import SpikeList, SpikeWeights, spike_conv, spike_conv_lif, spike_correlate, spike_list

#: Spikes per neuron and micro-step from which a layer's dense convolution is the faster one; measured by
#: `experiments/bench_tracker.py` (curve in `benchmarks/tracker.json`).
DENSE_ABOVE = 0.6


@dataclass(frozen=True)
class _Layer:
    """A convolution of spikes and the neurons behind it."""

    name: str
    weights: SpikeWeights
    lif: LIF


@dataclass
class _Signal:
    """Spikes between two layers, as a list and as numbers."""

    spikes: SpikeList
    dense: Tensor
    busy: bool


class SpikeDrivenStudent:
    """Runs a student from spike to spike.

    Args:
        student: The network; frozen if it is not yet.
        dense_above: Input rate from which a layer runs as a dense convolution: 0 for all layers, above 1 for none.

    Example:
        >>> from had_snn import load_student
        >>> SpikeDrivenStudent(load_student("tiny")).grid
        12
    """

    def __init__(self, student: SpikingTracker, *, dense_above: float = DENSE_ABOVE) -> None:
        self.student: FrozenStudent = freeze(student)
        if next(self.student.parameters()).device.type != "cpu":
            raise InputError("spike-driven inference runs on a CPU; move the student there or use its dense layers")
        self.config, self.grid, self.stem = self.student.config, self.student.grid, self.student.stem
        self.dense_above = dense_above
        frozen, backbone = self.student, self.student.backbone
        self._first = _Layer("backbone.lif1", _packed(backbone.conv1), backbone.lif1)
        lifs = [(f"backbone.blocks.{i}.lif", block.lif) for i, block in enumerate(_blocks(frozen))]
        lifs.append(("backbone.lif_out", backbone.lif_out))
        chain = [_packed(backbone.conv2), *(_packed(block.conv) for block in _blocks(frozen))]
        self._chain = [_Layer(name, weights, lif) for (name, lif), weights in zip(lifs, chain, strict=True)]
        self._mix = _Layer("lif_mix", _packed(frozen.mix_search), frozen.lif_mix)
        self._mix_match = frozen.mix_match.conv.weight[:, :, 0, 0].T.contiguous()
        self._mix_bias = frozen.mix_match.norm.bias
        self._head = _Layer("lif_head", _packed(frozen.conv_head), frozen.lif_head)
        self._readout = SpikeWeights.pack(frozen.readout.weight, frozen.readout.bias, padding=1)
        self._decays: dict[tuple[str, float], float] = {}

    def encode_template(self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None) -> Tensor:
        """See `FrozenStudent.encode_template`."""
        return self.student.encode_template(events, boxes_cxcywh, n_steps=n_steps)

    @torch.no_grad()
    def forward_search(
        self,
        events: EventBatch,
        kernel: Tensor,
        *,
        n_steps: int | None = None,
        state: SearchState | None = None,
        with_state: bool = False,
        gain: Tensor | None = None,
        share: float = 1.0,
    ) -> TrackerOutput:
        """See `SpikingTracker.forward_search`: the same maps and the same state, to the last bit."""
        steps = n_steps or self.config.n_steps
        dt_us = self.student._dt_us(events, steps)
        counts, _, stem = self.stem(events, None if state is None else state.stem, n_steps=steps, gain=gain)
        before = {} if state is None else state.membranes
        after: dict[str, Tensor] = {}
        spikes, largest = spike_list(counts, valued=True)
        signal = self._fire(self._first, _Signal(spikes, counts, largest > COUNT_LIMIT), dt_us, before, after)
        current = None
        for index, layer in enumerate(self._chain):
            more = index + 1 < len(self._chain)
            signal, current = self._fire_with_current(layer, signal, current, dt_us, before, after, keep=more)
        matched = spike_correlate(signal.dense, signal.spikes, kernel)
        mixed = torch.addmm(self._mix_bias, matched.permute(0, 1, 3, 4, 2).flatten(0, 3), self._mix_match)
        current = mixed.reshape(steps, len(events), self.grid, self.grid, -1).permute(0, 1, 4, 2, 3)
        signal, _ = self._fire_with_current(self._mix, signal, current, dt_us, before, after)
        signal = self._fire(self._head, signal, dt_us, before, after)
        maps = self._convolve(self._readout, signal).contiguous()
        output = split_readout(self.student._integrate(maps, state, dt_us=dt_us, share=share))
        if with_state:
            history = maps if state is None else torch.cat([state.readout, maps])
            output.state = SearchState(stem, after, history[-self.config.n_steps :])
        return output

    def _fire(
        self, layer: _Layer, signal: _Signal, dt_us: float, before: dict[str, Tensor], after: dict[str, Tensor]
    ) -> _Signal:
        return self._fire_with_current(layer, signal, None, dt_us, before, after)[0]

    def _fire_with_current(
        self, layer: _Layer, signal: _Signal, current: Tensor | None, dt_us: float, before: dict[str, Tensor],
        after: dict[str, Tensor], *, keep: bool = False,
    ) -> tuple[_Signal, Tensor | None]:  # fmt: skip
        """One layer; `current` is added to its own, and the sum is returned when it is to be kept."""
        rest = before.get(layer.name)
        if signal.busy:
            whole = self._convolve(layer.weights, signal)
            whole = whole if current is None else current + whole
            dense, after[layer.name], _ = lif_multi_step(whole, rest, tau=layer.lif.tau_us, dt=dt_us)
            spikes, _ = spike_list(dense)
        else:
            spikes, dense, after[layer.name], whole = spike_conv_lif(
                signal.spikes, layer.weights, decay=self._decay(layer, dt_us), current=current, state=rest,
                return_current=keep,
            )  # fmt: skip
        return _Signal(spikes, dense, spikes.spikes() > self.dense_above * dense.numel()), whole

    def _convolve(self, weights: SpikeWeights, signal: _Signal) -> Tensor:
        if not signal.busy:
            return spike_conv(signal.spikes, weights)
        dense = F.conv2d(
            signal.dense.flatten(0, 1), weights.dense, weights.bias, stride=weights.stride, padding=weights.padding
        )
        return dense.unflatten(0, signal.dense.shape[:2])

    def _decay(self, layer: _Layer, dt_us: float) -> float:
        """Decay per micro-step as `lif_multi_step` takes it."""
        key = (layer.name, dt_us)
        if key not in self._decays:
            self._decays[key] = float(decay_factor(layer.lif.tau_us, dt_us))
        return self._decays[key]


def _blocks(student: SpikingTracker) -> list[ResidualBlock]:
    found = []
    for block in student.backbone.blocks:
        assert isinstance(block, ResidualBlock)
        found.append(block)
    return found


def _packed(block) -> SpikeWeights:
    conv = block.conv
    return SpikeWeights.pack(conv.weight, block.norm.bias, stride=conv.stride[0], padding=conv.padding[0])
