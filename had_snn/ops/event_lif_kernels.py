"""The registered operators behind `event_lif`: `had_snn::event_lif_forward` and `had_snn::event_lif_backward`.

They bucket the events, lay out memory, check values and launch `kernels/neuron/event_lif.cu`. Inside, channels are
last: weight `[taps, C]`, potentials `[B, Ho, Wo, C]`, counts and membranes `[T, B, Ho, Wo, C]`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.ops import build, memory
from had_snn.ops.event_bucket import bucket_events

TASKS = 64  # HAD_TASKS of kernels/neuron/event_lif_host.cuh
REPLICAS = 64  # copies of the summed gradients that spread a GPU's atomic additions
MAX_WINDOW_US = 1 << 46

_FORWARD = "ppppppppp" + "pppp" + "iiii" + "ff" + "nnn"
_BACKWARD = "ppppppppp" + "ppp" + "ppppp" + "iiiii" + "ff" + "nnn"
_BACKWARD_GPU = "ppppppppp" + "ppp" + "pppppp" + "iiiiii" + "ff" + "nnn"


def output_hw(size_hw: tuple[int, int], *, kernel: int, stride: int, padding: int = 0) -> tuple[int, int]:
    """Output sites of an input of `size_hw` pixels, as for a convolution."""
    height, width = ((n + 2 * padding - kernel) // stride + 1 for n in size_hw)
    return height, width


def _check_values(rate: Tensor, threshold: Tensor, gain: Tensor | None, last: Tensor | None) -> None:
    """Values are looked at on the CPU only: on a GPU that would make every call wait for the device."""
    for name, values, good in (
        ("tau", 1 / rate, torch.isfinite(rate) & (rate >= 0)),
        ("v_threshold", threshold, torch.isfinite(threshold) & (threshold > 0)),
    ):
        if not bool(good.all()):
            first = int((~good).nonzero()[0])
            raise InputError(f"{name} of channel {first} is {float(values[first])}; expected a positive number")
    if gain is not None and not bool(torch.isfinite(gain).all()):
        raise InputError(f"gain of sample {int((~torch.isfinite(gain)).nonzero()[0])} is not finite")
    if last is not None and bool((last > 0).any()):
        raise InputError("state.t_last lies after t_begin: this state does not come from an earlier window")


def _empty_outputs(
    t: Tensor, weight: Tensor, t_begin: Tensor, options: list[int], membranes: bool, empty: Callable[..., Tensor]
) -> list[Tensor]:
    """Counts, membranes, v, t_last, entries, start and bound, uninitialised."""
    height, width, k, stride, padding, T = options
    out_h, out_w = output_hw((height, width), kernel=k, stride=stride, padding=padding)
    samples, channels = t_begin.shape[0], weight.shape[1]
    where = {"device": weight.device}
    counts = empty((T, samples, out_h, out_w, channels), dtype=weight.dtype, **where)
    extra = empty(counts.shape, dtype=weight.dtype, **where) if membranes else weight.new_empty(0)
    v = empty((samples, out_h, out_w, channels), dtype=weight.dtype, **where)
    entries = empty((t.shape[0] * (-(-k // stride)) ** 2,), dtype=t.dtype, **where)
    start = t.new_empty(samples * out_h * out_w + 1)
    return [counts, extra, v, t.new_empty((samples, out_h, out_w)), entries, start, t.new_empty((samples, T + 1))]


@torch.library.custom_op("had_snn::event_lif_forward", mutates_args=())
def event_lif_forward(
    t: Tensor,
    x: Tensor,
    y: Tensor,
    p: Tensor,
    offsets: Tensor,
    t_begin: Tensor,
    t_end: Tensor,
    weight: Tensor,
    rate: Tensor,
    gain: Tensor | None,
    threshold: Tensor,
    v0: Tensor | None,
    t_last0: Tensor | None,
    options: list[int],
    v_reset: float,
    slope: float,
    surrogate: int,
    soft: bool,
    detach: bool,
    membranes: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    last0 = None if t_last0 is None else t_last0 - t_begin[:, None, None]
    if t.device.type == "cpu":
        _check_values(rate, threshold, gain, last0)
    bound = step_bounds(t_begin, t_end, options[5])
    counts, membrane, v, t_last, entries, start, _ = _empty_outputs(
        t, weight, t_begin, options, membranes, memory.empty
    )
    grid = (options[0], options[1])
    bucket_events(
        *(t, x, y, p, offsets, t_begin, t_end),
        grid=grid,
        kernel=options[2],
        stride=options[3],
        padding=options[4],
        start=start,
        entries=entries,
    )
    if v.numel() > 0:
        tensors = [entries, start, bound, weight, rate, gain, threshold, v0, last0]
        tensors += [counts, membrane if membranes else None, v, t_last]
        scalars = [*_sizes(counts), v_reset, slope, surrogate, int(soft), int(detach)]
        arguments = [*(build.address(a) for a in tensors), *scalars]
        _run(
            "event_lif_forward",
            _FORWARD,
            arguments,
            v,
            build.threads_for(counts.numel() + entries.numel() * weight.shape[1]),
        )
    return counts, membrane, v, t_last + t_begin[:, None, None], entries, start, bound


@event_lif_forward.register_fake
def _(t, x, y, p, offsets, t_begin, t_end, weight, rate, gain, threshold, v0, t_last0, options, *settings):
    return tuple(_empty_outputs(t, weight, t_begin, options, settings[-1], torch.empty))


def step_bounds(t_begin: Tensor, t_end: Tensor, n_steps: int) -> Tensor:
    """First microsecond, after t_begin, of each micro-step and of what follows the last: int64 `[B, T + 1]`."""
    window = t_end - t_begin
    if t_begin.device.type == "cpu" and not bool(((window > 0) & (window < MAX_WINDOW_US)).all()):
        first = int((~((window > 0) & (window < MAX_WINDOW_US))).nonzero()[0])
        raise InputError(f"window of sample {first} is {int(window[first])} us long; expected 1 to {MAX_WINDOW_US - 1}")
    steps = torch.arange(n_steps + 1, device=t_begin.device)
    return (steps * window[:, None] + n_steps - 1) // n_steps


def _sizes(counts: Tensor) -> tuple[int, int, int, int]:
    """sites, sites_per_sample, T, C of the kernels."""
    T, samples, height, width, channels = counts.shape
    return samples * height * width, height * width, T, channels


@torch.library.custom_op("had_snn::event_lif_backward", mutates_args=())
def event_lif_backward(
    entries: Tensor,
    start: Tensor,
    bound: Tensor,
    t_begin: Tensor,
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
    T, samples, height, width, channels = shape
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
        tensors = [entries, start, bound, weight, rate, gain, threshold, v0, last0, g_counts, g_membranes, g_v]
        g_gain = sums[2] if gain is not None else None
        outputs = [sums[0], sums[1], g_gain, sums[3], g_v0 if v0 is not None else None]
        if not on_cpu:
            tensors.append(weight.new_empty((entries.numel(), channels)))
        sizes = [samples * height * width, height * width, T, channels, taps]
        scalars = [*sizes, *([] if on_cpu else [REPLICAS]), v_reset, slope, surrogate, int(soft), int(detach)]
        arguments = [*(build.address(a) for a in (*tensors, *outputs)), *scalars]
        if on_cpu:
            symbol = f"had_event_lif_backward_{build.native_width()}"
            threads = build.threads_for(T * sizes[0] * channels + entries.numel() * channels)
            if build.native_function(symbol, _BACKWARD + "n", ctypes.c_int)(*arguments, threads):
                raise MemoryError("event_lif: no memory for the backward's scratch")
        else:
            work = sizes[0] * channels
            build.launch_cupy(
                *("event_lif.cu", "had_event_lif_backward", _BACKWARD_GPU, arguments),
                threads=work,
                device=weight.device,
                storage="f32",
            )
    g_weight, g_rate, g_gain_sum, g_threshold = (s.sum(0).to(weight.dtype) for s in sums)
    return g_weight, g_rate, g_gain_sum, g_threshold, g_v0


@event_lif_backward.register_fake
def _(entries, start, bound, t_begin, weight, rate, gain, threshold, v0, t_last0, g_counts, g_membranes, g_v, *options):
    _, samples, height, width, channels = options[0]
    g_v0 = weight.new_empty((samples, height, width, channels) if v0 is not None else 0)
    rest = (weight.new_empty(n) for n in (channels, samples, channels))
    return torch.empty_like(weight), *rest, g_v0


def _run(name: str, signature: str, arguments: list, sized: Tensor, threads: int) -> None:
    if sized.device.type == "cuda":
        build.launch_cupy(
            *("event_lif.cu", f"had_{name}", signature, arguments),
            threads=sized.numel(),
            device=sized.device,
            storage="f32",
        )
        return
    if build.native_function(f"had_{name}_{build.native_width()}", signature + "n", ctypes.c_int)(*arguments, threads):
        raise MemoryError("event_lif: no memory for the tables of decays")


def _setup(ctx, inputs, output) -> None:
    _t, _x, _y, _p, _offsets, t_begin, _t_end, weight, rate, gain, threshold, v0, t_last0, _options, *settings = inputs
    counts, _membranes, _v, t_last, entries, start, bound = output
    ctx.save_for_backward(entries, start, bound, t_begin, weight, rate, gain, threshold, v0, t_last0)
    ctx.shape, ctx.settings, ctx.membranes = list(counts.shape), settings[:5], settings[5]
    ctx.mark_non_differentiable(t_last, entries, start, bound)
    ctx.set_materialize_grads(False)


def _backward(ctx, g_counts, g_membranes, g_v, *_):
    g_membranes = g_membranes if ctx.membranes else None
    saved = ctx.saved_tensors
    if g_counts is None and g_membranes is None and g_v is None:
        return (None,) * 20
    grads = {"g_counts": g_counts, "g_membranes": g_membranes, "g_v": g_v}
    settings = dict(zip(("v_reset", "slope", "surrogate", "soft", "detach"), ctx.settings, strict=True))
    g_weight, g_rate, g_gain, g_threshold, g_v0 = event_lif_backward(*saved, **grads, shape=ctx.shape, **settings)
    gain, v0 = saved[6], saved[8]
    some = (None if gain is None else g_gain, g_threshold, None if v0 is None else g_v0)
    return (*(None,) * 7, g_weight, g_rate, *some, *(None,) * 8)


event_lif_forward.register_autograd(_backward, setup_context=_setup)
