"""Windows of events, packed one after another: what networks read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.events.stream import MAX_SIDE, EventStream


@dataclass(frozen=True, eq=False)
class EventBatch:
    """Windows of events, packed one after another.

    A window is the half-open interval `[t_end - length, t_end)`. Its length need not be whole, so `t_begin` is the
    first whole microsecond of it. Networks see an event in network time, `(t - (t_end - length)) * scale`.

    Attributes:
        t: int64 `[N]` microseconds; sorted within each sample.
        x: int16 `[N]` columns.
        y: int16 `[N]` rows.
        p: uint8 `[N]` polarities in {0, 1}.
        offsets: int64 `[B + 1]`; events of sample `b` are `offsets[b]:offsets[b + 1]`.
        t_begin: int64 `[B]` first microsecond of each window.
        t_end: int64 `[B]` end of each window, exclusive.
        length_us: float64 `[B]` length of each window, microseconds, not rounded.
        scale: float64 `[B]` network microseconds per microsecond of each window.
        size_hw: Height and width that the pixels refer to.
    """

    t: Tensor
    x: Tensor
    y: Tensor
    p: Tensor
    offsets: Tensor
    t_begin: Tensor
    t_end: Tensor
    length_us: Tensor
    scale: Tensor
    size_hw: tuple[int, int]

    @classmethod
    def pack(
        cls,
        streams: Sequence[EventStream],
        t_begin: Sequence[int],
        t_end: Sequence[int],
        *,
        length_us: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
    ) -> EventBatch:
        """Packs one window per sample.

        Args:
            streams: `B` streams in the same pixels, each inside its window.
            t_begin: `B` first whole microseconds.
            t_end: `B` ends in microseconds, exclusive.
            length_us: `B` exact lengths; whole ones from `t_begin` to `t_end` when None.
            scale: `B` numbers of network microseconds in a microsecond; 1 when None.

        Returns:
            The batch, on the CPU.

        Raises:
            InputError: If lengths or sizes differ, a window is empty, or an event lies outside its window.
        """
        if not streams or not len(streams) == len(t_begin) == len(t_end):
            raise InputError(
                f"pack needs as many windows as streams, at least one; found {len(streams)} streams, "
                f"{len(t_begin)} starts, {len(t_end)} ends"
            )
        size_hw = streams[0].sensor_hw
        if max(size_hw) > MAX_SIDE:
            raise InputError(f"a batch holds pixels as int16; {size_hw} is larger than {MAX_SIDE}")
        for sample, (stream, begin, end) in enumerate(zip(streams, t_begin, t_end, strict=True)):
            if stream.sensor_hw != size_hw:
                raise InputError(f"sample {sample} is {stream.sensor_hw}, sample 0 is {size_hw} (height, width)")
            if end <= begin:
                raise InputError(f"sample {sample} has the empty window [{begin}, {end})")
            if len(stream) and (stream.t[0] < begin or stream.t[-1] >= end):
                raise InputError(
                    f"sample {sample} has events in [{stream.t_start}, {stream.t_end}), outside [{begin}, {end})"
                )
        first, end = np.array(t_begin, np.int64), np.array(t_end, np.int64)
        offsets = np.array([0, *accumulate(len(s) for s in streams)], np.int64)
        t, x, y, p = (_joined([getattr(s, name) for s in streams]) for name in "txyp")
        return cls(
            t=torch.from_numpy(t),
            x=torch.from_numpy(x.view(np.int16)),
            y=torch.from_numpy(y.view(np.int16)),
            p=torch.from_numpy(p),
            offsets=torch.from_numpy(offsets),
            t_begin=torch.from_numpy(first),
            t_end=torch.from_numpy(end),
            length_us=torch.from_numpy(_lengths(first, end, length_us)),
            scale=torch.from_numpy(_scales(len(first), scale)),
            size_hw=size_hw,
        )

    def __len__(self) -> int:
        return len(self.t_begin)

    @property
    def network_length_us(self) -> Tensor:
        """Length of each window in network time, float64 `[B]`."""
        return self.length_us * self.scale

    def network_time_us(self) -> Tensor:
        """Time of each event since the beginning of its window in network time, float64 `[N]`."""
        counts = self.offsets.diff()
        end, length, scale = (
            torch.repeat_interleave(column, counts) for column in (self.t_end, self.length_us, self.scale)
        )
        return ((self.t - end) + length) * scale

    def to(self, device: torch.device | str) -> EventBatch:
        """The same batch with its tensors on `device`."""
        if self.t.device == torch.device(device):
            return self
        columns = {name: getattr(self, name).to(device) for name in (*"txyp", "offsets", *_WINDOW_COLUMNS)}
        return EventBatch(**columns, size_hw=self.size_hw)

    def samples(self, start: int, stop: int) -> EventBatch:
        """Samples `start` to `stop`, as a slice does, as a batch of their own; event columns are views."""
        stop = min(stop, len(self))
        low, high = int(self.offsets[start]), int(self.offsets[stop])
        columns = {name: getattr(self, name)[low:high] for name in "txyp"}
        windows = {name: getattr(self, name)[start:stop] for name in _WINDOW_COLUMNS}
        return EventBatch(**columns, offsets=self.offsets[start : stop + 1] - low, **windows, size_hw=self.size_hw)


_WINDOW_COLUMNS = ("t_begin", "t_end", "length_us", "scale")


def _lengths(first: np.ndarray, end: np.ndarray, length_us: Sequence[float] | None) -> np.ndarray:
    """Exact lengths, each of which must begin within the microsecond before `first`."""
    whole = (end - first).astype(np.float64)
    if length_us is None:
        return whole
    lengths = np.array(length_us, np.float64)
    if lengths.shape != whole.shape or (np.floor(lengths) != whole).any():
        raise InputError(
            f"windows of {lengths.tolist()} us do not begin in {first.tolist()} and end in {end.tolist()} us"
        )
    return lengths


def _scales(count: int, scale: Sequence[float] | None) -> np.ndarray:
    if scale is None:
        return np.ones(count)
    scales = np.array(scale, np.float64)
    if scales.shape != (count,) or not ((scales > 0) & np.isfinite(scales)).all():
        raise InputError(f"time scales are {scales.tolist()}; expected {count} positive numbers")
    return scales


def _joined(columns: list[np.ndarray]) -> np.ndarray:
    """One after another; a single column that torch can take as it is (whole and writable) is not copied."""
    if len(columns) == 1 and columns[0].flags.c_contiguous and columns[0].flags.writeable:
        return columns[0]
    return np.concatenate(columns)
