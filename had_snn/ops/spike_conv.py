"""Convolutions of spikes whose cost follows the spikes, fused with the LIF step: inference only.

Spikes travel as compact lists between layers (`SpikeList`); a convolution adds up the weights of the spikes in reach,
channels in SIMD lanes, and its neurons fire while the sum is still in registers. Kernels: `kernels/spike_conv.cu`. The
`_ref` functions are the same in plain torch, through dense tensors.

Sums are exact, hence equal to a dense convolution's in whatever order, when weights and biases lie on a grid coarse
enough for float32's 24 bits; see `had_snn.models.frozen`. The LIF step is that of `lif_multi_step` to the last bit.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from had_snn.errors import InputError
from had_snn.ops import build

_CONV = "pppppppppp" + "iiiiiiiiiiii" + "ff"
_LIST = "pppp" + "iii" + "f"
_CORRELATE = "pppp" + "iiiiii"
#: Output channels are padded to a multiple of this, the widest vector register.
LANES = 16


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


class SpikeListCall:
    """Lists the spikes of a dense tensor with memory of its own, for calls again and again: the CPU kernel.

    Args:
        dense: Contiguous float32 `[T, N, H, W, C]`, whole numbers of at least 0, read at every call.
        spikes: The list to fill; a new one when None.
        valued: Give a new list the numbers that its entries count for.
        most: Larger numbers are listed as this one.

    Attributes:
        spikes: The list.
    """

    def __init__(
        self, dense: Tensor, spikes: SpikeList | None = None, *, valued: bool = False, most: float = math.inf
    ) -> None:
        steps, samples, height, width, channels = dense.shape
        if spikes is None:
            spikes = _empty_list(steps, samples, height, width, channels, dense.device, valued=valued)
        self.spikes, self._dense = spikes, dense
        pointers = [build.address(a) for a in (dense, spikes.entry, spikes.start, spikes.value)]
        self._arguments = [*pointers, steps * samples * height, width, channels, most]
        self._function = build.native_function(f"had_spike_list_{build.native_width()}", _LIST, ctypes.c_longlong)

    def __call__(self) -> int:
        """Fills the list; returns the number of entries."""
        return self._function(*self._arguments)


def spike_list(dense: Tensor, *, valued: bool = False, most: float = math.inf, backend: str = "auto") -> SpikeList:
    """Lists the spikes of a dense tensor.

    Args:
        dense: float32 `[T, N, C, H, W]`, whole numbers of at least 0; `W * C` at most 65536.
        valued: Keep what each entry counts for; without it every one counts 1.
        most: Larger numbers are listed as this one.
        backend: See `had_snn.ops.lif_multi_step`.

    Returns:
        The list.
    """
    if dense.ndim != 5 or dense.dtype != torch.float32:
        raise InputError(f"spikes are {dense.dtype} {list(dense.shape)}; expected float32 [T, N, C, H, W]")
    steps, samples, channels, height, width = dense.shape
    rows = dense.permute(0, 1, 3, 4, 2).contiguous()
    listed = _empty_list(steps, samples, height, width, channels, dense.device, valued=valued)
    entry, start, value = listed.entry, listed.start, listed.value
    chosen = build.choose_backend(backend, dense.device.type, dense.dtype)
    if chosen == "ref":
        flat = rows.flatten(3)
        order = torch.argsort((flat == 0).int(), dim=-1, stable=True)
        per_column = (rows != 0).sum(-1)
        start.copy_(F.pad(per_column.cumsum(-1), (1, 0)))
        entry.copy_(order.to(torch.int32).to(torch.int16))
        if value is not None:
            value.copy_(flat.gather(-1, order).clamp(max=most))
        return listed
    if chosen == "native":
        SpikeListCall(rows, listed, most=most)()
        return listed
    arguments = [*map(build.address, (rows, entry, start, value)), steps * samples * height, width, channels, most]
    build.launch_cupy(
        "spike_conv.cu",
        "had_spike_list",
        _LIST,
        arguments,
        threads=steps * samples * height,
        device=dense.device,
        storage="f32",
    )
    return listed


class SpikeConvCall:
    """One convolution of spikes with memory of its own, for calls again and again: the CPU kernel, nothing else.

    Args:
        spikes: The input, whose tensors are read at every call.
        weights: The weights.
        neurons: Whether LIF neurons stand behind it; otherwise there are only currents.
        current: What is added to the currents, contiguous `[T, N, Ho, Wo, K]`, read at every call; None for nothing.
        keep_current: Keep the whole currents in `current`.
        keep_fired: Keep the spikes as 0 and 1 in `fired`.

    Attributes:
        spikes: The neurons' spikes (None without neurons).
        fired: The same as numbers `[T, N, Ho, Wo, K]`, or None.
        current: The whole currents `[T, N, Ho, Wo, K]`, or None.
    """

    def __init__(
        self,
        spikes: SpikeList,
        weights: SpikeWeights,
        *,
        neurons: bool = True,
        current: Tensor | None = None,
        keep_current: bool = False,
        keep_fired: bool = False,
    ) -> None:
        shape = steps, samples, rows, columns, outputs = weights.output_shape(spikes)
        _, _, channels, height, width = spikes.shape
        self.current = torch.empty(shape) if keep_current or not neurons else None
        self.fired = torch.empty(shape) if keep_fired else None
        device = spikes.entry.device
        self.spikes = _empty_list(steps, samples, rows, columns, outputs, device) if neurons else None
        self._kept = (spikes, weights, current)  # their addresses are below
        tensors = (spikes.entry, spikes.start, spikes.value, weights.weight, weights.bias, current)
        self._inputs = [build.address(a) for a in tensors]
        self._outputs = [build.address(a) for a in (self.current, self.fired)]
        kernel, _, _, padded = weights.weight.shape
        sizes = (steps, samples, height, width, channels, rows, columns, outputs, padded, kernel)
        lists = (None, None) if self.spikes is None else (self.spikes.entry.data_ptr(), self.spikes.start.data_ptr())
        self._work = math.prod(shape) * kernel * kernel
        self._sizes, self._lists = [*sizes, weights.stride, weights.padding], lists
        name = f"had_spike_conv_{build.native_width()}"
        self._function = build.native_function(name, _CONV + "ppn", ctypes.c_longlong)

    def __call__(self, decay: float = 0.0, before: Tensor | None = None, after: Tensor | None = None) -> int:
        """Runs it.

        Args:
            decay: Decay of the neurons per micro-step.
            before: Membranes, contiguous `[N, Ho, Wo, K]`; None for rest.
            after: Where the final membranes go, the same layout; None when nobody asks.

        Returns:
            Number of spikes.
        """
        v0, v = build.address(before), build.address(after)
        threads = build.threads_for(self._work)
        number = self._function(*self._inputs, v0, *self._outputs, v, *self._sizes, decay, 1.0, *self._lists, threads)
        if number < 0:
            raise MemoryError("spike_conv: no memory for a row of spikes")
        return number


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
    chosen = build.choose_backend(backend, spikes.entry.device.type, torch.float32)
    if chosen == "ref":
        return spike_conv_ref(spikes, weights, current=current)
    added = _rows("current", current, shape)
    if chosen == "cupy":
        return _launch_cupy(spikes, weights, shape, added, None, keep_current=True)[0].permute(0, 1, 4, 2, 3)
    call = SpikeConvCall(spikes, weights, neurons=False, current=added)
    call()
    assert call.current is not None
    return call.current.permute(0, 1, 4, 2, 3)


def spike_conv_ref(spikes: SpikeList, weights: SpikeWeights, *, current: Tensor | None = None) -> Tensor:
    """`spike_conv` as a dense convolution."""
    dense = spikes.dense()
    out = F.conv2d(dense.flatten(0, 1), weights.dense, weights.bias, stride=weights.stride, padding=weights.padding)
    out = out.unflatten(0, dense.shape[:2])
    return out if current is None else out + current


def spike_conv_lif(
    spikes: SpikeList,
    weights: SpikeWeights,
    *,
    decay: float,
    current: Tensor | None = None,
    state: Tensor | None = None,
    return_current: bool = False,
    backend: str = "auto",
) -> tuple[SpikeList, Tensor, Tensor, Tensor | None]:
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
    shape = weights.output_shape(spikes)
    chosen = build.choose_backend(backend, spikes.entry.device.type, torch.float32)
    if chosen == "ref":
        return spike_conv_lif_ref(
            spikes, weights, decay=decay, current=current, state=state, return_current=return_current
        )
    added, before = _rows("current", current, shape), _rows("state", state, shape[1:])
    if chosen == "cupy":
        whole, fired, v = _launch_cupy(spikes, weights, shape, added, before, decay=decay, keep_current=return_current)
        whole = whole if return_current else None
        listed = spike_list(fired.permute(0, 1, 4, 2, 3), backend="cupy")
    else:
        call = SpikeConvCall(spikes, weights, current=added, keep_current=return_current, keep_fired=True)
        v = torch.empty(shape[1:])
        call(decay, before, v)
        listed, fired, whole = call.spikes, call.fired, call.current
    assert listed is not None
    assert fired is not None
    dense, kept = fired.permute(0, 1, 4, 2, 3), None if whole is None else whole.permute(0, 1, 4, 2, 3)
    return listed, dense, v.permute(0, 3, 1, 2), kept


def spike_conv_lif_ref(
    spikes: SpikeList,
    weights: SpikeWeights,
    *,
    decay: float,
    current: Tensor | None = None,
    state: Tensor | None = None,
    return_current: bool = False,
) -> tuple[SpikeList, Tensor, Tensor, Tensor | None]:
    """`spike_conv_lif` as a dense convolution and plain LIF steps."""
    whole = spike_conv_ref(spikes, weights, current=current)
    v = torch.zeros(whole.shape[1:], device=whole.device) if state is None else state.float()
    fired = []
    for x in whole:
        h = decay * v + x
        fired.append((h > 1).float())
        v = torch.where(h > 1, 0.0, h)
    dense = torch.stack(fired)
    return spike_list(dense, backend="ref"), dense, v, whole if return_current else None


class SpikeCorrelateCall:
    """A depth-wise correlation with memory of its own, for calls again and again: the CPU kernel.

    Args:
        fired: The spikes as 0 and 1, contiguous `[T, N, H, W, C]`, read at every call.
        spikes: The same as a list.
        side: Cells per side of the kernels, odd.
    """

    def __init__(self, fired: Tensor, spikes: SpikeList, side: int) -> None:
        self._kept, self.out = (fired, spikes), torch.empty(fired.shape)
        self._inputs = [fired.data_ptr(), spikes.start.data_ptr()]
        self._work = fired.numel() * side
        self._rest = [self.out.data_ptr(), *fired.shape, side]
        name = f"had_spike_correlate_{build.native_width()}"
        self._function = build.native_function(name, _CORRELATE + "n")

    def __call__(self, kernel: Tensor) -> Tensor:
        """Correlates with `kernel` `[N, C, k, k]`; the result `[T, N, H, W, C]` is overwritten by the next call."""
        taps = kernel.permute(0, 2, 3, 1).contiguous()
        self._function(*self._inputs, taps.data_ptr(), *self._rest, build.threads_for(self._work))
        return self.out


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
    samples, channels = fired.shape[1:3]
    if kernel.shape[:2] != (samples, channels) or kernel.shape[2] != kernel.shape[3] or kernel.shape[2] % 2 == 0:
        raise InputError(f"kernel has shape {list(kernel.shape)}; expected [{samples}, {channels}, k, k] with odd k")
    side = kernel.shape[-1]
    chosen = build.choose_backend(backend, fired.device.type, torch.float32)
    if chosen == "ref":
        weight = kernel.reshape(samples * channels, 1, side, side)
        out = F.conv2d(fired.flatten(1, 2), weight, padding=side // 2, groups=samples * channels)
        return out.reshape(fired.shape)
    rows = fired.permute(0, 1, 3, 4, 2).contiguous()
    if chosen == "native":
        return SpikeCorrelateCall(rows, spikes, side)(kernel).permute(0, 1, 4, 2, 3)
    taps, out = kernel.permute(0, 2, 3, 1).contiguous(), torch.empty(rows.shape, device=fired.device)
    pointers = [build.address(a) for a in (rows, spikes.start, taps, out)]
    build.launch_cupy(
        "spike_conv.cu",
        "had_spike_correlate",
        _CORRELATE,
        [*pointers, *rows.shape, side],
        threads=out.numel(),
        device=fired.device,
        storage="f32",
    )
    return out.permute(0, 1, 4, 2, 3)


def _launch_cupy(
    spikes: SpikeList,
    weights: SpikeWeights,
    shape: tuple[int, ...],
    added: Tensor | None,
    before: Tensor | None,
    *,
    decay: float = 0.0,
    keep_current: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Currents (when kept), spikes and membranes on a GPU, channels last; lists are made from the spikes."""
    device = spikes.entry.device
    current, fired, v = (torch.empty(s, device=device) for s in (shape, shape, shape[1:]))
    _, _, channels, height, width = spikes.shape
    steps, samples, rows, columns, outputs = shape
    tensors = (
        spikes.entry,
        spikes.start,
        spikes.value,
        weights.weight,
        weights.bias,
        added,
        before,
        current if keep_current else None,
        fired,
        v,
    )
    kernel, _, _, padded = weights.weight.shape
    sizes = (steps, samples, height, width, channels, rows, columns, outputs, padded, kernel)
    arguments = [*map(build.address, tensors), *sizes, weights.stride, weights.padding, decay, 1.0]
    build.launch_cupy(
        "spike_conv.cu", "had_spike_conv", _CONV, arguments, threads=math.prod(shape[1:]), device=device, storage="f32"
    )
    return current, fired, v


def _empty_list(
    steps: int, samples: int, rows: int, columns: int, channels: int, device: torch.device, *, valued: bool = False
) -> SpikeList:
    if columns * channels > 1 << 16:
        raise InputError(f"a row of {columns} columns of {channels} channels; lists hold rows of at most 65536 neurons")
    entry = torch.empty(steps, samples, rows, columns * channels, dtype=torch.int16, device=device)
    start = torch.empty(steps, samples, rows, columns + 1, dtype=torch.int32, device=device)
    return SpikeList(entry, start, channels, torch.empty(entry.shape, device=device) if valued else None)


def _rows(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """`[..., K, Ho, Wo]` as contiguous `[..., Ho, Wo, K]` of `shape`; a view where it lies so already."""
    if tensor is None:
        return None
    rows = tensor.movedim(-3, -1)
    if tuple(rows.shape) != shape or tensor.dtype != torch.float32:
        expected = [*shape[:-3], shape[-1], *shape[-3:-1]]
        raise InputError(f"{name} is {tensor.dtype} {list(tensor.shape)}; expected float32 {expected}")
    return rows.contiguous()
