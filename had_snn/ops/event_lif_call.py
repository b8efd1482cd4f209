"""The event-driven stem with memory of its own, for calls again and again on a CPU: inference only.

`EventLIFCall` runs the kernels of `event_lif` on the same numbers and gives the same bits; it leaves out membranes at
micro-step ends, gradients and the checks of what cannot change between calls.
"""

from __future__ import annotations

import torch
from torch import Tensor

from had_snn import native
from had_snn.errors import InputError
from had_snn.ops import build
from had_snn.ops.event_bucket import EventBucket, Events, bucket_events
from had_snn.ops.event_lif import EventLIFState, PackedEvents, decay_rate
from had_snn.ops.event_lif_kernels import EventForward, output_hw, step_ends, window_of
from had_snn.ops.surrogate import Neuron

#: Sets of window lengths whose micro-steps are kept.
MAX_LENGTHS = 64


class EventLIFCall:
    """Event-driven LIF neurons over windows, again and again.

    Args:
        weight: `[C, 2, k, k]`.
        tau: Time constants in microseconds, `[C]`.
        samples: Windows per call.
        n_steps: Micro-steps per window.
        size_hw: Height and width of the pixel grid.
        stride: Pixels between neighbouring sites.
        padding: Pixels added on every side.

    Attributes:
        counts: Spike counts of the newest call, `[T, N, Ho, Wo, C]`.
    """

    def __init__(
        self,
        weight: Tensor,
        tau: Tensor,
        *,
        samples: int,
        n_steps: int,
        size_hw: tuple[int, int],
        stride: int,
        padding: int,
    ) -> None:
        channels, _, kernel, _ = weight.shape
        out_hw = output_hw(size_hw, kernel=kernel, stride=stride, padding=padding)
        self.counts = torch.empty(n_steps, samples, *out_hw, channels)
        self._v_shape = (samples, *out_hw, channels)
        self._geometry = {"grid": size_hw, "kernel": kernel, "stride": stride, "padding": padding}
        self._cover = (-(-kernel // stride)) ** 2
        self._start = torch.empty(samples * out_hw[0] * out_hw[1] + 1, dtype=torch.int64)
        self._ends: dict[tuple[float, ...], tuple[Tensor, Tensor]] = {}  # by the windows' lengths
        self._weight = weight.detach().float().permute(1, 2, 3, 0).reshape(-1, channels).contiguous()
        self._rate = decay_rate(tau.detach()).float().contiguous()
        self._threshold = torch.ones(channels)
        neuron = Neuron(v_reset=0.0, slope=2.0, surrogate=0, soft=False, detach=True)
        constant = {"start": self._start, "weight": self._weight, "rate": self._rate, "threshold": self._threshold}
        window = window_of(self.counts.shape, neuron, entries=torch.empty(0), **constant)  # the rest at each call
        self._given = EventForward(window=window, **build.addresses(counts=self.counts))
        self._forward = build.bind("event_lif_forward", EventForward)
        self._buckets = EventBucket(
            **build.addresses(start=self._start),
            B=samples,
            H=size_hw[0],
            W=size_hw[1],
            k=kernel,
            stride=stride,
            padding=padding,
        )
        self._bucket = native.bind("had_event_bucket", EventBucket)

    def __call__(self, events: PackedEvents, gain: Tensor, state: EventLIFState | None = None) -> EventLIFState:
        """Reads windows into `counts`.

        Args:
            events: `N` windows.
            gain: Scale of the jumps `[N]`.
            state: What the windows before left behind, or None for rest.

        Returns:
            The new state.

        Raises:
            InputError: If an event is unsorted, outside its window or outside the grid, or the state is a later one.
        """
        n = events.t.numel()
        entries = torch.empty(n * self._cover, dtype=torch.int64)
        looked_at = Events(*(getattr(events, name) for name in Events._fields))
        _point(self._buckets, **looked_at._asdict(), entries=entries)
        self._buckets.threads = build.threads_for(4 * n)
        if self._bucket(self._buckets) != -1:
            bucket_events(looked_at, **self._geometry, start=self._start, entries=entries)  # says what is wrong
        begin = events.t_begin[:, None, None]
        v0 = last0 = None
        if state is not None:
            v0 = state.v.permute(0, 2, 3, 1).contiguous()
            last0 = state.t_last - begin
            if int(last0.max()) > 0:
                raise InputError("state.t_last lies after t_begin: this state does not come from an earlier window")
        bound, remaining = self._step_ends(events)
        scale = events.scale.float()
        v, last = torch.empty(self._v_shape), torch.empty(self._v_shape[:-1], dtype=torch.int64)
        window = self._given.window  # a view: what is written here is written there
        _point(window, entries=entries, bound=bound, gain=gain, v0=v0, t_last0=last0, scale=scale, remaining=remaining)
        window.threads = build.threads_for(self.counts.numel() + entries.numel() * self._v_shape[-1])
        _point(self._given, v=v, t_last=last)
        if self._forward(self._given):
            raise MemoryError("event_lif: no memory for the kernel's tables")
        return EventLIFState(v.permute(0, 3, 1, 2), last.add_(begin))

    def _step_ends(self, events: PackedEvents) -> tuple[Tensor, Tensor]:
        """`step_ends` of these windows, whose lengths come again and again."""
        lengths = tuple(events.length_us.tolist())
        ends = self._ends.get(lengths)
        if ends is None:
            if len(self._ends) >= MAX_LENGTHS:
                self._ends.pop(next(iter(self._ends)))
            ends = step_ends(events.t_begin, events.t_end, events.length_us, len(self.counts))
            self._ends[lengths] = ends
        return ends


def _point(given: native.Parameters, **tensors: Tensor | None) -> None:
    for name, address in build.addresses(**tensors).items():
        setattr(given, name, address)
