"""AEDAT 1, 2 and 3, the formats of jAER and cAER: a text header, then big- or little-endian address events.

Addresses of version 1 and 2 depend on the chip. Rows are counted from the top here, as everywhere in this package;
jAER counts them from the bottom (https://docs.inivation.com/software/software-advanced-usage/file-formats/).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError
from had_snn.events.decoders import Columns, Decoder
from had_snn.events.recording import ReadOptions, Source, decode_records, logger, mend_or_raise

MOST_HEADER = 1 << 22
RECORDS = {1: np.dtype((np.void, 6)), 2: np.dtype((np.void, 8))}  # address of 2 or 4 bytes, time of 4
POLARITY_DTYPE = np.dtype([("data", "<u4"), ("t", "<i4")])
PACKET_HEADER = struct.Struct("<hhiiiiii")
CHIPS_HW = (
    ("davis640", (480, 640)),
    ("davis346", (260, 346)),
    ("davis240", (180, 240)),
    ("sbret", (180, 240)),
    ("davis208", (192, 208)),
    ("davis128", (128, 128)),
    ("davis", (180, 240)),
    ("dvs640", (480, 640)),
)


def open_aedat(path: Path, options: ReadOptions) -> Source:
    """Opens an AEDAT file of version 1, 2 or 3.

    Args:
        path: The file.
        options: `sensor_hw` decides among DAVIS chips where the header names none.

    Returns:
        The source. Version 1 and 2 without a chip in the header are DVS128.

    Raises:
        FormatError: If the header is damaged or names a version this does not know.
    """
    lines, start = _read_header(path)
    if not lines:
        raise FormatError(path, "the file ends in its first line", offset=start)
    version = lines[0][len("#!AER-DAT") :].strip()
    if version.startswith("3"):
        return _open_version_3(path, start, lines, options)
    if version[:1] not in ("1", "2"):
        raise FormatError(path, f"AEDAT version {version!r}; known are 1, 2, 3 and 4", offset=0)
    dtype = RECORDS[int(version[0])]
    chip = next((line.split(":", 1)[1].strip() for line in lines if "AEChip:" in line), "")
    davis_hw = next((hw for name, hw in CHIPS_HW if name in chip.lower()), None)
    if davis_hw is not None and dtype.itemsize == 8:
        davis_hw = options.sensor_hw or davis_hw
    tick = next((line for line in lines if "Timestamps tick" in line), "1 us")
    if "1 us" not in tick:
        logger.warning("%s: %s; read as microseconds", path, tick.lstrip("# "))
    sensor_hw = davis_hw or (128, 128)
    source = Source(path, f"aedat{version[0]}", (), sensor_hw, {"chip": chip or "DVS128 (not named)"})
    source.most = (path.stat().st_size - start) // dtype.itemsize

    height, width = davis_hw or (0, 0)
    decoder = Decoder("aedat", dtype, state=(-1, dtype.itemsize - 4, width, height))
    source.chunks = decode_records(path, start, decoder, source, options)
    return source


def _read_header(path: Path) -> tuple[list[str], int]:
    """Lines that start with `#`, and where the data begins."""
    lines: list[str] = []
    with path.open("rb") as file:
        while file.tell() < MOST_HEADER:
            at = file.tell()
            line = file.readline(1 << 16)
            if (
                line.startswith(b"#")
                and not line.endswith(b"\n")
                and line.isascii()
                and line.decode().rstrip("\r").isprintable()
            ):
                raise FormatError(path, "the file ends in its header", offset=at)
            # Data may begin with the byte of "#"; a header line is text up to its line end.
            if not line.startswith(b"#") or not line.endswith(b"\n") or b"\0" in line:
                return lines, at
            lines.append(line.decode("latin-1").strip())
            if line.startswith(b"#!END-HEADER") or (line.startswith(b"# End of ASCII Header")):
                return lines, file.tell()
    raise FormatError(path, f"no end of the header within {MOST_HEADER} bytes", offset=MOST_HEADER)


def _open_version_3(path: Path, start: int, lines: list[str], options: ReadOptions) -> Source:
    """Version 3: packets of one event type each; rows count from the top already."""
    if not any(line.startswith("#!END-HEADER") for line in lines):
        raise FormatError(path, "the AEDAT 3 header has no end", offset=start)
    if not any("RAW" in line.upper() for line in lines if line.startswith("#Format")):
        raise FormatError(path, "compressed AEDAT 3; only RAW is known", remedy="convert it with cAER or DV")
    source = Source(path, "aedat3", (), None, {"header": lines})
    size = path.stat().st_size

    def chunks() -> Iterator[Columns]:
        at = start
        with path.open("rb") as file:
            while at < size:
                file.seek(at)
                head = file.read(PACKET_HEADER.size)
                fields = PACKET_HEADER.unpack(head) if len(head) == PACKET_HEADER.size else (0,) * 8
                kind, _, event_size, _, overflow, _, count, _ = fields
                body = at + PACKET_HEADER.size
                if event_size <= 0 or count < 0 or body + event_size * count > size:
                    problem = "the file ends in a packet, or the packet is damaged"
                    mend_or_raise(path, source.info, options, problem, mended="keeps the packets before it", offset=at)
                    return
                if kind == 1 and event_size == POLARITY_DTYPE.itemsize:
                    yield _polarity_packet(np.fromfile(file, POLARITY_DTYPE, count), overflow)
                at = body + event_size * count
                if options.progress is not None:
                    options.progress(at, size)

    source.chunks = chunks()
    return source


def _polarity_packet(records: np.ndarray, overflow: int) -> Columns:
    data = records["data"][(records["data"] & 1) == 1]
    t = records["t"][(records["data"] & 1) == 1].astype(np.int64) + (overflow << 31)
    x, y = (data >> 17) & 0x7FFF, (data >> 2) & 0x7FFF
    return Columns(t, x.astype(np.uint16), y.astype(np.uint16), ((data >> 1) & 1).astype(np.int8))
