"""What is inside the packets of AEDAT4 files: compressed FlatBuffers, read with every bound checked."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from had_snn.errors import optional_import

MAX_PACKET = 1 << 30  # bytes after decompression; real packets are thousands of times smaller


class Broken(Exception):
    """A packet that does not hold what it should."""


def decompressor(name: str) -> Callable[[bytes], bytes]:
    if name == "none":
        return lambda raw: raw
    if name == "lz4":
        frame = optional_import("lz4.frame", extra="data")

        def unpack_lz4(raw: bytes) -> bytes:
            decoder = frame.LZ4FrameDecompressor()
            try:
                # One event byte never comes from less than 1/255 compressed byte, so this bound refuses forged sizes.
                out = decoder.decompress(raw, max_length=min(MAX_PACKET, 255 * len(raw) + 64))
            except RuntimeError as error:
                raise Broken(str(error)) from error
            if not decoder.eof:
                raise Broken("LZ4 data ends early")
            return out

        return unpack_lz4
    zstandard = optional_import("zstandard", extra="data")

    def unpack_zstd(raw: bytes) -> bytes:
        reader, pieces = zstandard.ZstdDecompressor().stream_reader(raw), []
        try:
            while piece := reader.read(1 << 20):
                pieces.append(piece)
                if len(pieces) > MAX_PACKET >> 20:
                    raise Broken(f"unpacks to more than {MAX_PACKET} bytes")
        except zstandard.ZstdError as error:
            raise Broken(str(error)) from error
        return b"".join(pieces)

    return unpack_zstd


class Table:
    """One FlatBuffer table; every access is bounds-checked."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at
        (back,) = self._unpack("<i", at)
        self.fields_at = at - back
        (self.fields_size,) = self._unpack("<H", self.fields_at)

    @classmethod
    def root(cls, data: bytes, identifier: bytes) -> Table:
        """The outermost table of a FlatBuffer that carries `identifier`."""
        if data[4:8] != identifier:
            raise Broken(f"found {bytes(data[4:8])!r} where {identifier!r} was expected")
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _unpack(self, form: str, at: int) -> tuple:
        if at < 0 or at + struct.calcsize(form) > len(self.data):
            raise Broken("an offset points outside the packet")
        return struct.unpack_from(form, self.data, at)

    def _field(self, index: int) -> int | None:
        slot = 4 + 2 * index
        if slot + 2 > self.fields_size:
            return None
        (offset,) = self._unpack("<H", self.fields_at + slot)
        return self.at + offset if offset else None

    def scalar(self, index: int, form: str, default: int) -> int:
        """A number field, or its default when absent."""
        at = self._field(index)
        return default if at is None else self._unpack(form, at)[0]

    def vector(self, index: int, itemsize: int = 1) -> np.ndarray:
        """A vector field as bytes, uint8 `[length * itemsize]`; empty when absent."""
        at = self._field(index)
        if at is None:
            return np.empty(0, np.uint8)
        start = at + self._unpack("<I", at)[0]
        (length,) = self._unpack("<I", start)
        if start + 4 + length * itemsize > len(self.data):
            raise Broken(f"a vector of {length} items ends outside the packet")
        return np.frombuffer(self.data, np.uint8, length * itemsize, start + 4)


def root_of_packet(raw: bytes, identifier: bytes) -> Table:
    if len(raw) < 16:
        raise Broken(f"only {len(raw)} bytes")
    return Table.root(raw[4:], identifier)  # the first four bytes repeat the size
