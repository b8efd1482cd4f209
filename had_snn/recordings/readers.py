"""Reading recordings: `read_events` and `open_recording` find out the format by content and hand to its reader.

events = read_events("drive.aedat4")
recording = open_recording("drive.aedat4")      # with frames, and how the file was understood
events = read_events("events.csv", columns="xypt", time_unit="s")
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from had_snn.errors import FormatError, InputError
from had_snn.events.stream import EventStream
from had_snn.recordings.aedat import open_aedat
from had_snn.recordings.aedat4 import open_aedat4
from had_snn.recordings.arrays import open_npy, open_npz
from had_snn.recordings.checks import Checker
from had_snn.recordings.clock import order_of
from had_snn.recordings.compact import ES_MAGIC, looks_like_nmnist, open_es, open_nmnist
from had_snn.recordings.decoders import DTYPES, Columns
from had_snn.recordings.hdf5 import open_hdf5
from had_snn.recordings.mat import open_mat
from had_snn.recordings.prophesee import (
    foreign_encoding,
    is_dat,
    is_raw,
    open_dat,
    open_evt,
    open_raw,
    read_header,
)
from had_snn.recordings.recording import ReadOptions, Recording, Source
from had_snn.recordings.resolution import Resolution
from had_snn.recordings.ros import MCAP_MAGIC, ROS1_MAGIC, SQLITE_MAGIC, open_bag
from had_snn.recordings.text import open_text
from had_snn.recordings.text_cells import encoding_of

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_OPENERS: dict[str, Callable[[Path, ReadOptions], Source]] = {
    "aedat4": open_aedat4,
    "aedat": open_aedat,
    "raw": open_raw,
    "evt2": open_evt("evt2"),
    "evt21": open_evt("evt21"),
    "evt3": open_evt("evt3"),
    "dat": open_dat,
    "es": open_es,
    "nmnist": open_nmnist,
    "bag": open_bag,
    "npy": open_npy,
    "npz": open_npz,
    "mat": open_mat,
    "hdf5": open_hdf5,
    "text": open_text,
}
FORMATS = tuple(_OPENERS)
_SLACK = 1 << 10  # a decoder asks for a few more than there are
_FOREIGN = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive; unpack it first",
    b"\xfd7zXZ": "an xz archive; unpack it first",
    b"<?xml": "an XML document",
    b"<": "a markup document",
    b"{": "a JSON document",
}


def read_events(path: str | os.PathLike[str], **options: Any) -> EventStream:
    """Reads the events of a recording, whatever its format.

    Args:
        path: The file; its content decides, not its suffix.
        **options: Fields of `ReadOptions`, and `format` to skip the detection.

    Returns:
        The events in the file's own time base, in microseconds.

    Raises:
        FormatError: If the file is missing, damaged, or of no known format; the message names file, offset and remedy.
        InputError: If an option is unknown or impossible.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "events.csv")
        >>> _ = path.write_text("0.001000 3 4 1\\n0.002000 5 6 0\\n")
        >>> read_events(path).t.tolist()
        [1000, 2000]
    """
    source, read_options = open_source(path, **options)
    return collect(source, read_options).events


def open_recording(path: str | os.PathLike[str], **options: Any) -> Recording:
    """Reads a recording with its frames and the facts of how it was understood.

    Args:
        path: The file; its content decides, not its suffix.
        **options: Fields of `ReadOptions`, and `format` to skip the detection.

    Returns:
        Events, frames (None where the format or the file holds none), info.

    Raises:
        FormatError: As `read_events`.
        InputError: As `read_events`.
    """
    source, read_options = open_source(path, **options)
    return collect(source, read_options, with_frames=True)


def collect(source: Source, options: ReadOptions, *, with_frames: bool = False) -> Recording:
    """Reads a source to its end.

    Args:
        source: An opened file.
        options: What the caller stated.
        with_frames: Read the pictures too.

    Returns:
        The recording.

    Raises:
        FormatError: If the events break the rules of `checks.py` and were not to be repaired, or need too much memory.
    """
    try:
        return _collect(source, options, with_frames=with_frames)
    except MemoryError as error:
        remedy = "window=[t0,t1] reads a part, and open_cached needs no more memory than a piece"
        raise FormatError(source.path, f"its events need more memory than there is ({error})", remedy=remedy) from error


def _collect(source: Source, options: ReadOptions, *, with_frames: bool) -> Recording:
    checker = Checker(source, options)
    buffer = _Buffer(source.most)
    source.room = buffer.room
    for piece in checker.walk():
        buffer.append(piece)
    resolution = Resolution.of(checker, lambda: [(buffer.columns()[1], buffer.columns()[2])])
    if checker.count == 0:
        events = EventStream.empty(resolution.sensor_hw, str(source.path))
    else:
        t, x, y, p = _resolved(buffer.columns(), checker, resolution)
        events = EventStream.from_arrays(t, x, y, p, resolution.sensor_hw, str(source.path), validate=False)
    frames = source.load_frames() if with_frames and source.load_frames else None
    return Recording(events, frames, {"format": source.format, **source.info})


def _resolved(columns: list[np.ndarray], checker: Checker, resolution: Resolution) -> list[np.ndarray]:
    """Columns in their final order, numbering and polarity, without the events that have to go."""
    t, x, y, p = columns
    if resolution.outside:
        inside = resolution.inside(x, y)
        t, x, y, p = t[inside], x[inside], y[inside], p[inside]
    if checker.unsorted:
        order = order_of(checker.source.path, t)
        t, x, y, p = t[order], x[order], y[order], p[order]
    x, y = (y, x) if resolution.exchanged else (x, y)
    return [t, resolution.pixels(x), resolution.pixels(y), resolution.polarity(p)]


class _Buffer:
    """Columns that grow; memory that is reserved but never written is never occupied.

    Args:
        most: Events to expect, 1 << 16 if unknown.
    """

    def __init__(self, most: int | None) -> None:
        self.count = 0
        length = (most or 1 << 16) + _SLACK
        self.arrays = [np.empty(length, dtype) for dtype in DTYPES.values()]

    def room(self, count: int) -> Columns:
        """Arrays behind the last event, for decoders to write into."""
        self._reserve(self.count + count)
        return Columns(*(array[self.count :] for array in self.arrays))

    def append(self, piece: Columns) -> None:
        """Takes a piece in behind the others; one that a decoder has put there is not copied."""
        stop = self.count + len(piece.t)
        self._reserve(stop)
        for array, column in zip(self.arrays, piece, strict=True):
            target = array[self.count : stop]
            if column.__array_interface__["data"] != target.__array_interface__["data"]:
                target[:] = column
        self.count = stop

    def columns(self) -> list[np.ndarray]:
        """What was appended."""
        return [array[: self.count] for array in self.arrays]

    def _reserve(self, length: int) -> None:
        if length > len(self.arrays[0]):
            larger = [np.empty(max(length, 2 * len(a)), a.dtype) for a in self.arrays]
            for new, old in zip(larger, self.arrays, strict=True):
                new[: self.count] = old[: self.count]
            self.arrays = larger


def open_source(path: str | os.PathLike[str], **options: Any) -> tuple[Source, ReadOptions]:
    """Opens a file without reading its events; the cache and the converter walk them in pieces.

    Args:
        path: The file.
        **options: As `read_events`.

    Returns:
        The source and the options it was opened with.
    """
    path = Path(path)
    kind = options.pop("format", None)
    unknown = set(options) - set(ReadOptions.__dataclass_fields__)
    if unknown:
        known = ", ".join(["format", *ReadOptions.__dataclass_fields__])
        raise InputError(f"unknown option {', '.join(sorted(unknown))}; a reader takes {known}")
    read_options = ReadOptions(**options)
    if kind is not None and kind not in _OPENERS:
        raise InputError(f"unknown format {kind!r}; expected one of {', '.join(FORMATS)}")
    _first_bytes(path)
    detected = detect_format(path) if kind is None else kind
    try:
        return _OPENERS[detected](path, read_options), read_options
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from error


def detect_format(path: str | os.PathLike[str]) -> str:
    """Name of a file's format, from its first bytes and, where a format has no signature, from what its records say.

    Raises:
        FormatError: If there is no such file, it is empty, or it is of no known format.
    """
    path = Path(path)
    head = _first_bytes(path)
    if head is None:
        return "bag"
    kind = _by_signature(head)
    if kind is not None:
        return kind
    if head.startswith(b"%"):
        with path.open("rb") as file:
            header = read_header(file)
        if is_raw(header) or foreign_encoding(header) is not None:  # refused by name where it is opened
            return "raw"
        if is_dat(header):
            return "dat"
    for magic, name in _FOREIGN.items():
        if head.startswith(magic):
            raise FormatError(path, f"{name}, not a recording of events")
    if _is_text(head):
        return "text"
    if looks_like_nmnist(path, head):
        return "nmnist"
    known = "AEDAT, RAW, DAT, ES, N-MNIST, HDF5, NPY, NPZ, MATLAB, ROS bags, text"
    problem = f"unknown format, first bytes {head[:8]!r}; known are {known}"
    raise FormatError(path, problem, offset=0, remedy="format=... states it")


def _first_bytes(path: Path) -> bytes | None:
    """Up to 4096 bytes; None for the folder of a ROS 2 bag."""
    try:
        if not path.exists():
            raise FormatError(path, "no such file", remedy=f"the folder {path.parent} {_exists(path.parent)}")
        if path.is_dir():
            if (path / "metadata.yaml").is_file():
                return None
            raise FormatError(path, "a folder, but no ROS 2 bag; expected a file")
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from error
    if not head:
        raise FormatError(path, "the file is empty", offset=0)
    return head


def _by_signature(head: bytes) -> str | None:
    for magic, kind in (
        (b"#!AER-DAT4", "aedat4"),
        (b"#!AER-DAT", "aedat"),
        (ES_MAGIC, "es"),
        (ROS1_MAGIC, "bag"),
        (MCAP_MAGIC, "bag"),
        (SQLITE_MAGIC, "bag"),
        (b"\x93NUMPY", "npy"),
        (b"PK\x03\x04", "npz"),
        (HDF5_MAGIC, "hdf5"),
        (b"MATLAB 5.0", "mat"),
        (b"MATLAB 7.3", "hdf5"),
    ):
        if head.startswith(magic):
            return kind
    return "hdf5" if head[512 : 512 + len(HDF5_MAGIC)] == HDF5_MAGIC else None


def _is_text(head: bytes) -> bool:
    """True if the bytes could be lines of numbers: text of some encoding, with digits."""
    return encoding_of(head) is not None and any(48 <= byte <= 57 for byte in head)


def _exists(folder: Path) -> str:
    return "exists, the file does not" if folder.is_dir() else "does not exist either"
