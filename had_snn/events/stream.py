"""Event arrays: one recording or window (`EventStream`) and a packed batch of windows (`EventBatch`).

An event is a time `t` in microseconds, a pixel `x`, `y` and a polarity `p` (1 = brighter). Streams are sorted by `t`,
never changed in place, and cheap to cut: a slice is a view, also of a memory-mapped recording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.events.cropping import count_columns, crop_columns, pixel_table
from had_snn.geometry import Crop

TONIC_DTYPE = np.dtype([("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")])
MAX_SIDE = 32767  # int16 in EventBatch and in tonic's arrays


@dataclass(frozen=True, eq=False)
class EventStream:
    """Events of one sensor, sorted by time.

    Attributes:
        t: int64 `[N]`, microseconds, non-decreasing.
        x: uint16 `[N]`, column.
        y: uint16 `[N]`, row.
        p: uint8 `[N]`, 1 = brighter, 0 = darker.
        sensor_hw: Height and width in pixels.
        source: Where the events come from (a path, a simulator's seed); only for messages.

    Example:
        >>> events = EventStream.from_arrays(t=[5, 7, 9], x=[1, 2, 3], y=[0, 0, 1], p=[1, 0, 1], sensor_hw=(4, 4))
        >>> events.slice_time(6, 9).x.tolist()
        [2]
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    sensor_hw: tuple[int, int]
    source: str = ""

    @classmethod
    def from_arrays(
        cls,
        t: np.ndarray | Sequence[int],
        x: np.ndarray | Sequence[int],
        y: np.ndarray | Sequence[int],
        p: np.ndarray | Sequence[int],
        sensor_hw: tuple[int, int],
        source: str = "",
        *,
        validate: bool = True,
    ) -> EventStream:
        """Builds a stream from four columns; a column that already has the right dtype is not copied.

        Args:
            t: `[N]` integer microseconds, non-decreasing.
            x: `[N]` columns in `[0, width)`.
            y: `[N]` rows in `[0, height)`.
            p: `[N]` polarities in {0, 1} or booleans.
            sensor_hw: Height and width in pixels.
            source: Origin of the events, for messages.
            validate: Check order and ranges; without it only the dtypes are brought in line.

        Returns:
            The stream; its arrays are read-only views.

        Raises:
            InputError: If the columns differ in length, or (when validating) hold values that the stream must not hold.
        """
        height, width = int(sensor_hw[0]), int(sensor_hw[1])
        columns = {"t": np.asarray(t), "x": np.asarray(x), "y": np.asarray(y), "p": np.asarray(p)}
        if any(c.ndim != 1 for c in columns.values()) or len({len(c) for c in columns.values()}) != 1:
            shapes = ", ".join(f"{name} {c.shape}" for name, c in columns.items())
            raise InputError(
                f"{source or 'events'}: t, x, y, p must be one-dimensional and equally long; found {shapes}"
            )
        if validate:
            _check_columns(columns, (height, width), source or "events")
        t, x, y, p = (
            _read_only(columns[name], dtype)
            for name, dtype in (("t", np.int64), ("x", np.uint16), ("y", np.uint16), ("p", np.uint8))
        )
        return cls(t, x, y, p, (height, width), source)

    @classmethod
    def empty(cls, sensor_hw: tuple[int, int], source: str = "") -> EventStream:
        """A stream without events."""
        none = np.empty(0, np.uint16)
        return cls(
            np.empty(0, np.int64), none, none, np.empty(0, np.uint8), (int(sensor_hw[0]), int(sensor_hw[1])), source
        )

    def __len__(self) -> int:
        return len(self.t)

    @property
    def t_start(self) -> int:
        """Time of the first event in microseconds; 0 for an empty stream."""
        return int(self.t[0]) if len(self.t) else 0

    @property
    def t_end(self) -> int:
        """The microsecond after the last event, so that `[t_start, t_end)` holds every event; 0 for an empty stream."""
        return int(self.t[-1]) + 1 if len(self.t) else 0

    def slice_index(self, start: int, stop: int) -> EventStream:
        """Events `start:stop` by position, as views."""
        cut = slice(start, stop)
        return EventStream(self.t[cut], self.x[cut], self.y[cut], self.p[cut], self.sensor_hw, self.source)

    def slice_time(self, t0: int, t1: int) -> EventStream:
        """Events of the half-open window `[t0, t1)` microseconds, as views, found by bisection."""
        start = int(np.searchsorted(self.t, int(t0), side="left"))
        stop = int(np.searchsorted(self.t, int(t1), side="left"))
        return self.slice_index(start, max(start, stop))

    def crop(self, crop: Crop) -> EventStream:
        """Moves events into a square crop and drops those outside it.

        Crop pixel of column `x` is `floor((x + 0.5 - x0) * scale)` in double precision, as `geometry.Crop` says.

        Args:
            crop: Region of the sensor and side of the result.

        Returns:
            Events in crop pixels, with `sensor_hw = (size, size)`.
        """
        height, width = self.sensor_hw
        columns = pixel_table(width, crop.x0, crop.scale, crop.size)
        rows = pixel_table(height, crop.y0, crop.scale, crop.size)
        t, x, y, p = crop_columns(self.t, self.x, self.y, self.p, columns, rows)
        return EventStream(t, x, y, p, (crop.size, crop.size), self.source)

    def count_in(self, crop: Crop) -> int:
        """Number of events that `crop` would keep."""
        height, width = self.sensor_hw
        columns = pixel_table(width, crop.x0, crop.scale, crop.size)
        rows = pixel_table(height, crop.y0, crop.scale, crop.size)
        return count_columns(self.x, self.y, columns, rows)

    def resample(self, sensor_hw: tuple[int, int]) -> EventStream:
        """Moves every event to the pixel of another sensor size that its centre falls into.

        Args:
            sensor_hw: Height and width of the result; the two axes are scaled independently.

        Returns:
            As many events as before, with `x = floor((x + 0.5) * new_width / width)` and likewise `y`.
        """
        height, width = int(sensor_hw[0]), int(sensor_hw[1])
        columns = ((np.arange(self.sensor_hw[1]) + 0.5) * (width / self.sensor_hw[1])).astype(np.uint16)
        rows = ((np.arange(self.sensor_hw[0]) + 0.5) * (height / self.sensor_hw[0])).astype(np.uint16)
        return EventStream(self.t, columns[self.x], rows[self.y], self.p, (height, width), self.source)

    def to_structured(self) -> np.ndarray:
        """The events as one structured array with tonic's dtype, `x` int16, `y` int16, `t` int64, `p` bool."""
        array = np.empty(len(self.t), TONIC_DTYPE)
        array["x"], array["y"], array["t"], array["p"] = self.x, self.y, self.t, self.p
        return array

    @classmethod
    def from_structured(
        cls, array: np.ndarray, sensor_hw: tuple[int, int], source: str = "", *, validate: bool = True
    ) -> EventStream:
        """Builds a stream from a structured array with the fields `x`, `y`, `t`, `p` in any order.

        Raises:
            InputError: If a field is missing or the values do not make a valid stream.
        """
        missing = [name for name in "xytp" if name not in (array.dtype.names or ())]
        if missing:
            raise InputError(f"structured events need the fields x, y, t, p; missing {', '.join(missing)}")
        return cls.from_arrays(array["t"], array["x"], array["y"], array["p"], sensor_hw, source, validate=validate)


def concatenate(streams: Sequence[EventStream]) -> EventStream:
    """Joins streams of one sensor in order of time (stable where times are equal).

    Args:
        streams: At least one stream; all with the same `sensor_hw`. They may overlap in time.

    Returns:
        All events; `source` is that of the first stream.

    Raises:
        InputError: If there is no stream or the sensors differ.
    """
    if not streams:
        raise InputError("concatenate needs at least one stream")
    sizes = {s.sensor_hw for s in streams}
    if len(sizes) > 1:
        raise InputError(f"streams of different sensors cannot be joined: {sorted(sizes)} (height, width)")
    t, x, y, p = (np.concatenate([getattr(s, name) for s in streams]) for name in "txyp")
    if (t[1:] < t[:-1]).any():
        order = np.argsort(t, kind="stable")
        t, x, y, p = t[order], x[order], y[order], p[order]
    return EventStream(t, x, y, p, streams[0].sensor_hw, streams[0].source)


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
        return self._each(lambda column: column.to(device))

    def samples(self, start: int, stop: int) -> EventBatch:
        """Samples `start` to `stop`, as a slice does, as a batch of their own; event columns are views."""
        stop = min(stop, len(self))
        low, high = int(self.offsets[start]), int(self.offsets[stop])
        columns = {name: getattr(self, name)[low:high] for name in "txyp"}
        windows = {name: getattr(self, name)[start:stop] for name in _WINDOW_COLUMNS}
        return EventBatch(**columns, offsets=self.offsets[start : stop + 1] - low, **windows, size_hw=self.size_hw)

    def _each(self, change: Callable[[Tensor], Tensor]) -> EventBatch:
        """The same batch with every tensor changed."""
        names = (*"txyp", "offsets", *_WINDOW_COLUMNS)
        return EventBatch(**{name: change(getattr(self, name)) for name in names}, size_hw=self.size_hw)


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


def _read_only(column: np.ndarray, dtype: type) -> np.ndarray:
    """A plain read-only view (a memmap's own slicing is several times slower) in the wanted dtype."""
    view = column.astype(dtype, copy=False).view(np.ndarray)
    view = view[:]
    view.flags.writeable = False
    return view


def _check_columns(columns: dict[str, np.ndarray], sensor_hw: tuple[int, int], source: str) -> None:
    """Raises `InputError` where the columns do not make a valid stream."""
    t, x, y, p = (columns[name] for name in "txyp")
    height, width = sensor_hw
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise InputError(f"{source}: sensor size {width}x{height} is not in 1..{MAX_SIDE}")
    if len(t) == 0:
        return
    for name in "txy":
        if columns[name].dtype.kind not in "iu":
            raise InputError(f"{source}: {name} must be integers, found {columns[name].dtype} (t is in microseconds)")
    for name, column, limit in (("x", x, width), ("y", y, height)):
        low, high = int(column.min()), int(column.max())
        if low < 0 or high >= limit:
            raise InputError(
                f"{source}: {name} runs from {low} to {high}, outside 0..{limit - 1} of a {width}x{height} sensor"
            )
    if p.dtype != np.bool_ and not ((p == 0) | (p == 1)).all():
        raise InputError(f"{source}: polarity must be 0 or 1, found values from {p.min()} to {p.max()}")
    backward = np.flatnonzero(t[1:] < t[:-1])
    if len(backward):
        at = int(backward[0])
        raise InputError(
            f"{source}: events are not sorted by time: {len(backward)} steps back, the first at event {at + 1} "
            f"({int(t[at])} us, then {int(t[at + 1])} us)"
        )
