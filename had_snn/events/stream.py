"""One recording or window of events (`EventStream`); `batch.py` packs windows for networks.

An event is a time `t` in microseconds, a pixel `x`, `y` and a polarity `p` (1 = brighter). Streams are sorted by `t`,
never changed in place, and cheap to cut: a slice is a view, also of a memory-mapped recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from had_snn.errors import InputError
from had_snn.events.cropping import count_columns, crop_columns, pixel_table
from had_snn.events.fields import ROLES
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

    def __post_init__(self) -> None:
        columns, (height, width) = self._columns(), self.sensor_hw
        _check_columns(columns, (int(height), int(width)), self.source or "events")
        self._set(columns, (int(height), int(width)))

    def _columns(self) -> dict[str, np.ndarray]:
        """The columns as arrays that are equally long, polarity as 0 and 1."""
        columns = {name: np.asarray(getattr(self, name)) for name in "txyp"}
        if any(c.ndim != 1 for c in columns.values()) or len({len(c) for c in columns.values()}) != 1:
            shapes = ", ".join(f"{name} {c.shape}" for name, c in columns.items())
            raise InputError(
                f"{self.source or 'events'}: t, x, y, p must be one-dimensional and equally long; found {shapes}"
            )
        p = columns["p"]
        if p.dtype.kind == "i" and len(p) and p.min() == -1 and p.all():  # -1 and 1; beside a 0 nobody knows
            columns["p"] = np.where(p == -1, 0, p)
        return columns

    def _set(self, columns: dict[str, np.ndarray], sensor_hw: tuple[int, int]) -> None:
        for name, dtype in (("t", np.int64), ("x", np.uint16), ("y", np.uint16), ("p", np.uint8)):
            object.__setattr__(self, name, _read_only(columns[name], dtype))
        object.__setattr__(self, "sensor_hw", sensor_hw)

    @classmethod
    def trusted(
        cls,
        t: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        p: np.ndarray,
        sensor_hw: tuple[int, int],
        source: str = "",
    ) -> EventStream:
        """A stream of columns that are known to be right, such as parts of another: nothing is looked at."""
        made = object.__new__(cls)
        for name, value in zip(cls.__dataclass_fields__, (t, x, y, p, sensor_hw, source), strict=True):
            object.__setattr__(made, name, value)
        return made

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

        The constructor does the same and always validates.

        Args:
            t: `[N]` integer microseconds, non-decreasing.
            x: `[N]` columns in `[0, width)`.
            y: `[N]` rows in `[0, height)`.
            p: `[N]` polarities in {0, 1} or {-1, 1}, or booleans.
            sensor_hw: Height and width in pixels.
            source: Origin of the events, for messages.
            validate: Check order and ranges; without it only the dtypes are brought in line.

        Returns:
            The stream; its arrays are read-only views.

        Raises:
            InputError: If the columns differ in length, or (when validating) hold values that the stream must not hold.
        """
        t, x, y, p = map(np.asarray, (t, x, y, p))
        sensor_hw = (int(sensor_hw[0]), int(sensor_hw[1]))
        if validate:
            return cls(t, x, y, p, sensor_hw, source)
        made = cls.trusted(t, x, y, p, sensor_hw, source)
        made._set(made._columns(), sensor_hw)
        return made

    @classmethod
    def empty(cls, sensor_hw: tuple[int, int], source: str = "") -> EventStream:
        """A stream without events."""
        none = np.empty(0, np.uint16)
        return cls(np.empty(0, np.int64), none, none, np.empty(0, np.uint8), sensor_hw, source)

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
        return EventStream.trusted(self.t[cut], self.x[cut], self.y[cut], self.p[cut], self.sensor_hw, self.source)

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
        return EventStream.trusted(t, x, y, p, (crop.size, crop.size), self.source)

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
        return EventStream.trusted(self.t, columns[self.x], rows[self.y], self.p, (height, width), self.source)

    def to_structured(self) -> np.ndarray:
        """The events as one structured array with tonic's dtype, `x` int16, `y` int16, `t` int64, `p` bool."""
        array = np.empty(len(self.t), TONIC_DTYPE)
        array["x"], array["y"], array["t"], array["p"] = self.x, self.y, self.t, self.p
        return array

    @classmethod
    def from_structured(
        cls, array: np.ndarray, sensor_hw: tuple[int, int], source: str = "", *, validate: bool = True
    ) -> EventStream:
        """Builds a stream from a structured array, as tonic, Metavision, dv, aedat and event_stream give them.

        Args:
            array: `[N]` with one field for each of x, y, t (microseconds) and polarity, in any order and by any name of
                `fields.py`, such as `timestamp` and `on`; others are left out.
            sensor_hw: Height and width in pixels.
            source: Origin of the events, for messages.
            validate: As for `from_arrays`.

        Raises:
            InputError: If a field is missing or the values do not make a valid stream.
        """
        names = array.dtype.names or ()
        found = {role: [name for name in names if ROLES.get(name.lower()) == role] for role in "txyp"}
        if wrong := [role for role, fields in found.items() if len(fields) != 1]:
            raise InputError(
                f"structured events need one field for each of t, x, y, p; found {', '.join(names) or 'no fields'}, so "
                f"{', '.join(wrong)} is missing or ambiguous; EventStream.from_arrays takes columns"
            )
        t, x, y, p = (array[found[role][0]] for role in "txyp")
        return cls.from_arrays(t, x, y, p, sensor_hw, source, validate=validate)


def require_stream(events: object) -> EventStream:
    """Returns what is a stream; says of anything else how to make one of it.

    Raises:
        InputError: If it is none.
    """
    if isinstance(events, EventStream):
        return events
    fields = getattr(getattr(events, "dtype", None), "names", None)
    make = "from_structured(array, sensor_hw)" if fields else "from_arrays(t, x, y, p, sensor_hw)"
    raise InputError(f"expected an EventStream, found {type(events).__name__}; EventStream.{make} makes one")


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
    return EventStream.trusted(t, x, y, p, streams[0].sensor_hw, streams[0].source)


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
        raise InputError(f"{source}: polarity must be 0 or 1, or -1 or 1, found values from {p.min()} to {p.max()}")
    backward = np.flatnonzero(t[1:] < t[:-1])
    if len(backward):
        at = int(backward[0])
        raise InputError(
            f"{source}: events are not sorted by time: {len(backward)} steps back, the first at event {at + 1} "
            f"({int(t[at])} us, then {int(t[at + 1])} us)"
        )
