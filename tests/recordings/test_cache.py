"""The cache: the same events, memory-mapped; rebuilt when stale or damaged; safe for several builders."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest

from had_snn.errors import FormatError, InputError
from had_snn.events.stream import EventStream
from had_snn.recordings.cache import entry_folder, open_cached
from had_snn.recordings.readers import open_recording, read_events
from had_snn.recordings.recording import Frames
from had_snn.recordings.writers import write_events


def make_stream(n=5_000, seed=0, sensor_hw=(180, 240)) -> EventStream:
    rng = np.random.default_rng(seed)
    return EventStream.from_arrays(
        t=np.sort(rng.integers(0, 10**6, n)),
        x=rng.integers(0, sensor_hw[1], n),
        y=rng.integers(0, sensor_hw[0], n),
        p=rng.integers(0, 2, n),
        sensor_hw=sensor_hw,
    )


def same(a: EventStream, b: EventStream) -> bool:
    return (
        len(a) == len(b) and a.sensor_hw == b.sensor_hw and all((getattr(a, n) == getattr(b, n)).all() for n in "txyp")
    )


@pytest.fixture
def source(tmp_path):
    return write_events(make_stream(), tmp_path / "source" / "e.raw")


def test_same_events_and_mapped(tmp_path, source):
    recording = open_cached(source, tmp_path / "cache")
    assert same(recording.events, make_stream())
    assert recording.info["format"] == "raw"
    assert recording.events.t.base is not None
    assert not recording.events.t.flags.writeable
    meta = entry_folder(source, tmp_path / "cache") / "meta.json"
    made = meta.stat().st_mtime_ns
    assert same(open_cached(source, tmp_path / "cache", verify=True).events, make_stream())
    assert meta.stat().st_mtime_ns == made


def test_frames_are_kept(tmp_path):
    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    times = np.array([10, 20, 30])
    path = write_events(make_stream(), tmp_path / "e.aedat4", frames=Frames(images, times - 5, times))
    frames = open_cached(path, tmp_path / "cache").frames
    assert frames is not None
    assert (frames.images == images).all()
    assert frames.end_us.tolist() == [10, 20, 30]
    assert open_cached(path, tmp_path / "cache", frames=False).frames is None
    assert open_cached(path, tmp_path / "cache").frames is not None


def test_detection_and_repairs_end_up_in_the_columns(tmp_path):
    stream = make_stream()
    order = np.arange(len(stream))
    order[:2] = [1, 0]
    assert stream.t[0] < stream.t[1]
    path = tmp_path / "e.txt"
    table = np.stack([stream.t, stream.x + 1, stream.y + 1, np.where(stream.p, 1, -1)], axis=1)
    np.savetxt(path, table[order], fmt="%d")
    with pytest.raises(FormatError, match="not sorted"):
        open_cached(path, tmp_path / "cache")
    assert not entry_folder(path, tmp_path / "cache").exists()
    recording = open_cached(path, tmp_path / "cache", repair=True)
    assert same(recording.events, stream)
    assert recording.info["origin"] == 1


def test_rebuilt_when_the_content_changes_but_not_when_only_touched(tmp_path, source):
    open_cached(source, tmp_path / "cache")
    folder = entry_folder(source, tmp_path / "cache")
    column = folder / "t.i8"
    built = column.stat().st_ino
    os.utime(source, ns=(1, 1))
    assert same(open_cached(source, tmp_path / "cache").events, make_stream())
    assert column.stat().st_ino == built
    held = open_cached(source, tmp_path / "cache").events
    write_events(make_stream(seed=5), source)
    assert same(open_cached(source, tmp_path / "cache").events, make_stream(seed=5))
    assert same(held, make_stream())  # a reader keeps what it has open
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()] == [folder.name]


@pytest.mark.parametrize("damage", ["shorter", "meta", "missing"])
def test_damaged_entries_are_rebuilt(tmp_path, source, damage):
    open_cached(source, tmp_path / "cache")
    folder = entry_folder(source, tmp_path / "cache")
    if damage == "shorter":
        (folder / "x.u2").write_bytes((folder / "x.u2").read_bytes()[:-2])
    elif damage == "meta":
        (folder / "meta.json").write_text("{")
    else:
        (folder / "p.u1").unlink()
    assert same(open_cached(source, tmp_path / "cache").events, make_stream())


def test_no_changed_byte_of_an_entrys_description_passes(tmp_path, source):
    open_cached(source, tmp_path / "cache")
    meta = entry_folder(source, tmp_path / "cache") / "meta.json"
    whole = meta.read_bytes()
    for at in range(0, len(whole), 23):
        meta.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = open_cached(source, tmp_path / "cache")
        assert same(found.events, make_stream())
        assert (found.events.sensor_hw, found.events.source) == (make_stream().sensor_hw, str(source.resolve()))
        assert meta.read_bytes() == whole


def test_silent_damage_is_found_on_request(tmp_path, source):
    open_cached(source, tmp_path / "cache")
    column = entry_folder(source, tmp_path / "cache") / "y.u2"
    content = bytearray(column.read_bytes())
    content[100] ^= 1
    column.write_bytes(bytes(content))
    assert same(open_cached(source, tmp_path / "cache", verify=True).events, make_stream())


def test_options_make_other_entries(tmp_path):
    path = tmp_path / "e.txt"
    path.write_text("1 2 3 1\n2 3 4 0\n3 100 100 1\n")
    micro = open_cached(path, tmp_path / "cache", columns="txyp")
    milli = open_cached(path, tmp_path / "cache", columns="txyp", time_unit="ms")
    assert micro.events.t.tolist() == [1, 2, 3]
    assert milli.events.t.tolist() == [1000, 2000, 3000]
    assert read_events(path, columns="txyp").t.tolist() == [1, 2, 3]


def test_empty_recording(tmp_path):
    path = write_events(EventStream.empty((10, 20)), tmp_path / "e.aedat4")
    assert open_cached(path, tmp_path / "cache").events.sensor_hw == (10, 20)


def test_refusals(tmp_path):
    with pytest.raises(FormatError, match="no such file"):
        open_cached(tmp_path / "none.raw", tmp_path / "cache")
    with pytest.raises(InputError, match="slice_time"):
        open_cached(tmp_path / "none.raw", tmp_path / "cache", window=(0, 1))


def _build_and_count(arguments) -> int:
    path, cache = arguments
    return int(open_cached(path, cache).events.t.sum())


def test_concurrent_builders(tmp_path, source):
    expected = int(make_stream().t.sum())
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(_build_and_count, [(source, tmp_path / "cache")] * 4) == [expected] * 4
    folders = [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]
    assert len(folders) == 1
    assert (folders[0] / "t.i8").stat().st_size == 8 * 5_000


def test_killed_builder_leaves_nothing_that_counts(tmp_path, source, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("had_snn.recordings.cache._finish_columns", stop)
    with pytest.raises(KeyboardInterrupt):
        open_cached(source, tmp_path / "cache")
    assert [p for p in (tmp_path / "cache").iterdir() if p.is_dir()] == []
    monkeypatch.undo()
    # A kill -9 leaves a folder under a temporary name, which no reader looks at and the next builder removes.
    left = tmp_path / "cache" / f".{entry_folder(source, tmp_path / 'cache').name}.xyz"
    shutil.copytree(source.parent, left)
    assert same(open_cached(source, tmp_path / "cache").events, make_stream())
    assert not left.exists()


def _build_and_hang(path, cache) -> None:
    import had_snn.recordings.cache as module

    module._finish_columns = lambda *_: time.sleep(600)
    open_cached(path, cache)


def test_a_builder_killed_with_its_lock_held_stops_nobody(tmp_path, source):
    process = multiprocessing.get_context("spawn").Process(target=_build_and_hang, args=(source, tmp_path / "cache"))
    process.start()
    name = entry_folder(source, tmp_path / "cache").name
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cache").glob(f".{name}.*/p.u1")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.join()
    assert list((tmp_path / "cache").glob(f".{name}.*/p.u1"))  # it was killed in the middle
    assert same(open_cached(source, tmp_path / "cache").events, make_stream())
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.is_dir()] == [name]


def test_real_recordings_are_the_same_through_the_cache(tmp_path, real_data):
    for name in (
        "event-vision-library/artifacts/sample_data/sample.aedat4",
        "Matlab_AER_vision_functions/example_data.mat",
    ):
        plain, cached = open_recording(real_data / name), open_cached(real_data / name, tmp_path)
        assert same(plain.events, cached.events)
        assert (plain.frames is None) == (cached.frames is None)
