"""For `fuzz_readers.py`: small valid files to begin with, and what independent decoders make of any file."""

from __future__ import annotations

import io
import math
import re
import struct
import tempfile
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import reference_decoders as reference
from event_files import encoded, make_stream, stream_for
from table_files import NAMED, TEXT, WITH_FACTS, make_columns, write_table

from had_snn.recordings.aedat import _read_header as read_aedat_header
from had_snn.recordings.aedat4 import MAGIC
from had_snn.recordings.aedat4_writer import TABLE_POSITION_AT
from had_snn.recordings.evt import halves_are_swapped
from had_snn.recordings.prophesee import _encoding, read_header

Rows = list[tuple[int, int, int, int]]


def seeds(kind: str) -> Iterator[bytes]:
    """Contents of small valid files of a format."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {
            "text": ("csv",),
            "aedat": ("aedat1", "aedat2", "davis", "aedat3"),
            "evt3": ("raw",),
            "raw": ("raw", "evt2", "evt21"),
        }
        if kind == "bag":
            yield from _bags(folder)
            return
        for number, other in enumerate(kinds.get(kind, (kind,))):
            for count in (0, 3, 24):
                if count or other not in ("csv", "npz", "npy", "mat"):
                    yield encoded(folder, other, stream_for(other, count, number)).read_bytes()
        if kind in ("npy", "npz"):
            yield from _arrays(kind)
        if kind in ("text", "hdf5", "mat", "npy", "npz"):
            yield from _tables(kind, folder)
        if kind == "aedat4":
            yield _unpacked(encoded(folder, kind, make_stream(24)).read_bytes())
        if kind == "mat":
            yield _struct(folder)
        if kind in ("evt3", "raw"):
            words = [0x8001, 0x6002, 0x0003, 0x3004, 0x4FFF, 0x5055, 0x8002, 0x3804, 0x4123, 0xA001, 0xE123, 0xF001]
            yield b"% evt 3.0\n% geometry 1280x720\n% end\n" + np.array(words, "<u2").tobytes()


def _arrays(kind: str) -> Iterator[bytes]:
    stream = make_stream(8)
    arrays = [stream.to_structured(), np.stack([stream.x, stream.y, stream.t / 1e6, stream.p * 2 - 1.0], axis=1)]
    for array in arrays:
        file = io.BytesIO()
        if kind == "npy":
            np.save(file, array)
        else:
            np.savez_compressed(file, events=array)
        yield file.getvalue()


def _tables(kind: str, folder: Path) -> Iterator[bytes]:
    """Situations of the field: units, facts, polarities, clocks, cells."""
    columns = make_columns(n=12, span=4_000)
    forms = {"text": TEXT, "hdf5": ("hdf5", "hdf5_fields", "hdf5_matrix"), "mat": ("mat_struct", "mat_matrix")}
    forms |= {"npy": ("npy", "npy_fields"), "npz": ("npz", "npz_matrix")}
    clock = (columns["t"] + (1 << 32) - 3_000) % (1 << 32)
    for form in forms[kind]:
        # Words of no fixed length hang the HDF5 library where their heap is damaged.
        unit = np.bytes_("ns") if kind == "hdf5" else "ns"
        facts = {"time_unit": unit, "width": 346, "height": 260} if form in WITH_FACTS else {}
        for changed in (
            {},
            {"p": columns["p"] * 255},
            {"t": clock},
            {"p": columns["p"] * 2 - 1, "t": columns["t"] / 1e6},
        ):
            for named in {form in NAMED, False} if form in TEXT else {form in NAMED}:
                yield write_table(form, folder / "t", {**columns, **changed}, named=named, facts=facts).read_bytes()


def _unpacked(content: bytes) -> bytes:
    """An AEDAT4 file of this package's writer without the compression, so that changes reach the packets' content."""
    import lz4.frame

    (size,) = struct.unpack_from("<I", content, len(MAGIC))
    at = len(MAGIC) + 4 + size
    table_at = struct.unpack_from("<q", content, TABLE_POSITION_AT)[0]
    out = bytearray(content[:at])
    struct.pack_into("<qi", out, TABLE_POSITION_AT, -1, 0)
    while at < table_at:
        stream, size = struct.unpack_from("<ii", content, at)
        packet = lz4.frame.decompress(content[at + 8 : at + 8 + size])
        out += struct.pack("<ii", stream, len(packet)) + packet
        at += 8 + size
    return bytes(out)


def _struct(folder: Path) -> bytes:
    import scipy.io

    stream = make_stream(12)
    fields = {"x": stream.x[:, None] + 1, "y": stream.y[:, None] + 1, "ts": stream.t[:, None], "p": stream.p[:, None]}
    scipy.io.savemat(folder / "td.mat", {"TD": fields})
    return (folder / "td.mat").read_bytes()


def _bags(folder: Path) -> Iterator[bytes]:
    from bag_files import Bag

    stream = make_stream(24)
    for name in ("array", "packet"):
        with Bag(folder / name, 1) as bag:
            if name == "array":
                bag.events("/events", stream)
            else:
                bag.packet("/events", stream, "evt3", np.array([0x8001, 0x6002, 3, 0x2004, 0x2805], "<u2").tobytes())
        yield (folder / name).read_bytes()


def finish(found: Rows, recording: Any, repair: bool) -> Rows:
    """What repair makes of rows: those outside the sensor dropped, then sorted by time."""
    if repair and recording.info["sensor"] != "inferred":
        height, width = recording.events.sensor_hw
        found = [row for row in found if 0 <= row[1] < width and 0 <= row[2] < height]
    return sorted(found, key=lambda row: row[0]) if repair else found


def dropped(recording: Any) -> int:
    """Events that a reader says that it has dropped."""
    told = (repair.split(" ", 1) for repair in recording.info.get("repairs", ()))
    return sum(int(number) for number, what in told if what == "events outside the sensor: dropped")


def _words(path: Path, recording: Any, repair: bool) -> Rows:
    with path.open("rb") as file:
        header = read_header(file)
        data = file.read()
    kind, legacy = recording.info["encoding"], _encoding(header)[1]
    if kind == "evt21" and "format" not in header:
        legacy = halves_are_swapped(np.frombuffer(data[: 8 * 4096], np.uint8))
    dtype = {"evt2": "<u4", "evt21": "<u8", "evt3": "<u2"}[kind]
    size = np.dtype(dtype).itemsize
    words = np.frombuffer(data[: len(data) // size * size], dtype)
    if legacy and kind == "evt21":
        words = words.view("<u4").reshape(-1, 2)[:, ::-1].copy().view("<u8").reshape(-1)
    shift = int(header["t_offset"]) if header.get("t_offset", "").lstrip("-").isdecimal() else 0
    decode = {"evt2": reference.evt2, "evt21": reference.evt21, "evt3": reference.evt3}[kind]
    return [(t + shift, x, y, p) for t, x, y, p in decode(words.tolist())]


def _dat(path: Path, recording: Any, repair: bool) -> Rows:
    with path.open("rb") as file:
        read_header(file)
        data = file.read()[2:]
    return reference.dat(data[: len(data) // 8 * 8])


def _es(path: Path, recording: Any, repair: bool) -> Rows:
    return reference.es(path.read_bytes()[20:], recording.events.sensor_hw[0])


def _nmnist(path: Path, recording: Any, repair: bool) -> Rows:
    data = path.read_bytes()
    return reference.nmnist(data[: len(data) // 5 * 5])


def _aedat(path: Path, recording: Any, repair: bool) -> Rows:
    _, start = read_aedat_header(path)
    data, kind = path.read_bytes()[start:], recording.info["format"]
    if kind == "aedat3":
        return reference.aedat3(data)
    size = 6 if kind == "aedat1" else 8
    named = not recording.info["chip"].lower().endswith(("dvs128", "(not named)"))
    davis_hw = recording.events.sensor_hw if named and recording.events.sensor_hw != (128, 128) else None
    return reference.aedat(data[: len(data) // size * size], size // 4, davis_hw)


def _aedat4(path: Path, recording: Any, repair: bool) -> Rows | None:
    if repair or recording.info["stream"] is None:
        return None
    import aedat

    try:
        packets = [p for p in aedat.Decoder(path) if p["stream_id"] == recording.info["stream"] and "events" in p]
    except BaseException:  # noqa: BLE001  # what it refuses tells nothing
        return None
    return [(int(e["t"]), int(e["x"]), int(e["y"]), int(e["on"])) for p in packets for e in p["events"]]


def _array(path: Path, recording: Any, repair: bool) -> Rows | None:
    if repair:
        return None
    try:
        loaded = np.load(path, allow_pickle=False)
        arrays = dict(loaded.items()) if recording.info["format"] == "npz" else {"array": loaded}
        if len(arrays) != 1:
            return None
    except Exception:  # noqa: BLE001  # a damaged member that is not the events
        return None
    (array,), info = arrays.values(), recording.info
    if array.dtype.names:
        columns = [array.reshape(-1)[n] for n in info["names"]]
    else:
        columns = list(array.T if array.shape[1] == len(info["columns"]) else array)
    role = dict(zip(info["columns"], columns, strict=False))
    return _rows_of(role, info)


def _rows_of(role: dict[str, np.ndarray], info: dict[str, Any]) -> Rows:
    """Rows of a file's columns, by what its reader says that they are."""
    exponent, offset = _EXPONENTS.get(info["time_unit"]), info.get("t_offset", 0)
    assert exponent is not None, info
    on = int(info["polarity"].split("/")[1])
    t = role["t"].view(np.int64) if role["t"].dtype.kind in "mM" else role["t"]
    if t.dtype.kind == "f":
        times = np.rint(t.astype(np.float64) * 10.0**exponent).astype(np.int64).tolist()
        times = [v + round(Fraction(offset) * Fraction(10) ** exponent) for v in times]
    else:
        times = [_half_up((v + Fraction(offset)) * Fraction(10) ** exponent) for v in t.tolist()]
    x, y = ([math.floor(v + 0.5) - info["origin"] for v in role[n].tolist()] for n in "xy")
    return list(zip(times, x, y, (int(v) for v in (role["p"] == on)), strict=True))


