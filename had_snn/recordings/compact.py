"""Two compact encodings: Event Stream (`.es`) and the 5-byte records of N-MNIST (`.bin`)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings import recording
from had_snn.recordings.decoders import Columns, Decoder
from had_snn.recordings.recording import ReadOptions, Source, decode_records, mend_or_raise, read_fully, walk_records

ES_MAGIC = b"Event Stream"
ES_TYPES = ("generic", "dvs", "atis", "amd", "color")
ES_EVENT = 5  # bytes
NMNIST_RECORD = np.dtype((np.void, 5))
NMNIST_HW = (34, 34)


def open_es(path: Path, options: ReadOptions) -> Source:
    """Opens an Event Stream file of version 2 with DVS events.

    A DVS event is a byte of polarity (bit 0) and time since the last event (bits 1-7), then column and row in two
    bytes each, the row counted from the bottom. Time steps of 127 us or more are preceded by overflow bytes (0xFF);
    0xFE bytes reset a reader that lost its place (https://github.com/neuromorphic-paris/event_stream).
    """
    with path.open("rb") as file:
        head = file.read(20)
    if len(head) < 20:
        raise FormatError(path, f"the file ends in its header; {len(head)} of 20 bytes are there", offset=len(head))
    major, kind = head[12], head[15]
    if major != 2:
        raise FormatError(path, f"Event Stream version {major}; only version 2 is known", offset=12)
    if kind != 1:
        name = ES_TYPES[kind] if kind < len(ES_TYPES) else kind
        raise FormatError(path, f"Event Stream of {name} events; only dvs events are known", offset=15)
    width, height = struct.unpack_from("<HH", head, 16)
    source = Source(path, "es", (), (height, width), {})
    source.most = path.stat().st_size // 5
    source.chunks = _es_chunks(path, height, source, options)
    return source


def _es_chunks(path: Path, height: int, source: Source, options: ReadOptions) -> Iterator[Columns]:
    decoder = Decoder("es", np.dtype(np.uint8), least=ES_EVENT, state=(0, height))
    size, at, rest = path.stat().st_size, 20, 0
    block = np.empty(ES_EVENT + recording.BLOCK_BYTES, np.uint8)
    with path.open("rb", buffering=0) as file:
        file.seek(at)
        while read := read_fully(file, block.data[rest : rest + recording.BLOCK_BYTES]):
            data, used = block[: rest + read], 0
            for piece, taken in decoder.pieces(data, source.room):
                used = taken
                yield piece
            rest = len(data) - used  # the first bytes of an event that the next block completes
            block[:rest] = data[used:].copy()
            at += read
            if options.progress is not None:
                options.progress(at, size)
    if rest:
        problem = f"the file ends in an event; {rest} of {ES_EVENT} bytes are there"
        mend_or_raise(path, source.info, options, problem, mended="keeps the events before it", offset=at - rest)


def looks_like_nmnist(path: Path, head: bytes) -> bool:
    """True if a file without a signature consists of 5-byte records with growing times and small pixels."""
    if path.stat().st_size % 5 or len(head) < 40 or head.isascii():
        return False
    record = np.frombuffer(head[: len(head) // 5 * 5], np.uint8).reshape(-1, 5)
    t, x, y = _nmnist_fields(record)
    pixel = y != 240
    grows = bool((np.diff(t[pixel]) >= 0).mean() > 0.99) if pixel.sum() > 1 else False
    return grows and int(x[pixel].max(initial=0)) < 240 and int(y[pixel].max(initial=0)) < 180 and int(t.max()) > 0


def open_nmnist(path: Path, options: ReadOptions) -> Source:
    """Opens a file of N-MNIST or N-Caltech101: column, row, then polarity and 23 bits of time, high byte first.

    Row 240 marks a wrap of the camera's 13-bit clock (the authors' reader: https://www.garrickorchard.com/datasets).
    """
    source = Source(path, "nmnist", (), NMNIST_HW, {})
    source.most = path.stat().st_size // NMNIST_RECORD.itemsize
    plain = replace(options, repair=True, progress=None)  # only a look; the cut end is told below
    for records in walk_records(path, 0, NMNIST_RECORD, Source(path, "nmnist", ()), plain):
        _, x, y = _nmnist_fields(records.view(np.uint8).reshape(-1, 5))
        pixel = y != 240
        if x[pixel].max(initial=0) >= NMNIST_HW[1] or y[pixel].max(initial=0) >= NMNIST_HW[0]:
            source.sensor_hw = None
            break
    source.chunks = decode_records(path, 0, Decoder("nmnist", NMNIST_RECORD, state=(0,)), source, options)
    return source


def _nmnist_fields(record: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wide = record.astype(np.int64)
    return ((wide[:, 2] & 0x7F) << 16) | (wide[:, 3] << 8) | wide[:, 4], record[:, 0], record[:, 1]
