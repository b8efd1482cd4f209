"""Counting the spiking student while it tracks: the same calls, the same results, and a record of what they cost.

    counted = CountedStudent(student)
    tracker = OnlineTracker(counted)          # or evaluate it, or feed it windows with `profile_student`
    ...
    counted.profile.energy_mj()

Spikes come from the forward pass itself, which hands them over (`Taps`): nothing is computed twice, no hook is set, and
nothing but small sums is held (`had_snn.ops.spike_count`). Events are counted from their coordinates.

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
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.events.stream import EventBatch
from had_snn.models import SpikingTracker, Taps, TrackerOutput
from had_snn.models.neurons import ConvNorm
from had_snn.ops.spike_count import channels_last, in_order
from had_snn.profiling.profile import Profile
from had_snn.profiling.records import LayerProfile, NeuronProfile
from had_snn.profiling.signals import FEATURES, Heard, Recorder, Signal
from had_snn.profiling.synops import ConvShape, alive_taps

_BYTES = 4  # float32 weights and membranes


#: Numbers held back before they are counted: small enough for any machine, large enough to count many windows at once.
_HOLD = 200_000


class CountedStudent:
    """A student that counts what it does; takes its place in a tracker.

    Args:
        student: The network, in evaluation mode.
        name: Its name in tables.
    """

    def __init__(self, student: SpikingTracker, *, name: str = "student") -> None:
        self.student, self.config, self.grid = student, student.config, student.grid
        self.template_is_fixed = student.template_is_fixed
        parameters = sum(p.numel() for p in student.parameters())
        self._profile = Profile(name, "spiking", parameters=parameters)
        stem = student.stem
        self._stem = ConvShape.square(2, stem.channels, stem.kernel, stride=stem.stride, padding=stem.padding)
        self._readers = _readers(student)
        self._template: tuple[Tensor, int, Tensor] | None = None
        self._layers: dict[tuple[str, str], LayerProfile] = {}
        self._neurons: dict[tuple[str, str], NeuronProfile] = {}
        self._wired: set[int] = set()
        self._sampled = False
        convs = [module for module in student.modules() if isinstance(module, nn.Conv2d)]
        self._pruned = {id(conv) for conv in convs if (conv.weight == 0).any()}
        self._recorders = {
            branch: Recorder(self._stem, self._readers, keep=bool(self._pruned)) for branch in ("search", "template")
        }

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
        taps = Taps(traces=False)
        kernel = self.student.encode_template(events, boxes_cxcywh, n_steps=n_steps, taps=taps)
        self._sample(taps, "template")
        recorder = self._recorders["template"]
        recorder.hear(events, taps.spikes)
        heard = recorder.take()
        self._count_trunk(heard, "template")
        self._count_kernel(heard, kernel)
        self._profile.tracks += len(events)
        return kernel

    @torch.no_grad()
    def forward_search(
        self, events: EventBatch, kernel: Tensor, *, with_taps: bool | Taps = False, **options: Any
    ) -> TrackerOutput:
        """`SpikingTracker.forward_search`, counted."""
        output = self.student.forward_search(events, kernel, with_taps=with_taps or Taps(traces=False), **options)
        taps, recorder = output.taps, self._recorders["search"]
        assert taps is not None
        assert taps.matched is not None
        if not self._sampled:
            self._sampled = self._sample(taps, "search")
        if recorder.held > _HOLD or (recorder.held and recorder.steps != len(taps.matched)):
            self._count_waiting()
        synapses = self._template_synapses(taps.spikes[FEATURES], kernel)
        recorder.hear(events, taps.spikes | {"matched": taps.matched}, synapses)
        output.taps = taps if with_taps else None
        self._profile.outputs += len(events)
        self._profile.windows += len(events)
        self._profile.seconds += float((events.t_end - events.t_begin).sum()) * 1e-6
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
            heard = self._recorders["search"].take()
            self._count_trunk(heard, "search")
            self._count_head(heard)

    def _template_synapses(self, spikes: Tensor, kernel: Tensor) -> Tensor:
        """Non-zero synapses of each feature neuron, in the matching and in its folded form.

        int32 `[1 or N, 2, C, H, W]`. A track's windows share a kernel, so they are counted once for each new kernel.
        """
        shared = len(kernel) == 1 or kernel.stride(0) == 0
        version = -1 if kernel.is_inference() else kernel._version
        if self._template is not None and version >= 0 and shared:
            before, before_version, synapses = self._template
            same = before.data_ptr() == kernel.data_ptr() and before[0].stride() == kernel[0].stride()
            same &= before.shape[1:] == kernel.shape[1:] and synapses.shape[2:] == spikes.shape[2:]
            if same and before_version == version:
                return synapses
        alive = (kernel[:1] if shared else kernel).ne(0).float()
        samples, channels, side = alive.shape[:3]
        middle = side // 2
        grid = spikes.new_ones(1, samples * channels, *spikes.shape[3:], dtype=torch.float32)
        # Position i reaches output i + middle - d through tap d: a correlation of the grid with the turned kernel.
        turned = alive.flip(-1, -2).reshape(-1, 1, side, side)
        met = F.conv2d(grid, turned, padding=middle, groups=samples * channels)[0].unflatten(0, (samples, channels))
        student = self.student
        rows = alive_taps(student.mix_match.conv.weight, 1).float()
        centre = alive_taps(student.mix_search.conv.weight, 1).float()
        # A kernel value becomes a row of weights; `mix_search` joins the middle.
        folded = rows * (met - alive[:, :, middle, middle, None, None]) + centre
        synapses = in_order(torch.stack([met, folded], dim=1).int(), channels_last(spikes))
        synapses = synapses.movedim(-1, -3) if channels_last(spikes) else synapses
        # The kernel is held, so that its address cannot become another's.
        self._template = (kernel, version, synapses) if shared else None
        return synapses

    # -- what is counted -------------------------------------------------------------------------------------------

    def _count_trunk(self, heard: Heard, branch: str) -> None:
        """Stem and backbone, which both branches run."""
        student, spikes, bins, pairs = self.student, heard.spikes, heard.bins, heard.pairs
        layer = self._layer("stem", branch, "events", student.stem, position="first")
        layer.add(
            bins,
            input_spikes=heard.events,
            input_active=heard.events,
            input_sites=2 * math.prod(heard.size_hw),
            synops=pairs,
            active=pairs,
            effective=pairs,
            dense=self._stem.dense(heard.size_hw),
            textbook=self._stem.textbook(heard.size_hw),
        )
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
        taps, features = kernel[0].numel(), heard.spikes[FEATURES]
        layer.add(
            heard.bins,
            dense=3 * taps,
            textbook=3 * taps,
            effective=3 * taps,
            effective_graded=3 * taps,
            additions=(features.steps - 1) * features.neurons,
            input_sites=features.neurons,
            input_active=features.neurons,
        )

    def _count_head(self, heard: Heard) -> None:
        """Matching, mixing, head and read-out."""
        student, bins, spikes = self.student, heard.bins, heard.spikes
        features = spikes[FEATURES]
        depthwise, _, folded = self._readers[FEATURES]
        side = depthwise.kernel[0]
        layer = self._layer("matching", "search", "spikes", None, form="staged")
        layer.parameters = features.channels * side**2
        layer.parameter_bytes = layer.parameters * _BYTES
        layer.add(bins, **features.uses(depthwise) | {"effective": features.count.weighted[:, 0]})
        self._conv("mix_match", "search", bins, student.mix_match, spikes["matched"], inputs="real", form="staged")
        self._conv("mix_search", "search", bins, student.mix_search, features, form="staged")
        layer = self._layer("match", "search", "spikes", None, form="folded")
        layer.parameters = folded.out_channels * (folded.in_channels * side**2 + 1)
        layer.parameter_bytes = layer.parameters * _BYTES
        outputs = features.steps * folded.out_channels * self.grid**2
        effective = features.count.weighted[:, 1]
        layer.add(bins, additions=outputs, **features.uses(folded) | {"effective": effective})
        self._conv("conv_head", "search", bins, student.conv_head, spikes["lif_mix"])
        self._conv("readout", "search", bins, student.readout, spikes["lif_head"], position="last")
        self._population("lif_mix", "search", bins, spikes["lif_mix"])
        self._population("lif_head", "search", bins, spikes["lif_head"])
        steps, cells = features.steps, student.readout.out_channels * self.grid**2
        integrator = self._held("integrator", "search", cells, cells * _BYTES, host=True)
        integrator.add(bins, steps * cells)
        if not self._profile.uncounted:
            self._profile.uncounted = self._uncounted()

    def _conv(
        self,
        name: str,
        branch: str,
        bins: Tensor,
        module: ConvNorm | nn.Conv2d,
        spikes: Signal,
        *,
        inputs: str = "spikes",
        position: str = "",
        form: str = "",
    ) -> None:
        conv = module.conv if isinstance(module, ConvNorm) else module
        self._wired.add(id(conv))
        shape = ConvShape.of(conv)
        layer = self._layer(name, branch, inputs, module, position=position, form=form)
        weight = conv.weight if id(conv) in self._pruned else None
        outputs = shape.out_channels * math.prod(shape.outputs(spikes.size_hw))
        biased = isinstance(module, ConvNorm) or conv.bias is not None
        layer.add(bins, additions=spikes.steps * outputs * biased, **spikes.uses(shape, weight=weight))

    def _layer(
        self, name: str, branch: str, inputs: str, module: nn.Module | None, *, form: str = "", position: str = ""
    ) -> LayerProfile:
        key = (branch, name)
        if key not in self._layers:
            numbers = list(module.parameters()) if module is not None else []
            layer = LayerProfile(
                name,
                branch,
                inputs,
                form=form,
                position=position,
                parameters=sum(p.numel() for p in numbers),
                parameter_bytes=sum(p.numel() * p.element_size() for p in numbers),
            )
            self._layers[key] = layer
            self._profile.layers.append(layer)
        return self._layers[key]

    def _neuron(self, name: str, branch: str, shape: Sequence[int]) -> NeuronProfile:
        """A spiking population of `[C, H, W]`; the stem's state also holds the time of each site's last event."""
        neurons = math.prod(shape)
        return self._held(name, branch, neurons, neurons * _BYTES + (8 * neurons // shape[0] if name == "stem" else 0))

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

    def _uncounted(self) -> list[str]:
        missing = [
            f"{name} ({type(module).__name__}): not part of the known wiring"
            for name, module in self.student.named_modules()
            if isinstance(module, (nn.Conv2d, nn.Linear)) and id(module) not in self._wired
        ]
        return [*missing, "window gain: one division a window", "reading the box from the maps (host)"]


def _readers(student: SpikingTracker) -> dict[str, tuple[ConvShape, ...]]:
    """The convolutions that read each population, by its name in `Taps`; `"matched"` are the matched maps."""
    backbone, config = student.backbone, student.config
    (_, deep, head), side = config.channels, config.match_kernel
    found: dict[str, list[ConvShape]] = {
        "stem": [ConvShape.of(backbone.conv1.conv)],
        "backbone.lif1": [ConvShape.of(backbone.conv2.conv)],
        FEATURES: [
            ConvShape.square(deep, deep, side, padding=side // 2, groups=deep),
            ConvShape.of(student.mix_search.conv),
            ConvShape.square(deep, head, side, padding=side // 2),  # matching and mixing as one
        ],
        "matched": [ConvShape.of(student.mix_match.conv)],
        "lif_mix": [ConvShape.of(student.conv_head.conv)],
        "lif_head": [ConvShape.of(student.readout)],
    }
    for index, block in enumerate(backbone.blocks):
        found[f"backbone.blocks.{index}.lif"] = [ConvShape.of(block.conv.conv)]
    return {name: tuple(shapes) for name, shapes in found.items()}
