"""Counting the spiking student while it tracks: the same calls, the same results, and a record of what they cost.

    counted = CountedStudent(student)
    tracker = OnlineTracker(counted)          # or evaluate it, or feed it windows with `profile_student`
    ...
    counted.profile.energy_mj()

Spikes come from the forward pass itself (its taps), events from their coordinates. The matched maps are in no tap: a
hook on the matching layer looks at them as they pass.

What the rules charge, layer by layer (`exact`; see `energy` for the others):

- stem: one addition for each event, site that sees it, and channel; one update of each neuron touched by an event. The
  window's gain scales thresholds, one division a window, and is not charged.
- convolutions: norms are folded (their shift is one bias addition for each output and micro-step).
- shortcut: one addition for each neuron and micro-step, the block's input current joining its output.
- matching: search spikes through the kernel's taps; the kernel's zeros are charged except under NeuroBench's rule.
- `mix_match` reads the matched maps, which are real-valued: a MAC for each synapse (`form` `"staged"`). Because both
  steps are linear and constant for a track, a chip runs them, together with `mix_search` beside them, as one dense
  convolution on spikes (`form` `"folded"`, layer `match`); that is also what the exporter writes.
- read-out: an ordinary convolution on spikes; its leaky membranes are updated every micro-step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from had_snn.events.stream import EventBatch
from had_snn.models import SpikingTracker, Taps, TrackerOutput
from had_snn.models.neurons import ConvNorm
from had_snn.profiling.profile import Profile
from had_snn.profiling.records import LayerProfile, NeuronProfile, rate_bin
from had_snn.profiling.synops import (
    ConvShape,
    alive_taps,
    conv_synops,
    effective_synops,
    event_synops,
    reached,
    tap_inputs,
)

_BYTES = 4  # float32 weights and membranes


class CountedStudent:
    """A student that counts what it does; takes its place in a tracker.

    Args:
        student: The network, in evaluation mode.
        name: Its name in tables.
    """

    def __init__(self, student: SpikingTracker, *, name: str = "student") -> None:
        self.student, self.config, self.grid = student, student.config, student.grid
        parameters = sum(p.numel() for p in student.parameters())
        self.profile = Profile(name, "spiking", parameters=parameters)
        self._layers: dict[tuple[str, str], LayerProfile] = {}
        self._neurons: dict[tuple[str, str], NeuronProfile] = {}
        self._wired: set[int] = set()
        self._sparse = {name: bool((p == 0).any()) for name, p in student.named_parameters() if p.ndim == 4}

    def eval(self) -> CountedStudent:
        """Puts the network into evaluation mode."""
        self.student.eval()
        return self

    def parameters(self) -> Iterable[nn.Parameter]:
        """The network's parameters."""
        return self.student.parameters()

    @torch.no_grad()
    def encode_template(self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None) -> Tensor:
        """`SpikingTracker.encode_template`, counted."""
        student = self.student
        steps = n_steps or self.config.n_steps
        dt_us = float(events.t_end[0] - events.t_begin[0]) / steps
        taps = Taps()
        counts, _, _ = student.stem(events, n_steps=steps)
        features = student.backbone(counts, dt_us=dt_us, taps=taps, tag="backbone.")
        kernel = student.matching.template_kernel(features.mean(dim=0), boxes_cxcywh)
        spikes = {tap: _Signal(value) for tap, value in taps.spikes.items()} | {"stem": _Signal(counts, graded=True)}
        self._count_trunk(events, spikes, branch="template")
        self._count_kernel(features, kernel, _bins(events))
        self.profile.tracks += len(events)
        return kernel

    @torch.no_grad()
    def forward_search(
        self, events: EventBatch, kernel: Tensor, *, n_steps: int | None = None, with_taps: bool = False
    ) -> TrackerOutput:
        """`SpikingTracker.forward_search`, counted."""
        matched: list[Tensor] = []
        handle = self.student.matching.register_forward_hook(lambda _module, _inputs, out: matched.append(out))
        try:
            output = self.student.forward_search(events, kernel, n_steps=n_steps, with_taps=True)
        finally:
            handle.remove()
        assert output.taps is not None
        spikes = {tap: _Signal(value, graded=tap == "stem") for tap, value in output.taps.spikes.items()}
        self._count_trunk(events, spikes, branch="search")
        self._count_head(events, spikes, kernel, matched[0])
        self.profile.outputs += len(events)
        self.profile.seconds += float((events.t_end - events.t_begin).sum()) * 1e-6
        if not with_taps:
            output.taps = None
        return output

    # -- what is counted -------------------------------------------------------------------------------------------

    def _count_trunk(self, events: EventBatch, spikes: _Signals, *, branch: str) -> None:
        """Stem and backbone, which both branches run."""
        student, bins = self.student, _bins(events)
        stem = student.stem
        shape = ConvShape.square(2, stem.channels, stem.kernel, stride=stem.stride, padding=stem.padding)
        pairs = event_synops(events, shape)
        each = events.offsets[1:] - events.offsets[:-1]
        layer = self._layer("stem", branch, "events", stem, position="first")
        height, width = events.size_hw
        layer.add(
            bins, input_spikes=each, input_active=each, input_sites=2 * height * width, synops=pairs, active=pairs,
            effective=pairs, dense=shape.dense(events.size_hw), textbook=shape.textbook(events.size_hw),
        )  # fmt: skip
        self._population("stem", branch, bins, spikes["stem"], updates=pairs, extra_state=True)
        backbone = student.backbone
        self._conv("backbone.conv1", branch, bins, backbone.conv1, spikes["stem"], inputs="counts")
        self._conv("backbone.conv2", branch, bins, backbone.conv2, spikes["backbone.lif1"])
        self._population("backbone.lif1", branch, bins, spikes["backbone.lif1"])
        for index, block in enumerate(backbone.blocks):
            name = f"backbone.blocks.{index}"
            fired = spikes[f"{name}.lif"]
            self._conv(f"{name}.conv", branch, bins, block.conv, fired)
            self._population(f"{name}.lif", branch, bins, fired)
            shortcut = self._layer(f"{name}.shortcut", branch, "spikes", None)
            shortcut.add(bins, additions=fired.steps * fired.neurons)
        self._population("backbone.lif_out", branch, bins, spikes["backbone.lif_out"])

    def _count_kernel(self, features: Tensor, kernel: Tensor, bins: Tensor) -> None:
        """Averaging, weighing and scaling the template's rates: three multiplications a tap, T - 1 additions a cell."""
        steps, _, channels, height, width = features.shape
        layer = self._layer("matching.kernel", "template", "real", None, form="host")
        taps = kernel[0].numel()
        cells = channels * height * width
        layer.add(
            bins, dense=3 * taps, textbook=3 * taps, effective=3 * taps, effective_graded=3 * taps,
            additions=(steps - 1) * cells, input_sites=cells, input_active=cells,
        )  # fmt: skip

    def _count_head(self, events: EventBatch, spikes: _Signals, kernel: Tensor, matched: Tensor) -> None:
        """Matching, mixing, head and read-out."""
        student, bins = self.student, _bins(events)
        features = spikes["backbone.lif_out"]
        channels, side = kernel.shape[1], kernel.shape[-1]
        depthwise = ConvShape.square(channels, channels, side, padding=side // 2, groups=channels)
        met = tap_inputs(features.active, depthwise)
        alive = met * (kernel != 0)
        layer = self._layer("matching", "search", "spikes", None, form="staged")
        layer.parameters, layer.parameter_bytes = kernel[0].numel(), kernel[0].numel() * _BYTES
        layer.add(bins, **features.uses(depthwise) | {"effective": alive.sum(dim=(1, 2, 3)).round().long()})
        self._real_conv("mix_match", bins, student.mix_match, matched)
        self._conv("mix_search", "search", bins, student.mix_search, features, form="staged")
        self._count_folded(bins, features, met, alive, side)
        self._conv("conv_head", "search", bins, student.conv_head, spikes["lif_mix"])
        self._conv("readout", "search", bins, student.readout, spikes["lif_head"], position="last")
        self._population("lif_mix", "search", bins, spikes["lif_mix"])
        self._population("lif_head", "search", bins, spikes["lif_head"])
        steps, cells = features.steps, student.readout.out_channels * self.grid**2
        integrator = self._neuron("integrator", "search", cells, cells * _BYTES, host=True)
        integrator.add(bins, steps * cells, None)
        self.profile.uncounted = self._uncounted()

    def _count_folded(self, bins: Tensor, features: _Signal, met: Tensor, alive: Tensor, side: int) -> None:
        """The matching as one convolution: a kernel value becomes a row of weights; `mix_search` joins the middle."""
        student, middle = self.student, side // 2
        mixed, channels = student.mix_match.conv.weight.shape[:2]
        shape = ConvShape.square(channels, mixed, side, padding=middle)
        layer = self._layer("match", "search", "spikes", None, form="folded")
        layer.parameters = mixed * channels * side**2 + mixed
        layer.parameter_bytes = layer.parameters * _BYTES
        rows = alive_taps(student.mix_match.conv.weight, 1)[:, 0, 0]
        centre = alive_taps(student.mix_search.conv.weight, 1)[:, 0, 0]
        around = alive.sum(dim=(2, 3)) - alive[:, :, middle, middle]
        effective = (around @ rows + met[:, :, middle, middle] @ centre).round().long()
        layer.add(
            bins, additions=features.steps * mixed * self.grid**2, **features.uses(shape) | {"effective": effective}
        )

    def _conv(
        self, name: str, branch: str, bins: Tensor, module: ConvNorm | nn.Conv2d, spikes: _Signal, *,
        inputs: str = "spikes", position: str = "", form: str = "",
    ) -> None:  # fmt: skip
        conv = module.conv if isinstance(module, ConvNorm) else module
        self._wired.add(id(conv))
        shape = ConvShape.of(conv)
        layer = self._layer(name, branch, inputs, module, position=position, form=form)
        weight = conv.weight if self._has_zeros(conv) else None
        outputs = shape.out_channels * math.prod(shape.outputs(spikes.size_hw))
        biased = isinstance(module, ConvNorm) or conv.bias is not None
        layer.add(bins, additions=spikes.steps * outputs * biased, **spikes.uses(shape, weight=weight))

    def _real_conv(self, name: str, bins: Tensor, module: ConvNorm, values: Tensor) -> None:
        """A convolution of real values: MACs. The norm before it is folded into it."""
        self._wired.add(id(module.conv))
        shape, size = ConvShape.of(module.conv), tuple(values.shape[-2:])
        steps = values.shape[0]
        layer = self._layer(name, "search", "real", module, form="staged")
        active = (values != 0).sum(dim=(0, 2), dtype=torch.float64)
        effective = reached(active, shape)
        layer.add(
            bins, input_active=active.sum(dim=(1, 2)).long(), input_sites=values[:, 0].numel(), active=effective,
            effective=effective, effective_graded=effective, dense=steps * shape.dense(size),
            textbook=steps * shape.textbook(size), additions=steps * shape.out_channels * size[0] * size[1],
        )  # fmt: skip

    def _layer(
        self, name: str, branch: str, inputs: str, module: nn.Module | None, *, form: str = "", position: str = ""
    ) -> LayerProfile:
        key = (branch, name)
        if key not in self._layers:
            numbers = list(module.parameters()) if module is not None else []
            layer = LayerProfile(
                name, branch, inputs, form=form, position=position, parameters=sum(p.numel() for p in numbers),
                parameter_bytes=sum(p.numel() * p.element_size() for p in numbers),
            )  # fmt: skip
            self._layers[key] = layer
            self.profile.layers.append(layer)
        return self._layers[key]

    def _neuron(self, name: str, branch: str, neurons: int, state_bytes: int, *, host: bool = False) -> NeuronProfile:
        key = (branch, name)
        if key not in self._neurons:
            self._neurons[key] = NeuronProfile(name, branch, neurons, state_bytes, host=host)
            self.profile.neurons.append(self._neurons[key])
        return self._neurons[key]

    def _population(
        self, name: str, branch: str, bins: Tensor, signal: _Signal, *, updates: Tensor | None = None,
        extra_state: bool = False,
    ) -> None:  # fmt: skip
        neurons = signal.neurons
        # The stem also keeps the time of each site's last event, 8 bytes shared by its channels.
        state = neurons * _BYTES + (8 * neurons // signal.spikes.shape[2] if extra_state else 0)
        each = updates if updates is not None else signal.steps * neurons
        self._neuron(name, branch, neurons, state).add(bins, each, signal.spikes, signal.maps)

    def _has_zeros(self, conv: nn.Conv2d) -> bool:
        return any(self._sparse[f"{name}.weight"] for name, module in self.student.named_modules() if module is conv)

    def _uncounted(self) -> list[str]:
        missing = [
            f"{name} ({type(module).__name__}): not part of the known wiring"
            for name, module in self.student.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Linear)) and id(module) not in self._wired
        ]
        return [*missing, "window gain: one division a window", "reading the box from the maps (host)"]


