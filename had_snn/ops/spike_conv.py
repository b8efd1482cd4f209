"""Convolutions of spikes whose cost follows the spikes, fused with the LIF step: inference only.

Spikes travel as compact lists between layers (`SpikeList`); a convolution adds up the weights of the spikes in reach,
channels in SIMD lanes, and its neurons fire while the sum is still in registers. Kernels: `kernels/spike_conv.cu`. The
`_ref` functions are the same in plain torch, through dense tensors.

Sums are exact, hence equal to a dense convolution's in whatever order, when weights and biases lie on a grid coarse
enough for float32's 24 bits; see `had_snn.models.frozen`. The LIF step is that of `lif_multi_step` to the last bit.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from had_snn.errors import InputError
from had_snn.ops import build

_CONV = "pppppppppp" + "iiiiiiiiiiii" + "ff"
_LIST = "pppp" + "iii"
_CORRELATE = "pppp" + "iiiiii"
#: Output channels are padded to a multiple of this, the widest vector register.
LANES = 16
MAX_STEPS = 64


@dataclass(frozen=True)
class SpikeList:
    """Spikes of a map, row by row.

    Attributes:
        entry: `x * C + c` of each spike (16 bits, read without sign), int16 `[T, N, H, W * C]`; each row begins with
            its spikes, in order, and what follows them means nothing.
        start: Place of the first spike of each column, int32 `[T, N, H, W + 1]`; the last one is the row's number.
        channels: C.
        value: What each spike counts for, float32 beside `entry`; None where every one counts 1.
    """

    entry: Tensor
    start: Tensor
    channels: int
    value: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """`(T, N, C, H, W)` of the dense tensor."""
        steps, samples, height, columns = self.start.shape
        return steps, samples, self.channels, height, columns - 1

    def spikes(self) -> int:
        """Number of entries."""
        return int(self.start[..., -1].sum())

    def dense(self) -> Tensor:
        """The dense tensor `[T, N, C, H, W]` (channels-last memory)."""
        steps, samples, channels, height, width = self.shape
        numbers = self.start[..., -1:].long()
        place = torch.arange(width * channels, device=self.entry.device)
        used = place < numbers
        at = torch.where(used, self.entry.long() & 0xFFFF, 0)
        values = torch.where(used, 1.0 if self.value is None else self.value, 0.0)
        out = torch.zeros(self.entry.shape, device=self.entry.device).scatter_add_(-1, at, values)
        return out.reshape(steps, samples, height, width, channels).permute(0, 1, 4, 2, 3)


@dataclass(frozen=True)
class SpikeWeights:
    """Weights of a convolution in the kernels' order.

    Attributes:
        weight: `[k, k, C, Kp]` float32, output channels padded with zeros to a multiple of `LANES`.
        bias: `[K]` float32.
        stride: Stride.
        padding: Zeros around the map.
    """

    weight: Tensor
    bias: Tensor
    stride: int
    padding: int

    @classmethod
    def pack(cls, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0) -> SpikeWeights:
        """From an ordinary convolution's `[K, C, k, k]` and `[K]`.

        Raises:
            InputError: If the kernel is not square or the numbers do not fit.
        """
        if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
            raise InputError(f"weight has shape {list(weight.shape)}; expected a square kernel [K, C, k, k]")
        if stride < 1 or not 0 <= padding < weight.shape[2]:
            raise InputError(f"stride {stride}, padding {padding}; expected stride >= 1 and 0 <= padding < kernel")
        outputs = len(weight)
        if bias is not None and bias.shape != (outputs,):
            raise InputError(f"bias has shape {list(bias.shape)}; expected [{outputs}]")
        packed = F.pad(weight.detach().float().permute(2, 3, 1, 0), (0, -outputs % LANES)).contiguous()
        shift = torch.zeros(outputs, device=weight.device) if bias is None else bias.detach().float().contiguous()
        return cls(packed, shift, stride, padding)

    @property
    def dense(self) -> Tensor:
        """`[K, C, k, k]`."""
        return self.weight[..., : len(self.bias)].permute(3, 2, 0, 1).contiguous()

    def output_shape(self, spikes: SpikeList) -> tuple[int, int, int, int, int]:
        """`(T, N, H, W, K)` of this convolution's outputs, channels last as in memory."""
        steps, samples, channels, height, width = spikes.shape
        kernel = self.weight.shape[0]
        if channels != self.weight.shape[2] or min(height, width) + 2 * self.padding < kernel:
            found = f"{channels} channels of {height}x{width}"
            raise InputError(f"spikes have {found}; the weights read {self.weight.shape[2]} channels, kernel {kernel}")
        rows, columns = ((n + 2 * self.padding - kernel) // self.stride + 1 for n in (height, width))
        return steps, samples, rows, columns, len(self.bias)


def spike_list(dense: Tensor, *, valued: bool = False, backend: str = "auto") -> tuple[SpikeList, float]:
    """Lists the spikes of a dense tensor.

    Args:
        dense: float32 `[T, N, C, H, W]`, whole numbers of at least 0; `W * C` at most 65536.
        valued: Keep what each entry counts for; without it every one counts 1.
        backend: See `had_snn.ops.lif_multi_step`.

    Returns:
        The list, and the largest number in it.
    """
    if dense.ndim != 5 or dense.dtype != torch.float32:
        raise InputError(f"spikes are {dense.dtype} {list(dense.shape)}; expected float32 [T, N, C, H, W]")
    steps, samples, channels, height, width = dense.shape
    if width * channels > 1 << 16:
        raise InputError(f"a row of {width} columns of {channels} channels; lists hold rows of at most 65536 neurons")
    rows = dense.permute(0, 1, 3, 4, 2).contiguous()
    entry = torch.empty(steps, samples, height, width * channels, dtype=torch.int16, device=dense.device)
    start = torch.empty(steps, samples, height, width + 1, dtype=torch.int32, device=dense.device)
    value = torch.empty(entry.shape, device=dense.device) if valued else None
    chosen = build.choose_backend(backend, dense.device.type, dense.dtype)
    if chosen == "ref":
        flat = rows.flatten(3)
        order = torch.argsort((flat == 0).int(), dim=-1, stable=True)
        per_column = (rows != 0).sum(-1)
        start.copy_(F.pad(per_column.cumsum(-1), (1, 0)))
        entry.copy_(order.to(torch.int32).to(torch.int16))
        if value is not None:
            value.copy_(flat.gather(-1, order))
        return SpikeList(entry, start, channels, value), float(dense.max()) if dense.numel() else 0.0
    arguments = [build.address(a) for a in (rows, entry, start, value)]
    arguments += [steps * samples * height, width, channels]
    if chosen == "cupy":
        build.launch_cupy("spike_conv.cu", "had_spike_list", _LIST, arguments, threads=steps * samples * height,
                          device=dense.device, storage="f32")  # fmt: skip
        return SpikeList(entry, start, channels, value), float(dense.max()) if dense.numel() else 0.0
    call = build.native_function(f"had_spike_list_{build.native_width()}", _LIST, ctypes.c_float)
    return SpikeList(entry, start, channels, value), call(*arguments)


def spike_conv(
    spikes: SpikeList, weights: SpikeWeights, *, current: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    """The currents of a convolution of spikes.

    Args:
        spikes: Its input.
        weights: Its weights.
        current: Added to the result, `[T, N, K, Ho, Wo]`.
        backend: See `had_snn.ops.lif_multi_step`.

    Returns:
        `[T, N, K, Ho, Wo]` (channels-last memory).
    """
    shape = weights.output_shape(spikes)
    if build.choose_backend(backend, spikes.entry.device.type, torch.float32) == "ref":
        return spike_conv_ref(spikes, weights, current=current)
    out = torch.empty(shape, device=spikes.entry.device)
    _launch(spikes, weights, shape, current=current, current_out=out)
    return out.permute(0, 1, 4, 2, 3)


def spike_conv_ref(spikes: SpikeList, weights: SpikeWeights, *, current: Tensor | None = None) -> Tensor:
    """`spike_conv` as a dense convolution."""
    dense = spikes.dense()
    out = F.conv2d(dense.flatten(0, 1), weights.dense, weights.bias, stride=weights.stride, padding=weights.padding)
    out = out.unflatten(0, dense.shape[:2])
    return out if current is None else out + current


def spike_conv_lif(
    spikes: SpikeList, weights: SpikeWeights, *, decay: float, current: Tensor | None = None,
    state: Tensor | None = None, return_current: bool = False, backend: str = "auto",
) -> tuple[SpikeList, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """A convolution of spikes and the LIF neurons behind it (threshold 1, hard reset to 0).

    Args:
        spikes: Its input.
        weights: Its weights.
        decay: The neurons' decay per micro-step, `had_snn.ops.decay_factor(tau, dt)`.
        current: Added to the convolution's, `[T, N, K, Ho, Wo]` (a membrane shortcut).
        state: Membranes `[N, K, Ho, Wo]` before the first micro-step, or None for rest.
        return_current: Also return the whole current, for a shortcut further on.
        backend: See `had_snn.ops.lif_multi_step`.

    Returns:
        Spikes as a list, the same as 0 and 1 `[T, N, K, Ho, Wo]`, final membranes `[N, K, Ho, Wo]`, and the current or
        None.
    """
    shape = steps, samples, rows, columns, channels = weights.output_shape(spikes)
    device = spikes.entry.device
    chosen = build.choose_backend(backend, device.type, torch.float32)
    if chosen == "ref":
        return spike_conv_lif_ref(
            spikes, weights, decay=decay, current=current, state=state, return_current=return_current
        )
    fired, v = torch.empty(shape, device=device), torch.empty(shape[1:], device=device)
    whole = torch.empty(shape, device=device) if return_current else None
    entry = torch.empty(steps, samples, rows, columns * channels, dtype=torch.int16, device=device)
    start = torch.empty(steps, samples, rows, columns + 1, dtype=torch.int32, device=device)
    listed = SpikeList(entry, start, channels)
    _launch(spikes, weights, shape, current=current, state=state, current_out=whole, fired=fired, v=v, listed=listed,
            decay=decay)  # fmt: skip
    dense = fired.permute(0, 1, 4, 2, 3)
    if chosen == "cupy":
        listed, _ = spike_list(dense, backend="cupy")
    return listed, dense, v.permute(0, 3, 1, 2), None if whole is None else whole.permute(0, 1, 4, 2, 3)


def spike_conv_lif_ref(
    spikes: SpikeList, weights: SpikeWeights, *, decay: float, current: Tensor | None = None,
    state: Tensor | None = None, return_current: bool = False,
) -> tuple[SpikeList, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """`spike_conv_lif` as a dense convolution and plain LIF steps."""
    whole = spike_conv_ref(spikes, weights, current=current)
    v = torch.zeros(whole.shape[1:], device=whole.device) if state is None else state.float()
    fired = []
    for x in whole:
        h = decay * v + x
        fired.append((h > 1).float())
        v = torch.where(h > 1, 0.0, h)
    dense = torch.stack(fired)
    return spike_list(dense, backend="ref")[0], dense, v, whole if return_current else None


def spike_correlate(fired: Tensor, spikes: SpikeList, kernel: Tensor, *, backend: str = "auto") -> Tensor:
    """Depth-wise correlation of spikes with a kernel for each sample; columns without spikes are skipped.

    Args:
        fired: The spikes as 0 and 1, `[T, N, C, H, W]`.
        spikes: The same as a list.
        kernel: `[N, C, k, k]`, k odd.
        backend: See `had_snn.ops.lif_multi_step`.

    Returns:
        `[T, N, C, H, W]` (channels-last memory), as `had_snn.models.matching.DepthwiseMatching` gives it.
    """
    steps, samples, channels, height, width = fired.shape
    if kernel.shape[:2] != (samples, channels) or kernel.shape[2] != kernel.shape[3] or kernel.shape[2] % 2 == 0:
        raise InputError(f"kernel has shape {list(kernel.shape)}; expected [{samples}, {channels}, k, k] with odd k")
    side = kernel.shape[-1]
    chosen = build.choose_backend(backend, fired.device.type, torch.float32)
    if chosen == "ref":
        weight = kernel.reshape(samples * channels, 1, side, side)
        out = F.conv2d(fired.flatten(1, 2), weight, padding=side // 2, groups=samples * channels)
        return out.reshape(fired.shape)
    rows, w = fired.permute(0, 1, 3, 4, 2).contiguous(), kernel.permute(0, 2, 3, 1).contiguous()
    out = torch.empty(rows.shape, device=fired.device)
    pointers = [build.address(a) for a in (rows, spikes.start, w, out)]
    arguments = [*pointers, steps, samples, height, width, channels, side]
    if chosen == "cupy":
        build.launch_cupy("spike_conv.cu", "had_spike_correlate", _CORRELATE, arguments, threads=out.numel(),
                          device=fired.device, storage="f32")  # fmt: skip
    else:
        threads = build.threads_for(out.numel() * side)
        build.native_function(f"had_spike_correlate_{build.native_width()}", _CORRELATE + "n")(*arguments, threads)
    return out.permute(0, 1, 4, 2, 3)


def _launch(
    spikes: SpikeList, weights: SpikeWeights, shape: tuple[int, ...], *, current: Tensor | None = None,
    state: Tensor | None = None, current_out: Tensor | None = None, fired: Tensor | None = None,
    v: Tensor | None = None, listed: SpikeList | None = None, decay: float = 0.0,
) -> None:  # fmt: skip
    """Calls the kernel; a GPU gets no lists out of it."""
    steps, samples, rows, columns, outputs = shape
    _, _, channels, height, width = spikes.shape
    if current is not None:
        _check("current", current, (steps, samples, outputs, rows, columns))
        current = current.permute(0, 1, 3, 4, 2).contiguous()
    if state is not None:
        _check("state", state, (samples, outputs, rows, columns))
        state = state.permute(0, 2, 3, 1).contiguous()
    tensors = (spikes.entry, spikes.start, spikes.value, weights.weight, weights.bias, current, state, current_out,
               fired, v)  # fmt: skip
    kernel, _, _, padded = weights.weight.shape
    sizes = (steps, samples, height, width, channels, rows, columns, outputs, padded, kernel)
    arguments = [*map(build.address, tensors), *sizes, weights.stride, weights.padding, decay, 1.0]
    if spikes.entry.device.type == "cuda":
        threads = samples * rows * columns * outputs
        build.launch_cupy("spike_conv.cu", "had_spike_conv", _CONV, arguments, threads=threads,
                          device=spikes.entry.device, storage="f32")  # fmt: skip
        return
    if steps > MAX_STEPS:
        raise InputError(f"{steps} micro-steps in one call; expected at most {MAX_STEPS}")
    if columns * outputs > 1 << 16 and listed is not None:
        raise InputError(f"a row of {columns} columns of {outputs} channels; lists hold rows of at most 65536 neurons")
    lists = (None, None) if listed is None else (listed.entry.data_ptr(), listed.start.data_ptr())
    function = build.native_function(f"had_spike_conv_{build.native_width()}", _CONV + "ppn")
    function(*arguments, *lists, build.threads_for(steps * samples * rows * columns * outputs))


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
        raise InputError(f"{name} is {tensor.dtype} {list(tensor.shape)}; expected float32 {list(shape)}")
