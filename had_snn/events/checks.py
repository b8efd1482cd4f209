"""The checks that every format's events pass: order, pixels, polarity, and the sensor that holds them.

`Checker` sees a recording piece by piece and keeps only extremes; `Resolution` then says how the file's numbers become
the stream's. Files that number pixels from 1, call polarity -1/+1 or 1/2, or do not name their sensor end here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from had_snn.errors import FormatError
from had_snn.events.decoders import DTYPES, Columns, Seen, scan
from had_snn.events.recording import ReadOptions, Source, logger
from had_snn.events.stream import MAX_SIDE

# Sensors in use, by size; a recording that does not name its sensor gets the smallest that holds its events.
KNOWN_SENSORS_HW = ((128, 128), (180, 240), (240, 304), (240, 320), (260, 346), (480, 640), (720, 1280))


class Checker:
    """Passes pieces on with final dtypes, checks them, and remembers what `Resolution` needs to know."""

    def __init__(self, source: Source, options: ReadOptions) -> None:
        self.source = source
        self.options = options
        self.count = 0
        self.last_t: int | None = None
        self.unsorted = 0
        self.low, self.high = [65535, 65535], [-1, -1]
        self.polarities: set[int] = set()
        self.dropped = 0

    def walk(self) -> Iterator[Columns]:
        """Yields checked pieces: t int64, x and y uint16, p int8; limited to `options.window`."""
        for chunk in self.source.chunks:
            if len(chunk.t) == 0:
                continue
            seen = look(chunk)
            self._check_order(chunk.t, seen)
            cut = chunk
            if self.options.window is not None:
                t0, t1 = self.options.window
                if not self.unsorted and chunk.t[0] >= t1:
                    break
                inside = (chunk.t >= t0) & (chunk.t < t1)
                if not inside.all():
                    cut = Columns(*(column[inside] for column in chunk))
                if len(cut.t) == 0:
                    continue
                seen = look(cut)
            cut, seen = self._check_pixels(cut, seen)
            if len(cut.t) == 0:
                continue
            self._note_polarity(cut.p, seen)
            self.count += len(cut.t)
            yield Columns(*(_as(column, dtype) for column, dtype in zip(cut, DTYPES.values(), strict=True)))
        self._report()

    def _check_order(self, t: np.ndarray, seen: Seen) -> None:
        at_join = self.last_t is not None and int(t[0]) < self.last_t
        self.last_t = int(t[-1])
        if not seen.backward and not at_join:
            return
        backward = np.flatnonzero(t[1:] < t[:-1])
        self.unsorted += len(backward) + int(at_join)
        if not self.options.repair:
            index = self.count if at_join else self.count + int(backward[0]) + 1
            raise FormatError(
                self.source.path,
                f"events are not sorted by time: event {index} is earlier than the one before it",
                remedy="repair=True sorts them; is the column order right? columns=... states it",
            )

    def _check_pixels(self, chunk: Columns, seen: Seen) -> tuple[Columns, Seen]:
        height, width = self.options.sensor_hw or self.source.sensor_hw or (65535, 65535)
        slack = 1 if self._may_count_from_one() else 0
        for name, (low, high), limit in (("x", seen.x, width + slack), ("y", seen.y, height + slack)):
            if low >= 0 and high < limit:
                continue
            if not self.options.repair:
                raise FormatError(
                    self.source.path,
                    f"{name} runs from {low} to {high}, outside 0..{limit - 1} of a {width}x{height} sensor",
                    remedy="sensor_hw=(height, width) states the sensor; repair=True drops such events",
                )
            kept = (chunk.x >= 0) & (chunk.x < width + slack) & (chunk.y >= 0) & (chunk.y < height + slack)
            self.dropped += int(len(kept) - kept.sum())
            chunk = Columns(*(column[kept] for column in chunk))
            if len(chunk.t) == 0:
                return chunk, seen
            seen = look(chunk)
            break
        for axis, (low, high) in enumerate((seen.x, seen.y)):
            self.low[axis] = min(self.low[axis], low)
            self.high[axis] = max(self.high[axis], high)
        return chunk, seen

    def _may_count_from_one(self) -> bool:
        return self.options.origin == 1 or (self.options.origin is None and self.source.countable_from_one)

    def _note_polarity(self, p: np.ndarray, seen: Seen) -> None:
        low, high = seen.p
        if low < -128 or high > 127:
            raise FormatError(self.source.path, f"polarity runs from {low} to {high}; expected 0/1, -1/+1 or 1/2")
        self.polarities |= {low, high}
        if high - low > 1:  # anything between them is a third value
            between = p[(p > low) & (p < high)]
            if len(between):
                self.polarities.add(int(between[0]))

    def _report(self) -> None:
        repairs = self.source.info.setdefault("repairs", [])
        if self.unsorted:
            logger.warning("%s: %d steps back in time; repaired: sorted", self.source.path, self.unsorted)
            repairs.append(f"{self.unsorted} steps back in time: sorted")
        if self.dropped:
            logger.warning("%s: %d events outside the sensor; repaired: dropped", self.source.path, self.dropped)
            repairs.append(f"{self.dropped} events outside the sensor: dropped")


def look(piece: Columns) -> Seen:
    """What the checks need to know of events in any integer dtype."""
    seen = scan(
        Columns(*(_as(c, d) if c.itemsize == d.itemsize else c for c, d in zip(piece, DTYPES.values(), strict=True)))
    )
    # Numbers below 0 were seen as large ones, and unsigned polarities above 127 as numbers below 0.
    if seen.x[1] > 32767 or seen.y[1] > 32767 or seen.p[0] < 0:
        extremes = ((int(c.min()), int(c.max())) for c in piece[1:])
        return Seen(seen.backward, *extremes)
    return seen


def _as(column: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Integers that fit a dtype, in it; not copied if only the name of the dtype changes."""
    if column.itemsize == dtype.itemsize and column.dtype.kind in "iu" and column.dtype.isnative:
        return column.view(dtype)
    return column.astype(dtype, copy=False)


