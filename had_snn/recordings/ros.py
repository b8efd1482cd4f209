"""ROS 1 and ROS 2 bags with events (`dvs_msgs`, `prophesee_event_msgs`, `event_camera_msgs`) and pictures.

`rosbags` opens the containers. The messages are decoded here from their bytes, because an event array holds up to a
hundred thousand events and a Python object for each is a hundred times slower than one NumPy view.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from had_snn.errors import FormatError, first_line, optional_import
from had_snn.recordings.aedat4_packets import decompressor
from had_snn.recordings.decoders import Columns
from had_snn.recordings.evt import evt_decoder
from had_snn.recordings.frame_depth import to_8_bits
from had_snn.recordings.recording import Frames, ReadOptions, Source, logger, mend_or_raise, pick

ROS1_MAGIC, MCAP_MAGIC, SQLITE_MAGIC = b"#ROSBAG V2.0", b"\x89MCAP0\r\n", b"SQLite format 3\0"
ARRAYS = ("dvs_msgs/msg/EventArray", "prophesee_event_msgs/msg/EventArray")
PACKETS = ("event_camera_msgs/msg/EventPacket", "event_array_msgs/msg/EventArray")
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # no message begins so: its first bytes name the order of its numbers
IMAGE = "sensor_msgs/msg/Image"
IMAGE_CHANNELS = {"mono8": 1, "8UC1": 1, "rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4}
IMAGE_CHANNELS_16 = {"mono16": 1, "16UC1": 1, "rgb16": 3, "bgr16": 3, "16UC3": 3, "rgba16": 4, "bgra16": 4}
# A message's event is 13 bytes in ROS 1. In ROS 2 (CDR) numbers are aligned to their size, which makes the first
# event 14 bytes long and every further one 16, with its time two bytes later.
_NAMES, _FORMATS = ["x", "y", "s", "ns", "p"], ["<u2", "<u2", "<u4", "<u4", "u1"]
EVENT_ROS1 = np.dtype({"names": _NAMES, "formats": _FORMATS, "offsets": [0, 2, 4, 8, 12], "itemsize": 13})
EVENT_CDR = np.dtype({"names": _NAMES, "formats": _FORMATS, "offsets": [0, 2, 6, 10, 14], "itemsize": 16})
MONO_DTYPE = np.dtype([("dt", "<u4"), ("x", "<u2"), ("y", "<u2")])


def open_bag(path: Path, options: ReadOptions) -> Source:
    """Opens a bag: a ROS 1 file, a ROS 2 folder, or one storage file (`.mcap`, `.db3`) of ROS 2.

    Args:
        path: The bag.
        options: `stream` picks among several topics of events.

    Returns:
        The source; its frames are those of the first picture topic, stamped with their message's time.

    Raises:
        FormatError: If the bag is damaged or holds no events that are known.
    """
    topics = dict(_topics(path))
    known = {topic: kind for topic, (kind, _) in topics.items() if kind in (*ARRAYS, *PACKETS)}
    if not known:
        found = ", ".join(f"{topic} ({kind})" for topic, (kind, _) in topics.items()) or "nothing"
        raise FormatError(path, f"no topic of events; the bag holds {found}")
    wanted = pick(path, [*known], options.stream, "on")
    pictures = next((topic for topic, (kind, _) in topics.items() if kind == IMAGE), None)
    source = Source(path, "bag", (), None, {"stream": wanted, "topics": {t: k for t, (k, _) in topics.items()}})
    source.sensor_hw = _first_size(path, wanted)
    source.chunks = _event_chunks(path, wanted, known[wanted], source, options)
    source.load_frames = lambda: _frames(path, pictures) if pictures else None
    return source


def _open(path: Path) -> Any:
    """A reader of `rosbags`, not yet open, for a ROS 1 file, a ROS 2 folder, or just the storage file that is named."""
    if path.is_dir():
        return optional_import("rosbags.rosbag2", extra="ros").Reader(path)
    with path.open("rb") as file:
        magic = file.read(16)
    if magic.startswith(ROS1_MAGIC):
        return optional_import("rosbags.rosbag1", extra="ros").Reader(path)
    plugins = optional_import("rosbags.rosbag2", extra="ros").Reader.STORAGE_PLUGINS
    return _Storage(plugins[".mcap" if magic.startswith(MCAP_MAGIC) else ".db3"](path))


class _Storage:
    """One storage file of a ROS 2 bag, without the `metadata.yaml` that may lie beside it."""

    def __init__(self, storage: Any) -> None:
        self._storage, self._unpack = storage, decompressor("zstd")

    def __enter__(self) -> _Storage:
        self._storage.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._storage.close()

    @property
    def connections(self) -> list[Any]:
        """Its topics."""
        return self._storage.connections

    def messages(self, connections: list[Any]) -> Iterator[tuple[Any, int, bytes]]:
        """Their messages, unpacked where each is compressed (which only the `metadata.yaml` would tell)."""
        for connection, stamp, raw in self._storage.messages(connections):
            if bytes(raw[:4]) == ZSTD_MAGIC:
                raw = self._unpack(bytes(raw))
            yield connection, stamp, raw


def _topics(path: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    try:
        with _open(path) as reader:
            for connection in reader.connections:
                yield connection.topic, (connection.msgtype, connection.msgcount)
    except (FormatError, ImportError):
        raise
    except Exception as error:  # rosbags reports damage with errors of its own, of sqlite3, struct, yaml, ...
        raise FormatError(path, f"damaged bag: {first_line(error)}", offset=_size(path)) from error


def _messages(path: Path, topic: str) -> Generator[_Message, None, None]:
    """Messages of a topic in order, as cursors over their bytes."""
    try:
        with _open(path) as reader:
            connections = [c for c in reader.connections if c.topic == topic]
            cdr = not type(reader).__module__.startswith("rosbags.rosbag1")
            for _, _, raw in reader.messages(connections=connections):
                yield _Message(bytes(raw), cdr=cdr)
    except (FormatError, GeneratorExit):
        raise
    except Exception as error:  # see above
        raise FormatError(path, f"damaged bag: {first_line(error)}", offset=_size(path)) from error


class _Message:
    """Reads a message's fields one after another."""

    def __init__(self, raw: bytes, *, cdr: bool) -> None:
        self.raw = raw[4:] if cdr else raw
        self.cdr = cdr
        self.order = ">" if cdr and len(raw) > 1 and raw[1] == 0 else "<"
        self.at = 0

    def number(self, form: str) -> int:
        """The next number, of `struct` format `form`."""
        size = struct.calcsize(form)
        if self.cdr:
            self.at += -self.at % size
        if self.at + size > len(self.raw):
            raise ValueError("a message ends in a field")
        (value,) = struct.unpack_from(self.order + form, self.raw, self.at)
        self.at += size
        return value

    def skip(self, forms: str) -> None:
        """Passes over numbers, one for each letter of `forms`."""
        for form in forms:
            self.number(form)

    def data(self) -> bytes:
        """The next byte array or string."""
        size = self.number("I")
        if self.at + size > len(self.raw):
            raise ValueError("a message ends in an array")
        found = self.raw[self.at : self.at + size]
        self.at += size
        return found

    def header(self) -> int:
        """Skips a `std_msgs/Header`; its stamp in microseconds."""
        if not self.cdr:
            self.skip("I")
        seconds, nanoseconds = self.number("i" if self.cdr else "I"), self.number("I")
        self.data()
        return seconds * 1_000_000 + (nanoseconds + 500) // 1000


