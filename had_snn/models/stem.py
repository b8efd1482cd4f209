"""The event-driven stem: raw microsecond timestamps in, spike counts per micro-step out. No frame is ever made.

For an event `(t, x, y, p)` every output site whose receptive field covers `(x, y)` decays exactly since its last event
and jumps by the weight of that position and polarity:

    v <- v * exp(-(t - t_last) / tau_c) + g * W[c, p, dy, dx];   if v > 1: emit a spike, v <- 0

Gain. Event rate varies by orders of magnitude with speed, contrast and zoom. The jump is scaled per window by

    g = clamp((rho_0 / rho) ** gamma, 1/8, 8)

with `rho` the window's events per crop pixel and second, and `rho_0`, `gamma` learnt. `gamma = 0` ignores the rate,
`gamma = 1` makes the summed drive of a window independent of it; scaling the jump by `g` is the same as scaling the
threshold by `1 / g`, which is how a neuromorphic chip would apply it (one threshold per window).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from had_snn.events.batch import EventBatch
from had_snn.ops import EventLIFState, atan, event_lif

#: The gain lies between this number and its inverse.
GAIN_LIMIT = 8.0
#: Events per pixel and second that are added to every rate: an empty window stays finite, a real rate does not notice.
RATE_FLOOR = 0.01
#: Smallest and largest initial time constant; channels are spaced logarithmically between them.
TAU_RANGE_US = (3_000.0, 40_000.0)
#: Initial `rho_0` in events per crop pixel and second.
REFERENCE_RATE = 10.0


class EventLIFStem(nn.Module):
    """Event-driven LIF layer over a packed batch of raw events.

    Args:
        channels: Output channels.
        kernel: Side of the square receptive field, crop pixels.
        stride: Distance of neighbouring sites, crop pixels.

    Shape:
        Output counts and membranes `[T, N, C, H / stride, W / stride]`.
    """

    #: Spikes that a neuron counts in a micro-step at most.
    count_limit = math.inf

    def __init__(self, channels: int, *, kernel: int = 4, stride: int = 4) -> None:
        super().__init__()
        self.channels, self.kernel, self.stride = channels, kernel, stride
        self.padding = (kernel - stride) // 2
        self.surrogate = atan()
        # About four events of one site within tau reach the threshold when their weights agree.
        self.weight = nn.Parameter(torch.randn(channels, 2, kernel, kernel) * 0.5)
        low, high = (math.log(v) for v in TAU_RANGE_US)
        self.log_tau = nn.Parameter(torch.linspace(low, high, channels))
        self.log_reference_rate = nn.Parameter(torch.tensor(math.log(REFERENCE_RATE)))
        self.gamma_logit = nn.Parameter(torch.tensor(0.0))

    @property
    def tau_us(self) -> Tensor:
        """Time constants `[C]` in microseconds."""
        return self.log_tau.exp()

    def event_rate(self, events: EventBatch) -> Tensor:
        """Events per crop pixel and second of network time of each window, `[N]` float32."""
        count = (events.offsets[1:] - events.offsets[:-1]).to(torch.float32)
        seconds = events.network_length_us.to(torch.float32) * 1e-6
        return count / (seconds * events.size_hw[0] * events.size_hw[1])

    def gain(self, events: EventBatch) -> Tensor:
        """Scale of the jumps of each window, `[N]`; see the head of this file."""
        log_rate = torch.log(self.event_rate(events) + RATE_FLOOR)
        log_gain = torch.sigmoid(self.gamma_logit) * (self.log_reference_rate - log_rate)
        return log_gain.clamp(-math.log(GAIN_LIMIT), math.log(GAIN_LIMIT)).exp()

    def gain_at(self, rate: float) -> float:
        """The same for one window of `rate` events per crop pixel and second, in plain numbers."""
        gamma = 1 / (1 + math.exp(-float(self.gamma_logit)))
        gain = math.exp(gamma * (float(self.log_reference_rate) - math.log(rate + RATE_FLOOR)))
        return min(max(gain, 1 / GAIN_LIMIT), GAIN_LIMIT)

    def forward(
        self, events: EventBatch, state: EventLIFState | None = None, *, n_steps: int, gain: Tensor | None = None
    ) -> tuple[Tensor, Tensor, EventLIFState]:
        """Reads a batch of event windows.

        Args:
            events: `N` windows of crop events.
            state: Membranes and last event times left by the windows before, or None for rest.
            n_steps: Micro-steps `T` per window.
            gain: Scale of the jumps `[N]`, for windows too short to tell their own rate; `self.gain(events)` when None.

        Returns:
            Spike counts `[T, N, C, H, W]`, membranes at the micro-steps' ends (same shape), and the final state.
        """
        return event_lif(
            events,
            self.weight,
            self.tau_us,
            gain=self.gain(events) if gain is None else gain,
            n_steps=n_steps,
            size_hw=events.size_hw,
            stride=self.stride,
            padding=self.padding,
            state=state,
            surrogate=self.surrogate,
        )
