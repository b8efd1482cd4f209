"""The registered operators behind `event_lif`: `had_snn::event_lif_forward` and `had_snn::event_lif_backward`.

They bucket the events, lay out memory, check values and launch `kernels/neuron/event_lif.cu`. Inside, channels are
last: weight `[taps, C]`, potentials `[B, Ho, Wo, C]`, counts and membranes `[T, B, Ho, Wo, C]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.native import INT32, INT64, POINTER, Parameters, fields
from had_snn.ops import build, memory
from had_snn.ops.event_bucket import Events, bucket_events
from had_snn.ops.surrogate import Neuron

TASKS = 64  # HAD_TASKS of kernels/neuron/event_lif_host.cuh
REPLICAS = 64  # copies of the summed gradients that spread a GPU's atomic additions
MAX_WINDOW_US = 1 << 46


class Window(Parameters):
    """`Window` of `kernels/neuron/event_lif.cu`: what both directions are given."""

    _fields_ = (
        *fields(POINTER, "entries", "start", "bound", "weight", "rate", "gain", "threshold", "v0", "t_last0"),
        *fields(POINTER, "scale", "remaining"),
        *fields(INT64, "sites", "sites_per_sample", "T", "C"),
        ("neuron", Neuron),
        *fields(INT32, "threads"),
    )


class EventForward(Parameters):
    """`EventForward` of `kernels/neuron/event_lif.cu`."""

    _fields_ = (("window", Window), *fields(POINTER, "counts", "membranes", "v", "t_last"))


class EventBackward(Parameters):
    """`EventBackward` of `kernels/neuron/event_lif.cu`."""

    _fields_ = (
        ("window", Window),
        *fields(POINTER, "g_counts", "g_membranes", "g_v", "potentials"),
        *fields(POINTER, "g_weight", "g_rate", "g_gain", "g_threshold", "g_v0"),
        *fields(INT64, "taps", "rows"),
    )


def output_hw(size_hw: tuple[int, int], *, kernel: int, stride: int, padding: int = 0) -> tuple[int, int]:
    """Output sites of an input of `size_hw` pixels, as for a convolution."""
    height, width = ((n + 2 * padding - kernel) // stride + 1 for n in size_hw)
    return height, width


def _check_values(rate: Tensor, scale: Tensor, threshold: Tensor, gain: Tensor | None, last: Tensor | None) -> None:
    """Values are looked at on the CPU only: on a GPU that would make every call wait for the device."""
    build.refuse_unless(torch.isfinite(rate) & (rate >= 0), 1 / rate, "tau of channel")
    build.refuse_unless(torch.isfinite(threshold) & (threshold > 0), threshold, "v_threshold of channel")
    build.refuse_unless(torch.isfinite(scale) & (scale > 0), scale, "time scale of sample")
    if gain is not None:
        build.refuse_unless(torch.isfinite(gain), gain, "gain of sample", expected="a finite number")
    if last is not None and bool((last > 0).any()):
        raise InputError("state.t_last lies after t_begin: this state does not come from an earlier window")


def _empty_outputs(
    t: Tensor,
    weight: Tensor,
    samples: int,
    out_hw: tuple[int, int],
    cover: int,
    n_steps: int,
    membranes: bool,
    empty: Callable[..., Tensor],
) -> list[Tensor]:
    """Counts, membranes, v, t_last, entries, start, bound and remaining; an event reaches `cover` sites at most."""
    channels, floats = weight.shape[1], {"dtype": weight.dtype, "device": weight.device}
    counts = empty((n_steps, samples, *out_hw, channels), **floats)
    extra = empty(counts.shape, **floats) if membranes else weight.new_empty(0)
    v = empty((samples, *out_hw, channels), **floats)
    entries = empty((t.shape[0] * cover,), dtype=t.dtype, device=weight.device)
    start = t.new_empty(samples * out_hw[0] * out_hw[1] + 1)
    times = [t.new_empty((samples, n_steps + 1)), t.new_empty((samples, n_steps), dtype=torch.float64)]
    return [counts, extra, v, t.new_empty((samples, *out_hw)), entries, start, *times]


@torch.library.custom_op("had_snn::event_lif_forward", mutates_args=())
def event_lif_forward(
    t: Tensor,
    x: Tensor,
    y: Tensor,
    p: Tensor,
    offsets: Tensor,
    t_begin: Tensor,
    t_end: Tensor,
    length_us: Tensor,
    scale: Tensor,
    weight: Tensor,
    rate: Tensor,
    gain: Tensor | None,
    threshold: Tensor,
    v0: Tensor | None,
    t_last0: Tensor | None,
    height: int,
    width: int,
    kernel: int,
    stride: int,
    padding: int,
    n_steps: int,
    v_reset: float,
    slope: float,
    surrogate: int,
    soft: bool,
    detach: bool,
    membranes: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    last0 = None if t_last0 is None else t_last0 - t_begin[:, None, None]
    if t.device.type == "cpu":
        _check_values(rate, scale, threshold, gain, last0)
    bound, remaining = step_ends(t_begin, t_end, length_us, n_steps)
    out_hw = output_hw((height, width), kernel=kernel, stride=stride, padding=padding)
    cover = (-(-kernel // stride)) ** 2
    counts, membrane, v, t_last, entries, start, *_ = _empty_outputs(
        t, weight, t_begin.shape[0], out_hw, cover, n_steps, membranes, memory.empty
    )
    bucket_events(
        Events(t, x, y, p, offsets, t_begin, t_end),
        grid=(height, width),
        kernel=kernel,
        stride=stride,
        padding=padding,
        start=start,
        entries=entries,
    )
    if v.numel() > 0:
        neuron = Neuron(v_reset=v_reset, slope=slope, surrogate=surrogate, soft=soft, detach=detach)
        given = {"weight": weight, "rate": rate, "gain": gain, "threshold": threshold, "v0": v0, "t_last0": last0}
        times = {"start": start, "bound": bound, "remaining": remaining, "scale": scale}
        window = window_of(counts.shape, neuron, entries=entries, **times, **given)
        outputs = {"counts": counts, "membranes": membrane if membranes else None, "v": v, "t_last": t_last}
        _run("event_lif_forward", EventForward(window=window, **build.addresses(**outputs)), v.device)
    return counts, membrane, v, t_last + t_begin[:, None, None], entries, start, bound, remaining


@event_lif_forward.register_fake
def _(t, x, y, p, offsets, t_begin, t_end, length_us, scale, weight, rate, gain, threshold, v0, t_last0, *options):
    height, width, kernel, stride, padding, n_steps, *_, membranes = options
    out_hw = output_hw((height, width), kernel=kernel, stride=stride, padding=padding)
    cover = (-(-kernel // stride)) ** 2
    return tuple(_empty_outputs(t, weight, t_begin.shape[0], out_hw, cover, n_steps, membranes, torch.empty))


def step_ends(t_begin: Tensor, t_end: Tensor, length_us: Tensor, n_steps: int) -> tuple[Tensor, Tensor]:
    """When the micro-steps of windows `[t_end - length, t_end)` end.

    Returns:
        First microsecond, after t_begin, of each micro-step and of what follows the last, int64 `[B, T + 1]`; and how
        many microseconds, not rounded, before the window's end each micro-step ends, float64 `[B, T]`.
    """
    window = t_end - t_begin
    if t_begin.device.type == "cpu" and not bool(((window > 0) & (window < MAX_WINDOW_US)).all()):
        first = int((~((window > 0) & (window < MAX_WINDOW_US))).nonzero()[0])
        raise InputError(f"window of sample {first} is {int(window[first])} us long; expected 1 to {MAX_WINDOW_US - 1}")
    steps_left = torch.arange(n_steps, -1, -1, dtype=torch.float64, device=t_begin.device)
    remaining = length_us[:, None] * steps_left / n_steps
    return window[:, None] - remaining.floor().long(), remaining[:, 1:].contiguous()


def window_of(shape: Sequence[int], neuron: Neuron, *, entries: Tensor, **tensors: Tensor | None) -> Window:
    """What both directions are given, for counts of `shape` `[T, N, Ho, Wo, C]`."""
    T, samples, height, width, channels = shape
    sites = samples * height * width
    return Window(
        **build.addresses(entries=entries, **tensors),
        sites=sites,
        sites_per_sample=height * width,
        T=T,
        C=channels,
        neuron=neuron,
        threads=build.threads_for((T * sites + entries.numel()) * channels),
    )


@torch.library.custom_op("had_snn::event_lif_backward", mutates_args=())
def event_lif_backward(
    entries: Tensor,
    start: Tensor,
    bound: Tensor,
    remaining: Tensor,
    t_begin: Tensor,
    scale: Tensor,
    weight: Tensor,
    rate: Tensor,
    gain: Tensor | None,
    threshold: Tensor,
    v0: Tensor | None,
    t_last0: Tensor | None,
    g_counts: Tensor | None,
    g_membranes: Tensor | None,
    g_v: Tensor | None,
    shape: list[int],
    v_reset: float,
    slope: float,
    surrogate: int,
    soft: bool,
    detach: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _, samples, height, width, channels = shape
    last0 = None if t_last0 is None else t_last0 - t_begin[:, None, None]
    on_cpu = weight.device.type == "cpu"
    rows, kind = (TASKS, torch.float64) if on_cpu else (REPLICAS, torch.float32)
    taps = weight.shape[0]
    gains = (rows if on_cpu else 1, samples)
    shapes = [(rows, taps, channels), (rows, channels), gains, (rows, channels)]
    sums = [weight.new_zeros(shape, dtype=kind) for shape in shapes]
    g_v0 = weight.new_empty((samples, height, width, channels) if v0 is not None else 0)
    g_counts, g_membranes, g_v = (None if g is None else g.contiguous() for g in (g_counts, g_membranes, g_v))
    if samples * height * width > 0:
        neuron = Neuron(v_reset=v_reset, slope=slope, surrogate=surrogate, soft=soft, detach=detach)
        given = {"weight": weight, "rate": rate, "gain": gain, "threshold": threshold, "v0": v0, "t_last0": last0}
        times = {"start": start, "bound": bound, "remaining": remaining, "scale": scale}
        window = window_of(shape, neuron, entries=entries, **times, **given)
        potentials = None if on_cpu else weight.new_empty((entries.numel(), channels))
        grads = {"g_counts": g_counts, "g_membranes": g_membranes, "g_v": g_v, "potentials": potentials}
        grads |= {"g_weight": sums[0], "g_rate": sums[1], "g_gain": sums[2] if gain is not None else None}
        grads |= {"g_threshold": sums[3], "g_v0": g_v0 if v0 is not None else None}
        both = EventBackward(window=window, **build.addresses(**grads), taps=taps, rows=rows)
        _run("event_lif_backward", both, weight.device)
    g_weight, g_rate, g_gain_sum, g_threshold = (s.sum(0).to(weight.dtype) for s in sums)
    return g_weight, g_rate, g_gain_sum, g_threshold, g_v0


@event_lif_backward.register_fake
def _(entries, start, bound, remaining, t_begin, scale, weight, rate, gain, threshold, v0, t_last0, *grads_and_options):
    _, samples, height, width, channels = grads_and_options[3]
    g_v0 = weight.new_empty((samples, height, width, channels) if v0 is not None else 0)
    rest = (weight.new_empty(n) for n in (channels, samples, channels))
    return torch.empty_like(weight), *rest, g_v0


def _run(name: str, given: EventForward | EventBackward, device: torch.device) -> None:
    if device.type == "cuda":
        threads = given.window.sites * given.window.C
        build.launch_cupy("event_lif.cu", name, given, threads=threads, device=device, storage=torch.float32)
    elif build.bind(name, type(given))(given):
        raise MemoryError("event_lif: no memory for the kernel's tables")


def _setup(ctx, inputs, output) -> None:
    _t, _x, _y, _p, _offsets, t_begin, _t_end, _length, scale, weight, rate, gain, threshold, *options = inputs
    v0, t_last0, *_geometry, v_reset, slope, surrogate, soft, detach, ctx.membranes = options
    counts, _membranes, _v, t_last, entries, start, bound, remaining = output
    ctx.save_for_backward(entries, start, bound, remaining, t_begin, scale, weight, rate, gain, threshold, v0, t_last0)
    ctx.shape, ctx.inputs = list(counts.shape), len(inputs)
    ctx.neuron = (v_reset, slope, surrogate, soft, detach)
    ctx.mark_non_differentiable(t_last, entries, start, bound, remaining)
    ctx.set_materialize_grads(False)


def _backward(ctx, g_counts, g_membranes, g_v, *_):
    g_membranes = g_membranes if ctx.membranes else None
    if g_counts is None and g_membranes is None and g_v is None:
        return (None,) * ctx.inputs
    saved = ctx.saved_tensors
    *_, gain, _, v0, _ = saved
    given = [*saved, g_counts, g_membranes, g_v, ctx.shape, *ctx.neuron]
    g_weight, g_rate, g_gain, g_threshold, g_v0 = event_lif_backward(*given)
    found = (g_weight, g_rate, None if gain is None else g_gain, g_threshold, None if v0 is None else g_v0)
    return (*(None,) * 9, *found, *(None,) * (ctx.inputs - 14))


event_lif_forward.register_autograd(_backward, setup_context=_setup)
