"""Events as they come: a binary stream on a pipe, on standard input, or in a file that another program still writes.

The stream is little endian and as plain as it can be, so that any camera's own tool can write it in ten lines:

    header, 16 bytes:  8 bytes b"HADLIVE1", uint16 width, uint16 height, 4 bytes 0
    then per event, 16 bytes:  int64 t (microseconds), uint16 x, uint16 y, uint8 p, 3 bytes 0

`p` is 1 (brighter) or 0 (darker). `p` = 2 is no event but the time: all that happened before `t` has been sent, so that
boxes also come out of a silent camera (`x` and `y` are not read then).

Times never go back, but where a counter of 32 bits, with or without a sign, begins again: the stream then goes on, and
says so. Any other step back is a camera that was started anew, and ends the stream; so does a step of more than an
hour, which is no time that passed (a camera that may rest for so long sends its time now and then).
"""

from __future__ import annotations

import logging
import os
import select
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from had_snn.errors import FormatError
from had_snn.events.stream import MAX_SIDE, EventStream
from had_snn.recordings.clock import Clock

log = logging.getLogger("had_snn")

MAGIC = b"HADLIVE1"
MOST_GAP_US = 3_600_000_000
LATEST_US = 1 << 60  # and the earliest, negated
CLOCK = 2  # polarity of a record that only tells the time
RECORD = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1"), ("zero", "u1", 3)])
_HEADER = np.dtype([("magic", "S8"), ("width", "<u2"), ("height", "<u2"), ("zero", "<u4")])
_READ = 1 << 20


@dataclass(frozen=True)
class LiveChunk:
    """What has come since the last chunk.

    Attributes:
        events: The new events.
        now_us: All events before this time are there: the newest record's time.
    """

    events: EventStream
    now_us: int


def encode_header(sensor_hw: tuple[int, int]) -> bytes:
    """The first 16 bytes of a stream."""
    return np.array((MAGIC, sensor_hw[1], sensor_hw[0], 0), _HEADER).tobytes()


def encode_events(events: EventStream) -> bytes:
    """Events as records."""
    records = np.zeros(len(events), RECORD)
    for name in "txyp":
        records[name] = getattr(events, name)
    return records.tobytes()


def encode_time(t_us: int) -> bytes:
    """A record that says that nothing happened before `t_us`."""
    return np.array((t_us, 0, 0, CLOCK, (0, 0, 0)), RECORD).tobytes()


_ANEW = "a camera that is started anew is a new stream, and a new run with the box of that moment"
_REST = "send the time now and then while nothing happens"


