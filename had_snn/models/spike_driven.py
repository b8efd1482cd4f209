"""The student's search branch computed from spike to spike: what is silent costs nothing.

`SpikeDrivenStudent` has the face of a `SpikingTracker` for tracking on a CPU. Between layers travel lists of spikes; a
convolution adds up the weights of the spikes in reach and its neurons fire at once (`had_snn.ops.spike_conv`). A large
layer whose input is busier than `DENSE_ABOVE` runs as an ordinary convolution instead. Both give the same bits, because
the weights are those of `freeze`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.errors import InputError
from had_snn.events.stream import EventBatch
from had_snn.models.frozen import COUNT_LIMIT, FrozenStudent, freeze
from had_snn.models.head import split_readout
from had_snn.models.neurons import LIF, ConvNorm
from had_snn.models.outputs import TrackerOutput
from had_snn.models.state import SearchState
from had_snn.models.student import ResidualBlock, SpikingTracker
from had_snn.ops import EventLIFState, decay_factor, lif_multi_step
from had_snn.ops.event_lif_call import EventLIFCall
from had_snn.ops.spike_conv import SpikeConvCall, SpikeCorrelateCall, SpikeList, SpikeListCall, SpikeWeights

#: Spikes per neuron and micro-step from which the dense convolution of a layer is the faster one, when its weights are
#: larger than a core's cache; smaller layers are faster from spike to spike at any rate. Both measured by
#: `experiments/bench_tracker.py` (the curves of the large and of the small student in `benchmarks/tracker.json`).
DENSE_ABOVE = 0.4
LARGE_WEIGHTS_BYTES = 1 << 19

BACKENDS = ("auto", "dense", "spikes")
#: Plans that are kept: a tracker needs one, or two when it carries membranes.
MAX_PLANS = 8


class _Layer:
    """A convolution of spikes and the neurons behind it, for one number of micro-steps and samples.

    Args:
        name: The neurons' name in `Taps` and `SearchState`.
        spikes: The input's list.
        weights: The convolution.
        lif: The neurons.
        added: Currents that are added, `[T, N, Ho, Wo, K]`.
        keep_current: Whether a later layer adds this one's currents to its own.
        keep_fired: Whether a later layer needs the spikes as numbers.
        dense_above: Input rate from which the convolution runs dense; by the size of its weights when None.
    """

    def __init__(
        self,
        name: str,
        spikes: SpikeList,
        weights: SpikeWeights,
        lif: LIF,
        *,
        added: Tensor | None = None,
        keep_current: bool = False,
        keep_fired: bool = False,
        dense_above: float | None = None,
    ) -> None:
        self.name, self.weights, self.lif, self.added = name, weights, lif, added
        self.dense_above = _dense_above(weights) if dense_above is None else dense_above
        self.call = SpikeConvCall(spikes, weights, current=added, keep_current=keep_current, keep_fired=keep_fired)
        assert self.call.spikes is not None
        self.input, self.output = spikes, self.call.spikes
        _, samples, channels, height, width = self.output.shape
        self._state_shape = (samples, height, width, channels)
        self.neurons = self.output.start.shape[0] * samples * channels * height * width
        self._decays: dict[float, float] = {}

    def run(
        self, rate: float, dt_us: float, before: dict[str, Tensor] | None, after: dict[str, Tensor] | None
    ) -> float:
        """Runs the layer on an input of `rate` spikes per neuron and micro-step; returns its own rate."""
        v0 = None if before is None else before[self.name].permute(0, 2, 3, 1).contiguous()
        v = None if after is None else torch.empty(self._state_shape)
        fired = self._dense(dt_us, v0, v) if rate > self.dense_above else self.call(self._decay(dt_us), v0, v)
        if after is not None and v is not None:
            after[self.name] = v.permute(0, 3, 1, 2)
        return fired / self.neurons

    def _decay(self, dt_us: float) -> float:
        """Decay per micro-step as `lif_multi_step` takes it."""
        if dt_us not in self._decays:
            self._decays[dt_us] = float(decay_factor(self.lif.tau_us, dt_us))
        return self._decays[dt_us]

    def _dense(self, dt_us: float, v0: Tensor | None, v: Tensor | None) -> int:
        x, weights = self.input.dense(), self.weights
        current = F.conv2d(x.flatten(0, 1), weights.dense, stride=weights.stride, padding=weights.padding)
        current = current.unflatten(0, x.shape[:2]).movedim(2, -1) + weights.bias
        if self.added is not None:
            current = self.added + current
        spikes, last, _ = lif_multi_step(current, v0, tau=self.lif.tau_us, dt=dt_us)
        if v is not None:
            v.copy_(last)
        for kept, value in ((self.call.current, current), (self.call.fired, spikes)):
            if kept is not None:
                kept.copy_(value)
        return SpikeListCall(spikes.contiguous(), self.output)()


class _Packed:
    """A student's weights in the kernels' order."""

    def __init__(self, student: FrozenStudent) -> None:
        backbone = student.backbone
        self.first, self.second = _packed(backbone.conv1), _packed(backbone.conv2)
        self.blocks = [_packed(block.conv) for block in _blocks(student)]
        self.mix_search, self.head = _packed(student.mix_search), _packed(student.conv_head)
        self.mix_match = student.mix_match.conv.weight[:, :, 0, 0].T.contiguous()
        self.mix_bias = student.mix_match.norm.bias
        self.readout = SpikeWeights.pack(student.readout.weight, student.readout.bias, padding=1)


class _Plan:
    """All layers with their memory, for one number of micro-steps and samples."""

    def __init__(
        self, student: FrozenStudent, packed: _Packed, *, steps: int, samples: int, dense_above: float | None
    ) -> None:
        config, backbone, stem = student.config, student.backbone, student.stem
        self.packed = packed
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
        counts = self.list_counts.spikes
        first = _Layer("backbone.lif1", counts, packed.first, backbone.lif1, dense_above=dense_above)
        self.layers = [first]
        spikes, added, weights = first.output, None, packed.second
        for index, block in enumerate(_blocks(student)):
            name = f"backbone.blocks.{index}.lif"
            layer = _Layer(name, spikes, weights, block.lif, added=added, keep_current=True, dense_above=dense_above)
            self.layers.append(layer)
            spikes, added, weights = layer.output, layer.call.current, packed.blocks[index]
        last = _Layer(
            "backbone.lif_out", spikes, weights, backbone.lif_out, added=added, keep_fired=True, dense_above=dense_above
        )
        self.layers.append(last)
        assert last.call.fired is not None
        self.fired = last.call.fired
        self.correlate = SpikeCorrelateCall(self.fired, last.output, config.match_kernel)
        self.mixed = torch.empty(*self.fired.shape[:-1], config.channels[2])
        mix = _Layer(
            "lif_mix", last.output, packed.mix_search, student.lif_mix, added=self.mixed, dense_above=dense_above
        )
        self.tail = [mix, _Layer("lif_head", mix.output, packed.head, student.lif_head, dense_above=dense_above)]
        self.readout = SpikeConvCall(self.tail[-1].output, packed.readout, neurons=False)

    def run(
        self,
        events: EventBatch,
        kernel: Tensor,
        gain: Tensor,
        state: SearchState | None,
        after: dict[str, Tensor] | None,
        *,
        dt_us: float,
    ) -> tuple[Tensor, EventLIFState]:
        """Read-out maps `[T, N, 5, G, G]` and the stem's new state; membranes go into `after`."""
        before = None if state is None else state.membranes
        stem = self.stem(events, gain, None if state is None else state.stem)
        if state is not None and state.counts is not None:
            if len(self.stem.counts) != 1:
                raise InputError("a micro-step is under way; finish it with n_steps=1 before reading several")
            self.stem.counts.add_(state.counts.permute(0, 1, 3, 4, 2))
        rate = self.list_counts() / self.stem.counts.numel()
        for layer in self.layers:
            rate = layer.run(rate, dt_us, before, after)
        torch.addmm(
            self.packed.mix_bias,
            self.correlate(kernel).flatten(0, 3),
            self.packed.mix_match,
            out=self.mixed.flatten(0, 3),
        )
        for layer in self.tail:
            rate = layer.run(rate, dt_us, before, after)
        self.readout()
        assert self.readout.current is not None
        return self.readout.current.permute(0, 1, 4, 2, 3).contiguous(), stem