def _half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


_EXPONENTS = {"s": 6, "ms": 3, "us": 0, "ns": -3, "ps": -6} | {f"1e{n - 6} s": n for n in range(-9, 10)}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?")


def _text(path: Path, recording: Any, repair: bool) -> Rows | None:
    """Plain text, with Python's exact fractions; other forms of cells are left to the tests."""
    try:
        lines = path.read_bytes().decode("ascii").split("\n")
    except UnicodeDecodeError:
        return None
    if repair or any(set(line) & set("\"'()[]{}\r\v\f\x1c\x1d\x1e\x1f") for line in lines):
        return None
    info, width = recording.info, len(recording.info["columns"])
    table: list[list[Fraction]] = []
    for line in lines:
        tokens = re.split(r"[ \t,;]+", line.strip(" \t,;"))
        if not tokens[0] or line.lstrip(" \t,;")[:1] in "#%" or (line[:1] == "/" and not table):
            continue
        if all(_NUMBER.fullmatch(token) for token in tokens):
            if len(tokens) == width:
                table.append([Fraction(token) for token in tokens])
            elif table:
                return None
        elif table or ";" in line:
            return None  # words for polarities, decimal commas
    role = {name: [row[i] for row in table] for i, name in enumerate(info["columns"])}
    scale, on, origin = Fraction(10) ** _EXPONENTS[info["time_unit"]], info["polarity"].split("/")[1], info["origin"]
    t = [_half_up(v * scale) + round(Fraction(info.get("t_offset", 0)) * scale) for v in role["t"]]
    x, y = ([_half_up(v) - origin for v in role[n]] for n in "xy")
    return list(zip(t, x, y, (int(v == int(on)) for v in role["p"]), strict=True))


def _hdf5(path: Path, recording: Any, repair: bool) -> Rows | None:
    import h5py

    if repair:
        return None
    info = recording.info
    with h5py.File(path, "r") as file:
        place = file[info["stream"]]
        if not hasattr(place, "keys") or len(place) != 4 or any(d.ndim != 1 for d in place.values()):
            return None
        columns = [d[:] for d in place.values()]
    return _rows_of(dict(zip(info["columns"], columns, strict=True)), info)


# Each gives a file's events as an independent decoder finds them, before anything is repaired; None where it cannot.
EXPECTED: dict[str, Callable[[Path, Any, bool], Rows | None]] = {
    "evt2": _words,
    "evt21": _words,
    "evt3": _words,
    "raw": _words,
    "dat": _dat,
    "es": _es,
    "nmnist": _nmnist,
    "aedat": _aedat,
    "aedat4": _aedat4,
    "npy": _array,
    "npz": _array,
    "text": _text,
    "hdf5": _hdf5,
}
