"""AEDAT4, the format of iniVation's DV software: events and frames of one or several cameras.

A file is a line `#!AER-DAT4.0`, a header (FlatBuffer `IOHE` with the compression and an XML list of streams), packets
(`int32` stream, `int32` size, then a compressed FlatBuffer) and, if it was closed properly, a table of the packets.
Layout: https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-4.0.html. Packets are decoded
here rather than by a package because a cut file must give every whole packet before the cut.
"""

from __future__ import annotations

import mmap
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings.aedat4_packets import Broken, Table, decompressor, root_of_packet
from had_snn.recordings.decoders import Columns, Room, fresh, gather
from had_snn.recordings.frame_depth import to_8_bits
from had_snn.recordings.recording import Frames, ReadOptions, Source, logger, mend_or_raise

MAGIC = b"#!AER-DAT4.0\r\n"
EVENT_DTYPE = np.dtype(
    {"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "u1"], "offsets": [0, 8, 10, 12], "itemsize": 16}
)
COMPRESSIONS = ("none", "lz4", "lz4", "zstd", "zstd")
CHANNELS = {0: 1, 16: 3, 24: 4, 2: 1, 18: 3, 26: 4}  # OpenCV type -> channels; 2, 18, 26 are 16 bits, unsigned


@dataclass(frozen=True)
class _Packet:
    stream: int
    start: int
    size: int


def open_aedat4(path: Path, options: ReadOptions) -> Source:
    """Opens an AEDAT4 file.

    Args:
        path: The file.
        options: `stream` picks among several event streams by id; the first is the default.

    Returns:
        The source; its frames are those of the first frame stream of the same camera.

    Raises:
        FormatError: If the header is damaged, or there is neither an event nor a frame stream.
    """
    found = Aedat4File(path, options)
    if found.events is None and found.pictures is None:
        types = ", ".join(sorted({s["type"] for s in found.streams})) or "no streams"
        raise FormatError(path, f"holds neither events nor frames, only {types}")
    chosen, pictures = found.events, found.pictures
    several = [str(s["id"]) for s in found.streams if s["type"] == "EVTS"]
    if len(several) > 1 and options.stream is None and chosen is not None:
        ids = ", ".join(several)
        logger.info("%s: event streams %s; reading %d (stream=... picks another)", path, ids, chosen["id"])
    info = {"streams": found.streams, "stream": chosen and chosen["id"], "compression": found.compression}
    source = Source(path, "aedat4", (), found.sensor_hw, info)

    source.most = len(found.data) // 4  # packed events seldom take less; if they do, the arrays grow

    def chunks() -> Iterator[Columns]:
        for packet in found.packets(source.info):
            if options.progress is not None:
                options.progress(packet.start + packet.size, len(found.data))
            if chosen is not None and packet.stream == chosen["id"]:
                try:
                    yield _events(found.raw(packet), source.room)
                except Broken as error:
                    _stop(path, source, options, error, packet)
                    return

    def load_frames() -> Frames | None:
        if pictures is None:
            return None
        frames = []
        for packet in found.packets(source.info):
            if packet.stream == pictures["id"]:
                try:
                    frame = _frame(path, found.raw(packet))
                    frames += [frame] if frame is not None else []
                except Broken as error:
                    _stop(path, source, options, error, packet)
                    break
        images = to_8_bits(path, [image for image, *_ in frames])
        return _stack([(i, *rest) for i, (_, *rest) in zip(images, frames, strict=True)], pictures["sensor_hw"])

    source.chunks = chunks()
    source.load_frames = load_frames
    return source


class Aedat4File:
    """The packets of a file, and a way to unpack them.

    Args:
        path: The file.
        options: `stream` picks among several event streams, `repair` takes what lies before a cut.

    Attributes:
        streams: Id, type, camera and sensor of each.
        events: The event stream to read, or None.
        pictures: The first frame stream of the same camera, or else of any; or None.
    """

    def __init__(self, path: Path, options: ReadOptions) -> None:
        self.path, self.options = path, options
        with path.open("rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.compression, self.table_at, xml, self.first = _read_header(path, self.data)
        self.streams = _parse_streams(path, xml)
        self.events = _choose(path, [s for s in self.streams if s["type"] == "EVTS"], options.stream)
        pictures = [s for s in self.streams if s["type"] == "FRME"]
        same_camera = [s for s in pictures if self.events is None or s["camera"] == self.events["camera"]]
        self.pictures = (same_camera or pictures or [None])[0]
        self._unpack = decompressor(self.compression)

    @property
    def sensor_hw(self) -> tuple[int, int] | None:
        """Height and width, if the file says."""
        stream = self.events or self.pictures
        return stream["sensor_hw"] if stream else None

    def raw(self, packet: _Packet) -> bytes:
        """A packet's bytes, unpacked."""
        return self._unpack(self.data[packet.start : packet.start + packet.size])

    def packets(self, info: dict) -> Iterator[_Packet]:
        """Walks the packets without unpacking any; repairs are noted in `info`."""
        path, data, options = self.path, self.data, self.options
        at, end = self.first, self.table_at if self.first <= self.table_at <= len(data) else len(data)
        ids = {s["id"] for s in self.streams}
        while at < end:
            if at + 8 > end:
                problem = f"the file ends in a packet's header; {end - at} of 8 bytes are there"
            else:
                stream, size = struct.unpack_from("<ii", data, at)
                if 0 <= size <= end - at - 8 and stream in ids:
                    yield _Packet(stream, at + 8, size)
                    at += 8 + size
                    continue
                if stream not in ids:
                    # A file that was never closed may still hold a table at its end; it looks like an unknown stream.
                    problem = f"stream {stream} in a packet is not in the file's list"
                else:
                    problem = f"the file ends in a packet; {end - at - 8} of {size} bytes are there"
            mend_or_raise(path, info, options, problem, mended="keeps the packets before it", offset=at)
            return
        if self.table_at > len(data):  # cut exactly between two packets
            problem = f"the file ends here; its header places a table at byte {self.table_at}"
            mend_or_raise(path, info, options, problem, mended="keeps the packets that are there", offset=at)


def _stop(path: Path, source: Source, options: ReadOptions, error: Broken, packet: _Packet) -> None:
    kept = "keeps the packets before it"
    mend_or_raise(path, source.info, options, f"damaged packet: {error}", mended=kept, offset=packet.start)


def _read_header(path: Path, data: mmap.mmap) -> tuple[str, int, str, int]:
    """Compression, position of the packet table (-1 if never written), stream list as XML, position of packet 0."""
    at = len(MAGIC)
    try:
        (size,) = struct.unpack_from("<I", data, at)
        if at + 4 + size > len(data):
            raise Broken(f"header of {size} bytes, file of {len(data)}")
        table = Table.root(data[at + 4 : at + 4 + size], b"IOHE")
        compression = table.scalar(0, "<i", 0)
        table_at = table.scalar(1, "<q", -1)
        xml = table.vector(2).tobytes().decode("utf-8", errors="replace")
    except (Broken, struct.error) as error:
        raise FormatError(path, f"damaged AEDAT4 header: {error}", offset=at) from error
    if not 0 <= compression < len(COMPRESSIONS):
        raise FormatError(path, f"unknown AEDAT4 compression {compression}", offset=at)
    return COMPRESSIONS[compression], table_at, xml, at + 4 + size


def _parse_streams(path: Path, xml: str) -> list[dict]:
    """Id, type, camera and sensor size of every stream in the XML."""
    if "<!" in xml:  # entity declarations are the one way to make an XML parser allocate without bound
        raise FormatError(path, "the stream list holds XML declarations that DV never writes", offset=len(MAGIC))
    try:
        root = ElementTree.fromstring(xml.rstrip("\0"))
    except ElementTree.ParseError as error:
        raise FormatError(path, f"damaged stream list: {error}", offset=len(MAGIC)) from error
    streams = []
    for node in root.iterfind("./node[@name='outInfo']/node"):
        texts = {attr.get("key"): (attr.text or "") for attr in node.iterfind("./attr")}
        details = {a.get("key"): (a.text or "") for a in node.iterfind("./node[@name='info']/attr")}
        name = node.get("name") or ""
        width, height = details.get("sizeX", ""), details.get("sizeY", "")
        if not name.isdigit():
            continue
        sensor = (
            (int(height), int(width)) if width.isdigit() and height.isdigit() and int(width) and int(height) else None
        )
        streams.append(
            {
                "id": int(name),
                "type": texts.get("typeIdentifier", ""),
                "camera": details.get("source", ""),
                "sensor_hw": sensor,
            }
        )
    return streams


def _choose(path: Path, streams: list[dict], wanted: int | str | None) -> dict | None:
    if wanted is None:
        return streams[0] if streams else None
    for stream in streams:
        if str(stream["id"]) == str(wanted):
            return stream
    ids = ", ".join(str(s["id"]) for s in streams) or "none"
    raise FormatError(path, f"no event stream {wanted}; the file has {ids}")


def _events(raw: bytes, room: Room = fresh) -> Columns:
    packed = root_of_packet(raw, b"EVTS").vector(0, EVENT_DTYPE.itemsize).view(EVENT_DTYPE)
    out = room(len(packed))
    t, x, y, p = (gather(packed[name], target) for name, target in zip("txyp", out, strict=True))
    return Columns(t, x, y, np.not_equal(p, 0, out=p.view(np.bool_)).view(np.int8))


def _frame(path: Path, raw: bytes) -> tuple[np.ndarray, int, int, int, int] | None:
    """Pixels `[h, w, channels]` of 8 or 16 bits, start and end of the exposure, column and row of the top-left pixel.

    None, with a warning, for a picture of a type that holds no such pixels (floats, signed or wider numbers).
    """
    table = root_of_packet(raw, b"FRME")
    kind, width, height = table.scalar(5, "<b", 0), table.scalar(6, "<h", 0), table.scalar(7, "<h", 0)
    if kind not in CHANNELS:
        logger.warning("%s: a picture of type %d is left out; known are 8 and 16 bits of grey or colour", path, kind)
        return None
    pixels = table.vector(10)
    channels, itemsize = CHANNELS[kind], 2 if kind in (2, 18, 26) else 1
    if width < 0 or height < 0 or len(pixels) != width * height * channels * itemsize:
        raise Broken(f"a frame of type {kind}, {width}x{height}, with {len(pixels)} bytes")
    image = (pixels.view("<u2") if itemsize == 2 else pixels).reshape(height, width, channels)
    image = image if channels == 1 else image[..., 2::-1]  # the file's order is BGR
    stamp = table.scalar(0, "<q", 0)
    start, end = table.scalar(3, "<q", 0) or stamp, table.scalar(4, "<q", 0) or stamp
    return image, start, end, table.scalar(8, "<h", 0), table.scalar(9, "<h", 0)


def _stack(found: list[tuple[np.ndarray, int, int, int, int]], sensor_hw: tuple[int, int] | None) -> Frames | None:
    """One array of equally large pictures; smaller read-out regions are placed where they belong."""
    if not found:
        return None
    height = max(max(left_y, 0) + image.shape[0] for image, _, _, _, left_y in found)
    width = max(max(left_x, 0) + image.shape[1] for image, _, _, left_x, _ in found)
    if sensor_hw is not None and len({image.shape for image, *_ in found}) > 1:
        height, width = max(height, sensor_hw[0]), max(width, sensor_hw[1])
    whole = all(image.shape[:2] == found[0][0].shape[:2] for image, *_ in found)
    if whole:
        height, width = found[0][0].shape[:2]
    colour = any(image.shape[2] == 3 for image, *_ in found)
    images = np.zeros((len(found), height, width, 3 if colour else 1), np.uint8)
    for target, (image, _, _, left, top) in zip(images, found, strict=True):
        x, y = (0, 0) if whole else (max(left, 0), max(top, 0))
        target[y : y + image.shape[0], x : x + image.shape[1]] = image
    times = np.array([(start, end) for _, start, end, _, _ in found], np.int64)
    order = np.argsort(times[:, 1], kind="stable")
    images = images[order] if (order[1:] < order[:-1]).any() else images
    return Frames(images if colour else images[..., 0], times[order, 0], times[order, 1])
