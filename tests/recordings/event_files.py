"""Small recordings in formats that the package only reads: encoders written from the formats' descriptions."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from had_snn.events.stream import EventStream
from had_snn.recordings.writers import write_events


def make_stream(n=40, sensor_hw=(128, 128), seed=0, t0=1_000, span=3_000) -> EventStream:
    rng = np.random.default_rng(seed)
    return EventStream.from_arrays(
        t=np.sort(rng.integers(t0, t0 + span, n)),
        x=rng.integers(0, sensor_hw[1], n),
        y=rng.integers(0, sensor_hw[0], n),
        p=rng.integers(0, 2, n),
        sensor_hw=sensor_hw,
    )


def rows(stream) -> list[tuple[int, int, int, int]]:
    return list(zip(*(getattr(stream, name).tolist() for name in "txyp"), strict=True))


def evt2_words(stream) -> list[int]:
    words, high = [], None
    for t, x, y, p in rows(stream):
        if t >> 6 != high:
            high = t >> 6
            words += [0x8 << 28 | high & 0xFFFFFFF, 0xA << 28 | 7, 0xE << 28 | 1]  # a trigger and a vendor word too
        words.append(p << 28 | (t & 63) << 22 | x << 11 | y)
    return words


def encode_evt2(stream) -> bytes:
    height, width = stream.sensor_hw
    words = np.array(evt2_words(stream), "<u4").tobytes()
    return f"% evt 2.0\n% geometry {width}x{height}\n% end\n".encode() + words


def encode_evt21(stream, *, legacy=False) -> bytes:
    words, high = [], None
    for t, x, y, p in rows(stream):
        if t >> 6 != high:
            high = t >> 6
            words.append(0x8 << 60 | (high & 0xFFFFFFF) << 32)
        words.append(p << 60 | (t & 63) << 54 | (x // 32 * 32) << 43 | y << 32 | 1 << (x % 32))
    array = np.array(words, "<u8")
    if legacy:
        array = array.view("<u4").reshape(-1, 2)[:, ::-1].copy()
    height, width = stream.sensor_hw
    form = f"EVT21;{'endianness=legacy;' if legacy else ''}height={height};width={width}"
    return f"% format {form}\n% end\n".encode() + array.tobytes()


def encode_dat(stream) -> bytes:
    height, width = stream.sensor_hw
    head = (
        f"% Data file containing CD events.\n% Version 2\n% Height {height}\n% Width {width}\n".encode() + b"\x0c\x08"
    )
    return head + b"".join(struct.pack("<II", t & 0xFFFFFFFF, p << 28 | y << 14 | x) for t, x, y, p in rows(stream))


def encode_es(stream) -> bytes:
    height, width = stream.sensor_hw
    out, last = bytearray(b"Event Stream\x02\x00\x00\x01" + struct.pack("<HH", width, height)), 0
    for t, x, y, p in rows(stream):
        step, last = t - last, t
        out += b"\xff" * (step // 127) + bytes([(step % 127) << 1 | p]) + struct.pack("<HH", x, height - 1 - y)
    return bytes(out)


def encode_nmnist(stream) -> bytes:
    return b"".join(bytes([x, y]) + struct.pack(">I", t | p << 23)[1:] for t, x, y, p in rows(stream))


def encode_aedat1(stream) -> bytes:
    head = b"#!AER-DAT1.0\r\n# This is a raw AE data file\r\n"
    addresses = ((127 - y) << 8 | (127 - x) << 1 | (1 - p) for _, x, y, p in rows(stream))
    return head + b"".join(struct.pack(">HI", a, t) for a, t in zip(addresses, stream.t.tolist(), strict=True))


def encode_aedat2(stream) -> bytes:
    head = b"#!AER-DAT2.0\r\n# AEChip: ch.unizh.ini.jaer.chip.retina.DVS128\r\n"
    addresses = ((127 - y) << 8 | (127 - x) << 1 | (1 - p) for _, x, y, p in rows(stream))
    return head + b"".join(struct.pack(">II", a, t) for a, t in zip(addresses, stream.t.tolist(), strict=True))


def encode_davis(stream) -> bytes:
    head = b"#!AER-DAT2.0\r\n# AEChip: eu.seebetter.ini.chips.davis.Davis346blue\r\n"
    out = bytearray(head)
    for t, x, y, p in rows(stream):
        out += struct.pack(">II", 1 << 31 | 55, t)  # a picture sample, which is no event
        out += struct.pack(">II", (259 - y) << 22 | (345 - x) << 12 | p << 11, t)
    return bytes(out)


def encode_aedat3(stream) -> bytes:
    head = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
    out = bytearray(head)
    for start in range(0, len(stream), 16):
        part = rows(stream.slice_index(start, start + 16))
        out += struct.pack("<hhiiiiii", 2, 1, 4, 0, 0, 1, 1, 1) + bytes(4)  # a packet of another type
        out += struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, len(part), len(part), len(part))
        out += b"".join(struct.pack("<Ii", x << 17 | y << 2 | p << 1 | 1, t) for t, x, y, p in part)
    return bytes(out)


ENCODERS = {
    "evt2": encode_evt2,
    "evt21": encode_evt21,
    "dat": encode_dat,
    "es": encode_es,
    "nmnist": encode_nmnist,
    "aedat1": encode_aedat1,
    "aedat2": encode_aedat2,
    "davis": encode_davis,
    "aedat3": encode_aedat3,
}


def stream_for(kind: str, n: int = 40, seed: int = 0) -> EventStream:
    sensor_hw = {"nmnist": (34, 34), "davis": (260, 346), "evt2": (480, 640), "evt21": (720, 1280)}.get(
        kind, (128, 128)
    )
    return make_stream(n, sensor_hw, seed)


def encoded(tmp_path: Path, kind: str, stream: EventStream) -> Path:
    path = tmp_path / "e.bin"
    if kind in ENCODERS:
        path.write_bytes(ENCODERS[kind](stream))
    elif kind in ("npy", "mat"):
        table = np.stack([stream.t, stream.x, stream.y, stream.p], axis=1)
        if kind == "npy":
            np.save(tmp_path / "e.npy", table)
            (tmp_path / "e.npy").rename(path)
        else:
            import scipy.io

            scipy.io.savemat(path, {"events": table}, appendmat=False)
    else:
        write_events(stream, path, format=kind)
    return path
