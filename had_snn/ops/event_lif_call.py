"""The event-driven stem with memory of its own, for calls again and again on a CPU: inference only.

`EventLIFCall` runs the kernels of `event_lif` on the same numbers and gives the same bits; it leaves out membranes at
micro-step ends, gradients and the checks of what cannot change between calls.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.ops import build
from had_snn.ops.event_bucket import _SIGNATURE, bucket_events
from had_snn.ops.event_lif import EventLIFState, PackedEvents, decay_rate
from had_snn.ops.event_lif_kernels import _FORWARD, output_hw


class EventLIFCall:
    """Event-driven LIF neurons over windows of one length a call.

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
        self._bounds: dict[int, Tensor] = {}  # by the window's length
        self._weight = weight.detach().float().permute(1, 2, 3, 0).reshape(-1, channels).contiguous()
        self._rate = decay_rate(tau.detach()).float().contiguous()
        self._threshold = torch.ones(channels)
        self._constant = [build.address(a) for a in (self._weight, self._rate)]
        sites = out_hw[0] * out_hw[1]
        self._rest = [samples * sites, sites, n_steps, channels, 0.0, 2.0, 0, 0, 1]
        self._bucket_sizes = (samples, *size_hw, kernel, stride, padding)
        self._bucket = build.native_function("had_event_bucket", _SIGNATURE, ctypes.c_longlong)
        name = f"had_event_lif_forward_{build.native_width()}"
        self._forward = build.native_function(name, _FORWARD + "n", ctypes.c_int)

    def __call__(self, events: PackedEvents, gain: Tensor, state: EventLIFState | None = None) -> EventLIFState:
        """Reads windows into `counts`.

        Args:
            events: `N` equally long windows.
            gain: Scale of the jumps `[N]`.
            state: What the windows before left behind, or None for rest.

        Returns:
            The new state.

        Raises:
            InputError: If an event is unsorted, outside its window or outside the grid, or the state is a later one.
        """
        n = events.t.numel()
        entries = torch.empty(n * self._cover, dtype=torch.int64)
        fields = (events.t, events.x, events.y, events.p, events.offsets, events.t_begin, events.t_end)
        places = (self._start.data_ptr(), entries.data_ptr(), build.threads_for(4 * n))
        if self._bucket(*(a.data_ptr() for a in fields), *self._bucket_sizes, *places) != -1:
            bucket_events(*fields, **self._geometry, start=self._start, entries=entries)  # says what is wrong
        begin = events.t_begin[:, None, None]
        v0 = last0 = None
        if state is not None:
            v0 = state.v.permute(0, 2, 3, 1).contiguous()
            last0 = state.t_last - begin
            if int(last0.max()) > 0:
                raise InputError("state.t_last lies after t_begin: this state does not come from an earlier window")
        bound = self._bound(int(events.t_end[0]) - int(events.t_begin[0]))
        v, last = torch.empty(self._v_shape), torch.empty(self._v_shape[:-1], dtype=torch.int64)
        tensors = (gain, self._threshold, v0, last0, self.counts, None, v, last)
        first = (entries.data_ptr(), self._start.data_ptr(), bound.data_ptr())
        threads = build.threads_for(self.counts.numel() + entries.numel() * self._v_shape[-1])
        if self._forward(*first, *self._constant, *map(build.address, tensors), *self._rest, threads):
            raise MemoryError("event_lif: no memory for the tables of decays")
        return EventLIFState(v.permute(0, 3, 1, 2), last.add_(begin))

    def _bound(self, window_us: int) -> Tensor:
        """First microsecond of each micro-step and of what follows the last, `[N, T + 1]`."""
        bound = self._bounds.get(window_us)
        if bound is None:
            steps, samples = self.counts.shape[:2]
            bounds = [(step * window_us + steps - 1) // steps for step in range(steps + 1)]
            bound = self._bounds[window_us] = torch.tensor(bounds, dtype=torch.int64).repeat(samples, 1)
            if len(self._bounds) > 64:
                self._bounds.pop(next(iter(self._bounds)))
        return bound