class CheckedRecords:
    """Makes chunks of records, whoever sent them, and lets none through that is out of range or goes back in time.

    Args:
        sensor_hw: Height and width of the sensor.
        name: For messages.
        offset: Byte of the first record, or None where records lie in no file.
    """

    def __init__(self, sensor_hw: tuple[int, int], name: str, *, offset: int | None = None) -> None:
        self.sensor_hw, self.name, self.offset = sensor_hw, name, offset
        self.last_t: int | None = None
        self._clock = Clock(1 << 32, 0)

    def chunk(self, records: np.ndarray) -> LiveChunk:
        """The next records, at least one, of type `RECORD`.

        Raises:
            FormatError: If one is out of range or goes back in time; the message names its byte.
        """
        height, width = self.sensor_hw
        is_event = records["p"] < CLOCK
        outside = is_event & ((records["x"] >= width) | (records["y"] >= height))
        times, before = self._times(records["t"].astype(np.int64))
        for wrong, says, remedy in (
            (records["p"] > CLOCK, "polarity {p}, expected 0, 1 or 2", None),
            (outside, f"event at ({{x}}, {{y}}), outside the {width}x{height} sensor", None),
            ((times < -LATEST_US) | (times > LATEST_US), "time {t} us, which is no time of a camera", None),
            (times < before, "time {t} us, before the record in front of it", _ANEW),
            (times - before > MOST_GAP_US, "time {t} us, more than an hour after the record in front of it", _REST),
        ):
            if wrong.any():
                at = int(np.flatnonzero(wrong)[0])
                found = {name: int(records[name][at]) for name in "txyp"}
                at_byte = None if self.offset is None else self.offset + at * RECORD.itemsize
                raise FormatError(self.name, says.format(**found), offset=at_byte, remedy=remedy)
        if self.offset is not None:
            self.offset += records.nbytes
        self.last_t = int(times[-1])
        kept = records[is_event]
        x, y, p = (np.ascontiguousarray(kept[name]) for name in "xyp")
        events = EventStream.from_arrays(times[is_event], x, y, p, self.sensor_hw, self.name, validate=False)
        return LiveChunk(events, self.last_t)

    def _times(self, read: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Times that go on where a 32-bit counter has wrapped, and the one in front of each."""
        wraps = self._clock.wraps
        times = self._clock.extend(read, backward=bool((read[1:] < read[:-1]).any()))
        if self._clock.wraps > wraps:
            log.warning("%s: its 32-bit clock began again (%d times by now)", self.name, self._clock.wraps)
        return times, np.concatenate([[times[0] if self.last_t is None else self.last_t], times[:-1]])


class LiveReader:
    """Reads a live stream.

    Args:
        file: An open binary file, pipe or standard input; read without buffering.
        name: For messages.
        idle_s: A regular file that has not grown for so long is at its end. A pipe ends when its writer closes it.
        stopped: Asked between reads; True ends the stream.

    Raises:
        FormatError: If the header is not this format's, or the stream ends before it is complete.
    """

    def __init__(
        self, file: BinaryIO, *, name: str = "stream", idle_s: float = 2.0, stopped: Callable[[], bool] | None = None
    ) -> None:
        self.file, self.name, self.idle_s = file, name, idle_s  # kept: a file that nobody holds is closed
        self.descriptor = file.fileno()
        self.stopped = stopped or (lambda: False)
        self.regular = stat.S_ISREG(os.fstat(self.descriptor).st_mode)
        self._rest = b""
        while len(self._rest) < _HEADER.itemsize:
            piece = self._read()
            if not piece:
                raise FormatError(name, f"ended after {len(self._rest)} bytes, before the 16 bytes of its header")
            self._rest += piece
        header = np.frombuffer(self._rest[: _HEADER.itemsize], _HEADER)[0]
        if header["magic"] != MAGIC:
            raise FormatError(
                name,
                f"starts with {bytes(self._rest[:8])!r}, expected {MAGIC!r}",
                offset=0,
                remedy="had-snn replay writes this format from any recording",
            )
        self.sensor_hw = (int(header["height"]), int(header["width"]))
        if not all(0 < side <= MAX_SIDE for side in self.sensor_hw):
            raise FormatError(name, f"sensor of {header['width']}x{header['height']} pixels", offset=8)
        self._rest = self._rest[_HEADER.itemsize :]
        self._checked = CheckedRecords(self.sensor_hw, name, offset=_HEADER.itemsize)

    def __iter__(self) -> Iterator[LiveChunk]:
        """Chunks as they come, each with at least one record.

        Raises:
            FormatError: If a record is out of range or goes back in time; the message names its byte.
        """
        while True:
            whole = len(self._rest) // RECORD.itemsize * RECORD.itemsize
            if whole:
                data, self._rest = self._rest[:whole], self._rest[whole:]
                yield self._checked.chunk(np.frombuffer(data, RECORD))
            piece = self._read()
            if not piece:
                break
            self._rest += piece
        if self._rest:
            log.warning("%s: the last %d bytes are no whole record and were left out", self.name, len(self._rest))

    def _read(self) -> bytes:
        """The next bytes, at least one; none at the end."""
        silent_since = time.monotonic()
        while not self.stopped():
            if not self.regular and not select.select([self.descriptor], [], [], 0.1)[0]:
                continue
            piece = os.read(self.descriptor, _READ)
            if piece or not self.regular or time.monotonic() - silent_since > self.idle_s:
                return piece
            time.sleep(0.005)
        return b""
