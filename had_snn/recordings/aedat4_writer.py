"""Writes AEDAT4 files that DV, dv-processing and other readers of the format open: events and frames of one camera.

Layout as in `aedat4.py`. The FlatBuffers have few shapes, so they are laid out by hand: positions below count
from the size prefix, and 64-bit fields are kept on multiples of 8 from there.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from xml.sax.saxutils import escape

import numpy as np

from had_snn.errors import InputError, optional_import
from had_snn.events.stream import EventStream
from had_snn.recordings.aedat4 import COMPRESSIONS, EVENT_DTYPE, MAGIC
from had_snn.recordings.recording import Frames

EVENTS_PER_PACKET = 1 << 14
EVENT_STREAM, FRAME_STREAM = 0, 1
TABLE_POSITION_AT = len(MAGIC) + 32
_DESCRIPTIONS = {"EVTS": "Array of events (polarity ON/OFF).", "FRME": "Standard frame (8-bit image)."}
_ENTRY = np.dtype(
    {
        "names": ["back", "at", "stream", "size", "count", "start", "end"],
        "formats": ["<i4", "<i8", "<i4", "<i4", "<i8", "<i8", "<i8"],
        "offsets": [0, 8, 16, 20, 24, 32, 40],
        "itemsize": 48,
    }
)


def write_aedat4(
    events: EventStream,
    path: Path,
    *,
    frames: Frames | None = None,
    compression: str = "lz4",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes events and frames, compressed and with a packet table.

    Args:
        events: The events; times may be any 64-bit microseconds.
        path: Where to; written in place (`writers.write_events` makes it atomic).
        frames: Pictures, grey or RGB.
        compression: `"lz4"`, or `"zstd"`: about half as large, and written ten times slower.
        progress: Called with (events done, events in total).

    Raises:
        InputError: If a frame is larger than 32767 pixels a side, or the compression is unknown.
    """
    pack = _compressor(compression)
    if frames is not None and max(frames.images.shape[1:3]) > 32767:
        raise InputError(f"frames of {frames.images.shape[1:3]} are larger than AEDAT4's 16-bit sizes")
    entries: list[tuple[int, int, int, int, int, int]] = []
    done = 0
    with path.open("wb") as file:
        file.write(MAGIC + _header(_xml(events.sensor_hw, frames, compression), COMPRESSIONS.index(compression)))
        for stream, count, start, end, packet in _in_order(events, frames):
            packed = pack(packet)
            entries.append((file.tell() + 8, stream, len(packed), count, start, end))
            file.write(struct.pack("<ii", stream, len(packed)) + packed)
            if stream == EVENT_STREAM:
                done += count
                if progress is not None:
                    progress(done, len(events))
        _close(file, pack(_table(entries)))


def _compressor(name: str) -> Callable[[bytes], bytes]:
    if name == "lz4":
        lz4 = optional_import("lz4.frame", extra="data")
        return lambda raw: lz4.compress(raw, store_size=False)
    if name == "zstd":
        return optional_import("zstandard", extra="data").ZstdCompressor(level=19).compress
    raise InputError(f"cannot write AEDAT4 with compression={name!r}; expected lz4 or zstd")


def _close(file: BinaryIO, table: bytes) -> None:
    at = file.tell()
    file.write(table)
    file.seek(TABLE_POSITION_AT)
    file.write(struct.pack("<q", at))


def _in_order(events: EventStream, frames: Frames | None) -> Iterator[tuple[int, int, int, int, bytes]]:
    """Packets by the time that they are complete: stream, items, first and last time, bytes."""
    next_frame = 0
    for begin in range(0, len(events), EVENTS_PER_PACKET):
        piece = events.slice_index(begin, begin + EVENTS_PER_PACKET)
        while frames is not None and next_frame < len(frames) and int(frames.end_us[next_frame]) <= piece.t_start:
            yield _frame_packet(frames, next_frame)
            next_frame += 1
        yield EVENT_STREAM, len(piece), piece.t_start, int(piece.t[-1]), _event_packet(piece)
    while frames is not None and next_frame < len(frames):
        yield _frame_packet(frames, next_frame)
        next_frame += 1


