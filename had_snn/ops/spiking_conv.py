"""Convolution and correlation of spikes for training on a CPU: differentiable; the first at a cost that follows spikes.

    conv2d_of_spikes     outputs from spike lists, those of inference (`spike_conv.py`); the gradient of the weight from
                         lists by channel; the gradient of the input dense, by torch
    match_maps           depth-wise correlation of each sample with a kernel of its own

Memory is channels last throughout; for the backward a byte is kept of each neuron and micro-step. On other devices, for
other types than float32 and under autocast, torch's own convolutions run. Kernels: `kernels/host/spike_conv.cpp`,
`spike_gradient.cpp`, `match.cpp`. Precedents: SparseTrain (arXiv 1911.10175), Sparse Spiking Gradient Descent (arXiv
2105.08810).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from had_snn.errors import InputError
from had_snn.native import INT32, INT64, POINTER, Parameters, fields
from had_snn.ops import build, memory
from had_snn.ops.spike_conv import LANES, SpikeConv, SpikeListing, SpikeWeights

#: Share of spikes above which torch's dense convolution is the faster one; `python -m experiments.bench spiking_conv`.
DENSEST = 0.33
#: Inputs of an output below which it is the faster one however few of them spike.
FEWEST = 96
#: The gradient of a weight is summed in so many parts, whatever the number of threads, so that it rounds alike.
PARTS = 8


class SpikeGradient(Parameters):
    """`SpikeGradient` of `kernels/host/spike_gradient.cpp`."""

    _fields_ = (
        *fields(POINTER, "fired", "count", "g_out", "g_weight"),
        *fields(INT64, "N", "H", "W", "C", "Ho", "Wo", "K", "Kp", "k", "stride", "padding", "parts"),
        *fields(INT32, "threads"),
    )


class Match(Parameters):
    """`Match` of `kernels/host/match.cpp`."""

    _fields_ = (
        *fields(POINTER, "maps", "kernel", "g_out", "out", "g_kernel"),
        *fields(INT64, "T", "N", "C", "H", "W", "k"),
        *fields(INT32, "turned", "threads"),
    )


def conv2d_of_spikes(
    spikes: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 0, counts: bool = False
) -> Tensor:
    """Convolution of spikes, or of their counts, without a bias.

    Args:
        spikes: `[B, C, H, W]`, whole numbers of at least 0, mostly 0.
        weight: `[K, C, k, k]`.
        stride: Stride.
        padding: Zeros around the map.
        counts: Whether numbers above 1 may be among them.

    Returns:
        `[B, K, Ho, Wo]`, as `torch.nn.functional.conv2d` gives but for the rounding of its sums.
    """
    channels, row = spikes.shape[1], spikes.shape[1] * spikes.shape[3]
    square = weight.shape[1:] == (channels, weight.shape[2], weight.shape[2]) and padding < weight.shape[2]
    if not _ours(spikes, weight) or not square or row > 1 << 16 or not spikes.numel():
        return F.conv2d(spikes, weight, stride=stride, padding=padding)
    if weight[0].numel() < FEWEST:
        return F.conv2d(channels_last(spikes), weight, stride=stride, padding=padding)
    return conv_forward(spikes, weight, stride, padding, counts)[0]


def match_maps(maps: Tensor, kernel: Tensor) -> Tensor:
    """Correlates each sample's channels with a kernel each.

    Args:
        maps: `[T, N, C, H, W]`.
        kernel: `[N, C, k, k]`, `k` odd.

    Returns:
        `[T, N, C, H, W]`.

    Raises:
        InputError: If there is not one square kernel with an odd side for each sample and channel.
    """
    side = kernel.shape[-1]
    if kernel.shape != (*maps.shape[1:3], side, side) or side % 2 == 0:
        shape = f"[{maps.shape[1]}, {maps.shape[2]}, k, k] with an odd k"
        raise InputError(f"the kernel has shape {list(kernel.shape)}; maps {list(maps.shape)} need {shape}")
    if _ours(maps, kernel) and maps.numel():
        return match_forward(maps, kernel)
    steps, samples, channels, *sides = maps.shape
    flat = kernel.reshape(samples * channels, 1, *kernel.shape[2:])
    out = F.conv2d(maps.flatten(1, 2), flat, padding=kernel.shape[-1] // 2, groups=samples * channels)
    return out.reshape(steps, samples, channels, *sides)


def _ours(maps: Tensor, weight: Tensor) -> bool:
    floats = maps.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled(maps.device.type)
    return floats and build.choose_backend("auto", maps.device.type, maps.dtype) == "native"


def channels_last(maps: Tensor) -> Tensor:
    """The same `[..., C, H, W]` with channels last in memory."""
    return maps.movedim(-3, -1).contiguous().movedim(-1, -3)


def _empty_maps(like: Tensor, *shape: int) -> Tensor:
    """Memory for maps `[..., C, H, W]` with channels last."""
    *before, channels, height, width = shape
    return memory.empty((*before, height, width, channels), dtype=torch.float32, device=like.device).movedim(-1, -3)


def _output_shape(spikes: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[int, int, int, int]:
    rows, columns = ((n + 2 * padding - weight.shape[2]) // stride + 1 for n in spikes.shape[2:])
    return len(spikes), len(weight), rows, columns


def _sizes(spikes: Tensor, weight: Tensor, stride: int, padding: int) -> dict[str, int]:
    _, channels, height, width = spikes.shape
    samples, outputs, rows, columns = _output_shape(spikes, weight, stride, padding)
    sizes = {"N": samples, "H": height, "W": width, "C": channels, "Ho": rows, "Wo": columns, "K": outputs}
    sizes |= {"Kp": outputs + -outputs % LANES, "k": weight.shape[2], "stride": stride, "padding": padding}
    return sizes | {"threads": build.threads_for(samples * outputs * rows * columns * weight.shape[2] ** 2)}


@torch.library.custom_op("had_snn::conv_of_spikes", mutates_args=())
def conv_forward(spikes: Tensor, weight: Tensor, stride: int, padding: int, counts: bool) -> tuple[Tensor, Tensor]:
    dense, sizes = channels_last(spikes), _sizes(spikes, weight, stride, padding)
    fired = spikes.new_empty(0, dtype=torch.uint8) if counts else dense.movedim(1, -1).to(torch.uint8)
    samples, height, width, channels = sizes["N"], sizes["H"], sizes["W"], sizes["C"]
    # The pool knows no int16; float16 is as wide.
    shape = (samples, height, width * channels)
    entry = memory.empty(shape, dtype=torch.float16, device=spikes.device).view(torch.int16)
    start = torch.empty(samples, height, width + 1, dtype=torch.int32)
    value = memory.empty(shape, dtype=torch.float32, device=spikes.device) if counts else None
    listed = {"entry": entry, "start": start, "value": value}
    rows = {"rows": samples * height, "W": width, "C": channels, "most": float("inf"), "threads": sizes["threads"]}
    listing = SpikeListing(**build.addresses(dense=dense, **listed), **rows)
    if build.bind("spike_list", SpikeListing)(listing) > DENSEST * spikes.numel():
        return F.conv2d(dense, weight, stride=stride, padding=padding), fired
    packed = SpikeWeights.pack(weight, None, stride=stride, padding=padding)
    out = _empty_maps(spikes, *_output_shape(spikes, weight, stride, padding))
    given = build.addresses(**listed, weight=packed.weight, bias=packed.bias, current_out=out)
    if build.bind("spike_conv", SpikeConv)(SpikeConv(**given, **sizes, T=1, threshold=1.0)) < 0:
        raise MemoryError("spike_conv: no memory for a row of spikes")
    return out, fired


@conv_forward.register_fake
def _(spikes, weight, stride, padding, counts):
    samples, channels, height, width = spikes.shape
    out = spikes.new_empty(_output_shape(spikes, weight, stride, padding)).contiguous(memory_format=torch.channels_last)
    shape = 0 if counts else (samples, height, width, channels)
    return out, spikes.new_empty(shape, dtype=torch.uint8)


@torch.library.custom_op("had_snn::conv_of_spikes_backward", mutates_args=())
def conv_backward(
    g_out: Tensor, weight: Tensor, kept: Tensor, shape: list[int], stride: int, padding: int, need: list[bool]
) -> tuple[Tensor, Tensor]:
    """`kept`: what fired, `[B, H, W, C]` in bytes, or counts `[B, C, H, W]`."""
    g_out = channels_last(g_out)
    g_spikes, g_weight = g_out.new_empty(0), weight.new_empty(0)
    if need[0]:
        # Torch looks at the input's shape and memory order alone here.
        order = torch.empty(shape, memory_format=torch.channels_last)
        sides = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1, [True, False, False]
        g_spikes = torch.ops.aten.convolution_backward(g_out, order, weight, None, *sides)[0]
    if need[1]:
        sizes = _sizes(g_out.new_empty(1).expand(shape), weight, stride, padding)
        parts = (PARTS, sizes["k"], sizes["k"], sizes["C"], sizes["Kp"])
        sums = memory.empty(parts, dtype=torch.float32, device=g_out.device)
        spikes = {"fired": kept} if kept.dtype == torch.uint8 else {"count": channels_last(kept)}
        given = build.addresses(**spikes, g_out=g_out, g_weight=sums)
        if build.bind("spike_gradient", SpikeGradient)(SpikeGradient(**given, **sizes, parts=PARTS)) < 0:
            raise MemoryError("spike_gradient: no memory for the lists of a sample")
        g_weight = sums.sum(0)[..., : len(weight)].permute(3, 2, 0, 1).contiguous()
    return g_spikes, g_weight


@conv_backward.register_fake
def _(g_out, weight, kept, shape, stride, padding, need):
    g_spikes = g_out.new_empty(shape).contiguous(memory_format=torch.channels_last)
    return g_spikes if need[0] else g_out.new_empty(0), weight.new_empty(weight.shape if need[1] else 0)


def _keep(ctx, inputs, output) -> None:
    spikes, weight, ctx.stride, ctx.padding, counts = inputs
    ctx.shape = list(spikes.shape)
    ctx.save_for_backward(weight, spikes if counts else output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _conv_gradients(ctx, g_out, _):
    need = list(ctx.needs_input_grad[:2])
    if g_out is None:
        return (None,) * 5
    weight, kept = ctx.saved_tensors
    grads = conv_backward(g_out, weight, kept, ctx.shape, ctx.stride, ctx.padding, need)
    return (*(g if n else None for g, n in zip(grads, need, strict=True)), *(None,) * 3)


conv_forward.register_autograd(_conv_gradients, setup_context=_keep)


def _given_match(shape: torch.Size, side: int, *, turned: bool = False, **tensors: Tensor) -> Match:
    steps, samples, channels, height, width = shape
    sizes = {"T": steps, "N": samples, "C": channels, "H": height, "W": width, "k": side}
    threads = build.threads_for(shape.numel() * side * side)
    return Match(**build.addresses(**tensors), **sizes, turned=turned, threads=threads)


@torch.library.custom_op("had_snn::match_maps", mutates_args=())
def match_forward(maps: Tensor, kernel: Tensor) -> Tensor:
    out = _empty_maps(maps, *maps.shape)
    given = {"maps": channels_last(maps), "kernel": channels_last(kernel), "out": out}
    build.bind("match", Match, returns=None)(_given_match(maps.shape, kernel.shape[-1], **given))
    return out


@match_forward.register_fake
def _(maps, kernel):
    return channels_last(maps.new_empty(maps.shape))


@torch.library.custom_op("had_snn::match_maps_backward", mutates_args=())
def match_backward(maps: Tensor, kernel: Tensor, g_out: Tensor, need: list[bool]) -> tuple[Tensor, Tensor]:
    g_out, side = channels_last(g_out), kernel.shape[-1]
    g_maps, g_kernel = g_out.new_empty(0), g_out.new_empty(0)
    if need[0]:
        g_maps = _empty_maps(maps, *maps.shape)
        given = {"maps": g_out, "kernel": channels_last(kernel), "out": g_maps}
        build.bind("match", Match, returns=None)(_given_match(maps.shape, side, turned=True, **given))
    if need[1]:
        g_kernel = _empty_maps(kernel, *kernel.shape)
        given = {"maps": channels_last(maps), "g_out": g_out, "g_kernel": g_kernel}
        build.bind("match_kernel_gradient", Match, returns=None)(_given_match(maps.shape, side, **given))
    return g_maps, g_kernel


@match_backward.register_fake
def _(maps, kernel, g_out, need):
    made = [
        channels_last(t.new_empty(t.shape)) if n else t.new_empty(0) for t, n in zip((maps, kernel), need, strict=True)
    ]
    return made[0], made[1]


def _keep_match(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _match_gradients(ctx, g_out):
    need = list(ctx.needs_input_grad[:2])
    given = [*ctx.saved_tensors, g_out, need]
    return tuple(g if n else None for g, n in zip(match_backward(*given), need, strict=True))


match_forward.register_autograd(_match_gradients, setup_context=_keep_match)
