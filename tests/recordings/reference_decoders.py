"""The binary formats read one record at a time, as their descriptions say: slow, and the judge of the real decoders.

Each takes the data behind the header and returns rows `(t, x, y, p)` in the file's own numbering.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

Row = tuple[int, int, int, int]


class Clock:
    """Counts the wraps of a counter: a drop of more than half its range is one."""

    def __init__(self, bits: int) -> None:
        self.period, self.loops, self.last = 1 << bits, 0, None

    def extend(self, value: int) -> int:
        """The value as it would be in a wider counter."""
        if self.last is not None and value - self.last < -(self.period >> 1):
            self.loops += 1
        self.last = value
        return value + self.loops * self.period


def evt2(words: Iterable[int]) -> list[Row]:
    """EVT2: `words` are 32-bit numbers."""
    out, clock, high = [], Clock(28), None
    for word in words:
        kind = word >> 28
        if kind == 8:
            high = clock.extend(word & 0xFFFFFFF)
        elif kind <= 1 and high is not None:
            out.append(((high << 6) + (word >> 22 & 63), word >> 11 & 0x7FF, word & 0x7FF, kind))
    return out


def evt21(words: Iterable[int]) -> list[Row]:
    """EVT2.1: `words` are 64-bit numbers, kind in the highest bits."""
    out, clock, high = [], Clock(28), None
    for word in words:
        kind = word >> 60
        if kind == 8:
            high = clock.extend(word >> 32 & 0xFFFFFFF)
        elif kind <= 1 and high is not None:
            t, x, y = (high << 6) + (word >> 54 & 63), word >> 43 & 0x7FF, word >> 32 & 0x7FF
            out += [(t, x + bit, y, kind) for bit in range(32) if word >> bit & 1]
    return out


def evt3(words: Iterable[int]) -> list[Row]:
    """EVT3: `words` are 16-bit numbers."""
    out, clock, high, low, y, base, p = [], Clock(12), None, 0, None, 0, 0
    for word in words:
        kind, value = word >> 12, word & 0xFFF
        if kind == 0:
            y = value & 0x7FF
        elif kind == 8:
            if high is None or value != high % 4096:
                low = 0
            high = clock.extend(value)
        elif kind == 6 and high is not None:
            low = value
        elif kind == 3:
            base, p = value & 0x7FF, value >> 11
        known = high is not None and y is not None
        t = ((high or 0) << 12) + low
        if kind == 2 and known:
            out.append((t, value & 0x7FF, y, value >> 11))
        elif kind in (4, 5):
            size = 12 if kind == 4 else 8
            if known:
                out += [(t, min(base + bit, 65535), y, p) for bit in range(size) if value >> bit & 1]
            base += size
    return out


def dat(data: bytes) -> list[Row]:
    """DAT: 8-byte records."""
    clock = Clock(32)
    return [
        (clock.extend(t), word & 0x3FFF, word >> 14 & 0x3FFF, word >> 28 & 1)
        for t, word in struct.iter_unpack("<II", data)
    ]


def es(data: bytes, height: int) -> list[Row]:
    """Event Stream: overflow and reset bytes, 5-byte events; rows from the bottom."""
    out, t, at = [], 0, 0
    while at < len(data):
        head = data[at]
        if head >= 0xFE:
            t += 127 * (head == 0xFF)
            at += 1
        elif at + 5 <= len(data):
            x, y = struct.unpack_from("<HH", data, at + 1)
            t += head >> 1
            out.append((t, x, height - 1 - y, head & 1))
            at += 5
        else:
            break
    return out


def nmnist(data: bytes) -> list[Row]:
    """N-MNIST: 5-byte records; row 240 marks a wrap of a 13-bit clock."""
    out, wraps = [], 0
    for x, y, a, b, c in struct.iter_unpack("5B", data):
        if y == 240:
            wraps += 1
        else:
            out.append((((a & 0x7F) << 16 | b << 8 | c) + (wraps << 13), x, y, a >> 7))
    return out


def aedat(data: bytes, version: int, davis_hw: tuple[int, int] | None) -> list[Row]:
    """AEDAT 1 and 2: big-endian addresses and times; DVS128, or a DAVIS of the given size."""
    out, clock = [], Clock(32)
    for address, raw in struct.iter_unpack(">HI" if version == 1 else ">II", data):
        t = clock.extend(raw)
        if davis_hw is None:
            if address >> 15 == 0:
                out.append((t, 127 - (address >> 1 & 0x7F), 127 - (address >> 8 & 0x7F), 1 - (address & 1)))
        elif address & 0x80000400 == 0:
            x, y = davis_hw[1] - 1 - (address >> 12 & 0x3FF), davis_hw[0] - 1 - (address >> 22 & 0x1FF)
            out.append((t, x, y, address >> 11 & 1))
    return out


def aedat3(data: bytes) -> list[Row]:
    """AEDAT 3: packets of one event type; only whole packets of valid polarity events (type 1) tell anything."""
    out, at = [], 0
    while at + 28 <= len(data):
        kind, _, size, _, overflow, _, count, _ = struct.unpack_from("<hhiiiiii", data, at)
        at += 28
        if size <= 0 or count < 0 or at + size * count > len(data):
            break
        if kind == 1 and size == 8:
            for word, t in struct.iter_unpack("<Ii", data[at : at + 8 * count]):
                if word & 1:
                    out.append((t + (overflow << 31), word >> 17 & 0x7FFF, word >> 2 & 0x7FFF, word >> 1 & 1))
        at += size * count
    return out