def _finish(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


def _event_packet(piece: EventStream) -> bytes:
    packed = np.zeros(len(piece), EVENT_DTYPE)
    packed["t"], packed["x"], packed["y"], packed["p"] = piece.t, piece.x, piece.y, piece.p
    # 4 root, 8 identifier, 12 vtable (one field at 4), 20 table, 24 offset of the vector, 28 its length, 32 events
    head = struct.pack("<I4sHHHxxiII", 16, b"EVTS", 6, 8, 4, 8, 4, len(piece))
    return _finish(head + packed.tobytes())


def _frame_packet(frames: Frames, index: int) -> tuple[int, int, int, int, bytes]:
    image, start, end = frames.images[index], int(frames.start_us[index]), int(frames.end_us[index])
    height, width = image.shape[:2]
    kind = 0 if image.ndim == 2 else 16
    pixels = np.ascontiguousarray(image if image.ndim == 2 else image[..., ::-1]).tobytes()
    # 12 vtable of 11 fields, 40 table, 44 offset of the pixels, 48-87 times, 88 type, 90-97 size and place, 100 length
    fields = (8, 16, 24, 32, 40, 48, 50, 52, 54, 56, 4)
    head = struct.pack("<I4sHH11Hxx", 36, b"FRME", 26, 60, *fields)
    table = struct.pack("<iI5qbxhhhhxx", 28, 56, end, start, end, start, end, kind, width, height, 0, 0)
    return FRAME_STREAM, 1, start, end, _finish(head + table + struct.pack("<I", len(pixels)) + pixels)


def _header(xml: str, compression: int) -> bytes:
    text = xml.encode() + b"\0"
    # 12 vtable of 3 fields, 24 table, 28 offset of the XML, 32 table position (patched at the end), 40 compression, 44
    head = struct.pack("<I4sHH3Hxx", 20, b"IOHE", 10, 20, 16, 8, 4)
    return _finish(head + struct.pack("<iIqiI", 12, 16, -1, compression, len(text) - 1) + text + bytes(-len(text) % 4))


def _table(entries: list[tuple[int, int, int, int, int, int]]) -> bytes:
    count = len(entries)
    # 12 vtable, 20 table, 24 offset of the vector, 28 its length, 32 offsets of the entries, their vtable, the entries
    vtable_at = 32 + 4 * count
    first = vtable_at + 14 + (-(vtable_at + 14) % 8)
    rows = np.zeros(count, _ENTRY)
    for i, (at, stream, size, items, start, end) in enumerate(entries):
        rows[i] = (first + 48 * i - vtable_at, at, stream, size, items, start, end)
    offsets = first + 48 * np.arange(count) - (32 + 4 * np.arange(count))
    head = struct.pack("<I4sHHHxxiII", 16, b"FTAB", 6, 8, 4, 8, 4, count) + offsets.astype("<u4").tobytes()
    vtable = struct.pack("<7H", 14, 48, 8, 16, 24, 32, 40)
    return _finish(head + vtable + bytes(first - vtable_at - 14) + rows.tobytes())


def _xml(sensor_hw: tuple[int, int], frames: Frames | None, compression: str) -> str:
    size_of = {"EVTS": sensor_hw}
    if frames is not None:
        size_of["FRME"] = (int(frames.images.shape[1]), int(frames.images.shape[2]))
    nodes = []
    for number, (kind, (height, width)) in enumerate(size_of.items()):
        base = f"/outInfo/{number}/"
        attributes = {
            "compression": compression.upper(),
            "originalModuleName": "had-snn",
            "typeDescription": _DESCRIPTIONS[kind],
            "originalOutputName": "events" if kind == "EVTS" else "frames",
            "typeIdentifier": kind,
        }
        outer = "".join(f'<attr key="{k}" type="string">{escape(v)}</attr>' for k, v in attributes.items())
        info = (
            f'<attr key="sizeX" type="int">{width}</attr><attr key="sizeY" type="int">{height}</attr>'
            f'<attr key="source" type="string">had-snn</attr><attr key="tsOffset" type="long">0</attr>'
        )
        nodes.append(
            f'<node name="{number}" path="{base}">{outer}<node name="info" path="{base}info/">{info}</node></node>'
        )
    return f'<dv version="2.0"><node name="outInfo" path="/outInfo/">{"".join(nodes)}</node></dv>'
