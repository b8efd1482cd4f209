"""ROS bags: both versions, both layouts of an event array, packets, pictures; written by `rosbags` itself."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.errors import FormatError
from had_snn.events.readers import open_recording, read_events
from had_snn.events.stream import EventStream
from had_snn.events.writers import write_events

pytest.importorskip("rosbags.rosbag1", exc_type=ImportError)

from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

EVENT = "uint16 x\nuint16 y\nbuiltin_interfaces/Time ts\nbool polarity"
EVENT_ARRAY = "std_msgs/Header header\nuint32 height\nuint32 width\ndvs_msgs/Event[] events"
PACKET = (
    "std_msgs/Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\nstring encoding\n"
    "bool is_bigendian\nuint8[] events"
)
START = 1_663_249_605_734_020


def make_stream(n=300) -> EventStream:
    rng = np.random.default_rng(0)
    return EventStream.from_arrays(
        t=START + np.sort(rng.integers(0, 2_000_000, n)),
        x=rng.integers(0, 346, n),
        y=rng.integers(0, 260, n),
        p=rng.integers(0, 2, n),
        sensor_hw=(260, 346),
    )


class Bag:
    """Writes messages of one bag."""

    def __init__(self, path, version):
        self.version = version
        self.store = get_typestore(Stores.ROS1_NOETIC if version == 1 else Stores.ROS2_HUMBLE)
        time = "time ts" if version == 1 else "builtin_interfaces/Time ts"
        for name, text in (
            ("dvs_msgs/msg/Event", EVENT.replace("builtin_interfaces/Time ts", time)),
            ("dvs_msgs/msg/EventArray", EVENT_ARRAY),
            ("event_camera_msgs/msg/EventPacket", PACKET),
        ):
            self.store.register(get_types_from_msg(text, name))
        self.writer = rosbag1.Writer(path) if version == 1 else rosbag2.Writer(path, version=8)
        self.connections = {}

    def __enter__(self):
        self.writer.open()
        return self

    def __exit__(self, *_):
        self.writer.close()

    def type(self, name):
        return self.store.types[name]

    def header(self, t_us):
        stamp = self.type("builtin_interfaces/msg/Time")(sec=t_us // 10**6, nanosec=t_us % 10**6 * 1000)
        extra = {"seq": 0} if self.version == 1 else {}
        return self.type("std_msgs/msg/Header")(stamp=stamp, frame_id="cam", **extra)

    def write(self, topic, message, t_us):
        kind = message.__msgtype__
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        serialize = self.store.serialize_ros1 if self.version == 1 else self.store.serialize_cdr
        self.writer.write(self.connections[topic], t_us * 1000, serialize(message, kind))

    def events(self, topic, stream):
        time, event = self.type("builtin_interfaces/msg/Time"), self.type("dvs_msgs/msg/Event")
        columns = (stream.x.tolist(), stream.y.tolist(), stream.t.tolist(), stream.p.tolist())
        events = [
            event(x=x, y=y, ts=time(sec=t // 10**6, nanosec=t % 10**6 * 1000), polarity=bool(p))
            for x, y, t, p in zip(*columns, strict=True)
        ]
        height, width = stream.sensor_hw
        message = self.type("dvs_msgs/msg/EventArray")(
            header=self.header(stream.t_end), height=height, width=width, events=events
        )
        self.write(topic, message, stream.t_end)

    def packet(self, topic, stream, encoding, data, base=0):
        height, width = stream.sensor_hw
        message = self.type("event_camera_msgs/msg/EventPacket")(
            header=self.header(START), height=height, width=width, seq=0, time_base=base, encoding=encoding,
            is_bigendian=False, events=np.frombuffer(data, np.uint8),
        )  # fmt: skip
        self.write(topic, message, START)

    def picture(self, topic, image, encoding, t_us):
        height, width = image.shape[:2]
        message = self.type("sensor_msgs/msg/Image")(
            header=self.header(t_us), height=height, width=width, encoding=encoding, is_bigendian=0,
            step=image[0].nbytes, data=image.reshape(-1),
        )  # fmt: skip
        self.write(topic, message, t_us)


def same(a: EventStream, b: EventStream) -> bool:
    return (
        len(a) == len(b) and a.sensor_hw == b.sensor_hw and all((getattr(a, n) == getattr(b, n)).all() for n in "txyp")
    )


@pytest.mark.parametrize("version", [1, 2])
def test_event_arrays_and_pictures(tmp_path, version):
    stream = make_stream()
    images = np.random.default_rng(1).integers(0, 256, (3, 6, 8, 3), dtype=np.uint8)
    path = tmp_path / ("e.bag" if version == 1 else "e")
    with Bag(path, version) as bag:
        for start in range(0, len(stream), 101):  # odd counts: alignment differs from message to message
            bag.events("/dvs/events", stream.slice_index(start, start + 101))
        bag.events("/dvs/events", stream.slice_index(0, 0))
        for i, image in enumerate(images):
            bag.picture("/dvs/image", image[..., ::-1].copy(), "bgr8", START + i * 1000)
        bag.events("/other/events", stream.slice_index(0, 7))
    recording = open_recording(path)
    assert same(recording.events, stream)
    assert recording.frames is not None
    assert (recording.frames.images == images).all()
    assert recording.frames.end_us.tolist() == [START, START + 1000, START + 2000]
    assert len(read_events(path, stream="/other/events")) == 7
    with pytest.raises(FormatError, match="/dvs/events"):
        read_events(path, stream="/none")


def test_packets_of_words(tmp_path):
    stream = make_stream()
    stream = EventStream.from_arrays(stream.t - START, stream.x, stream.y, stream.p, stream.sensor_hw)
    words = write_events(stream, tmp_path / "e.raw").read_bytes().split(b"% end\n", 1)[1]
    with Bag(tmp_path / "evt3", 2) as bag:
        for start in range(0, len(words), 256):
            bag.packet("/events", stream, "evt3", words[start : start + 256])
    assert same(read_events(tmp_path / "evt3"), stream)
    mono = np.zeros(len(stream), [("dt", "<u4"), ("x", "<u2"), ("y", "<u2")])
    mono["dt"], mono["x"], mono["y"] = stream.t * 1000, stream.x, stream.y | stream.p.astype(np.uint16) << 15
    with Bag(tmp_path / "mono", 2) as bag:
        bag.packet("/events", stream, "mono", mono.tobytes(), base=5_000_000)
    assert (read_events(tmp_path / "mono").t == stream.t + 5_000).all()
    with Bag(tmp_path / "unknown", 2) as bag:
        bag.packet("/events", stream, "libcaer", b"\0" * 8)
    with pytest.raises(FormatError, match="'libcaer'"):
        read_events(tmp_path / "unknown")


def test_bags_without_events_or_cut(tmp_path):
    with Bag(tmp_path / "pictures", 2) as bag:
        bag.picture("/image", np.zeros((4, 4), np.uint8), "mono8", START)
    with pytest.raises(FormatError, match="no topic of events"):
        read_events(tmp_path / "pictures")
    with Bag(tmp_path / "e.bag", 1) as bag:
        bag.events("/events", make_stream())
    content = (tmp_path / "e.bag").read_bytes()
    for length in (14, 500, len(content) // 2, len(content) - 10):
        (tmp_path / "cut.bag").write_bytes(content[:length])
        with pytest.raises(FormatError, match=r"damaged bag|no topic of events"):
            read_events(tmp_path / "cut.bag")
    (tmp_path / "lonely.db3").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(FormatError, match=r"without .*metadata\.yaml"):
        read_events(tmp_path / "lonely.db3")