@dataclass(frozen=True)
class Resolution:
    """How the file's numbers become the stream's, known once all events have passed.

    Attributes:
        sensor_hw: Height and width.
        origin: The file's number of the first pixel.
        off_on: The file's polarity values (darker, brighter).
    """

    sensor_hw: tuple[int, int]
    origin: int
    off_on: tuple[int, int]

    @classmethod
    def of(cls, checker: Checker) -> Resolution:
        """Decides from what a checker has seen and notes the decisions in the source's info."""
        source, options, info = checker.source, checker.options, checker.source.info
        off_on = _resolve_polarity(checker)
        info["polarity"] = f"{off_on[0]}/{off_on[1]}"
        stated = options.sensor_hw or source.sensor_hw
        origin = options.origin
        if origin is None:
            origin = int(source.countable_from_one and _counts_from_one(checker, stated))
            if origin:
                logger.info("%s: pixels are numbered from 1 (origin=0 would keep the numbers)", source.path)
        info["origin"] = origin
        if stated is not None:
            info["sensor"] = "given" if options.sensor_hw else "file"
            _check_size(checker, stated)
            _check_fits(checker, stated, origin)
            return cls((int(stated[0]), int(stated[1])), origin, off_on)
        info["sensor"] = "inferred"
        sensor_hw = smallest_sensor(checker.high[1] - origin, checker.high[0] - origin)
        _check_size(checker, sensor_hw)
        logger.info("%s: sensor inferred as %dx%d", source.path, sensor_hw[1], sensor_hw[0])
        return cls(sensor_hw, origin, off_on)

    def pixels(self, column: np.ndarray) -> np.ndarray:
        """Pixel numbers of the file as pixel numbers from 0."""
        return column - np.uint16(self.origin) if self.origin else column

    def polarity(self, p: np.ndarray) -> np.ndarray:
        """Polarity values of the file as uint8, 1 = brighter."""
        return p.view(np.uint8) if self.off_on == (0, 1) else (p == self.off_on[1]).astype(np.uint8)


def smallest_sensor(y_max: int, x_max: int) -> tuple[int, int]:
    """The smallest known sensor that holds a pixel, or else exactly that pixel's row and column plus one."""
    for height, width in KNOWN_SENSORS_HW:
        if y_max < height and x_max < width:
            return height, width
    return y_max + 1, x_max + 1


def _check_size(checker: Checker, sensor_hw: tuple[int, int]) -> None:
    height, width = sensor_hw
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise FormatError(
            checker.source.path,
            f"the sensor would be {width}x{height}; expected 1..{MAX_SIDE} a side",
            remedy="sensor_hw=(height, width) states it, repair=True drops events outside it",
        )


def _check_fits(checker: Checker, sensor_hw: tuple[int, int], origin: int) -> None:
    for axis, (name, limit) in enumerate((("x", sensor_hw[1]), ("y", sensor_hw[0]))):
        if checker.count and (checker.high[axis] - origin >= limit or checker.low[axis] < origin):
            raise FormatError(
                checker.source.path,
                f"{name} runs from {checker.low[axis]} to {checker.high[axis]}, outside {origin}..{limit - 1 + origin}",
                remedy="sensor_hw=(height, width) states the sensor, origin=0 or 1 the number of the first pixel",
            )


def _counts_from_one(checker: Checker, stated: tuple[int, int] | None) -> bool:
    """True if no pixel is 0 and some pixel is exactly the width or height of a sensor that holds all others."""
    if checker.count == 0 or min(checker.low) < 1:
        return False
    for height, width in (stated,) if stated else KNOWN_SENSORS_HW:
        if checker.high[0] <= width and checker.high[1] <= height:
            at_edge = checker.high[0] == width or checker.high[1] == height
            return at_edge and (stated is not None or checker.low == [1, 1])
    return False


def _resolve_polarity(checker: Checker) -> tuple[int, int]:
    seen, given = checker.polarities, checker.options.polarity
    for off_on in (given,) if given else ((0, 1), (-1, 1), (1, 2)):
        if seen <= set(off_on):
            return int(off_on[0]), int(off_on[1])
    expected = f"{given[0]}/{given[1]} as given" if given else "0/1, -1/+1 or 1/2"
    raise FormatError(
        checker.source.path,
        f"polarity holds the values {sorted(seen)}; expected {expected}",
        remedy="polarity=(darker, brighter) states them, columns=... the order of the columns",
    )
