"""ROS bags: both versions, both layouts of an event array, packets, pictures; written by `rosbags` itself."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.errors import FormatError
from had_snn.events.stream import EventStream
from had_snn.recordings.readers import open_recording, read_events
from had_snn.recordings.writers import write_events

pytest.importorskip("rosbags.rosbag1", exc_type=ImportError)

from bag_files import START, Bag


def make_stream(n=300) -> EventStream:
    rng = np.random.default_rng(0)
    return EventStream.from_arrays(
        t=START + np.sort(rng.integers(0, 2_000_000, n)),
        x=rng.integers(0, 346, n),
        y=rng.integers(0, 260, n),
        p=rng.integers(0, 2, n),
        sensor_hw=(260, 346),
    )


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
    with pytest.raises(FormatError, match="damaged bag"):
        read_events(tmp_path / "lonely.db3")


def test_a_bag_cut_anywhere_is_refused_with_the_offset(tmp_path):
    with Bag(tmp_path / "e.bag", 1) as bag:
        bag.events("/events", make_stream(6))
    content = (tmp_path / "e.bag").read_bytes()
    for length in range(13, len(content), 7):
        (tmp_path / "cut.bag").write_bytes(content[:length])
        with pytest.raises(FormatError) as caught:
            read_events(tmp_path / "cut.bag")
        assert caught.value.offset is not None or "no topic of events" in str(caught.value)


def test_a_message_that_ends_in_its_header(tmp_path):
    """Found by fuzzing: the sensor's size is looked for in a message that is too short to hold it."""
    with Bag(tmp_path / "e.bag", 1) as bag:
        bag.events("/events", make_stream(3))
        connection = bag.connections["/events"]
        bag.writer.write(connection, (START - 10) * 1000, b"\0\0\0\0")
    with pytest.raises(FormatError, match="message 0 of /events: a message ends in a field"):
        read_events(tmp_path / "e.bag")
    assert len(read_events(tmp_path / "e.bag", repair=True)) == 0
