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
from had_snn.recordings.decoders import Columns, Decoder
from had_snn.recordings.recording import ReadOptions, Source, decode_records, logger, mend_or_raise

MOST_HEADER = 1 << 22
RECORDS = {1: np.dtype((np.void, 6)), 2: np.dtype((np.void, 8))}  # address of 2 or 4 bytes, time of 4
POLARITY_DTYPE = np.dtype([("data", "<u4"), ("t", "<i4")])
PACKET_HEADER = struct.Struct("<hhiiiiii")
CHIPS_HW = {
    "davis640": (480, 640),
    "davis346": (260, 346),
    "davis240": (180, 240),
    "sbret": (180, 240),
    "davis208": (192, 208),
    "davis128": (128, 128),
    "dvs640": (480, 640),
    "dvs128": (128, 128),
    "tmpdiff128": (128, 128),
}
PLAIN = ("dvs128", "tmpdiff128")  # without the DAVIS' pictures, and with addresses of 15 bits


def open_aedat(path: Path, options: ReadOptions) -> Source:
    """Opens an AEDAT file of version 1, 2 or 3.

    Args:
        path: The file.
        options: `sensor_hw` states the size of a DAVIS where the header names no chip, or one that is not known.

    Returns:
        The source. Version 1 and 2 without a chip in the header are DVS128.

    Raises:
        FormatError: If the header is damaged, or names a version or a chip that this does not know.
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
    davis_hw = _davis(path, chip, options, wide=dtype.itemsize == 8)
    tick = next((line for line in lines if "Timestamps tick" in line), "1 us")
    if "1 us" not in tick:
        logger.warning("%s: %s; read as microseconds", path, tick.lstrip("# "))
    sensor_hw = davis_hw or (128, 128)
    source = Source(path, f"aedat{version[0]}", (), sensor_hw, {"chip": chip or "DVS128 (not named)"})
    source.most = (path.stat().st_size - start) // dtype.itemsize

    height, width = davis_hw or (0, 0)
    decoder = Decoder("aedat", dtype, state=(-1, dtype.itemsize - 4, width, height))
    chunks = decode_records(path, start, decoder, source, options)
    if davis_hw is None and dtype.itemsize == 8 and not chip:
        _check_addresses(path, start)
    source.chunks = chunks
    return source


def _davis(path: Path, chip: str, options: ReadOptions, *, wide: bool) -> tuple[int, int] | None:
    """Height and width of the DAVIS whose addresses a file holds; None for a DVS128."""
    name = chip.rsplit(".", 1)[-1].lower()
    known = next((key for key in CHIPS_HW if name.startswith(key)), None)
    if known in PLAIN:
        return None
    if known is not None and wide:
        return options.sensor_hw or CHIPS_HW[known]
    if not chip:
        return options.sensor_hw if wide and tuple(options.sensor_hw or (128, 128)) != (128, 128) else None
    if wide and "davis" in name and options.sensor_hw is not None:
        return options.sensor_hw
    problem = f"recorded by the chip {chip}, whose addresses are not known; known are {', '.join(CHIPS_HW)}"
    states = "sensor_hw=(height, width) states the size of a DAVIS; jAER converts others"
    raise FormatError(path, problem, remedy=states)


def _check_addresses(path: Path, start: int) -> None:
    """Refuses a file that names no chip where its addresses are not those of a DVS128."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(8 * 4096)
    addresses = np.frombuffer(data[: len(data) // 8 * 8], ">u4")[::2]
    wide = int(np.count_nonzero(addresses >> 16))
    if wide:
        problem = f"its header names no chip, and {wide} of the first {len(addresses)} addresses are no DVS128's"
        raise FormatError(path, problem, remedy="sensor_hw=(height, width) states the size of a DAVIS")


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
    named = next((line.partition(":")[2].strip().lower() for line in lines if line.startswith("#Source")), "")
    sensor_hw = next((hw for key, hw in CHIPS_HW.items() if named.startswith(key)), None)
    source = Source(path, "aedat3", (), sensor_hw, {"header": lines})
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
