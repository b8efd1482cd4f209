"""Prophesee files: RAW (a header of `%` lines, then EVT words) and DAT version 2 (8-byte records)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from had_snn.errors import FormatError
from had_snn.events.decoders import Columns, Decoder
from had_snn.events.readers_evt import evt_decoder, halves_are_swapped
from had_snn.events.recording import ReadOptions, Source, decode_records

MOST_HEADER = 1 << 16
DAT_RECORD = np.dtype("<u8")
_SENSOR_OF_PLUGIN = (("gen41|gen4|imx636", (720, 1280)), ("gen31|gen3", (480, 640)), ("genx320", (320, 320)))


def open_raw(path: Path, options: ReadOptions) -> Source:
    """Opens a RAW file; the header's `evt` or `format` line tells the encoding."""
    with path.open("rb") as file:
        header = read_header(file)
        start = file.tell()
    kind, legacy = _encoding(header)
    if kind is None:
        raise FormatError(path, "the header names no encoding (evt or format)", remedy="format=evt2, evt21 or evt3")
    return _open_evt(path, kind, legacy, start, header, options)


def open_evt(kind: str) -> Callable[[Path, ReadOptions], Source]:
    """An opener for a file whose encoding the caller states: `"evt2"`, `"evt21"` or `"evt3"`."""

    def opener(path: Path, options: ReadOptions) -> Source:
        with path.open("rb") as file:
            header = read_header(file)
            return _open_evt(path, kind, _encoding(header)[1], file.tell(), header, options)

    return opener


def read_header(file: IO[bytes]) -> dict[str, str]:
    """Reads the leading `% key value` lines and leaves the file at the first byte after them."""
    header: dict[str, str] = {}
    while file.tell() < MOST_HEADER:
        at = file.tell()
        line = file.readline(4096)
        # Data may begin with the byte of a percent sign; a header line is text after "% ".
        if not line.startswith(b"% ") or not line.endswith(b"\n") or not line.isascii():
            if line.strip() != b"%" or not line.endswith(b"\n"):
                file.seek(at)
                break
            continue
        key, _, value = line[2:].decode("ascii").strip().partition(" ")
        header[key.lower()] = value.strip()
        if key.lower() == "end":
            break
    return header


def is_raw(header: dict[str, str]) -> bool:
    """True if a header names an encoding of RAW files."""
    return _encoding(header)[0] is not None


def is_dat(header: dict[str, str]) -> bool:
    """True if a header is that of a DAT file."""
    return header.get("data", "").lower().startswith("file") or ("version" in header and not is_raw(header))


def _encoding(header: dict[str, str]) -> tuple[str | None, bool]:
    """Encoding and whether EVT2.1's halves are swapped."""
    form = header.get("format", "").lower()
    name = re.sub(r"[^0-9]", "", form.split(";")[0] or header.get("evt", ""))
    legacy = "endianness=legacy" in form
    kinds = {"2": "evt2", "20": "evt2", "21": "evt21", "3": "evt3", "30": "evt3"}
    return (kinds.get(name) if form.startswith("evt") or "evt" in header else None), legacy


def _sensor(header: dict[str, str]) -> tuple[int, int] | None:
    text = f"{header.get('geometry', '')};{header.get('format', '')}"
    if match := re.match(r"(\d+)x(\d+)", text):
        return int(match[2]), int(match[1])
    width = re.search(r"width=(\d+)", text) or re.match(r"(\d+)", header.get("width", ""))
    height = re.search(r"height=(\d+)", text) or re.match(r"(\d+)", header.get("height", ""))
    if width and height and int(width[1]) and int(height[1]):
        return int(height[1]), int(width[1])
    for names, sensor_hw in _SENSOR_OF_PLUGIN:
        if re.search(names, header.get("plugin_name", "").lower()):
            return sensor_hw
    return None


def _open_evt(path: Path, kind: str, legacy: bool, start: int, header: dict[str, str], options: ReadOptions) -> Source:
    info = {"encoding": kind, "header": header}
    source = Source(path, "raw", (), _sensor(header), info)
    if kind == "evt21" and "format" not in header:  # the oldest files do not tell the order of the halves
        with path.open("rb") as file:
            file.seek(start)
            legacy = halves_are_swapped(np.frombuffer(file.read(8 * 4096 // 8 * 8), np.uint8))
    decoder = evt_decoder(kind, legacy=legacy)
    source.most = (path.stat().st_size - start) // decoder.word.itemsize
    shift = int(header["t_offset"]) if re.fullmatch(r"-?\d+", header.get("t_offset", "")) else 0

    def chunks() -> Iterator[Columns]:
        for events in decode_records(path, start, decoder, source, options):
            yield events._replace(t=events.t + shift) if shift else events

    source.chunks = chunks()
    return source


def open_dat(path: Path, options: ReadOptions) -> Source:
    """Opens a DAT file of version 2; its 32-bit time is extended where it wraps (every 71 minutes)."""
    with path.open("rb") as file:
        header = read_header(file)
        start = file.tell()
        kind = file.read(2)
    version = header.get("version", "2")
    if version != "2":
        raise FormatError(path, f"DAT version {version}; only version 2 is known")
    if len(kind) < 2 or kind[1] != DAT_RECORD.itemsize or kind[0] == 14:
        raise FormatError(path, f"DAT record type {kind!r}; expected change events of 8 bytes", offset=start)
    source = Source(path, "dat", (), _sensor(header), {"header": header})
    source.most = (path.stat().st_size - start - 2) // DAT_RECORD.itemsize

    source.chunks = decode_records(path, start + 2, Decoder("dat", DAT_RECORD), source, options)
    return source