class SpikeDrivenStudent:
    """Runs a student from spike to spike.

    Args:
        student: The network; frozen if it is not yet.
        dense_above: Input rate from which any layer runs as a dense convolution: below 0 for all layers, above 1 for
            none. When None, `DENSE_ABOVE` for large layers only.

    Example:
        >>> from had_snn import load_student
        >>> SpikeDrivenStudent(load_student("tiny")).grid
        12
    """

    def __init__(self, student: SpikingTracker, *, dense_above: float | None = None) -> None:
        self.student: FrozenStudent = freeze(student)
        if next(self.student.parameters()).device.type != "cpu":
            raise InputError("spike-driven inference runs on a CPU; move the student there or use its dense layers")
        self.config, self.grid, self.stem = self.student.config, self.student.grid, self.student.stem
        self.dense_above = dense_above
        self._packed = _Packed(self.student)
        self._plans: dict[tuple[int, int], _Plan] = {}

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the frozen student."""
        return self.student.parameters()

    def encode_template(self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None) -> Tensor:
        """See `FrozenStudent.encode_template`."""
        return self.student.encode_template(events, boxes_cxcywh, n_steps=n_steps)

    @torch.inference_mode()
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
        dt_us: float | None = None,
    ) -> TrackerOutput:
        """See `SpikingTracker.forward_search`: the same maps and the same state, to the last bit."""
        steps, samples = n_steps or self.config.n_steps, len(events)
        dt_us = self.student._dt_us(events, steps) if dt_us is None else dt_us
        plan = self._plans.get((steps, samples))
        if plan is None:
            while len(self._plans) >= MAX_PLANS:
                self._plans.pop(next(iter(self._plans)))
            plan = _Plan(self.student, self._packed, steps=steps, samples=samples, dense_above=self.dense_above)
            self._plans[(steps, samples)] = plan
        # After a micro-step that is not over, the membranes are those of its begin.
        after: dict[str, Tensor] | None = {} if with_state and share == 1.0 else None
        gain = self.stem.gain(events) if gain is None else gain
        maps, stem = plan.run(events, kernel, gain, state, after, dt_us=dt_us)
        output = split_readout(self.student._integrate(maps, state, dt_us=dt_us, share=share))
        output.activity = plan.fired.mean(dim=(0, 2, 3))
        if with_state:
            counts = plan.stem.counts.permute(0, 1, 4, 2, 3)
            counts = counts.clamp(max=COUNT_LIMIT) if share < 1.0 else counts
            output.state = self.student._state_after(state, stem, after or {}, maps, counts, share=share)
        return output


def search_network(student: SpikingTracker, backend: str = "auto") -> SpikingTracker | SpikeDrivenStudent:
    """The network that a tracker asks for boxes: the frozen student, dense or spike-driven.

    Args:
        student: A student, or something with its face (a deployed graph), which is returned as it is, as are the
            controls with another stem.
        backend: `"spikes"`: from spike to spike, on a CPU. `"dense"`: ordinary convolutions, on any device; the boxes
            are the same. `"auto"`: spikes on a CPU, dense elsewhere.

    Raises:
        InputError: If the backend is unknown or cannot run this student.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} is unknown; expected one of {', '.join(BACKENDS)}")
    plain = type(student) in (SpikingTracker, FrozenStudent)
    if not plain or student.config.stem != "events":
        if backend == "spikes":
            what = f"a student with stem={student.config.stem}" if plain else type(student).__name__
            raise InputError(f"{what} does not run from spike to spike; use backend='auto'")
        return student
    if backend == "spikes" or (backend == "auto" and next(student.parameters()).device.type == "cpu"):
        return SpikeDrivenStudent(student)
    return freeze(student)


def _dense_above(weights: SpikeWeights) -> float:
    large = weights.weight.numel() * weights.weight.element_size() > LARGE_WEIGHTS_BYTES
    return DENSE_ABOVE if large else math.inf


def _blocks(student: SpikingTracker) -> list[ResidualBlock]:
    found = []
    for block in student.backbone.blocks:
        assert isinstance(block, ResidualBlock)
        found.append(block)
    return found


def _packed(block: ConvNorm) -> SpikeWeights:
    conv = block.conv
    return SpikeWeights.pack(conv.weight, block.norm.bias, stride=conv.stride[0], padding=int(conv.padding[0]))
