"""Containers as they are in the field: headers, bags, codecs, chips, indices and pictures that are not by the book."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from event_files import encode_aedat2, encode_dat, encode_davis, encode_evt2, make_stream, rows, stream_for
from table_files import assert_reads_as, make_columns, records, write_table

from had_snn.errors import FormatError
from had_snn.recordings import aedat4_writer
from had_snn.recordings.aedat4_index import index_aedat4, read_aedat4_frames
from had_snn.recordings.readers import open_recording, read_events
from had_snn.recordings.recording import Frames
from had_snn.recordings.writers import write_events


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("words", ["Pr\u00fcfstand", "\u30ab\u30e1\u30e9", "Pr\xfcf"])
@pytest.mark.parametrize("kind", ["evt2", "raw", "dat"])
def test_headers_may_hold_any_text(tmp_path, words, kind):
    stream = stream_for("evt2") if kind == "evt2" else make_stream()
    if kind == "raw":
        content = write_events(stream, tmp_path / "w.raw").read_bytes()
    else:
        content = encode_evt2(stream) if kind == "evt2" else encode_dat(stream)
    line = f"% camera_name {words}\n".encode("latin-1" if words == "Pr\xfcf" else "utf-8")
    at = content.index(b"\n") + 1
    assert rows(read_events(write(tmp_path / "e", content[:at] + line + content[at:]))) == rows(stream)


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("% evt 4.0\n% format EVT4;height=720;width=1280\n", "EVT4"),
        ("% format HISTO3D;height=320;width=320\n", "HISTO3D"),
        ("% format DIFF3D;height=320;width=320\n", "DIFF3D"),
        ("% evt 4.0\n", "EVT 4.0"),
    ],
)
def test_other_encodings_are_refused_by_name(tmp_path, lines, name):
    path = write(tmp_path / "e.raw", lines.encode() + b"% end\n" + bytes(range(256)))
    for options in ({}, {"format": "raw"}):
        with pytest.raises(FormatError, match=rf"{name}; known are EVT2, EVT2\.1 and EVT3"):
            read_events(path, **options)
    with pytest.raises(FormatError, match=f"format=evt3 is stated, but its header says {name}"):
        read_events(path, format="evt3")


def test_sensors_that_contradict_each_other_are_refused(tmp_path):
    stream = stream_for("evt2")
    content = encode_evt2(stream).replace(b"% end", b"% format EVT2;height=720;width=1280\n% end")
    path = write(tmp_path / "e.raw", content)
    with pytest.raises(FormatError, match=r"640x480 \(geometry\) and 1280x720 \(format\).*sensor_hw="):
        read_events(path)
    assert rows(read_events(path, sensor_hw=(480, 640))) == rows(stream)
    sides = {"width": 346, "height": 260}
    for form, fact in (
        ("csv", ("geometry", "640x480")),
        ("npz", ("sensor_hw", (480, 640))),
        ("hdf5", ("geometry", "640x480")),
    ):
        path = write_table(form, tmp_path / form, make_columns(), named=True, facts={**dict([fact]), **sides})
        with pytest.raises(FormatError, match=r"states its sensor twice.*sensor_hw="):
            read_events(path)
        assert read_events(path, sensor_hw=(260, 346)).sensor_hw == (260, 346)


def test_chips_that_are_not_known_are_refused(tmp_path):
    davis, dvs = make_stream(sensor_hw=(260, 346)), make_stream()
    for chip in (b"ch.unizh.ini.jaer.chip.retina.ATIS304", b"eu.seebetter.ini.chips.davis.Davis1024", b"Cochlea"):
        path = write(tmp_path / "e.aedat", encode_aedat2(dvs).replace(b"ch.unizh.ini.jaer.chip.retina.DVS128", chip))
        with pytest.raises(FormatError, match=rf"chip {chip.decode()}, .*sensor_hw="):
            read_events(path)
    content = encode_davis(davis).replace(b"Davis346blue", b"Davis1024")
    assert rows(read_events(write(tmp_path / "d.aedat", content), sensor_hw=(260, 346))) == rows(davis)
    without = encode_davis(davis).replace(b"# AEChip: eu.seebetter.ini.chips.davis.Davis346blue\r\n", b"")
    path = write(tmp_path / "n.aedat", without)
    with pytest.raises(FormatError, match=r"names no chip, .*sensor_hw="):
        read_events(path)
    assert rows(read_events(path, sensor_hw=(260, 346))) == rows(davis)
    without = encode_aedat2(dvs).replace(b"# AEChip: ch.unizh.ini.jaer.chip.retina.DVS128\r\n", b"")
    assert rows(read_events(write(tmp_path / "o.aedat", without))) == rows(dvs)


@pytest.mark.parametrize("tick", ["us", "ns", "ms", "100ns"])
def test_durations(tmp_path, tick):
    columns = make_columns()
    ticks = {"us": 1, "ns": 1000, "ms": 1, "100ns": 10}[tick]
    t = (columns["t"] * ticks).astype(f"m8[{tick}]")
    np.save(tmp_path / "e.npy", records({"t": t, "x": columns["x"], "y": columns["y"], "polarity": columns["p"]}))
    times = columns["t"] * 1000 if tick == "ms" else columns["t"]
    assert_reads_as(read_events(tmp_path / "e.npy"), {**columns, "t": times})
    with (tmp_path / "e.npz").open("wb") as file:
        np.savez(file, t=t.astype("m8[ns]").view("M8[ns]"), **{k: columns[k] for k in "xyp"})
    assert_reads_as(read_events(tmp_path / "e.npz"), {**columns, "t": times})
    t[5] = np.timedelta64("NaT")
    np.save(tmp_path / "e.npy", records({"t": t, "x": columns["x"], "y": columns["y"], "p": columns["p"]}))
    with pytest.raises(FormatError, match="not finite"):
        read_events(tmp_path / "e.npy")


def test_a_tick_that_is_no_power_of_ten_is_refused(tmp_path):
    columns = make_columns()
    np.save(tmp_path / "e.npy", records({**columns, "t": columns["t"].astype("m8[25ns]")}))
    with pytest.raises(FormatError, match=r"tick is no power of ten.*time_unit="):
        read_events(tmp_path / "e.npy")


def test_objects_beside_the_columns_are_left_out(tmp_path, caplog):
    columns = make_columns()
    with (tmp_path / "e.npz").open("wb") as file:
        np.savez(file, meta=np.array({"camera": 1}, object), **columns)
    assert_reads_as(read_events(tmp_path / "e.npz"), columns)
    assert "meta.npy holds Python objects" in caplog.text


@pytest.mark.parametrize("base", ["offset", "first event", "first millisecond", "nothing"])
def test_indices_of_milliseconds_count_from_somewhere(tmp_path, base):
    h5py = pytest.importorskip("h5py")
    columns = make_columns(n=3_000, span=300_000)
    t = columns["t"] + 7_000_000_000
    zero = {"first event": t[0], "first millisecond": t[0] // 1000 * 1000}.get(base, 0)
    with h5py.File(tmp_path / "e.h5", "w") as file:
        for name, column in {**columns, "t": columns["t"] if base == "offset" else t}.items():
            file[f"events/{name}"] = column
        if base == "offset":
            file["t_offset"] = np.float64(7e9)
        edges = np.arange(302) * 1000 + (0 if base == "offset" else zero)
        index = np.searchsorted(columns["t"] if base == "offset" else t, edges)
        file["ms_to_idx"] = index if base != "nothing" else np.zeros(302, np.int64)
    window = (7_000_100_000, 7_000_120_000)
    inside = (t >= window[0]) & (t < window[1])
    assert read_events(tmp_path / "e.h5", window=window).t.tolist() == t[inside].tolist()
    assert read_events(tmp_path / "e.h5").t.tolist() == t.tolist()


def test_a_codec_that_is_missing_is_named_with_what_brings_it(tmp_path):
    h5py = pytest.importorskip("h5py")
    columns = make_columns(n=100)
    for code, name in ((32001, "Blosc"), (32015, "Zstandard"), (40_000, "an unknown codec")):
        with h5py.File(tmp_path / "e.h5", "w") as file:
            for key in columns:
                creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                creation.set_chunk((100,))
                creation.set_filter(code, h5py.h5z.FLAG_OPTIONAL, ())
                space = h5py.h5s.create_simple((100,))
                group = file.require_group("events").id
                h5py.h5d.create(group, key.encode(), h5py.h5t.NATIVE_INT64, space, creation)
                # What a codec that is not there has written, which none can read.
                h5py.Dataset(h5py.h5d.open(group, key.encode())).id.write_direct_chunk((0,), b"\1" * 80, 0)
        with pytest.raises(FormatError, match=rf"{name}.*hdf5plugin"):
            read_events(tmp_path / "e.h5")


def pictures(path, stream, images, kinds, monkeypatch):
    """Writes an AEDAT4 file whose pictures are of given types (OpenCV's numbers)."""
    ends = stream.t_start + 1_000 * (np.arange(len(images)) + 1)
    frames = Frames(np.zeros((len(images), *images[0].shape[:2]), np.uint8), ends - 500, ends)
    original = aedat4_writer._frame_packet

    def packet(frames, index):
        stream, items, start, end, content = original(frames, index)
        body = bytearray(content[4:])
        at = 36 + 48  # the table's place and the type's in it
        body[at] = kinds[index]
        pixels = images[index].tobytes()
        size = struct.calcsize("<I")
        head = body[: len(body) - size - images[index].shape[0] * images[index].shape[1]]
        return stream, items, start, end, aedat4_writer._finish(bytes(head) + struct.pack("<I", len(pixels)) + pixels)

    monkeypatch.setattr(aedat4_writer, "_frame_packet", packet)
    write_events(stream, path, frames=frames)
    monkeypatch.undo()
    return ends


@pytest.mark.parametrize(("depth", "highest"), [(10, 1023), (12, 2000), (14, 16_000), (16, 65_535), (8, 200)])
def test_pictures_of_16_bits_have_one_scale(tmp_path, depth, highest, monkeypatch):
    stream = make_stream(n=200, sensor_hw=(6, 8), span=20_000)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, top, (6, 8)).astype("<u2") for top in (highest // 8, highest, highest // 2)]
    images[1][0, 0] = highest
    ends = pictures(tmp_path / "e.aedat4", stream, images, [2, 2, 2], monkeypatch)
    frames = open_recording(tmp_path / "e.aedat4").frames
    assert frames is not None
    assert (frames.images == np.stack(images) >> (depth - 8)).all()
    assert frames.end_us.tolist() == ends.tolist()
    found = read_aedat4_frames(tmp_path / "e.aedat4", [0, 2])
    assert (found[0][..., 0] == frames.images[0]).all()  # scaled by a picture that was not asked for
    assert (found[1][..., 0] == frames.images[2]).all()


def test_a_picture_of_an_unknown_type_loses_nothing_else(tmp_path, monkeypatch, caplog):
    stream = make_stream(n=200, sensor_hw=(6, 8), span=20_000)
    images = [np.full((6, 8), 7, np.uint8), np.ones((6, 8), "<f4"), np.full((6, 8), 9, np.uint8)]
    ends = pictures(tmp_path / "e.aedat4", stream, images, [0, 5, 0], monkeypatch)
    recording = open_recording(tmp_path / "e.aedat4")
    assert rows(recording.events) == rows(stream)
    assert recording.frames is not None
    assert recording.frames.images[:, 0, 0].tolist() == [7, 9]
    assert recording.frames.end_us.tolist() == ends[[0, 2]].tolist()
    assert "a picture of type 5 is left out" in caplog.text
    assert index_aedat4(tmp_path / "e.aedat4").end_us.tolist() == ends[[0, 2]].tolist()
    assert read_aedat4_frames(tmp_path / "e.aedat4", [1])[0].max() == 9


def bag_of(path, stream, *, storage, mode="none"):
    """A bag of ROS 2 in a storage, its messages or nothing compressed."""
    from bag_files import Bag
    from rosbags import rosbag2

    bag = Bag(path, 2)
    bag.writer = rosbag2.Writer(path, version=9, storage_plugin=getattr(rosbag2.StoragePlugin, storage))
    if mode == "message":
        bag.writer.set_compression(rosbag2.CompressionMode.MESSAGE, rosbag2.CompressionFormat.ZSTD)
    with bag:
        bag.events("/events", stream)
    return next(p for p in path.iterdir() if p.suffix != ".yaml")


@pytest.mark.parametrize("storage", ["SQLITE3", "MCAP"])
@pytest.mark.parametrize("mode", ["none", "message"])
def test_the_bag_file_that_is_named_is_read_alone_or_beside_others(tmp_path, storage, mode):
    pytest.importorskip("rosbags")
    if mode == "message" and storage == "MCAP":
        pytest.skip("MCAP compresses its chunks itself")
    one, two = make_stream(n=30), make_stream(n=20, seed=1)
    first = bag_of(tmp_path / "one", one, storage=storage, mode=mode)
    second = bag_of(tmp_path / "two", two, storage=storage, mode=mode)
    beside = second.rename(first.with_name("beside" + second.suffix))  # not in the metadata.yaml
    assert rows(read_events(first)) == rows(one)
    assert rows(read_events(beside)) == rows(two)
    assert rows(read_events(first.parent)) == rows(one)
    (tmp_path / "alone").mkdir()
    assert rows(read_events(first.rename(tmp_path / "alone" / "of_any_name"))) == rows(one)


def test_pictures_of_bags(tmp_path, caplog):
    pytest.importorskip("rosbags")
    from bag_files import START, Bag

    stream = make_stream()
    deep = (np.arange(48).reshape(6, 8) * 80).astype("<u2")  # uses 12 bits
    with Bag(tmp_path / "bag", 2) as bag:
        bag.events("/events", stream)
        bag.picture("/image", deep, "mono16", START)
        bag.picture("/image", deep // 8, "mono16", START + 10)
        bag.picture("/image", np.ones((6, 8), "<f4"), "32FC1", START + 20)
        bag.picture("/image", np.ones((3, 4), "<u2"), "mono16", START + 30)
    recording = open_recording(tmp_path / "bag")
    assert rows(recording.events) == rows(stream)
    assert recording.frames is not None
    assert (recording.frames.images == np.stack([deep, deep // 8]) >> 4).all()
    assert "1 pictures of /image are left out: 8x6 '32FC1'" in caplog.text
    assert "1 pictures of /image are left out: 4x3" in caplog.text
