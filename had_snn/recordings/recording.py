"""What a reader hands back, and what its format's decoder makes of a file on the way.

A decoder opens a file as a `Source`: what the header says, and the events in pieces. `readers.collect` turns a source
into a `Recording`; the cache and the converter walk the pieces themselves and so never hold a whole recording. All
pass the checks of `checks.py`: sorted int64 microseconds, pixels from 0, polarity 1 = brighter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np

from had_snn.errors import FormatError, InputError
from had_snn.events.stream import EventStream
from had_snn.recordings.decoders import Columns, Decoder, Room, Scratch
from had_snn.recordings.units import stated_unit

logger = logging.getLogger("had_snn")

BLOCK_BYTES = 1 << 18  # of a file at a time: what is decoded from them stays in the processor's cache


@dataclass(frozen=True)
class Frames:
    """Pictures that a recording holds beside its events.

    Attributes:
        images: uint8 `[F, H, W]` (grey) or `[F, H, W, 3]` (RGB).
        start_us: int64 `[F]`, start of each exposure.
        end_us: int64 `[F]`, end of each exposure: from then on a picture may be used.
    """

    images: np.ndarray
    start_us: np.ndarray
    end_us: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Recording:
    """A file as read: its events, its frames if it holds any, and how it was understood.

    Attributes:
        events: All events.
        frames: Pictures with their times, or None.
        info: `format`, `sensor` ("file", "inferred" or "given"), what was detected (columns, unit, polarity), the
            streams found, and `repairs`, a list of what was mended.
    """

    events: EventStream
    frames: Frames | None
    info: dict[str, Any]


@dataclass(frozen=True)
class ReadOptions:
    """Everything a caller may state about a file instead of letting it be detected.

    Attributes:
        sensor_hw: Height and width in pixels.
        columns: Order of the columns of text and plain arrays, e.g. `"txyp"`; `"_"` skips one.
        time_unit: `"s"`, `"ms"`, `"us"`, `"ns"` or a power of ten of one (`"1e-6 s"`), for files that do not say.
        polarity: The file's values for (darker, brighter), e.g. `(1, 2)`; any other value is read as darker.
        origin: The file's number of the first pixel, 0 or 1.
        stream: Which stream to read where a file has several: an AEDAT4 stream id, a bag topic, an HDF5 group.
        window: Read only events of `[t0, t1)` microseconds.
        repair: Mend what can be mended (cut-off end, unsorted or out-of-range events), each time with a warning.
        progress: Called with (bytes done, bytes in total).
    """

    sensor_hw: tuple[int, int] | None = None
    columns: str | None = None
    time_unit: str | None = None
    polarity: tuple[int, int] | None = None
    origin: int | None = None
    stream: int | str | None = None
    window: tuple[int, int] | None = None
    repair: bool = False
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.time_unit is not None:
            stated_unit(self.time_unit)
        for name, expected in (("sensor_hw", "(height, width)"), ("polarity", "two different whole numbers")):
            pair = getattr(self, name)
            if pair is not None and not _is_pair(pair, positive=name == "sensor_hw"):
                raise InputError(f"{name} is {pair!r}; expected {expected}")
        if self.origin not in (None, 0, 1):
            raise InputError(f"origin is {self.origin!r}; expected 0 or 1")
        if self.columns is not None and (
            not set("txy") <= set(self.columns) <= set("txyp_") or any(self.columns.count(name) > 1 for name in "txyp")
        ):
            raise InputError(
                f"columns is {self.columns!r}; expected t, x, y and p once each, and _ for others: txyp, xyp_t"
            )


def _is_pair(pair: Any, *, positive: bool) -> bool:
    try:
        first, second = pair
        whole = int(first) == first and int(second) == second
    except (TypeError, ValueError):
        return False
    return whole and (min(first, second) > 0 if positive else first != second)


@dataclass
class Source:
    """An opened file.

    Attributes:
        path: The file.
        format: Name of the format, e.g. `"aedat4"`.
        chunks: The events in pieces; can be walked once.
        sensor_hw: Height and width if the file says.
        info: Facts for `Recording.info`; decoders may add to it while `chunks` is walked.
        load_frames: Reads the pictures, for formats that hold any.
        most: About how many events to expect, from the size of the file; room is reserved for as many.
        countable_from_one: True for formats without a rule for the first pixel's number (text, arrays, MATLAB).
        order: The columns as they are read (`"txyp"`) where only their numbers tell it: x and y may be the other way
            round.
        clock: For mere columns of numbers, period in microseconds and zero of the 32-bit clock that their times may
            come from.
        room: Where decoders write events; a piece is valid until the next one is asked for, unless `collect` has put
            its own arrays here.
    """

    path: Path
    format: str
    chunks: Iterable[Columns]
    sensor_hw: tuple[int, int] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    load_frames: Callable[[], Frames | None] | None = None
    countable_from_one: bool = False
    order: str | None = None
    clock: tuple[int, int] | None = None
    most: int | None = None
    room: Room = field(default_factory=Scratch)


def pick(path: Path, places: Sequence[str], stated: int | str | None, where: str) -> str:
    """The one of several places in a file to read events from: as stated, or else the first.

    Raises:
        FormatError: If it is none of them.
    """
    wanted, listed = places[0] if stated is None else str(stated), ", ".join(places)
    if wanted not in places:
        raise FormatError(path, f"no events {where} {wanted}; the file has them {where} {listed}")
    if len(places) > 1 and stated is None:
        logger.info("%s: events %s %s; reading %s (stream=... picks another)", path, where, listed, wanted)
    return wanted


def mend_or_raise(
    path: Path, info: dict[str, Any], options: ReadOptions, problem: str, *, mended: str, offset: int | None = None
) -> None:
    """Notes a repair with a warning when `repair` was asked for, raises `FormatError` with the offset otherwise."""
    if not options.repair:
        raise FormatError(path, problem, offset=offset, remedy=f"repair=True {mended}")
    where = "" if offset is None else f" at byte {offset}"
    logger.warning("%s%s: %s; repaired: %s", path, where, problem, mended)
    info.setdefault("repairs", []).append(f"{problem}: {mended}")


def walk_records(path: Path, start: int, dtype: np.dtype, source: Source, options: ReadOptions) -> Iterator[np.ndarray]:
    """Whole records from `start` on, a block at a time, valid until the next; a part of one at the end is a cut."""
    size = path.stat().st_size
    count, rest = divmod(max(size - start, 0), dtype.itemsize)
    block = np.empty(min(max(1, BLOCK_BYTES // dtype.itemsize), count), dtype)
    view = block.view(np.uint8).data
    done = 0
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while done < count:
            wanted = min(len(block), count - done)
            read = read_fully(file, view[: wanted * dtype.itemsize]) // dtype.itemsize
            if read == 0:
                break  # the file has become shorter while it is read
            done += read
            yield block[:read]
            if options.progress is not None:
                options.progress(start + done * dtype.itemsize, size)
    if rest:
        problem = f"the file ends in a record; {rest} of {dtype.itemsize} bytes are there"
        mend_or_raise(path, source.info, options, problem, mended="keeps the records before it", offset=size - rest)


def read_fully(file: RawIOBase, view: memoryview) -> int:
    """Fills `view` from an unbuffered file and returns how many bytes there were."""
    done = 0
    while done < len(view):
        read = file.readinto(view[done:])
        if not read:
            break
        done += read
    return done


def decode_records(path: Path, start: int, decoder: Decoder, source: Source, options: ReadOptions) -> Iterator[Columns]:
    """Events of a file of fixed-size items that begin at `start`."""
    for records in walk_records(path, start, decoder.word, source, options):
        for piece, _ in decoder.pieces(records, source.room):
            yield piece
