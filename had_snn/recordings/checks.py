"""The checks that every format's events pass: order, pixels, polarity.

`Checker` sees a recording piece by piece and keeps only extremes and counts; `Resolution` (`resolution.py`) then says
how the file's numbers become the stream's. Files that number pixels from 1, call polarity -1/+1 or 1/2, name their rows
first, or do not name their sensor end there.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings.clock import Clock
from had_snn.recordings.decoders import DTYPES, Columns, Seen, scan
from had_snn.recordings.polarity import PolarityReader
from had_snn.recordings.recording import ReadOptions, Source, logger

LARGEST = 65535
FEW = 0.01  # share of the events: so many may be faults in a file that is understood
MANY = 0.1  # share of the steps: so many back in time, and it may be no time
SHORT_US = 1_000_000  # disorder of a camera's buffers does not go further back


class Checker:
    """Passes pieces on with final dtypes, checks them, and remembers what `Resolution` needs to know."""

    def __init__(self, source: Source, options: ReadOptions) -> None:
        self.source = source
        self.options = options
        self.sensor_hw = options.sensor_hw or source.sensor_hw
        self.polarity = PolarityReader(source, options)
        self.clock = Clock(*source.clock) if source.clock is not None else None
        self.count = 0
        self.seen_count = 0
        self.first_t: int | None = None
        self.last_t: int | None = None
        self.unsorted = 0
        self.low, self.high = [LARGEST, LARGEST], [-1, -1]
        self.beyond, self.ends = 0, [-1, -1]  # of all events: outside the sensor as read, and how far they reach
        self.dropped = 0
        if options.sensor_hw and source.sensor_hw and tuple(options.sensor_hw) != tuple(source.sensor_hw):
            both = "%s: the file states a sensor of %dx%d; sensor_hw, which is %dx%d, is used"
            logger.warning(both, source.path, *source.sensor_hw[::-1], *tuple(options.sensor_hw)[::-1])

    @property
    def may_be_exchanged(self) -> bool:
        """True if x and y may still turn out to be the other way round."""
        return self.source.order is not None and self.sensor_hw is not None and len(set(self.sensor_hw)) == 2

    @property
    def slack(self) -> int:
        """1 if pixels may be numbered from 1."""
        return int(self.options.origin == 1 or (self.options.origin is None and self.source.countable_from_one))

    def walk(self) -> Iterator[Columns]:
        """Yields checked pieces: t int64, x and y uint16, p int8; limited to `options.window`."""
        try:
            yield from self._walk()
        finally:
            if isinstance(self.source.chunks, Generator):
                self.source.chunks.close()  # its file, now and not once it is collected

    def _walk(self) -> Iterator[Columns]:
        for chunk in self.source.chunks:
            if len(chunk.t) == 0:
                continue
            seen = look(chunk)
            chunk = self._in_order(chunk, seen)
            if self.options.window is not None and not self.unsorted and chunk.t[0] >= self.options.window[1]:
                if not self.may_be_exchanged:
                    break
                self._note_order(chunk, seen)  # the order of x and y is that of all events
                continue
            self._note_order(chunk, seen)
            cut, seen = self._in_window(chunk._replace(p=self.polarity.take(chunk.p, *seen.p)), seen)
            if len(cut.t) == 0:
                continue
            cut = self._check_pixels(cut, seen)
            if len(cut.t) == 0:
                continue
            self.first_t = int(cut.t[0]) if self.first_t is None else self.first_t
            self.count += len(cut.t)
            yield Columns(*(_as(column, dtype) for column, dtype in zip(cut, DTYPES.values(), strict=True)))
        self._report()

    def _in_window(self, chunk: Columns, seen: Seen) -> tuple[Columns, Seen]:
        if self.options.window is None:
            return chunk, seen
        t0, t1 = self.options.window
        inside = (chunk.t >= t0) & (chunk.t < t1)
        if inside.all():
            return chunk, seen
        cut = Columns(*(column[inside] for column in chunk))
        return cut, look(cut) if len(cut.t) else seen

    def _in_order(self, chunk: Columns, seen: Seen) -> Columns:
        """The chunk, with its clock unwrapped if that is asked for; steps back in time are counted, or refused."""
        t, backward = chunk.t, seen.backward
        if self.clock is not None:
            t = self.clock.extend(t, backward=backward)
            if self.clock.wraps and not self.options.repair:
                problem = f"its times wrap like a 32-bit clock, after {self._events(chunk)} or fewer events"
                raise FormatError(self.source.path, problem, remedy="repair=True unwraps them")
            backward = backward and (t is chunk.t or bool((t[1:] < t[:-1]).any()))
            chunk = chunk._replace(t=t)
        at_join = self.last_t is not None and int(t[0]) < self.last_t
        if backward or at_join or self.unsorted:
            self._note_disorder(t, at_join=at_join)
        self.last_t = int(t[-1])
        self.seen_count += len(t)
        return chunk

    def _events(self, chunk: Columns) -> int:
        return self.seen_count + len(chunk.t)

    def _note_disorder(self, t: np.ndarray, *, at_join: bool) -> None:
        backward = np.flatnonzero(t[1:] < t[:-1])
        steps = len(backward) + int(at_join)
        self.unsorted += steps
        if steps == 0:
            return
        longest = int((t[backward] - t[backward + 1]).max()) if len(backward) else 0
        longest = max(longest, (self.last_t or 0) - int(t[0])) if at_join else longest
        many = steps > 1 + MANY * len(t)
        guessed = self.source.order is not None
        if self.options.repair and not (many and guessed):
            return
        index = self.seen_count if at_join else self.seen_count + int(backward[0]) + 1
        problem = f"events are not sorted by time: event {index} is earlier than the one before it"
        if guessed or many:
            remedy = "is the order of the columns right? columns=... states it" if self.source.clock else None
        elif longest > SHORT_US:
            problem += f", and {longest} us are too far back for mere disorder"
            remedy = None
        else:
            remedy = f"at most {longest} us back: repair=True sorts them"
        raise FormatError(self.source.path, problem, remedy=remedy)

    def _note_order(self, chunk: Columns, seen: Seen) -> None:
        """Counts what would lie outside the stated sensor if x came first; hardly any time where nothing does."""
        if not self.may_be_exchanged or self.sensor_hw is None:
            return
        height, width = (side + self.slack for side in self.sensor_hw)
        self.ends = [max(self.ends[0], seen.x[1]), max(self.ends[1], seen.y[1])]
        if seen.x[1] >= width or seen.y[1] >= height:
            self.beyond += int(np.count_nonzero((chunk.x >= width) | (chunk.y >= height)))

    def _check_pixels(self, chunk: Columns, seen: Seen) -> Columns:
        height, width = (side + self.slack for side in self.sensor_hw or (LARGEST, LARGEST))
        if self.may_be_exchanged:
            height = width = max(height, width)
        if min(seen.x[0], seen.y[0]) < 0 or seen.x[1] >= width or seen.y[1] >= height:
            inside = (chunk.x >= 0) & (chunk.x < width) & (chunk.y >= 0) & (chunk.y < height)
            outside = int(len(inside) - np.count_nonzero(inside))
            if not self.options.repair:
                self._refuse_pixels(seen, outside / len(inside), (height - self.slack, width - self.slack))
            self.dropped += outside
            chunk = Columns(*(column[inside] for column in chunk))
            if len(chunk.t) == 0:
                return chunk
            seen = look(chunk)
        for axis, (low, high) in enumerate((seen.x, seen.y)):
            self.low[axis] = min(self.low[axis], low)
            self.high[axis] = max(self.high[axis], high)
        return chunk

    def _refuse_pixels(self, seen: Seen, share: float, sensor_hw: tuple[int, int]) -> None:
        (x_low, x_high), (y_low, y_high), (height, width) = seen.x, seen.y, sensor_hw
        problem = f"x runs from {x_low} to {x_high} and y from {y_low} to {y_high}, outside a {width}x{height} sensor"
        raise FormatError(
            self.source.path, problem, remedy=outside_remedy(share, columns=self.source.clock is not None)
        )

    def _report(self) -> None:
        repairs = self.source.info.setdefault("repairs", [])
        wraps = self.clock.wraps if self.clock is not None else 0
        for number, what in (
            (wraps, "wraps of a 32-bit clock: unwrapped"),
            (self.unsorted, "steps back in time: sorted"),
            (self.dropped, "events outside the sensor: dropped"),
        ):
            if number:
                logger.warning("%s: repaired: %d %s", self.source.path, number, what)
                repairs.append(f"{number} {what}")


def outside_remedy(share: float, *, columns: bool) -> str:
    """What helps where a share of the events lies outside the sensor: dropping them only where they are few."""
    states = "sensor_hw=(height, width) states the sensor"
    if columns:
        states += ", columns=... the order of the columns"
    return f"{states}, repair=True drops the {share:.2%} outside" if share <= FEW else states


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
