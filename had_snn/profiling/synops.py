"""Exact synaptic operations: every spike is charged with the synapses it really reaches.

A spike at position `i` of a convolution's input reaches, along one axis, as many outputs as there are pairs of an
output `o` and a tap `k` with

    o * stride - padding + k * dilation = i,      0 <= o < outputs,  0 <= k < kernel

which is less than `kernel / stride` near a border and differs between neighbours when the stride does not divide the
kernel. The number over all axes is the product of the axes' numbers, times `out_channels / groups`. Everything here is
integer arithmetic (or float64 far below 2**53), so counts can be compared for equality.

An event that enters the event-driven stem is a spike in this sense, at its own time: the stem is counted by its events.

Terms, for an input with entries `n` (0 or 1 for spikes, integers for spike counts):

    synops      sum of n * fan-out           one addition for each spike of a count
    active      sum of [n != 0] * fan-out    one multiplication with the count, and one addition
    effective   as active, but synapses whose weight is zero are left out (NeuroBench's rule)
    dense       sum of fan-out               what a network without zeros would do, padding left out
    textbook    k * k * Cin * Cout * Hout * Wout / groups, per step: padding counted, as papers do
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from had_snn.errors import InputError
from had_snn.events.batch import EventBatch


@lru_cache(maxsize=512)
def axis_fan_out(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int) -> tuple[int, ...]:
    """Outputs that each position of one axis reaches.

    Args:
        size: Input positions.
        kernel: Taps.
        stride: Distance of neighbouring outputs.
        padding: Zeros before and after the axis.
        dilation: Distance of neighbouring taps.

    Returns:
        `size` integers.

    Example:
        >>> axis_fan_out(5, 3, 1, (1, 1), 1)
        (2, 3, 3, 3, 2)
    """
    outputs = axis_outputs(size, kernel, stride, padding, dilation)
    reach = [0] * size
    for output in range(outputs):
        for tap in range(kernel):
            position = output * stride - padding[0] + tap * dilation
            if 0 <= position < size:
                reach[position] += 1
    return tuple(reach)


def axis_outputs(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int) -> int:
    """Outputs of a convolution along one axis; 0 when the kernel does not fit."""
    return max(0, (size + sum(padding) - dilation * (kernel - 1) - 1) // stride + 1)


@dataclass(frozen=True)
class ConvShape:
    """All that the number of operations of a convolution depends on, in any number of dimensions.

    Attributes:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel: Taps by axis.
        stride: Distance of neighbouring outputs by axis.
        padding: Zeros before and after by axis.
        dilation: Distance of neighbouring taps by axis.
        groups: Groups of channels that do not see each other.
    """

    in_channels: int
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @classmethod
    def square(
        cls,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
    ) -> ConvShape:
        """A two-dimensional convolution with the same numbers along both axes."""
        pad = (padding, padding)
        return cls(in_channels, out_channels, (kernel,) * 2, (stride,) * 2, (pad, pad), (dilation,) * 2, groups)

    @classmethod
    def of(cls, conv: nn.Module) -> ConvShape:
        """The shape of `nn.Conv1d`, `nn.Conv2d` or `nn.Conv3d`.

        Raises:
            InputError: For other modules and for padding that is not zeros (copied inputs reach more than the formula).
        """
        if not isinstance(conv, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            raise InputError(f"expected Conv1d, Conv2d or Conv3d, found {type(conv).__name__}")
        if conv.padding_mode != "zeros":
            raise InputError(f"padding_mode {conv.padding_mode!r} repeats inputs; only zero padding is counted exactly")
        kernel, dilation = tuple(conv.kernel_size), tuple(conv.dilation)
        if conv.padding == "same":
            totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
            padding = tuple((total // 2, total - total // 2) for total in totals)
        elif conv.padding == "valid":
            padding = ((0, 0),) * len(kernel)
        else:
            padding = tuple((int(p), int(p)) for p in conv.padding)
        return cls(conv.in_channels, conv.out_channels, kernel, tuple(conv.stride), padding, dilation, conv.groups)

    def axes(self, spatial: tuple[int, ...]) -> list[tuple[int, int, int, tuple[int, int], int]]:
        """What `axis_fan_out` takes, for each axis of an input of these sizes."""
        if len(spatial) != len(self.kernel):
            raise InputError(f"expected {len(self.kernel)} spatial sizes, found {tuple(spatial)}")
        return list(zip(spatial, self.kernel, self.stride, self.padding, self.dilation, strict=True))

    def outputs(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial sizes of the output."""
        return tuple(axis_outputs(*axis) for axis in self.axes(spatial))

    def fan_out(self, spatial: tuple[int, ...]) -> Tensor:
        """Synapses that leave each input position, over all output channels: float64 `[*spatial]`, whole numbers."""
        return _fan_out(self, tuple(spatial))

    def dense(self, spatial: tuple[int, ...]) -> int:
        """Synapses of the whole layer, padding left out."""
        reach = math.prod(sum(axis_fan_out(*axis)) for axis in self.axes(spatial))
        return reach * self.in_channels * (self.out_channels // self.groups)

    def textbook(self, spatial: tuple[int, ...]) -> int:
        """`k * k * Cin * Cout * Hout * Wout / groups`: what papers call the layer's MACs."""
        per_output = math.prod(self.kernel) * (self.in_channels // self.groups)
        return per_output * self.out_channels * math.prod(self.outputs(spatial))


@lru_cache(maxsize=64)
def _fan_out(shape: ConvShape, spatial: tuple[int, ...]) -> Tensor:
    reach = torch.ones((), dtype=torch.float64)
    for axis in shape.axes(spatial):
        reach = reach[..., None] * torch.tensor(axis_fan_out(*axis), dtype=torch.float64)
    return reach * (shape.out_channels // shape.groups)


@lru_cache(maxsize=64)
def _same_everywhere(shape: ConvShape, spatial: tuple[int, int]) -> int | None:
    """The fan-out of every position if there is only one, as when receptive fields tile the input."""
    low, high = (int(v) for v in shape.fan_out(spatial).aminmax())
    return low if low == high else None


def reached(maps: Tensor, shape: ConvShape) -> Tensor:
    """Weighs spikes that were summed over channels with their fan-out.

    Args:
        maps: `[..., *spatial]`, spikes (or active inputs) summed over the input channels.
        shape: The convolution they enter.

    Returns:
        int64 `[...]`.
    """
    dims = len(shape.kernel)
    fan = shape.fan_out(tuple(maps.shape[-dims:])).to(maps.device)
    return (maps.double().flatten(-dims) @ fan.flatten()).round().long()


def event_synops(events: EventBatch, shape: ConvShape) -> Tensor:
    """Synaptic operations of an event-driven layer: (event, site) pairs times channels.

    Args:
        events: `N` windows.
        shape: The layer as a convolution with the polarities as input channels; an event has one polarity.

    Returns:
        int64 `[N]`.
    """
    alike = _same_everywhere(shape, events.size_hw)
    if alike is not None:
        return (events.offsets[1:] - events.offsets[:-1]) * alike
    fan = shape.fan_out(events.size_hw).long().to(events.x.device)
    per_event = fan[events.y.long(), events.x.long()]
    running = torch.cat([per_event.new_zeros(1), per_event.cumsum(0)])
    return running[events.offsets[1:]] - running[events.offsets[:-1]]


def tap_inputs(active: Tensor, shape: ConvShape) -> Tensor:
    """How many inputs each tap of a kernel reads over all outputs.

    Tap `k` of one axis reads position `i` if some output `o` has `o * stride - padding + k * dilation = i`; along two
    axes that is `R @ active @ C^T` with one 0/1 matrix for each axis.

    Args:
        active: `[N, C, H, W]`, how often each input was not zero.
        shape: A two-dimensional convolution.

    Returns:
        float64 `[N, C, k, k]`, whole numbers.
    """
    readers = []
    for size, kernel, stride, padding, dilation in shape.axes(tuple(active.shape[-2:])):
        outputs = axis_outputs(size, kernel, stride, padding, dilation)
        position = torch.arange(outputs) * stride - padding[0] + torch.arange(kernel)[:, None] * dilation
        reads = (position[:, :, None] == torch.arange(size)).any(dim=1)
        readers.append(reads.double().to(active.device))
    # Channels go last, as the convolutions leave them: then both products run over long rows of memory.
    maps = active.permute(0, 2, 3, 1).double().contiguous()
    samples, height, width, channels = maps.shape
    rows = (readers[0] @ maps.reshape(samples, height, width * channels)).reshape(-1, width, channels)
    return (readers[1] @ rows).reshape(samples, len(readers[0]), -1, channels).permute(0, 3, 1, 2)


def alive_taps(weight: Tensor, groups: int) -> Tensor:
    """Non-zero weights of each input channel's taps over the output channels.

    Args:
        weight: `[..., Cout, C / groups, k, k]`.
        groups: Groups of the convolution.

    Returns:
        float64 `[..., C, k, k]`.
    """
    return (weight != 0).double().unflatten(-4, (groups, -1)).sum(dim=-4).flatten(-4, -3)


def effective_synops(active: Tensor, weight: Tensor, shape: ConvShape) -> Tensor:
    """Operations between non-zero inputs and non-zero weights.

    Args:
        active: `[N, C, H, W]`, how often each input was not zero (summed over micro-steps, or of a single one).
        weight: `[Cout, C / groups, k, k]`, or `[N, Cout, C / groups, k, k]` when each sample has its own.
        shape: The convolution.

    Returns:
        int64 `[N]`.
    """
    used = tap_inputs(active, shape) * alive_taps(weight, shape.groups)
    return used.sum(dim=(1, 2, 3)).round().long()
