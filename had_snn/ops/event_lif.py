"""Event-driven leaky integrate-and-fire neurons that read raw event timestamps, differentiable.

Every event reaches the output sites whose kernel covers it. There, at the event's own time t,

    h = v * exp(-(t - t_last) * scale / tau) + gain * weight[c, p, dy, dx];  fire and reset as in the clocked form;
    t_last = t

and between events nothing is computed. `tau` is in network time, of which `scale` microseconds pass in a microsecond of
the sample, so that windows of all lengths look alike to the neurons; times are multiplied, never rounded, and scaling
them by a power of two gives the same bits. Spikes are counted per micro-step; potentials are read at micro-step ends
without touching the state. `event_lif` runs the kernels of `kernels/neuron/event_lif.cu`; `event_lif_ref` is the same
in plain torch.

Kept for the backward: 8 bytes per entry (an event times the sites it reaches); potentials are computed again.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.ops import build
from had_snn.ops.event_lif_kernels import event_lif_forward, output_hw, step_ends
from had_snn.ops.surrogate import Surrogate, atan, fire


class PackedEvents(Protocol):
    """What `event_lif` reads of a batch of events: sample b owns `offsets[b]:offsets[b + 1]`, sorted by time."""

    @property
    def t(self) -> Tensor: ...  # int64 [N], us
    @property
    def x(self) -> Tensor: ...  # int16 [N]
    @property
    def y(self) -> Tensor: ...  # int16 [N]
    @property
    def p(self) -> Tensor: ...  # uint8 [N], 0 or 1
    @property
    def offsets(self) -> Tensor: ...  # int64 [B + 1]
    @property
    def t_begin(self) -> Tensor: ...  # int64 [B], us
    @property
    def t_end(self) -> Tensor: ...  # int64 [B], us
    @property
    def length_us(self) -> Tensor: ...  # float64 [B], us: the window is [t_end - length, t_end)
    @property
    def scale(self) -> Tensor: ...  # float64 [B], network time over time


class EventLIFState(NamedTuple):
    """State between windows. Nothing is decayed at a window's end, so cutting a stream anywhere changes no bit.

    Attributes:
        v: Potentials right after each site's newest event, float32 `[B, C, Ho, Wo]` (channels-last memory).
        t_last: Time of each site's newest event, int64 `[B, Ho, Wo]`, us.
    """

    v: Tensor
    t_last: Tensor

    def detach(self) -> EventLIFState:
        """The same state, cut from the graph."""
        return EventLIFState(self.v.detach(), self.t_last)


def event_lif(
    events: PackedEvents,
    weight: Tensor,
    tau: Tensor,
    *,
    n_steps: int,
    size_hw: tuple[int, int],
    stride: int,
    padding: int = 0,
    gain: Tensor | None = None,
    v_threshold: float | Tensor = 1.0,
    v_reset: float = 0.0,
    state: EventLIFState | None = None,
    surrogate: Surrogate | None = None,
    reset: str = "hard",
    detach_reset: bool = True,
    return_membranes: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None, EventLIFState]:
    """Runs event-driven LIF neurons over one window of each sample.

    An event belongs to micro-step `floor((t - (t_end - length)) * T / length)`; micro-step s ends where s + 1 begins.
    Outputs have channels-last memory, which is what convolutions like best on a CPU.

    Args:
        events: Packed events, see `PackedEvents`.
        weight: `[C, 2, k, k]`; what an event of polarity p at (dy, dx) in the kernel adds, in units of the threshold.
        tau: Time constant in microseconds of network time, `[C]` or a scalar tensor.
        n_steps: T, number of micro-steps.
        size_hw: Height and width of the pixel grid that x and y refer to.
        stride: Pixels between neighbouring sites.
        padding: Pixels added on every side.
        gain: Factor on the weights of each sample, `[B]`, or None for 1.
        v_threshold: Firing threshold, a number, a scalar tensor or `[C]`; positive.
        v_reset: Potential after a spike (hard reset only).
        state: State after the previous window, or None for rest.
        surrogate: Derivative that stands in for the step's; default `atan()`.
        reset: `"hard"` or `"soft"`.
        detach_reset: Leave the spike inside the reset out of the gradient.
        return_membranes: Also return potentials at micro-step ends; without them cost does not grow with T.
        backend: `"auto"`, `"native"` (CPU), `"cupy"` (CUDA) or `"ref"` (plain torch).

    Returns:
        Spike counts `[T, B, C, Ho, Wo]` and membranes of the same shape (or None), float32, and the new state.

    Raises:
        InputError: If shapes, dtypes, devices or values do not fit, or an event is unsorted, outside its window or
            outside the grid (the message names the first bad event).
        KernelError: If the chosen backend is not installed.
    """
    surrogate = atan() if surrogate is None else surrogate
    _check(events, weight, tau, gain, v_threshold, state, n_steps, size_hw, stride, padding, reset)
    chosen = build.choose_backend(backend, weight.device.type, weight.dtype)
    if chosen == "ref":
        return event_lif_ref(
            events,
            weight,
            tau,
            n_steps=n_steps,
            size_hw=size_hw,
            stride=stride,
            padding=padding,
            gain=gain,
            v_threshold=v_threshold,
            v_reset=v_reset,
            state=state,
            surrogate=surrogate,
            reset=reset,
            detach_reset=detach_reset,
            return_membranes=return_membranes,
        )
    channels = weight.shape[0]
    theta = torch.as_tensor(v_threshold, dtype=torch.float32, device=weight.device).reshape(-1).expand(channels)
    counts, membranes, v, t_last, *_ = event_lif_forward(
        *(events.t, events.x, events.y, events.p, events.offsets, events.t_begin, events.t_end),
        *(events.length_us, events.scale.float()),
        weight.float().permute(1, 2, 3, 0).reshape(-1, channels).contiguous(),
        decay_rate(tau).float().reshape(-1).expand(channels).contiguous(),
        None if gain is None else gain.float().contiguous(),
        theta.contiguous(),
        None if state is None else state.v.float().permute(0, 2, 3, 1).contiguous(),
        None if state is None else state.t_last.contiguous(),
        *(*size_hw, weight.shape[2], stride, padding, n_steps),
        *(float(v_reset), surrogate.slope, surrogate.number, reset == "soft", detach_reset),
        return_membranes,  # by position: names would take torch another 40 us
    )
    counts, membranes = counts.permute(0, 1, 4, 2, 3), membranes.permute(0, 1, 4, 2, 3) if return_membranes else None
    return counts, membranes, EventLIFState(v.permute(0, 3, 1, 2), t_last)


def decay_rate(tau: Tensor) -> Tensor:
    """`1 / tau` in 1 / us, computed in float64 and rounded once to float32 (float64 if `tau` is)."""
    rate = 1 / tau.double()
    return rate if tau.dtype == torch.float64 else rate.float()


def plain_exp(x: Tensor) -> Tensor:
    """`had_exp` of `kernels/neuron/prelude.cuh`, operation by operation, on float32 of x <= 0: the same bits."""
    a = x.clamp(min=-87.0)
    z = a * 1.44269504 + 12582912.0
    n = z - 12582912.0
    r = (a - n * 0.693359375) - n * -2.12194440e-4
    p = r * 1.9875691500e-4 + 1.3981999507e-3
    for constant in (8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = p * r + constant
    p = p * (r * r) + r + 1.0
    return torch.where(x < -87.0, 0.0, p * torch.exp2(n))


class _PlainExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        y = plain_exp(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        return grads[0] * ctx.saved_tensors[0]


def event_lif_ref(
    events: PackedEvents,
    weight: Tensor,
    tau: Tensor,
    *,
    n_steps: int,
    size_hw: tuple[int, int],
    stride: int,
    padding: int = 0,
    gain: Tensor | None = None,
    v_threshold: float | Tensor = 1.0,
    v_reset: float = 0.0,
    state: EventLIFState | None = None,
    surrogate: Surrogate | None = None,
    reset: str = "hard",
    detach_reset: bool = True,
    return_membranes: bool = True,
    smooth: bool = False,
) -> tuple[Tensor, Tensor | None, EventLIFState]:
    """`event_lif`, event by event in plain torch: readable, slow. `smooth` fires the surrogate's primitive instead."""
    surrogate = atan() if surrogate is None else surrogate
    wide, T = weight.dtype if weight.dtype == torch.float64 else torch.float32, n_steps
    exp = torch.exp if wide == torch.float64 else _PlainExp.apply
    options = {"v_reset": v_reset, "reset": reset, "detach_reset": detach_reset, "smooth": smooth}
    exact = wide == torch.float64  # otherwise a decay is the product of two factors, rounded one by one
    channels, _, k, _ = weight.shape
    height, width = output_hw(size_hw, kernel=k, stride=stride, padding=padding)
    samples = events.t_begin.numel()
    rate = decay_rate(tau).to(wide).reshape(-1).expand(channels)
    theta = torch.as_tensor(v_threshold, dtype=wide, device=weight.device).reshape(-1).expand(channels)
    nothing = torch.zeros(channels, dtype=wide, device=weight.device)
    v: dict[tuple[int, int, int], Tensor] = {}
    t_last = events.t_begin[:, None, None].expand(samples, height, width).clone()
    if state is not None:
        t_last = state.t_last.clone()
        every = [(b, oy, ox) for b in range(samples) for oy in range(height) for ox in range(width)]
        v = {(b, oy, ox): state.v[b, :, oy, ox].to(wide) for b, oy, ox in every}
    counts: dict[tuple[int, int, int, int], Tensor] = {}
    membranes: dict[tuple[int, int, int, int], Tensor] = {}

    bounds, remaining = step_ends(events.t_begin, events.t_end, events.length_us, T)

    def decay(age: float, b: int) -> Tensor:
        scale = float(events.scale[b].float())
        fine = 1 if exact else 2 ** max(0, math.floor(math.log2(128 / scale)))
        coarse, rest = (torch.tensor(float(a), dtype=wide) for a in (age - age % fine, age % fine))
        fall = rate * torch.tensor(scale, dtype=wide)
        return exp(-(coarse * fall)) * exp(-(rest * fall))

    for b in range(samples):
        begin, end = int(events.t_begin[b]), int(events.t_end[b])
        i, stop = int(events.offsets[b]), int(events.offsets[b + 1])
        for step in range(T):
            while i < stop and int(events.t[i]) - begin < int(bounds[b, step + 1]):
                t, x, y, p = (int(field[i]) for field in (events.t, events.x, events.y, events.p))
                for oy, dy in _reach(y + padding, k, stride, height):
                    for ox, dx in _reach(x + padding, k, stride, width):
                        site = (b, oy, ox)
                        arriving = weight[:, p, dy, dx].to(wide) * (1 if gain is None else gain[b].to(wide))
                        h = decay(t - int(t_last[site]), b) * v.get(site, nothing) + arriving
                        s, v[site] = fire(h, theta, surrogate, **options)
                        t_last[site] = t
                        counts[(step, *site)] = counts.get((step, *site), nothing) + s
                i += 1
            for site, potential in v.items():
                if site[0] == b and return_membranes:
                    age = end - int(t_last[site]) - float(remaining[b, step])
                    membranes[(step, *site)] = potential * decay(age, b)

    def dense(values: dict[tuple[int, int, int, int], Tensor]) -> Tensor:
        index = itertools.product(range(T), range(samples), range(height), range(width))
        rows = [values.get(at, nothing) for at in index]
        return torch.stack(rows).reshape(T, samples, height, width, channels).permute(0, 1, 4, 2, 3)

    final = dense({(s, *site): potential for site, potential in v.items() for s in range(T)})[0]
    return dense(counts), dense(membranes) if return_membranes else None, EventLIFState(final, t_last)