def _bins(events: EventBatch) -> Tensor:
    """Event-rate bin of each window."""
    count = (events.offsets[1:] - events.offsets[:-1]).double()
    return rate_bin(count * 1e6 / (events.t_end - events.t_begin).double())


class _Signal:
    """Spikes of one population `[T, N, C, H, W]` and the sums over them that several counts need.

    Args:
        spikes: Whole numbers.
        graded: Whether values above 1 occur; otherwise spikes and active inputs are the same and are summed once.
    """

    def __init__(self, spikes: Tensor, *, graded: bool = False) -> None:
        self.spikes, self.graded = spikes, graded
        self.steps, self.neurons = spikes.shape[0], spikes[0, 0].numel()
        self.size_hw = (int(spikes.shape[-2]), int(spikes.shape[-1]))

    @functools.cached_property
    def maps(self) -> Tensor:
        """Summed over channels, `[T, N, H, W]`."""
        return self.spikes.sum(dim=2, dtype=torch.float32)

    @functools.cached_property
    def summed(self) -> Tensor:
        """Summed over channels and micro-steps, float64 `[N, H, W]`."""
        return self.maps.sum(dim=0).double()

    @functools.cached_property
    def active(self) -> Tensor:
        """Micro-steps in which each neuron was not silent, `[N, C, H, W]`."""
        return ((self.spikes != 0) if self.graded else self.spikes).sum(dim=0, dtype=torch.float32)

    def uses(self, shape: ConvShape, *, weight: Tensor | None = None) -> dict[str, Any]:
        """Counts of a convolution that reads these spikes.

        Args:
            shape: The convolution.
            weight: The weights when some are zero, which only the effective count needs.

        Returns:
            Values for `LayerProfile.add`.
        """
        fired = self.summed.sum(dim=(1, 2)).round().long()
        synops = reached(self.summed, shape)
        used: dict[str, Any] = {
            "input_spikes": fired, "input_active": fired, "input_sites": self.steps * self.neurons, "synops": synops,
            "active": synops, "effective": synops, "dense": self.steps * shape.dense(self.size_hw),
            "textbook": self.steps * shape.textbook(self.size_hw),
        }  # fmt: skip
        if self.graded:
            alive = self.spikes != 0
            by_step = each = conv_synops(alive, shape)
            if weight is not None:
                each = effective_synops(alive.flatten(0, 1), weight, shape).reshape(by_step.shape)
            used |= {"input_active": alive.sum(dim=(0, 2, 3, 4)), "active": by_step.sum(dim=0)}
            used |= {"effective": each.sum(dim=0)}
            used["effective_graded"] = (each * (self.spikes.flatten(2).amax(dim=2) > 1)).sum(dim=0)
        elif weight is not None:
            used["effective"] = effective_synops(self.active, weight, shape)
        return used


_Signals = dict[str, _Signal]
