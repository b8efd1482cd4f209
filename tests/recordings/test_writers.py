"""What is written reads back the same, is written whole or not at all, and opens in other people's readers."""

from __future__ import annotations

import event_files
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from had_snn.errors import FormatError, InputError
from had_snn.events.stream import EventStream
from had_snn.recordings.aedat4_writer import write_aedat4
from had_snn.recordings.readers import open_recording, read_events
from had_snn.recordings.recording import Frames
from had_snn.recordings.writers import write_events

SUFFIXES = [".aedat4", ".raw", ".h5", ".npz", ".csv"]


def make_stream(n=3_000, **options) -> EventStream:
    """Two seconds of a DAVIS346 at epoch times."""
    usual = {"sensor_hw": (260, 346), "t0": 1_663_249_605_734_020, "span": 2_000_000}
    return event_files.make_stream(n, **(usual | options))


def same(a: EventStream, b: EventStream) -> bool:
    columns = all((getattr(a, name) == getattr(b, name)).all() for name in "txyp") if len(a) == len(b) else False
    return columns and a.sensor_hw == b.sensor_hw


@st.composite
def streams(draw) -> EventStream:
    n = draw(st.integers(0, 60))
    sensor_hw = (draw(st.integers(1, 2048)), draw(st.integers(1, 2048)))
    start = draw(st.sampled_from([0, 1, -1, -(2**40), 4095, 2**24 - 1, 2**31, 2**32 - 5, 1_663_249_605_734_020]))
    gap = draw(st.sampled_from([0, 1, 200, 5_000, 5_000_000, 20_000_000]))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, gap + 1, n) * (rng.random(n) < 0.7)
    one_sided = draw(st.sampled_from([None, 0, 1]))
    return EventStream.from_arrays(
        t=start + np.cumsum(steps),
        x=rng.integers(0, sensor_hw[1], n),
        y=rng.integers(0, sensor_hw[0], n),
        p=rng.integers(0, 2, n) if one_sided is None else np.full(n, one_sided),
        sensor_hw=sensor_hw,
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stream=streams())
def test_round_trip_is_lossless(tmp_path, suffix, stream):
    if suffix in (".csv", ".npz") and len(stream) == 0:
        return  # covered below
    path = write_events(stream, tmp_path / f"e{suffix}")
    assert same(read_events(path), stream)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_aedat4_is_read_back_under_either_compression(tmp_path, compression):
    stream = make_stream(40_000)
    write_aedat4(stream, tmp_path / "e.aedat4", compression=compression)
    found = open_recording(tmp_path / "e.aedat4")
    assert same(found.events, stream)
    assert found.info["compression"] == compression
    with pytest.raises(InputError, match="lz4 or zstd"):
        write_aedat4(stream, tmp_path / "e.aedat4", compression="gzip")


@pytest.mark.parametrize("suffix", [".aedat4", ".raw", ".h5", ".npz"])
def test_empty_stream(tmp_path, suffix):
    empty = EventStream.empty((260, 346))
    assert same(read_events(write_events(empty, tmp_path / f"e{suffix}")), empty)


def test_csv_without_events_is_refused_when_read(tmp_path):
    path = write_events(EventStream.empty((4, 4)), tmp_path / "e.csv")
    with pytest.raises(FormatError, match="no line of numbers"):
        read_events(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pieces_join_without_a_seam(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("had_snn.recordings.writers.PIECE", 100)
    monkeypatch.setattr("had_snn.recordings.aedat4_writer.EVENTS_PER_PACKET", 100)
    stream = make_stream(950)
    seen = []
    path = write_events(stream, tmp_path / f"e{suffix}", progress=lambda done, total: seen.append((done, total)))
    assert same(read_events(path), stream)
    assert seen[-1] == (950, 950)


@pytest.mark.parametrize("colour", [False, True])
def test_frames_in_aedat4(tmp_path, colour):
    stream = make_stream()
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (5, 26, 34, 3) if colour else (5, 26, 34), dtype=np.uint8)
    end = stream.t_start + np.arange(5, dtype=np.int64) * 400_000
    path = write_events(stream, tmp_path / "e.aedat4", frames=Frames(images, end - 1_000, end))
    recording = open_recording(path)
    assert same(recording.events, stream)
    assert recording.frames is not None
    assert (recording.frames.images == images).all()
    assert (recording.frames.end_us == end).all()
    assert (recording.frames.start_us == end - 1_000).all()


def test_frames_elsewhere_are_left_out_with_a_warning(tmp_path, caplog):
    frames = Frames(np.zeros((1, 4, 4), np.uint8), np.zeros(1, np.int64), np.ones(1, np.int64))
    write_events(make_stream(), tmp_path / "e.npz", frames=frames)
    assert "1 frames left out" in caplog.text


def test_aedat_package_reads_our_files(tmp_path):
    aedat = pytest.importorskip("aedat")
    stream = make_stream()
    images = np.arange(2 * 6 * 8 * 3, dtype=np.uint8).reshape(2, 6, 8, 3)
    times = stream.t_start + np.array([0, 1_000_000])
    path = write_events(stream, tmp_path / "e.aedat4", frames=Frames(images, times - 500, times))
    decoder = aedat.Decoder(path)
    assert decoder.id_to_stream()[0]["width"] == 346
    packets = list(decoder)
    theirs = np.concatenate([p["events"] for p in packets if "events" in p])
    assert (theirs["t"] == stream.t).all()
    assert (theirs["x"] == stream.x).all()
    assert (theirs["on"] == stream.p).all()
    pictures = [p["frame"] for p in packets if "frame" in p]
    assert (pictures[1]["pixels"] == images[1]).all()


def test_expelliarmus_reads_our_evt3_pixels(tmp_path):
    """Its times are wrong by 4096 us a wrap of the lower part; within one wrap they must agree."""
    expelliarmus = pytest.importorskip("expelliarmus")
    stream = make_stream(t0=0, span=4_000, sensor_hw=(720, 1280))
    path = write_events(stream, tmp_path / "e.raw")
    theirs = expelliarmus.Wizard(encoding="evt3", fpath=path).read()
    assert (theirs["t"] == stream.t).all()
    assert (theirs["x"] == stream.x).all()
    assert (theirs["y"] == stream.y).all()
    assert (theirs["p"] == stream.p).all()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_events(make_stream(100), tmp_path / "e.npz")
    before = path.read_bytes()
    full = OSError("disk full")
    monkeypatch.setattr("had_snn.recordings.writers.np.savez", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="disk full"):
        write_events(make_stream(200), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["e.npz"]


def test_refusals(tmp_path):
    stream = make_stream()
    with pytest.raises(InputError, match="suffix"):
        write_events(stream, tmp_path / "e.avi")
    with pytest.raises(InputError, match="below 2048"):
        write_events(make_stream(sensor_hw=(2160, 3840)), tmp_path / "e.raw")
    sparse = EventStream.from_arrays([0, 1 << 41], [0, 0], [0, 0], [0, 1], (4, 4))
    with pytest.raises(InputError, match="at most"):
        write_events(sparse, tmp_path / "e.raw")
    assert list(tmp_path.iterdir()) == []
