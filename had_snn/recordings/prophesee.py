"""Prophesee files: RAW (a header of `%` lines, then EVT words) and DAT version 2 (8-byte records)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings.decoders import Columns, Decoder
from had_snn.recordings.evt import evt_decoder, halves_are_swapped
from had_snn.recordings.facts import Facts, number_of
from had_snn.recordings.recording import ReadOptions, Source, decode_records

MOST_HEADER = 1 << 16
_CONTROLS = frozenset(range(0x20)) - {0x09} | {0x7F}
DAT_RECORD = np.dtype("<u8")
_LATEST = 1 << 62  # microseconds
_SENSOR_OF_PLUGIN = (("gen41|gen4|imx636", (720, 1280)), ("gen31|gen3", (480, 640)), ("genx320", (320, 320)))


def open_raw(path: Path, options: ReadOptions) -> Source:
    """Opens a RAW file; the header's `evt` or `format` line tells the encoding."""
    header, start = _header(path)
    kind, legacy = _encoding(header)
    if kind is None:
        named = foreign_encoding(header)
        if named is not None:
            raise unknown_encoding(path, named)
        raise FormatError(path, "the header names no encoding (evt or format)", remedy="format=evt2, evt21 or evt3")
    return _open_evt(path, kind, legacy, start, header, options)


def open_evt(kind: str) -> Callable[[Path, ReadOptions], Source]:
    """An opener for a file whose encoding the caller states: `"evt2"`, `"evt21"` or `"evt3"`."""

    def opener(path: Path, options: ReadOptions) -> Source:
        header, start = _header(path)
        named = _encoding(header)[0] or foreign_encoding(header)
        if named not in (None, kind):
            raise FormatError(path, f"format={kind} is stated, but its header says {named}", remedy="leave out format=")
        return _open_evt(path, kind, _encoding(header)[1], start, header, options)

    return opener


def _header(path: Path) -> tuple[dict[str, str], int]:
    """The header of a file, and where what follows it begins."""
    with path.open("rb") as file:
        return read_header(file), file.tell()


def read_header(file: IO[bytes]) -> dict[str, str]:
    """Reads the leading `% key value` lines and leaves the file at the first byte after them."""
    header: dict[str, str] = {}
    while file.tell() < MOST_HEADER:
        at = file.tell()
        line = file.readline(4096)
        # Data may begin with the byte of a percent sign; a header line is text after "% ", in any encoding.
        if not line.startswith(b"% ") or not line.endswith(b"\n") or not _CONTROLS.isdisjoint(line[:-1].rstrip(b"\r")):
            if line.strip() != b"%" or not line.endswith(b"\n"):
                file.seek(at)
                break
            continue
        key, _, value = line[2:].decode("latin-1").strip().partition(" ")
        header[key.lower()] = value.strip()
        if key.lower() == "end":
            break
    return header


def is_raw(header: dict[str, str]) -> bool:
    """True if a header names an encoding of RAW files."""
    return _encoding(header)[0] is not None


def foreign_encoding(header: dict[str, str]) -> str | None:
    """The encoding that a header names, if it is none of those that are known (EVT4, HISTO3D, DIFF3D, ...)."""
    if is_raw(header):
        return None
    if match := re.fullmatch(r"([A-Z][A-Z0-9_.-]+)(;.*)?", header.get("format", "")):
        return match[1]
    return f"EVT {header['evt']}" if re.fullmatch(r"\d+(\.\d+)?", header.get("evt", "")) else None


def unknown_encoding(path: Path, name: str) -> FormatError:
    """The refusal of a RAW file that holds something else than change events in a known encoding."""
    remedy = "record or convert it as one of these, e.g. with metavision_file_to_hdf5"
    return FormatError(path, f"RAW data encoded as {name}; known are EVT2, EVT2.1 and EVT3", remedy=remedy)


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


def _sensor(path: Path, header: dict[str, str], options: ReadOptions) -> tuple[int, int] | None:
    """The sensor that a header states: its geometry, its sides, or else the camera's plugin."""
    facts = Facts()
    if match := re.match(r"(\d+)\s*x\s*(\d+)", header.get("geometry", "")):
        facts.sensors.append(("geometry", (int(match[2]), int(match[1]))))
    sides = f"width={header.get('width', '')};height={header.get('height', '')}"
    for place, text in (("format", header.get("format", "")), ("width, height", sides)):
        width, height = (re.search(rf"{side}=(\d+)", text) for side in ("width", "height"))
        if width and height and int(width[1]) and int(height[1]):
            facts.sensors.append((place, (int(height[1]), int(width[1]))))
    if facts.sensors:
        return facts.sensor_hw(path, options)
    for names, sensor_hw in _SENSOR_OF_PLUGIN:
        if re.search(names, header.get("plugin_name", "").lower()):
            return sensor_hw
    return None


def _open_evt(path: Path, kind: str, legacy: bool, start: int, header: dict[str, str], options: ReadOptions) -> Source:
    info = {"encoding": kind, "header": header}
    source = Source(path, "raw", (), _sensor(path, header, options), info)
    if kind == "evt21" and "format" not in header:  # the oldest files do not tell the order of the halves
        with path.open("rb") as file:
            file.seek(start)
            legacy = halves_are_swapped(np.frombuffer(file.read(8 * 4096 // 8 * 8), np.uint8))
    decoder = evt_decoder(kind, legacy=legacy)
    source.most = (path.stat().st_size - start) // decoder.word.itemsize
    shift = _shift(path, header)

    def chunks() -> Iterator[Columns]:
        for events in decode_records(path, start, decoder, source, options):
            yield events._replace(t=events.t + shift) if shift else events

    source.chunks = chunks()
    return source


def _shift(path: Path, header: dict[str, str]) -> int:
    """Microseconds to add to all times: the header's `t_offset`."""
    text = header.get("t_offset", "0")
    shift = number_of(text)
    if shift is None or abs(shift) > _LATEST:
        raise FormatError(path, f"its header's t_offset is {text!r}; expected microseconds that fit 64 bits")
    return round(shift)


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
    source = Source(path, "dat", (), _sensor(path, header, options), {"header": header})
    source.most = (path.stat().st_size - start - 2) // DAT_RECORD.itemsize

    source.chunks = decode_records(path, start + 2, Decoder("dat", DAT_RECORD), source, options)
    return source
