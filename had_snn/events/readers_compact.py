"""Two compact encodings: Event Stream (`.es`) and the 5-byte records of N-MNIST (`.bin`)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError
from had_snn.events.recording import Columns, ReadOptions, Source, mend_or_raise

ES_MAGIC = b"Event Stream"
ES_TYPES = ("generic", "dvs", "atis", "amd", "color")
ES_RESET, ES_OVERFLOW, ES_STEP = 0xFE, 0xFF, 127
BLOCK = 1 << 20
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
    size, at, last_t = path.stat().st_size, 20, 0
    rest = b""
    with path.open("rb") as file:
        file.seek(at)
        while block := file.read(BLOCK):
            data = np.frombuffer(rest + block, np.uint8)
            starts, overflows, used = _es_starts(data)
            record = data[starts[:, None] + np.arange(5)] if len(starts) else np.empty((0, 5), np.uint8)
            steps = (record[:, 0] >> 1).astype(np.int64) + ES_STEP * np.diff(overflows[:-1], prepend=0)
            t = last_t + np.cumsum(steps)
            # Overflows after the last whole event belong to the next one.
            last_t = (int(t[-1]) if len(t) else last_t) + ES_STEP * int(
                overflows[-1] - (overflows[-2] if len(t) else 0)
            )
            words = np.ascontiguousarray(record[:, 1:]).view("<u2")
            y = height - 1 - words[:, 1].astype(np.int32)
            yield Columns(t, words[:, 0].astype(np.int32), y, (record[:, 0] & 1).astype(np.int8))
            rest = bytes(data[used:])
            at += used
            if options.progress is not None:
                options.progress(at, size)
    if rest:
        problem = f"the file ends in an event; {len(rest)} of 5 bytes are there"
        mend_or_raise(path, source.info, options, problem, mended="keeps the events before it", offset=size - len(rest))


def _es_starts(data: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """First bytes of the whole events, overflow bytes before each (and, last, before the end), and bytes used."""
    starts: list[np.ndarray] = []
    overflows: list[np.ndarray] = []
    raw, size = data.tobytes(), len(data)
    at, seen = 0, 0
    stride = 64
    while at < size:
        # Runs of events without overflow are found by looking only at every fifth byte.
        heads = data[at : at + 5 * stride : 5]
        whole = min(len(heads), (size - at) // 5)
        special = np.flatnonzero(heads[:whole] >= ES_RESET)
        run = int(special[0]) if len(special) else whole
        if run:
            starts.append(at + 5 * np.arange(run))
            overflows.append(np.full(run, seen))
            at += 5 * run
        stride = min(stride * 4, 1 << 16) if run == stride else 64
        # Where events are sparse, most are preceded by an overflow; then a plain walk is faster.
        slow_starts: list[int] = []
        slow_seen: list[int] = []
        while at < size and run < 16 and len(slow_starts) < 4096:
            head = raw[at]
            if head >= ES_RESET:
                seen += head == ES_OVERFLOW
                at += 1
            elif at + 5 <= size:
                slow_starts.append(at)
                slow_seen.append(seen)
                at += 5
            else:
                break
        starts.append(np.array(slow_starts, np.int64))
        overflows.append(np.array(slow_seen, np.int64))
        if at < size:
            head = raw[at]
            if head >= ES_RESET:
                seen += head == ES_OVERFLOW
                at += 1
            elif at + 5 > size:
                break
    overflows.append(np.array([seen]))
    return np.concatenate([np.empty(0, np.int64), *starts]), np.concatenate(overflows).astype(np.int64), at


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
    """Opens a file of N-MNIST or N-Caltech101: column, row, then polarity and 23 bits of time, high byte first."""
    info: dict = {}
    size = path.stat().st_size
    record = np.fromfile(path, np.uint8, size // 5 * 5).reshape(-1, 5)
    t, x, y = _nmnist_fields(record)
    # Row 240 marks a wrap of the camera's 13-bit clock (the authors' reader: https://www.garrickorchard.com/datasets).
    wraps = y == 240
    if wraps.any():
        t = t + np.cumsum(wraps) * (1 << 13)
    keep = ~wraps
    fits = not keep.any() or (x[keep].max() < 34 and y[keep].max() < 34)
    source = Source(path, "nmnist", (), NMNIST_HW if fits else None, info)

    def chunks() -> Iterator[Columns]:
        yield Columns(t[keep], x[keep], y[keep], (record[keep, 2] >> 7).astype(np.int8))
        if size % 5:
            problem = f"the file ends in a record; {size % 5} of 5 bytes are there"
            kept = "keeps the records before it"
            mend_or_raise(path, info, options, problem, mended=kept, offset=size - size % 5)

    source.chunks = chunks()
    return source


def _nmnist_fields(record: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wide = record.astype(np.int64)
    return ((wide[:, 2] & 0x7F) << 16) | (wide[:, 3] << 8) | wide[:, 4], record[:, 0], record[:, 1]
