"""Writes small ROS bags with `rosbags`: event arrays, packets of words, pictures."""

from __future__ import annotations

import numpy as np
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

EVENT = "uint16 x\nuint16 y\nbuiltin_interfaces/Time ts\nbool polarity"
EVENT_ARRAY = "std_msgs/Header header\nuint32 height\nuint32 width\ndvs_msgs/Event[] events"
PACKET = (
    "std_msgs/Header header\nuint32 height\nuint32 width\nuint64 seq\nuint64 time_base\nstring encoding\n"
    "bool is_bigendian\nuint8[] events"
)
START = 1_663_249_605_734_020


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
            header=self.header(START),
            height=height,
            width=width,
            seq=0,
            time_base=base,
            encoding=encoding,
            is_bigendian=False,
            events=np.frombuffer(data, np.uint8),
        )
        self.write(topic, message, START)

    def picture(self, topic, image, encoding, t_us):
        height, width = image.shape[:2]
        message = self.type("sensor_msgs/msg/Image")(
            header=self.header(t_us),
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=image[0].nbytes,
            data=np.ascontiguousarray(image).reshape(-1).view(np.uint8),
        )
        self.write(topic, message, t_us)