def _first_size(path: Path, topic: str) -> tuple[int, int] | None:
    with closing(_messages(path, topic)) as messages:
        for message in messages:
            try:
                message.header()
                height, width = message.number("I"), message.number("I")
            except ValueError:
                return None  # reading the events will name the damage
            return (height, width) if 0 < height <= 32767 and 0 < width <= 32767 else None
    return None


def _event_chunks(path: Path, topic: str, kind: str, source: Source, options: ReadOptions) -> Iterator[Columns]:
    decoder = None
    for number, message in enumerate(_messages(path, topic)):
        try:
            message.header()
            message.skip("II")
            if kind in ARRAYS:
                yield _array(message)
                continue
            message.skip("Q")
            base = message.number("Q")
            encoding = message.data().rstrip(b"\0").decode("ascii", "replace")
            message.skip("B")
            data = message.data()
        except (ValueError, struct.error) as error:
            kept = "keeps the messages before it"
            mend_or_raise(path, source.info, options, f"message {number} of {topic}: {error}", mended=kept)
            return
        source.info["encoding"] = encoding
        if encoding == "mono":
            yield _mono(data, base)
        elif encoding in ("evt2", "evt21", "evt3"):
            decoder = decoder or evt_decoder(encoding)
            whole = len(data) // decoder.word.itemsize * decoder.word.itemsize
            yield decoder.decode(np.frombuffer(data[:whole], decoder.word))
        else:
            raise FormatError(path, f"events of {topic} are encoded as {encoding!r}; known are mono, evt2, evt21, evt3")


