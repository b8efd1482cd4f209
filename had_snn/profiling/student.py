"""Counting the spiking student while it tracks: the same calls, the same results, and a record of what they cost.

    counted = CountedStudent(student)
    tracker = OnlineTracker(counted)          # or evaluate it, or feed it windows with `profile_student`
    ...
    counted.profile.energy_mj()

Spikes come from the forward pass itself: hooks on the stem, on every LIF layer and on the matching look at their output
as it passes and keep sums of it, so nothing is computed twice and nothing but sums is held. Events are counted from
their coordinates.

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

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from had_snn.events.stream import EventBatch
from had_snn.models import SpikingTracker, TrackerOutput
from had_snn.models.neurons import LIF, ConvNorm
from had_snn.profiling.profile import Profile
from had_snn.profiling.records import LayerProfile, NeuronProfile
from had_snn.profiling.signals import Heard, Signal
from had_snn.profiling.synops import ConvShape, alive_taps, reached, tap_inputs

#: The population whose spikes are matched with the template.
_FEATURES = "backbone.lif_out"
_BYTES = 4  # float32 weights and membranes


#: Numbers held back before they are counted: small enough for any machine, large enough to count many windows at once.
_HOLD = 1_000_000


class CountedStudent:
    """A student that counts what it does; takes its place in a tracker.

    Args:
        student: The network, in evaluation mode.
        name: Its name in tables.
    """

    def __init__(self, student: SpikingTracker, *, name: str = "student") -> None:
        self.student, self.config, self.grid = student, student.config, student.grid
        parameters = sum(p.numel() for p in student.parameters())
        self._profile = Profile(name, "spiking", parameters=parameters)
        stem = student.stem
        self._stem = ConvShape.square(2, stem.channels, stem.kernel, stride=stem.stride, padding=stem.padding)
        self._waiting: list[Heard] = []
        self._populations = [(name, module) for name, module in student.named_modules() if isinstance(module, LIF)]
        self._layers: dict[tuple[str, str], LayerProfile] = {}
        self._neurons: dict[tuple[str, str], NeuronProfile] = {}
        self._wired: set[int] = set()
        convs = [module for module in student.modules() if isinstance(module, nn.Conv2d)]
        self._pruned = {id(conv) for conv in convs if (conv.weight == 0).any()}

    def eval(self) -> CountedStudent:
        """Puts the network into evaluation mode."""
        self.student.eval()
        return self

    def parameters(self) -> Iterable[nn.Parameter]:
        """The network's parameters."""
        return self.student.parameters()

    @property
    def profile(self) -> Profile:
        """The counts so far."""
        self._count_waiting()
        return self._profile

    @torch.no_grad()
    def encode_template(self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None) -> Tensor:
        """`SpikingTracker.encode_template`, counted."""
        heard = Heard.of(events, self._stem)
        with self._listening(heard, "template"):
            kernel = self.student.encode_template(events, boxes_cxcywh, n_steps=n_steps)
        self._count_trunk(heard, "template")
        self._count_kernel(heard, kernel)
        self._profile.tracks += len(events)
        return kernel

    @torch.no_grad()
    def forward_search(
        self, events: EventBatch, kernel: Tensor, *, n_steps: int | None = None, with_taps: bool = False
    ) -> TrackerOutput:
        """`SpikingTracker.forward_search`, counted."""
        heard = Heard.of(events, self._stem, kernel)
        with self._listening(heard, "search"):
            output = self.student.forward_search(events, kernel, n_steps=n_steps, with_taps=with_taps)
        if self._waiting and self._waiting[0].steps != heard.steps:
            self._count_waiting()
        self._waiting.append(heard)
        if sum(waiting.held for waiting in self._waiting) > _HOLD:
            self._count_waiting()
        self._profile.outputs += len(events)
        self._profile.seconds += float((events.t_end - events.t_begin).sum()) * 1e-6
        return output

    def _count_waiting(self) -> None:
        """Counts what was held back, all windows at once: one by one, the small sums would cost too much."""
        if not self._waiting:
            return
        first, *others = self._waiting
        self._waiting = []
        if others:
            first.join(others)
        self._count_trunk(first, "search")
        self._count_head(first)

    @contextmanager
    def _listening(self, heard: Heard, branch: str) -> Iterator[None]:
        """Looks at what the stem, the LIF layers and the matching put out during a call."""

        def hear(name: str, graded: bool = False):
            def hook(_module: nn.Module, _inputs: Any, output: tuple[Tensor, ...]) -> None:
                heard.spikes[name] = Signal(output[0], graded=graded, keep=name == _FEATURES or bool(self._pruned))
                # Sampled before the spikes are gone, hence ahead of the counts.
                self._neuron(name, branch, heard.spikes[name]).sample(output[0])

            return hook

        student = self.student
        handles = [student.stem.register_forward_hook(hear("stem", graded=True))]
        handles.append(student.matching.register_forward_hook(lambda _m, _i, output: heard.see_matched(output)))
        handles += [module.register_forward_hook(hear(name)) for name, module in self._populations]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    # -- what is counted -------------------------------------------------------------------------------------------

    def _count_trunk(self, heard: Heard, branch: str) -> None:
        """Stem and backbone, which both branches run."""
        student, spikes, bins, pairs = self.student, heard.spikes, heard.bins, heard.pairs
        layer = self._layer("stem", branch, "events", student.stem, position="first")
        layer.add(
            bins, input_spikes=heard.events, input_active=heard.events, input_sites=2 * math.prod(heard.size_hw),
            synops=pairs, active=pairs, effective=pairs, dense=self._stem.dense(heard.size_hw),
            textbook=self._stem.textbook(heard.size_hw),
        )  # fmt: skip
        self._population("stem", branch, bins, spikes["stem"], updates=pairs)
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

    def _count_kernel(self, heard: Heard, kernel: Tensor) -> None:
        """Averaging, weighing and scaling the template's rates: three multiplications a tap, T - 1 additions a cell."""
        layer = self._layer("matching.kernel", "template", "real", None, form="host")
        taps, features = kernel[0].numel(), heard.spikes[_FEATURES]
        layer.add(
            heard.bins, dense=3 * taps, textbook=3 * taps, effective=3 * taps, effective_graded=3 * taps,
            additions=(features.steps - 1) * features.neurons, input_sites=features.neurons,
            input_active=features.neurons,
        )  # fmt: skip

    def _count_head(self, heard: Heard) -> None:
        """Matching, mixing, head and read-out."""
        student, bins, spikes, kernel = self.student, heard.bins, heard.spikes, heard.kernel
        features = spikes[_FEATURES]
        channels, side = kernel.shape[1], kernel.shape[-1]
        depthwise = ConvShape.square(channels, channels, side, padding=side // 2, groups=channels)
        met = tap_inputs(features.by_neuron, depthwise)
        alive = met * (kernel != 0)
        layer = self._layer("matching", "search", "spikes", None, form="staged")
        layer.parameters, layer.parameter_bytes = kernel[0].numel(), kernel[0].numel() * _BYTES
        layer.add(bins, **features.uses(depthwise) | {"effective": alive.sum(dim=(1, 2, 3)).round().long()})
        self._real_conv("mix_match", student.mix_match, heard)
        self._conv("mix_search", "search", bins, student.mix_search, features, form="staged")
        self._count_folded(bins, features, met, alive, side)
        self._conv("conv_head", "search", bins, student.conv_head, spikes["lif_mix"])
        self._conv("readout", "search", bins, student.readout, spikes["lif_head"], position="last")
        self._population("lif_mix", "search", bins, spikes["lif_mix"])
        self._population("lif_head", "search", bins, spikes["lif_head"])
        steps, cells = features.steps, student.readout.out_channels * self.grid**2
        integrator = self._held("integrator", "search", cells, cells * _BYTES, host=True)
        integrator.add(bins, steps * cells)
        if not self._profile.uncounted:
            self._profile.uncounted = self._uncounted()

    def _count_folded(self, bins: Tensor, features: Signal, met: Tensor, alive: Tensor, side: int) -> None:
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
        self, name: str, branch: str, bins: Tensor, module: ConvNorm | nn.Conv2d, spikes: Signal, *,
        inputs: str = "spikes", position: str = "", form: str = "",
    ) -> None:  # fmt: skip
        conv = module.conv if isinstance(module, ConvNorm) else module
        self._wired.add(id(conv))
        shape = ConvShape.of(conv)
        layer = self._layer(name, branch, inputs, module, position=position, form=form)
        weight = conv.weight if id(conv) in self._pruned else None
        outputs = shape.out_channels * math.prod(shape.outputs(spikes.size_hw))
        biased = isinstance(module, ConvNorm) or conv.bias is not None
        layer.add(bins, additions=spikes.steps * outputs * biased, **spikes.uses(shape, weight=weight))

    def _real_conv(self, name: str, module: ConvNorm, heard: Heard) -> None:
        """The convolution of the matched maps, real values: MACs. The norm before it is folded into it."""
        self._wired.add(id(module.conv))
        shape, size = ConvShape.of(module.conv), tuple(heard.matched.shape[-2:])
        layer = self._layer(name, "search", "real", module, form="staged")
        effective = reached(heard.matched, shape)
        layer.add(
            heard.bins, input_active=heard.matched.sum(dim=(1, 2)).round().long(), input_sites=heard.matched_sites,
            active=effective, effective=effective, effective_graded=effective, dense=heard.steps * shape.dense(size),
            textbook=heard.steps * shape.textbook(size),
            additions=heard.steps * shape.out_channels * math.prod(shape.outputs(size)),
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
            self._profile.layers.append(layer)
        return self._layers[key]

    def _neuron(self, name: str, branch: str, signal: Signal) -> NeuronProfile:
        """A spiking population; the stem's state also holds the time of each site's last event, for all channels."""
        extra = 8 * signal.neurons // signal.channels if name == "stem" else 0
        return self._held(name, branch, signal.neurons, signal.neurons * _BYTES + extra)

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
        self._neuron(name, branch, signal).add(bins, each, signal.over_windows, signal.by_step)

    def _uncounted(self) -> list[str]:
        missing = [
            f"{name} ({type(module).__name__}): not part of the known wiring"
            for name, module in self.student.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Linear)) and id(module) not in self._wired
        ]
        return [*missing, "window gain: one division a window", "reading the box from the maps (host)"]
