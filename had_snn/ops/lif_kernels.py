"""The registered operators behind `lif_multi_step`: `had_snn::lif_forward` and `had_snn::lif_backward`.

They lay out memory, check values and launch `kernels/neuron/lif.cu`; shapes and meanings are those of
`had_snn/ops/lif.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from had_snn.native import INT32, INT64, POINTER, Parameters, fields
from had_snn.ops import build, memory
from had_snn.ops.surrogate import Neuron

CHUNK = 16  # HAD_CHUNK of kernels/neuron/lif.cu
TASK = 16384  # HAD_TASK of kernels/neuron/lif.cu
STREAM_BYTES = 16 << 20  # outputs beyond this bypass the caches

REPLICAS = 64  # copies of the summed gradients that spread a GPU's atomic additions


#: Threads of a GPU's backward: each adds up what its neurons do to a time constant before it meets the others.
MOST_THREADS = 1 << 20


class Clocked(Parameters):
    """`Clocked` of `kernels/neuron/lif.cu`: what both directions are given."""

    _fields_ = (
        *fields(POINTER, "x", "v0", "alpha", "threshold", "kept"),
        *fields(INT64, "T", "N", "x_step", "channels", "inner"),
        ("neuron", Neuron),
        *fields(INT32, "stream", "threads"),
    )


class LifForward(Parameters):
    """`LifForward` of `kernels/neuron/lif.cu`."""

    _fields_ = (("clocked", Clocked), *fields(POINTER, "s", "v", "h"))


class LifBackward(Parameters):
    """`LifBackward` of `kernels/neuron/lif.cu`."""

    _fields_ = (
        ("clocked", Clocked),
        *fields(POINTER, "g_s", "g_h", "g_v", "g_x", "g_v0", "g_alpha", "g_threshold"),
        *fields(INT64, "rows"),
    )


def _dense_step(x: Tensor) -> Tensor:
    """`x`, or a contiguous copy where one step of it is not a dense block."""
    expected = 1
    for size, stride in sorted(zip(x.shape[1:], x.stride()[1:], strict=True), key=lambda pair: (pair[1], pair[0])):
        if size == 1:
            continue
        if stride != expected:
            return x.contiguous()
        expected *= size
    return x if x.shape[0] == 1 or x.stride(0) >= expected else x.contiguous()


def _in_order(tensor: Tensor | None, strides: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """`tensor` in the given memory order and dtype, copied only where it must be."""
    if tensor is None:
        return None
    same = all(a == b or n == 1 for a, b, n in zip(tensor.stride(), strides, tensor.shape, strict=True))
    if same and tensor.dtype == dtype:
        return tensor
    return memory.empty_strided(tensor.shape, strides, dtype=dtype, device=tensor.device).copy_(tensor)


def _strides(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides of one step, and of all steps packed, in the memory order of dense `x`."""
    step = tuple(x.stride()[1:])
    return step, (math.prod(x.shape[1:]), *step)


def _clocked(
    x: Tensor, v0: Tensor | None, alpha: Tensor, threshold: Tensor, kept: Tensor, channel_dim: int, neuron: Neuron
) -> Clocked:
    step = math.prod(x.shape[1:])
    # Streaming stores need every step to begin on a 64-byte line.
    large = x.numel() * x.element_size() >= STREAM_BYTES and step * x.element_size() % 64 == 0
    return Clocked(
        **build.addresses(x=x, v0=v0, alpha=alpha, threshold=threshold, kept=kept if kept.numel() else None),
        T=x.shape[0],
        N=step,
        x_step=x.stride(0),
        channels=alpha.numel(),
        inner=x.stride(channel_dim) if alpha.numel() > 1 else 1,
        neuron=neuron,
        stream=large,
        threads=build.threads_for(x.numel()),
    )


def _kept_shape(x: Tensor, keep: bool) -> tuple[int, int]:
    return ((x.shape[0] - 1) // CHUNK if keep else 0, math.prod(x.shape[1:]))


@torch.library.custom_op("had_snn::lif_forward", mutates_args=())
def lif_forward(
    x: Tensor,
    v0: Tensor | None,
    alpha: Tensor,
    threshold: Tensor,
    channel_dim: int,
    v_reset: float,
    slope: float,
    surrogate: int,
    soft: bool,
    detach: bool,
    membranes: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = _dense_step(x)
    step, packed = _strides(x)
    v0 = _in_order(v0, step, torch.float32)
    s = memory.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device)
    v = memory.empty_strided(x.shape[1:], step, dtype=torch.float32, device=x.device)
    h = memory.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device) if membranes else x.new_empty(0)
    kept = memory.empty(_kept_shape(x, keep), dtype=torch.float32, device=x.device)
    if math.prod(x.shape) == 0:
        return s, v if v0 is None else v0.clone(), h, kept
    if x.device.type == "cpu":
        _check_factors(alpha, threshold)
    neuron = Neuron(v_reset=v_reset, slope=slope, surrogate=surrogate, soft=soft, detach=detach)
    clocked = _clocked(x, v0, alpha, threshold, kept, channel_dim, neuron)
    _run("lif_forward", LifForward(clocked=clocked, **build.addresses(s=s, v=v, h=h if membranes else None)), x)
    return s, v, h, kept


