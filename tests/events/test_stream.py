"""Event arrays: slicing, crops that follow `geometry.Crop`, packing, tonic's arrays."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from had_snn.errors import InputError
from had_snn.events import EventBatch, EventStream, concatenate
from had_snn.events.stream import require_stream
from had_snn.geometry import Crop, search_crop
from had_snn.recordings.writers import write_events


def make_stream(n: int = 500, sensor_hw: tuple[int, int] = (48, 64), seed: int = 0, span: int = 10_000) -> EventStream:
    rng = np.random.default_rng(seed)
    return EventStream.from_arrays(
        t=np.sort(rng.integers(0, span, n)),
        x=rng.integers(0, sensor_hw[1], n),
        y=rng.integers(0, sensor_hw[0], n),
        p=rng.integers(0, 2, n),
        sensor_hw=sensor_hw,
    )


def rows(stream: EventStream) -> list[tuple[int, int, int, int]]:
    return list(zip(stream.t.tolist(), stream.x.tolist(), stream.y.tolist(), stream.p.tolist(), strict=True))


def test_dtypes_and_read_only():
    stream = make_stream()
    assert [a.dtype for a in (stream.t, stream.x, stream.y, stream.p)] == [np.int64, np.uint16, np.uint16, np.uint8]
    with pytest.raises(ValueError, match="read-only"):
        stream.x[0] = 1
    with pytest.raises(AttributeError):
        stream.t = stream.t  # pyright: ignore[reportAttributeAccessIssue]


def test_does_not_lock_the_callers_array():
    t = np.arange(3, dtype=np.int64)
    EventStream.from_arrays(t, [0, 0, 0], [0, 0, 0], [0, 1, 0], (2, 2))
    t[0] = -5
    assert t[0] == -5


def test_slices_are_views_and_half_open():
    stream = make_stream()
    window = stream.slice_time(2_000, 4_000)
    assert np.shares_memory(window.t, stream.t)
    assert rows(window) == [r for r in rows(stream) if 2_000 <= r[0] < 4_000]
    assert len(stream.slice_time(4_000, 2_000)) == 0
    assert len(stream.slice_time(stream.t_start, stream.t_end)) == len(stream)
    assert rows(stream.slice_index(3, 9)) == rows(stream)[3:9]


def test_empty_stream():
    empty = EventStream.empty((10, 20))
    assert (len(empty), empty.t_start, empty.t_end) == (0, 0, 0)
    assert len(empty.slice_time(0, 100)) == 0
    assert len(empty.crop(Crop(0, 0, 2.0, 8))) == 0
    assert EventStream.from_arrays([], [], [], [], (4, 4)).t.dtype == np.int64


@settings(max_examples=200, deadline=None)
@given(
    x0=st.floats(-80, 80),
    y0=st.floats(-80, 80),
    scale=st.floats(0.05, 12.0),
    size=st.integers(1, 256),
    seed=st.integers(0, 5),
)
def test_crop_follows_geometry(x0, y0, scale, size, seed):
    stream = make_stream(seed=seed)
    crop = Crop(x0, y0, scale, size)
    u = np.floor((stream.x.astype(np.float64) + 0.5 - x0) * scale)
    v = np.floor((stream.y.astype(np.float64) + 0.5 - y0) * scale)
    keep = (u >= 0) & (u < size) & (v >= 0) & (v < size)
    expected = list(
        zip(stream.t[keep].tolist(), u[keep].tolist(), v[keep].tolist(), stream.p[keep].tolist(), strict=True)
    )
    cropped = stream.crop(crop)
    assert rows(cropped) == expected
    assert cropped.sensor_hw == (size, size)
    assert (cropped.x.dtype, cropped.t.dtype) == (np.uint16, np.int64)


def test_crop_of_a_search_region_beside_the_sensor_is_empty():
    assert len(make_stream().crop(search_crop(np.array([500.0, 500, 10, 10]), factor=4, size=64))) == 0


def test_resample_keeps_every_event():
    stream = make_stream()
    small = stream.resample((24, 16))
    assert len(small) == len(stream)
    assert (small.x == np.floor((stream.x + 0.5) / 4)).all()
    assert (small.y == stream.y // 2).all()
    assert small.resample((48, 64)).sensor_hw == (48, 64)


def test_concatenate_sorts_and_refuses_other_sensors():
    whole = make_stream()
    parts = [whole.slice_time(5_000, 20_000), whole.slice_time(0, 5_000)]
    assert rows(concatenate(parts)) == rows(whole)
    assert rows(concatenate(parts[::-1])) == rows(whole)
    with pytest.raises(InputError, match="different sensors"):
        concatenate([whole, make_stream(sensor_hw=(64, 48))])
    with pytest.raises(InputError, match="at least one"):
        concatenate([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t": [3, 2, 5]}, "not sorted.*event 1"),
        ({"t": [0.1, 0.2, 0.3]}, "microseconds"),
        ({"x": [0, 8, 0]}, "outside 0..7"),
        ({"y": [0, -1, 0]}, "outside 0..5"),
        ({"p": [1, -1, 0]}, "polarity must be 0 or 1, or -1 or 1"),
        ({"p": [1, 2, 1]}, "polarity"),
        ({"p": [1, 0]}, "equally long"),
        ({"sensor_hw": (0, 8)}, "sensor size"),
    ],
)
def test_invalid_columns_are_named(change, message):
    good = {"t": [1, 2, 3], "x": [0, 1, 2], "y": [0, 1, 2], "p": [0, 1, 1], "sensor_hw": (6, 8)}
    for make in (EventStream.from_arrays, EventStream):
        with pytest.raises(InputError, match=message):
            make(**{**good, **change})


def test_structured_round_trip_has_tonics_dtype():
    stream = make_stream()
    array = stream.to_structured()
    assert array.dtype == np.dtype([("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")])
    assert rows(EventStream.from_structured(array, stream.sensor_hw)) == rows(stream)
    with pytest.raises(InputError, match="found x, y, t, so p is missing or ambiguous"):
        EventStream.from_structured(np.zeros(2, [("x", "i2"), ("y", "i2"), ("t", "i8")]), (4, 4))


@pytest.mark.filterwarnings("default")
def test_tonic_transforms_and_slicers_run():
    transforms = pytest.importorskip("tonic.transforms", exc_type=ImportError)
    slicers = pytest.importorskip("tonic.slicers", exc_type=ImportError)
    stream = make_stream()
    array = stream.to_structured()
    frames = transforms.ToFrame(sensor_size=(64, 48, 2), time_window=20_000)(array)
    assert int(frames.sum()) == len(stream)
    windows = slicers.SliceByTime(time_window=1_000).slice(array, None)[0]
    assert len(windows) > 5
    cropped = transforms.CenterCrop(sensor_size=(64, 48, 2), size=(32, 32))(array)
    assert len(EventStream.from_structured(cropped, (32, 32))) == len(cropped)


def test_memory_mapped_stream_gives_plain_views(tmp_path):
    stream = make_stream()
    columns = {}
    for name in "txyp":
        np.save(tmp_path / f"{name}.npy", getattr(stream, name))
        columns[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    mapped = EventStream.from_arrays(**columns, sensor_hw=stream.sensor_hw, validate=False)
    assert type(mapped.t) is np.ndarray
    assert rows(mapped.slice_time(1_000, 2_000)) == rows(stream.slice_time(1_000, 2_000))
    assert rows(pickle.loads(pickle.dumps(mapped))) == rows(stream)


def test_pack():
    a, b = make_stream(seed=1).slice_time(0, 3_000), make_stream(seed=2).slice_time(3_000, 6_000)
    empty = EventStream.empty(a.sensor_hw)
    batch = EventBatch.pack([a, empty, b], [0, 0, 3_000], [3_000, 10, 6_000])
    assert len(batch) == 3
    assert batch.offsets.tolist() == [0, len(a), len(a), len(a) + len(b)]
    assert [v.dtype for v in (batch.t, batch.x, batch.y, batch.p)] == [
        torch.int64,
        torch.int16,
        torch.int16,
        torch.uint8,
    ]
    assert batch.x[batch.offsets[2] :].tolist() == b.x.tolist()
    assert (batch.t_begin.tolist(), batch.t_end.tolist()) == ([0, 0, 3_000], [3_000, 10, 6_000])
    moved = batch.to("cpu")
    assert moved.size_hw == (48, 64)
    assert torch.equal(moved.t, batch.t)


def test_pack_does_not_alias_the_recording():
    stream = make_stream()
    batch = EventBatch.pack([stream], [0], [10_000])
    batch.x.zero_()
    assert stream.x.any()


@pytest.mark.parametrize(
    ("begin", "end", "message"),
    [
        ([0], [5_000], "outside"),
        ([9_000], [20_000], "outside"),
        ([5], [5], "empty window"),
        ([0, 1], [9, 9], "as many"),
    ],
)
def test_pack_refuses_events_outside_their_window(begin, end, message):
    with pytest.raises(InputError, match=message):
        EventBatch.pack([make_stream()], begin, end)
    with pytest.raises(InputError, match="sample 1 is"):
        EventBatch.pack([EventStream.empty((4, 4)), EventStream.empty((4, 5))], [0, 0], [1, 1])


def test_crop_drops_pixels_beyond_the_sensor():
    stream = EventStream.from_arrays([1, 2, 3], [3, 99, 4], [0, 0, 0], [0, 1, 1], (8, 8), validate=False)
    assert stream.crop(Crop(0, 0, 1.0, 200)).x.tolist() == [3, 4]


def test_crop_of_strided_columns():
    structured = EventStream.from_arrays([1, 2, 3], [3, 7, 4], [0, 1, 2], [0, 1, 1], (8, 8)).to_structured()
    cropped = EventStream.from_structured(structured, (8, 8)).crop(Crop(3, 0, 2.0, 8))
    assert (cropped.x.tolist(), cropped.y.tolist(), cropped.t.tolist()) == ([1, 3], [1, 5], [1, 3])


@pytest.mark.parametrize(
    ("maker", "dtype", "dark"),
    [
        ("tonic", [("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")], 0),
        ("tonic, other order", [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "<i4")], 0),
        ("metavision", [("x", "<u2"), ("y", "<u2"), ("p", "<i2"), ("t", "<i8")], 0),
        ("dv", [("timestamp", "<i8"), ("x", "<i2"), ("y", "<i2"), ("polarity", "i1"), ("_p1", "i1")], 0),
        ("aedat", [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")], 0),
        ("dat_ts", [("ts", "<u4"), ("x", "<u2"), ("y", "<u2"), ("pol", "<i1")], -1),
    ],
)
def test_structured_arrays_as_cameras_and_libraries_give_them(maker, dtype, dark):
    array = np.zeros(3, dtype)
    t, x, y, p = (next(n for n, _ in dtype if n.startswith(start)) for start in (("t",), ("x",), ("y",), ("p", "on")))
    array[t], array[x], array[y], array[p] = [5, 6, 9], [1, 2, 3], [4, 5, 6], [1, dark, 1]
    stream = EventStream.from_structured(array, (10, 10))
    assert rows(stream) == [(5, 1, 4, 1), (6, 2, 5, 0), (9, 3, 6, 1)]
    assert (stream.t.dtype, stream.x.dtype, stream.p.dtype) == (np.int64, np.uint16, np.uint8)


def test_the_constructor_takes_lists_and_gives_the_stream_of_from_arrays():
    columns = ([5, 7], [1, 2], [0, 1], [-1, 1], (4, 4))
    made, expected = EventStream(*columns), EventStream.from_arrays(*columns)
    assert rows(made) == rows(expected) == [(5, 1, 0, 0), (7, 2, 1, 1)]
    assert not made.t.flags.writeable


def test_an_array_where_a_stream_is_expected_says_what_makes_one(tmp_path):
    array = make_stream().to_structured()
    for wrong, says in ((array, "from_structured"), (np.zeros((3, 4)), "from_arrays"), ([1, 2], "found list")):
        with pytest.raises(InputError, match=says):
            require_stream(wrong)
        with pytest.raises(InputError, match=says):
            write_events(wrong, tmp_path / "e.npz")
