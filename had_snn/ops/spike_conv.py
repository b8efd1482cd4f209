"""Convolutions of spikes at a cost that follows them, fused with the LIF step, for inference; `spiking_conv.py` trains.

Spikes travel as compact lists between layers (`SpikeList`); a convolution adds up the weights of the spikes in reach,
channels in SIMD lanes, and its neurons fire while the sum is still in registers. Kernels, for a CPU only:
`kernels/host/spike_conv.cpp`.

Sums are exact, hence equal to a dense convolution's in whatever order, when weights and biases lie on a grid coarse
enough for float32's 24 bits; see `had_snn.models.frozen`. The LIF step is that of `lif_multi_step` to the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from had_snn.errors import InputError
from had_snn.native import FLOAT32, INT32, INT64, POINTER, Parameters, fields
from had_snn.ops import build

#: Output channels are padded to a multiple of this, the widest vector register.
LANES = 16


class SpikeListing(Parameters):
    """`SpikeListing` of `kernels/host/spike_conv.cpp`."""

    _fields_ = (
        *fields(POINTER, "dense", "entry", "start", "value"),
        *fields(INT64, "rows", "W", "C"),
        *fields(FLOAT32, "most"),
        *fields(INT32, "threads"),
    )


class SpikeConv(Parameters):
    """`SpikeConv` of `kernels/host/spike_conv.cpp`."""

    _fields_ = (
        *fields(POINTER, "entry", "start", "value", "weight", "bias", "current_in", "v0"),
        *fields(POINTER, "current_out", "fired", "v", "entry_out", "start_out"),
        *fields(INT64, "T", "N", "H", "W", "C", "Ho", "Wo", "K", "Kp", "k", "stride", "padding"),
        *fields(FLOAT32, "decay", "threshold"),
        *fields(INT32, "threads"),
    )


class SpikeCorrelation(Parameters):
    """`SpikeCorrelation` of `kernels/host/spike_conv.cpp`."""

    _fields_ = (
        *fields(POINTER, "fired", "start", "kernel", "out"),
        *fields(INT64, "T", "N", "H", "W", "C", "k"),
        *fields(INT32, "threads"),
    )


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
        _check_rows("dense", dense, tuple(dense.shape))
        steps, samples, height, width, channels = dense.shape
        if spikes is None:
            spikes = _empty_list(steps, samples, height, width, channels, valued=valued)
        self.spikes, self._dense = spikes, dense
        tensors = {"dense": dense, "entry": spikes.entry, "start": spikes.start, "value": spikes.value}
        sizes = {"rows": steps * samples * height, "W": width, "C": channels}
        threads = build.threads_for(dense.numel())
        self._given = SpikeListing(**build.addresses(**tensors), **sizes, most=most, threads=threads)
        self._function = build.bind("spike_list", SpikeListing)

    def __call__(self) -> int:
        """Fills the list; returns the number of entries."""
        return self._function(self._given)


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
        _check_rows("current", current, shape)
        self.current = torch.empty(shape) if keep_current or not neurons else None
        self.fired = torch.empty(shape) if keep_fired else None
        self.spikes = _empty_list(steps, samples, rows, columns, outputs) if neurons else None
        self._kept = (spikes, weights, current)  # their addresses are below
        kernel, _, _, padded = weights.weight.shape
        self._state_shape, self._work = shape[1:], math.prod(shape) * kernel * kernel
        listed = {} if self.spikes is None else {"entry_out": self.spikes.entry, "start_out": self.spikes.start}
        self._given = SpikeConv(
            **build.addresses(entry=spikes.entry, start=spikes.start, value=spikes.value),
            **build.addresses(weight=weights.weight, bias=weights.bias, current_in=current),
            **build.addresses(current_out=self.current, fired=self.fired, **listed),
            T=steps,
            N=samples,
            H=height,
            W=width,
            C=channels,
            Ho=rows,
            Wo=columns,
            K=outputs,
            Kp=padded,
            k=kernel,
            stride=weights.stride,
            padding=weights.padding,
            threshold=1.0,
        )
        self._function = build.bind("spike_conv", SpikeConv)

    def __call__(self, decay: float = 0.0, before: Tensor | None = None, after: Tensor | None = None) -> int:
        """Runs it.

        Args:
            decay: Decay of the neurons per micro-step.
            before: Membranes, contiguous `[N, Ho, Wo, K]`; None for rest.
            after: Where the final membranes go, the same layout; None when nobody asks.

        Returns:
            Number of spikes.
        """
        for name, membranes in (("before", before), ("after", after)):
            _check_rows(name, membranes, self._state_shape)
        given = self._given
        given.v0 = None if before is None else before.data_ptr()
        given.v = None if after is None else after.data_ptr()
        given.decay, given.threads = decay, build.threads_for(self._work)
        number = self._function(given)
        if number < 0:
            raise MemoryError("spike_conv: no memory for a row of spikes")
        return number


class SpikeCorrelateCall:
    """A depth-wise correlation with memory of its own, for calls again and again: the CPU kernel.

    Args:
        fired: The spikes as 0 and 1, contiguous `[T, N, H, W, C]`, read at every call.
        spikes: The same as a list.
        side: Cells per side of the kernels, odd.
    """

    def __init__(self, fired: Tensor, spikes: SpikeList, side: int) -> None:
        if side % 2 == 0:
            raise InputError(f"kernels of {side}x{side} cells have no middle; expected an odd side")
        steps, samples, channels, height, width = spikes.shape
        _check_rows("fired", fired, (steps, samples, height, width, channels))
        self._kept, self.out = (fired, spikes), torch.empty(fired.shape)
        self._kernel_shape = (samples, channels, side, side)
        self._work = fired.numel() * side
        sizes = {"T": steps, "N": samples, "H": height, "W": width, "C": channels, "k": side}
        self._given = SpikeCorrelation(**build.addresses(fired=fired, start=spikes.start, out=self.out), **sizes)
        self._function = build.bind("spike_correlate", SpikeCorrelation, returns=None)

    def __call__(self, kernel: Tensor) -> Tensor:
        """Correlates with `kernel` `[N, C, k, k]`; the result `[T, N, H, W, C]` is overwritten by the next call."""
        if kernel.shape != self._kernel_shape:
            raise InputError(f"kernel has shape {list(kernel.shape)}; expected {list(self._kernel_shape)}")
        taps = kernel.permute(0, 2, 3, 1).contiguous()
        self._given.kernel, self._given.threads = taps.data_ptr(), build.threads_for(self._work)
        self._function(self._given)
        return self.out


def _empty_list(steps: int, samples: int, rows: int, columns: int, channels: int, *, valued: bool = False) -> SpikeList:
    if columns * channels > 1 << 16:
        raise InputError(f"a row of {columns} columns of {channels} channels; lists hold rows of at most 65536 neurons")
    entry = torch.empty(steps, samples, rows, columns * channels, dtype=torch.int16)
    start = torch.empty(steps, samples, rows, columns + 1, dtype=torch.int32)
    return SpikeList(entry, start, channels, torch.empty(entry.shape) if valued else None)


def _check_rows(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    """Refuses what a kernel would read or write beyond."""
    if tensor is not None and (tensor.shape != shape or tensor.dtype != torch.float32 or not tensor.is_contiguous()):
        found = f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        raise InputError(f"{name} is {found}; expected contiguous float32 {list(shape)}")
