"""Sums over spike trains, for profiling: one pass over the spikes gives everything that a count of operations needs.

A layer that reads spikes `s[t, n, c, p]` does `sum over c, p of s * reach[p]` synaptic operations at micro-step `t`,
with `reach[p]` the number of synapses that leave position `p`. So one sum over channels and one small dot product are
enough, whatever the layer's size. `SpikeCounter` runs `kernels/host/counts.cpp` on the CPU; backend `"ref"` is the same
in plain torch, its judge in tests and what runs on other devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.native import INT32, INT64, POINTER, Parameters, fields
from had_snn.ops import build

#: What a train holds: 0 or 1, whole numbers, or real numbers of which only the share that is not zero is wanted.
KINDS = ("spikes", "counts", "real")


@dataclass(frozen=True)
class SpikeCount:
    """Sums over a spike train.

    Attributes:
        fired: Spikes of each micro-step and sample, int64 `[T, N]`.
        active: Neurons that fired (counts: at least once), int64 `[T, N]`.
        synapses: Synapses that the spikes reach, by layer that reads them, int64 `[K, T, N]`.
        active_synapses: The same with every count taken as 1, int64 `[K, T, N]`.
    """

    fired: Tensor
    active: Tensor
    synapses: Tensor
    active_synapses: Tensor


class SpikeTrain(Parameters):
    """`SpikeTrain` of `kernels/host/counts.cpp`."""

    _fields_ = (
        *fields(POINTER, "x", "reach", "running", "table"),
        *fields(INT64, "T", "N", "C", "P", "K", "kind", "channels_last"),
    )


def channels_last(spikes: Tensor) -> bool:
    """Whether `[T, N, C, H, W]` lies in memory with its channels side by side."""
    return not spikes.is_contiguous() and spikes.permute(0, 1, 3, 4, 2).is_contiguous()


def in_order(tensor: Tensor, last: bool) -> Tensor:
    """`[..., C, H, W]` as contiguous `[..., C, H, W]`, or `[..., H, W, C]` with `last`; a view where it already is."""
    return (tensor.movedim(-3, -1) if last else tensor).contiguous()


class SpikeCounter:
    """Counts the same set of trains again and again in one call: what can be checked once is not checked each time.

    Args:
        trains: Trains `[T, N, C, H, W]`, one for each population; `fits` tells whether others are like them.
        reach: For each, synapses that leave each position: int32 `[K, H, W]`, one map for each layer that reads it.
        kinds: For each, one of `KINDS`. For `"real"`, spikes and their synapses are those of what is not zero.
        running: For each, int32 `[C, H, W]` in the train's memory order, which each neuron's spikes are added to; or
            None.
        backend: `"auto"`, `"native"` (CPU) or `"ref"` (plain torch).

    Raises:
        InputError: If shapes, types or kinds do not fit.
    """

    def __init__(
        self,
        trains: Sequence[Tensor],
        reach: Sequence[Tensor],
        *,
        kinds: Sequence[str],
        running: Sequence[Tensor | None],
        backend: str = "auto",
    ) -> None:
        for parts in zip(trains, reach, kinds, running, strict=True):
            _check(*parts)
        if backend not in ("auto", "native", "ref"):
            raise InputError(f"backend {backend!r} does not count spikes; choose auto, native or ref")
        self.native = backend == "native" or (backend == "auto" and all(x.device.type == "cpu" for x in trains))
        self.layout = [(x.shape, x.stride(), x.dtype) for x in trains]
        self.last = [channels_last(x) for x in trains]
        orders = zip(trains, self.last, strict=True)
        self.ready = all(x.dtype == torch.float32 and (last or x.is_contiguous()) for x, last in orders)
        self.reach, self.kinds, self.running = list(reach), list(kinds), list(running)
        self.size = 0
        self._tables: list[tuple[int, tuple[int, int, int]]] = []
        for x, maps in zip(trains, reach, strict=True):
            table = (x.shape[0], x.shape[1], 2 + 2 * len(maps))
            self._tables.append((self.size, table))
            self.size += math.prod(table)
        if self.native:
            self._prepare(trains)

    def _prepare(self, trains: Sequence[Tensor]) -> None:
        """Fills in what stays the same from call to call."""
        self._plan = (SpikeTrain * len(trains))()
        for i, (plan, x) in enumerate(zip(self._plan, trains, strict=True)):
            steps, samples, channels, height, width = x.shape
            plan.T, plan.N, plan.C, plan.P = steps, samples, channels, height * width
            plan.K, plan.reach = len(self.reach[i]), self.reach[i].data_ptr()
            plan.kind, plan.channels_last = KINDS.index(self.kinds[i]), int(self.last[i])
            running = self.running[i]
            plan.running = None if running is None else running.data_ptr()
        self._call = build.bind("spike_count", SpikeTrain, INT32, INT32)
        self._threads = build.threads_for(sum(x.numel() for x in trains))

    def fits(self, trains: Sequence[Tensor]) -> bool:
        """Whether trains have the shapes, types and memory orders that this counter was made for."""
        return [(x.shape, x.stride(), x.dtype) for x in trains] == self.layout

    def __call__(self, trains: Sequence[Tensor]) -> Tensor:
        """Counts the trains.

        Returns:
            All results in one row, int64 `[size]`, which `split` takes apart. They are exact; `running` is 32 bits wide
            and the caller's to empty in time.

        Raises:
            InputError: If they do not fit.
        """
        if not self.fits(trains):
            found = [tuple(x.shape) for x in trains]
            raise InputError(f"spikes {found}; this counter is for {[tuple(x[0]) for x in self.layout]}, in one order")
        if not self.native:
            parts = zip(trains, self.reach, self.kinds, self.running, strict=True)
            return torch.cat([_count_ref(*part).flatten() for part in parts])
        if not self.ready:
            trains = [in_order(x.float(), last) for x, last in zip(trains, self.last, strict=True)]
        row = torch.empty(self.size, dtype=torch.int64)
        for plan, x, (at, _) in zip(self._plan, trains, self._tables, strict=True):
            plan.x, plan.table = x.data_ptr(), row.data_ptr() + 8 * at
        if self._call(self._plan, len(trains), self._threads):
            raise MemoryError(f"no memory for the sums of {[tuple(x.shape) for x in trains]}")
        return row

    def split(self, rows: Sequence[Tensor]) -> list[SpikeCount]:
        """The results of one or several calls, one after the other, by train."""
        flat, counts = torch.stack(list(rows)), []
        for at, (steps, samples, columns) in self._tables:
            table = flat[:, at : at + steps * samples * columns].unflatten(1, (steps, samples, columns))
            table = table.transpose(0, 1).flatten(1, 2)
            by_layer = table[:, :, 2:].unflatten(2, (columns // 2 - 1, 2)).permute(2, 3, 0, 1)
            counts.append(SpikeCount(table[:, :, 0], table[:, :, 1], by_layer[:, 0], by_layer[:, 1]))
        return counts


def _count_ref(spikes: Tensor, reach: Tensor, kind: str, running: Tensor | None) -> Tensor:
    values = (spikes != 0).long() if kind == "real" else spikes.long()
    columns = []
    for counted in (values, (values != 0).long()):
        # Floating-point products of whole numbers far below 2**53 are exact, and run on any device.
        reached = counted.sum(dim=2).double().flatten(2) @ reach.double().flatten(1).T
        columns.append(torch.cat([counted.sum(dim=(2, 3, 4))[:, :, None], reached.round().long()], dim=2))
    if running is not None:
        running += values.sum(dim=(0, 1)).int()
    return torch.stack(columns, dim=3).flatten(2)


def _check(spikes: Tensor, reach: Tensor, kind: str, running: Tensor | None) -> None:
    if spikes.ndim != 5:
        raise InputError(f"spikes {tuple(spikes.shape)}; expected [T, N, C, H, W]")
    if kind not in KINDS:
        raise InputError(f"kind {kind!r}; choose from {', '.join(KINDS)}")
    space, neurons = spikes.shape[3:], spikes.shape[2:]
    if reach.dtype != torch.int32 or reach.shape[1:] != space or not reach.is_contiguous():
        raise InputError(f"reach {reach.dtype} {tuple(reach.shape)}; expected contiguous int32 [K, {[*space]}]")
    if running is not None:
        ordered = in_order(running, channels_last(spikes))
        same = running.shape == neurons and ordered.data_ptr() == running.data_ptr()
        if running.dtype != torch.int32 or not same or kind == "real":
            raise InputError(f"running {running.dtype} {tuple(running.shape)}; expected int32 in the spikes' own order")