def _reach(position: int, k: int, stride: int, outputs: int) -> list[tuple[int, int]]:
    """Outputs that cover a padded position, with the place in their kernel."""
    return [(o, position - o * stride) for o in range(outputs) if 0 <= position - o * stride < k]


def _check(
    events: PackedEvents,
    weight: Tensor,
    tau: Tensor,
    gain: Tensor | None,
    v_threshold: float | Tensor,
    state: EventLIFState | None,
    n_steps: int,
    size_hw: tuple[int, int],
    stride: int,
    padding: int,
    reset: str,
) -> None:
    """Refuses what does not fit."""
    if weight.ndim != 4 or weight.shape[1] != 2 or weight.shape[2] != weight.shape[3] or weight.shape[0] < 1:
        raise InputError(f"weight has shape {list(weight.shape)}; expected [C, 2, k, k]")
    if reset not in ("hard", "soft"):
        raise InputError(f"reset {reset!r} is unknown; expected 'hard' or 'soft'")
    channels, _, k, _ = weight.shape
    height, width = size_hw
    if not (1 <= n_steps <= 1 << 16):
        raise InputError(f"n_steps is {n_steps}; expected 1 to 65536 micro-steps")
    if stride < 1 or padding < 0 or padding >= k or k > 181:
        found = f"stride {stride}, padding {padding}, kernel {k}"
        raise InputError(f"{found}; expected stride >= 1 and padding < kernel <= 181")
    if not (0 < height <= 32767 and 0 < width <= 32767) or min(height, width) + 2 * padding < k:
        raise InputError(f"size_hw is {height}x{width}; expected a grid that a {k}x{k} kernel fits into, at most 32767")
    samples = events.t_begin.numel()
    n = events.t.numel()
    fields = {"t": torch.int64, "x": torch.int16, "y": torch.int16, "p": torch.uint8}
    fields |= dict.fromkeys(("offsets", "t_begin", "t_end"), torch.int64)
    fields |= dict.fromkeys(("length_us", "scale"), torch.float64)
    for name, dtype in fields.items():
        field = getattr(events, name)
        length = {"offsets": samples + 1, **dict.fromkeys(("t_begin", "t_end", "length_us", "scale"), samples)}.get(
            name, n
        )
        if field.dtype != dtype or field.shape != (length,):
            found = f"{str(field.dtype).removeprefix('torch.')} {list(field.shape)}"
            raise InputError(f"events.{name} is {found}; expected {str(dtype).removeprefix('torch.')} [{length}]")
    given = {"weight": weight, "tau": tau, "gain": gain, "v_threshold": v_threshold}
    given["state.v"] = None if state is None else state.v
    floats = {name: value for name, value in given.items() if torch.is_tensor(value)}
    lengths = {"tau": channels, "v_threshold": channels, "gain": samples}
    for name, value in floats.items():
        if not value.is_floating_point():
            raise InputError(f"{name} holds {str(value.dtype).removeprefix('torch.')}; expected a floating-point type")
        if name in lengths and value.shape != (lengths[name],) and (name == "gain" or value.numel() != 1):
            raise InputError(f"{name} has shape {list(value.shape)}; expected [{lengths[name]}]")
    out_h, out_w = output_hw(size_hw, kernel=k, stride=stride, padding=padding)
    v_shape, t_shape = [samples, channels, out_h, out_w], [samples, out_h, out_w]
    if state is not None and (list(state.v.shape) != v_shape or list(state.t_last.shape) != t_shape):
        found = f"v {list(state.v.shape)} and t_last {list(state.t_last.shape)}"
        raise InputError(f"state has {found}; expected {v_shape} and {t_shape}")
    for name, value in ({f"events.{name}": getattr(events, name) for name in fields} | floats).items():
        if value.device != weight.device:
            raise InputError(f"{name} is on {value.device} and weight on {weight.device}; move them to one device")
