"""The live stream: what is written is read, in any pieces, from pipes and growing files; faults are named."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import numpy as np
import pytest

from had_snn.errors import FormatError
from had_snn.events.stream import EventStream
from had_snn.recordings.live import RECORD, LiveReader, encode_events, encode_header, encode_time

SENSOR = (30, 40)


def some_events(count: int = 500, seed: int = 0) -> EventStream:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(2**40, 2**40 + 10_000, count))
    return EventStream.from_arrays(
        t, rng.integers(0, 40, count), rng.integers(0, 30, count), rng.integers(0, 2, count), SENSOR
    )


@pytest.fixture
def through_pipe():
    """A function that sends bytes through a pipe, piece by piece, to a reader."""
    files, writers = [], []

    def send(data: bytes, *, piece: int = 1 << 16) -> LiveReader:
        read, write = os.pipe()

        def feed() -> None:
            with os.fdopen(write, "wb", buffering=0) as file, contextlib.suppress(BrokenPipeError):
                for at in range(0, len(data), piece):
                    file.write(data[at : at + piece])

        writers.append(threading.Thread(target=feed))
        writers[-1].start()
        files.append(os.fdopen(read, "rb", buffering=0))
        return LiveReader(files[-1], name="pipe")

    yield send
    for file in files:
        file.close()
    for writer in writers:
        writer.join()


def joined(chunks) -> np.ndarray:
    return np.concatenate([c.events.to_structured() for c in chunks])


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_pieces_of_a_pipe_do_not_matter(piece, through_pipe):
    events = some_events(200)
    reader = through_pipe(encode_header(SENSOR) + encode_events(events) + encode_time(2**40 + 20_000), piece=piece)
    assert reader.sensor_hw == SENSOR
    chunks = list(reader)
    np.testing.assert_array_equal(joined(chunks), events.to_structured())
    assert chunks[-1].now_us == 2**40 + 20_000


def test_a_file_that_grows_is_followed_until_it_rests(tmp_path):
    path, events = tmp_path / "growing.bin", some_events()
    path.write_bytes(encode_header(SENSOR)[:10])

    def grow() -> None:
        data = encode_header(SENSOR)[10:] + encode_events(events)
        with path.open("ab", buffering=0) as file:
            for at in range(0, len(data), 3000):
                time.sleep(0.02)
                file.write(data[at : at + 3000])

    writer = threading.Thread(target=grow)
    writer.start()
    with path.open("rb", buffering=0) as file:
        chunks = list(LiveReader(file, name=path.name, idle_s=1.0))
    writer.join()
    np.testing.assert_array_equal(joined(chunks), events.to_structured())
    assert len(chunks) > 1


def test_it_can_be_stopped():
    read, write = os.pipe()
    stop = threading.Event()
    with os.fdopen(read, "rb", buffering=0) as file, os.fdopen(write, "wb", buffering=0) as feed:
        feed.write(encode_header(SENSOR) + encode_events(some_events(5)))
        reader = iter(LiveReader(file, stopped=stop.is_set))
        assert len(next(reader).events) == 5
        stop.set()
        assert next(reader, None) is None


def record(t: int, x: int, y: int, p: int) -> bytes:
    return np.array((t, x, y, p, (0, 0, 0)), RECORD).tobytes()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "ended after 0 bytes"),
        (b"HADLIVE1", "ended after 8 bytes"),
        (b"#!AER-DAT4.0\r\n..", "expected b'HADLIVE1'"),
        (encode_header((0, 40)), "sensor of 40x0 pixels"),
        (encode_header(SENSOR) + record(5, 40, 3, 1), r"at byte 16: event at \(40, 3\), outside the 40x30 sensor"),
        (encode_header(SENSOR) + record(5, 1, 3, 1) + record(5, 1, 3, 7), "at byte 32: polarity 7"),
        (encode_header(SENSOR) + record(5, 1, 3, 1) + record(4, 1, 3, 1), "at byte 32: time 4 us, before"),
        (encode_header(SENSOR) + encode_time(5) + record(4, 1, 3, 1), "at byte 32: time 4 us, before"),
    ],
)
def test_faults_are_named(data, says, through_pipe):
    with pytest.raises(FormatError, match=says):
        list(through_pipe(data))


def test_half_a_record_at_the_end_is_said(caplog, through_pipe):
    reader = through_pipe(encode_header(SENSOR) + record(5, 1, 3, 1) + b"12345")
    assert len(joined(reader)) == 1
    assert "last 5 bytes" in caplog.text
