"""For `fuzz_readers.py`: small valid files to begin with, and what independent decoders make of any file."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import reference_decoders as reference
from event_files import encoded, make_stream, stream_for

from had_snn.events.readers_aedat import _read_header as read_aedat_header
from had_snn.events.readers_aedat4 import MAGIC
from had_snn.events.readers_evt import halves_are_swapped
from had_snn.events.readers_prophesee import _encoding, read_header
from had_snn.events.writers_aedat4 import TABLE_POSITION_AT

Rows = list[tuple[int, int, int, int]]


def seeds(kind: str) -> Iterator[bytes]:
    """Contents of small valid files of a format."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {"aedat": ("aedat1", "aedat2", "davis", "aedat3"), "evt3": ("raw",), "raw": ("raw", "evt2", "evt21")}
        if kind == "bag":
            yield from _bags(folder)
            return
        for number, other in enumerate(kinds.get(kind, (kind,))):
            for count in (0, 3, 24):
                if count or other not in ("csv", "npz", "npy", "mat"):
                    yield encoded(folder, other, stream_for(other, count, number)).read_bytes()
        if kind in ("npy", "npz"):
            yield from _arrays(kind)
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


def _finish(found: Rows, recording: Any, repair: bool) -> Rows:
    """What repair makes of rows: those outside a sensor named by the file dropped, then sorted by time."""
    if repair and recording.info["sensor"] == "file":
        height, width = recording.events.sensor_hw
        found = [row for row in found if 0 <= row[1] < width and 0 <= row[2] < height]
    return sorted(found, key=lambda row: row[0]) if repair else found


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
    return _finish([(t + shift, x, y, p) for t, x, y, p in decode(words.tolist())], recording, repair)


def _dat(path: Path, recording: Any, repair: bool) -> Rows:
    with path.open("rb") as file:
        read_header(file)
        data = file.read()[2:]
    return _finish(reference.dat(data[: len(data) // 8 * 8]), recording, repair)


def _es(path: Path, recording: Any, repair: bool) -> Rows:
    return _finish(reference.es(path.read_bytes()[20:], recording.events.sensor_hw[0]), recording, repair)


def _nmnist(path: Path, recording: Any, repair: bool) -> Rows:
    data = path.read_bytes()
    return _finish(reference.nmnist(data[: len(data) // 5 * 5]), recording, repair)


def _aedat(path: Path, recording: Any, repair: bool) -> Rows:
    _, start = read_aedat_header(path)
    data, kind = path.read_bytes()[start:], recording.info["format"]
    if kind == "aedat3":
        return _finish(reference.aedat3(data), recording, repair)
    size = 6 if kind == "aedat1" else 8
    named = not recording.info["chip"].lower().endswith(("dvs128", "(not named)"))
    davis_hw = recording.events.sensor_hw if named and recording.events.sensor_hw != (128, 128) else None
    return _finish(reference.aedat(data[: len(data) // size * size], size // 4, davis_hw), recording, repair)


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
    exponent = {"s": 6, "ms": 3, "us": 0, "ns": -3}[info["time_unit"]]
    on = int(info["polarity"].split("/")[1])
    t = role["t"]
    if t.dtype.kind == "f":
        t = np.rint(t.astype(np.float64) * 10.0**exponent).astype(np.int64)
    else:
        t = t.astype(np.int64)
        t = t * 10**exponent if exponent >= 0 else (t + 500) // 1000
    x, y, p = (np.floor(role[n].astype(np.float64) + 0.5).astype(np.int64) for n in "xyp")
    origin = info["origin"]
    return list(
        zip(t.tolist(), (x - origin).tolist(), (y - origin).tolist(), (p == on).astype(int).tolist(), strict=True)
    )


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
}
