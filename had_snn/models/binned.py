"""A stem that reads binned events: the control for the event-driven one, and what other spiking trackers do.

The events of a micro-step are counted per pixel and polarity, a convolution of the event-driven stem's size follows,
and clocked LIF neurons fire at most once a micro-step. Times inside a micro-step are gone.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from had_snn.events.batch import EventBatch
from had_snn.models.neurons import LIF
from had_snn.models.stem import TAU_RANGE_US, EventLIFStem
from had_snn.ops import EventLIFState


def count_frames(events: EventBatch, n_steps: int) -> Tensor:
    """Events per micro-step, pixel and polarity.

    Args:
        events: `N` windows.
        n_steps: Micro-steps `T`.

    Returns:
        float32 `[T, N, 2, H, W]`.
    """
    height, width = events.size_hw
    count = len(events)
    lengths = events.offsets.diff()
    sample = torch.repeat_interleave(torch.arange(count, device=events.t.device), lengths)
    window = events.network_length_us[sample]
    step = (events.network_time_us() * n_steps / window).floor().long()
    cell = ((step * count + sample) * 2 + events.p) * height + events.y
    cell = cell * width + events.x
    total = n_steps * count * 2 * height * width
    return torch.bincount(cell, minlength=total).float().view(n_steps, count, 2, height, width)


class BinnedStem(EventLIFStem):
    """Convolution over event counts and clocked LIF neurons; takes and returns what `EventLIFStem` does.

    It has the event-driven stem's weights and gain, and one time constant for the layer, as clocked layers have; the
    initial one is the geometric mean of the event-driven stem's.
    """

    def __init__(self, channels: int, *, kernel: int = 4, stride: int = 4) -> None:
        super().__init__(channels, kernel=kernel, stride=stride)
        del self.log_tau
        self.lif = LIF(tau_us=math.sqrt(math.prod(TAU_RANGE_US)), surrogate=self.surrogate)

    @property
    def tau_us(self) -> Tensor:
        """Time constants `[C]` in microseconds, all the same."""
        return self.lif.tau_us.expand(self.channels)

    def forward(
        self, events: EventBatch, state: EventLIFState | None = None, *, n_steps: int, gain: Tensor | None = None
    ) -> tuple[Tensor, Tensor, EventLIFState]:
        """Reads a batch of event windows; see `EventLIFStem.forward`."""
        frames = count_frames(events, n_steps) * (self.gain(events) if gain is None else gain)[:, None, None, None]
        current = torch.nn.functional.conv2d(
            frames.flatten(0, 1), self.weight, stride=self.stride, padding=self.padding
        ).unflatten(0, frames.shape[:2])
        dt_us = float(events.network_length_us[0]) / n_steps
        spikes, v, potentials = self.lif(
            current, None if state is None else state.v, dt_us=dt_us, return_membranes=True
        )
        assert potentials is not None
        newest = events.t_end[:, None, None].expand(-1, *v.shape[2:])
        return spikes, potentials, EventLIFState(v, newest)


def quantised(events: EventBatch, quantum_us: int) -> EventBatch:
    """The events with timestamps rounded down to multiples of `quantum_us` after their window's beginning."""
    lengths = events.offsets.diff()
    begin = torch.repeat_interleave(events.t_begin, lengths)
    t = begin + torch.div(events.t - begin, quantum_us, rounding_mode="floor") * quantum_us
    return replace(events, t=t)


class QuantisedStem(EventLIFStem):
    """The event-driven stem, shown timestamps with a resolution of `quantum_us`: the control for raw ones."""

    quantum_us: int = 10_000

    def forward(
        self, events: EventBatch, state: EventLIFState | None = None, *, n_steps: int, gain: Tensor | None = None
    ) -> tuple[Tensor, Tensor, EventLIFState]:
        """See `EventLIFStem.forward`."""
        return super().forward(quantised(events, self.quantum_us), state, n_steps=n_steps, gain=gain)