@lif_forward.register_fake
def _(x, v0, alpha, threshold, channel_dim, v_reset, slope, surrogate, soft, detach, membranes, keep):
    x = _dense_step(x)
    step, packed = _strides(x)
    s = torch.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device)
    v = torch.empty_strided(x.shape[1:], step, dtype=torch.float32, device=x.device)
    h = torch.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device) if membranes else x.new_empty(0)
    return s, v, h, torch.empty(_kept_shape(x, keep), dtype=torch.float32, device=x.device)


@torch.library.custom_op("had_snn::lif_backward", mutates_args=())
def lif_backward(
    x: Tensor,
    v0: Tensor | None,
    alpha: Tensor,
    threshold: Tensor,
    kept: Tensor,
    g_s: Tensor | None,
    g_h: Tensor | None,
    g_v: Tensor | None,
    channel_dim: int,
    v_reset: float,
    slope: float,
    surrogate: int,
    soft: bool,
    detach: bool,
    need: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = _dense_step(x)
    step, packed = _strides(x)
    v0, g_v = _in_order(v0, step, torch.float32), _in_order(g_v, step, torch.float32)
    g_s, g_h = _in_order(g_s, packed, x.dtype), _in_order(g_h, packed, x.dtype)
    g_x = memory.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device) if need[0] else x.new_empty(0)
    g_v0 = memory.empty_strided(x.shape[1:], step, dtype=torch.float32, device=x.device) if need[1] else x.new_empty(0)
    # The CPU adds up in float64, one row a task; the GPU adds atomically in float32, one row a replica.
    on_cpu = x.device.type == "cpu"
    rows, kind = (-(-math.prod(x.shape[1:]) // TASK), torch.float64) if on_cpu else (REPLICAS, torch.float32)
    sums = [torch.zeros(rows, alpha.numel(), dtype=kind, device=x.device) if n else None for n in need[2:]]
    if math.prod(x.shape) > 0:
        neuron = Neuron(v_reset=v_reset, slope=slope, surrogate=surrogate, soft=soft, detach=detach)
        given = LifBackward(
            clocked=_clocked(x, v0, alpha, threshold, kept, channel_dim, neuron),
            **build.addresses(g_s=g_s, g_h=g_h, g_v=g_v, g_alpha=sums[0], g_threshold=sums[1]),
            **build.addresses(g_x=g_x if need[0] else None, g_v0=g_v0 if need[1] else None),
            rows=rows,
        )
        _run("lif_backward", given, x)
    g_alpha, g_threshold = (alpha.new_empty(0) if s is None else s.sum(0).to(alpha.dtype) for s in sums)
    return g_x, g_v0, g_alpha, g_threshold


@lif_backward.register_fake
def _(x, v0, alpha, threshold, kept, g_s, g_h, g_v, channel_dim, v_reset, slope, surrogate, soft, detach, need):
    x = _dense_step(x)
    step, packed = _strides(x)
    g_x = torch.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device) if need[0] else x.new_empty(0)
    g_v0 = torch.empty_strided(x.shape[1:], step, dtype=torch.float32, device=x.device) if need[1] else x.new_empty(0)
    g_alpha, g_threshold = (torch.empty_like(alpha) if n else alpha.new_empty(0) for n in need[2:])
    return g_x, g_v0, g_alpha, g_threshold


def _run(name: str, given: LifForward | LifBackward, x: Tensor) -> None:
    if x.device.type == "cuda":
        threads = _threads(given.clocked, backward=name == "lif_backward")
        build.launch_cupy("lif.cu", name, given, threads=threads, device=x.device, storage=x.dtype)
    else:
        build.bind(name, type(given), storage=x.dtype, returns=None)(given)


def _threads(clocked: Clocked, *, backward: bool) -> int:
    """A GPU's threads: one a neuron; fewer in the backward, so that with channels last each stays with one channel."""
    if not backward:
        return clocked.N
    period = math.lcm(256, clocked.channels) if clocked.inner == 1 else 256
    return min(clocked.N, max(1, MOST_THREADS // period) * period)


def _check_factors(alpha: Tensor, threshold: Tensor) -> None:
    """Values are looked at on the CPU only: on a GPU that would make every layer wait for the device."""
    build.refuse_unless(
        (alpha >= 0) & (alpha <= 1), alpha, "decay by the tau of channel", expected="0 to 1, of a positive tau"
    )
    build.refuse_unless((threshold > 0) & torch.isfinite(threshold), threshold, "v_threshold of channel")


def _setup(ctx, inputs, output) -> None:
    x, v0, alpha, threshold, *ctx.options, ctx.membranes, _keep = inputs
    ctx.save_for_backward(x, v0, alpha, threshold, output[3])
    ctx.mark_non_differentiable(output[3])
    ctx.set_materialize_grads(False)


def _backward(ctx, g_s, g_v, g_h, _):
    need = list(ctx.needs_input_grad[:4])
    if g_s is None and g_v is None and (g_h is None or not ctx.membranes):
        return (None,) * 12
    x, v0, alpha, threshold, kept = ctx.saved_tensors
    g_h = g_h if ctx.membranes else None
    given = [x, v0, alpha, threshold, kept, g_s, g_h, g_v, *ctx.options, need]
    grads = lif_backward(*given)
    return (*(g if n else None for g, n in zip(grads, need, strict=True)), *(None,) * 8)


lif_forward.register_autograd(_backward, setup_context=_setup)
