"""The student's training step with every spiking layer computed by another library, written as its users write it.

Weights, losses and norms are the same objects. What differs is what a user cannot have there: the events are counted
into frames per micro-step and polarity in one `bincount` (the fastest of the ways that those libraries' guides show), a
convolution and a clocked LIF layer stand for the event-driven stem, torch's own convolutions for those of spikes, and
the library's neuron runs wherever ours does: SpikingJelly's `LIFNode` in multi-step mode with a detached reset,
snnTorch's `Leaky` in a loop with its state passed along. Each library runs in both memory orders; the faster counts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from had_snn.events.batch import EventBatch
from had_snn.interop import ForeignLIF
from had_snn.models import SpikingTracker, StudentConfig
from had_snn.models.binned import BinnedStem, count_frames
from had_snn.models.matching import DepthwiseMatching
from had_snn.models.neurons import LIF, ConvNorm
from had_snn.train.losses import tracking_losses


class JellyLIF(ForeignLIF):
    """SpikingJelly's multi-step neuron; keeps no trace of its potentials."""

    def forward(self, x: Tensor, state: Tensor | None = None, *, dt_us: float, return_membranes: bool = False):
        """See `LIF.forward`; membranes are not returned."""
        from spikingjelly.activation_based import neuron, surrogate

        node = neuron.LIFNode(
            tau=1 / (1 - self.alpha(dt_us)),
            decay_input=False,
            v_threshold=1.0,
            v_reset=0.0,
            detach_reset=True,
            step_mode="m",
            surrogate_function=surrogate.ATan(),
        )
        node.train(self.training)
        return node(x), None, None


class TorchLIF(ForeignLIF):
    """snnTorch's `Leaky`, one call a micro-step."""

    def forward(self, x: Tensor, state: Tensor | None = None, *, dt_us: float, return_membranes: bool = False):
        """See `LIF.forward`; membranes are not returned."""
        import snntorch
        from snntorch import surrogate

        node = snntorch.Leaky(
            beta=self.alpha(dt_us),
            threshold=1.0,
            reset_mechanism="zero",
            reset_delay=False,
            spike_grad=surrogate.atan(),
        )
        v, spikes = torch.zeros_like(x[0]), []
        for current in x:
            s, v = node(current, v)
            spikes.append(s)
        return torch.stack(spikes), None, None


class GroupedMatching(DepthwiseMatching):
    """The matching as one grouped convolution."""

    def forward(self, search: Tensor, kernel: Tensor) -> Tensor:
        """See `DepthwiseMatching.forward`."""
        steps, samples, channels, *sides = search.shape
        flat = kernel.reshape(samples * channels, 1, *kernel.shape[2:])
        groups = {"padding": self.kernel // 2, "groups": samples * channels}
        out = nn.functional.conv2d(search.reshape(steps, samples * channels, *sides), flat, **groups)
        return out.reshape(steps, samples, channels, *sides)


class FrameStem(BinnedStem):
    """Frames, convolution, the library's neuron."""

    #: Of everything behind the frames.
    order = torch.contiguous_format

    def forward(self, events: EventBatch, state=None, *, n_steps: int, gain: Tensor | None = None):
        """See `BinnedStem.forward`; only spikes are returned."""
        frames = count_frames(events, n_steps) * self.gain(events)[:, None, None, None]
        frames = frames.flatten(0, 1).contiguous(memory_format=self.order)
        current = nn.functional.conv2d(frames, self.weight, stride=self.stride, padding=self.padding)
        dt_us = float(events.t_end[0] - events.t_begin[0]) / n_steps
        return self.lif(current.unflatten(0, (n_steps, -1)), dt_us=dt_us)


LIBRARIES = {"spikingjelly": JellyLIF, "snntorch": TorchLIF}


def rival(config: StudentConfig, library: str, *, channels_last: bool = False) -> SpikingTracker:
    """The student on another library's neurons and on frames, in one of two memory orders."""
    network = SpikingTracker(config)
    network.stem = stem = FrameStem(config.stem_channels, kernel=config.stem_kernel)
    network.matching = GroupedMatching(kernel=config.match_kernel)
    for path, module in list(network.named_modules()):
        if isinstance(module, LIF):
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, LIBRARIES[library](module))
        elif isinstance(module, ConvNorm):
            module.reads = "currents"
    if channels_last:
        stem.order = torch.channels_last
    return network


class RivalTask(nn.Module):
    """Supervised training, nothing else: no spike rates are read."""

    def __init__(self, student: SpikingTracker) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch) -> dict[str, Tensor]:
        """Named losses of a batch of clips."""
        output = self.student(batch.template_events, batch.template_box, batch.search_events)
        return tracking_losses(output, batch.boxes.flatten(0, 1), batch.visible.flatten())