def _array(message: _Message) -> Columns:
    count = message.number("I")
    raw, at = message.raw, message.at
    if message.order == ">":
        raise ValueError("an event array in big-endian order")
    if not message.cdr:
        events = np.frombuffer(raw, EVENT_ROS1, count, at)
    else:
        events = np.frombuffer(raw, EVENT_ROS1, min(count, 1), at)
        if count > 1:
            # The last event has no padding behind it; the byte more is never looked at.
            rest = np.frombuffer(raw + b"\0", EVENT_CDR, count - 1, at + 14)
            events = np.concatenate([events, rest.astype(EVENT_ROS1)])
    t = events["s"].astype(np.int64) * 1_000_000 + (events["ns"].astype(np.int64) + 500) // 1000
    return Columns(t, events["x"], events["y"], (events["p"] != 0).view(np.int8))


def _mono(data: bytes, base_ns: int) -> Columns:
    events = np.frombuffer(data[: len(data) // 8 * 8], MONO_DTYPE)
    t = (events["dt"].astype(np.int64) + base_ns) // 1000
    return Columns(t, events["x"], events["y"] & np.uint16(0x7FFF), (events["y"] >> 15).astype(np.int8))


def _frames(path: Path, topic: str) -> Frames | None:
    found: list[tuple[np.ndarray, int]] = []
    skipped: Counter[str] = Counter()
    for message in _messages(path, topic):
        try:
            stamp = message.header()
            height, width = message.number("I"), message.number("I")
            encoding = message.data().rstrip(b"\0").decode("ascii", "replace")
            big = message.number("B")
            step, data = message.number("I"), message.data()
        except (ValueError, struct.error):
            skipped["cut off"] += 1
            continue
        image = _image(data, encoding, (height, width, step), ">" if big else "<")
        if image is None:
            skipped[f"{width}x{height} {encoding!r}"] += 1
        elif found and image.shape != found[0][0].shape:
            skipped[f"{width}x{height}, where the first are {found[0][0].shape[1]}x{found[0][0].shape[0]}"] += 1
        else:
            found.append((image, stamp))
    for what, count in skipped.items():
        known = ", ".join([*IMAGE_CHANNELS, *IMAGE_CHANNELS_16])
        logger.warning("%s: %d pictures of %s are left out: %s (known are %s)", path, count, topic, what, known)
    if not found:
        return None
    times = np.array([stamp for _, stamp in found], np.int64)
    return Frames(np.stack(to_8_bits(path, [image for image, _ in found])), times, times)


def _image(data: bytes, encoding: str, size: tuple[int, int, int], order: str) -> np.ndarray | None:
    """Pixels of a message of `(height, width, bytes in a row)`, or None if they are of a kind that is not known."""
    channels = IMAGE_CHANNELS.get(encoding) or IMAGE_CHANNELS_16.get(encoding)
    dtype = np.dtype("u1" if encoding in IMAGE_CHANNELS else f"{order}u2")
    height, width, step = size
    if channels is None or step < width * channels * dtype.itemsize or len(data) < step * height:
        return None
    rows = np.frombuffer(data, np.uint8, step * height).reshape(height, step)[:, : width * channels * dtype.itemsize]
    image = np.ascontiguousarray(rows).view(dtype).reshape(height, width, channels)
    if channels == 1:
        return image[..., 0]
    return image[..., 2::-1] if encoding.startswith(("bgr", "8UC3", "16UC3")) else image[..., :3]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
