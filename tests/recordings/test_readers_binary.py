"""Binary formats against small encoders written from their descriptions, cut at every byte, and fed with noise."""

from __future__ import annotations

import numpy as np
import pytest
from event_files import (
    ENCODERS,
    encode_davis,
    encode_es,
    encode_evt2,
    encode_evt21,
    encoded,
    make_stream,
    rows,
    stream_for,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference_decoders import evt3

from had_snn.errors import FormatError, HadError
from had_snn.events.stream import EventStream
from had_snn.recordings.evt import evt_decoder
from had_snn.recordings.readers import open_recording, open_source, read_events
from had_snn.recordings.writers import write_events


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("seed", range(3))
def test_decodes_what_the_description_says(tmp_path, kind, seed):
    stream = stream_for(kind, 400, seed)
    decoded = read_events(encoded(tmp_path, kind, stream))
    assert rows(decoded) == rows(stream)
    if kind != "aedat3":
        assert decoded.sensor_hw == stream.sensor_hw


def test_evt21_halves_swapped_by_header_and_by_content(tmp_path):
    stream = stream_for("evt21", 400)
    path = tmp_path / "e.raw"
    path.write_bytes(encode_evt21(stream, legacy=True))
    assert rows(read_events(path)) == rows(stream)
    for legacy in (False, True):
        words = encode_evt21(stream, legacy=legacy).split(b"% end\n", 1)[1]
        path.write_bytes(b"% evt 2.1\n% geometry 1280x720\n% end\n" + words)
        assert rows(read_events(path)) == rows(stream)
        assert rows(read_events(path, format="evt21")) == rows(stream)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 0xFFFF), max_size=120), st.integers(0, 120))
def test_evt3_decoder_follows_the_description_on_any_words(words, cut):
    decoder = evt_decoder("evt3")
    pieces = [decoder.decode(np.array(part, np.uint16)) for part in (words[:cut], words[cut:])]
    assert [row for piece in pieces for row in rows(piece)] == evt3(words)


@settings(max_examples=100, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.sampled_from([0, 2, 2, 3, 4, 5, 6, 8]), st.integers(0, 0xFFF)), max_size=150),
    cut=st.integers(0, 150),
)
def test_evt3_decoder_on_likely_words(kinds, cut):
    words = [kind << 12 | value for kind, value in kinds]
    decoder = evt_decoder("evt3")
    pieces = [decoder.decode(np.array(part, np.uint16)) for part in (words[:cut], words[cut:])]
    assert [row for piece in pieces for row in rows(piece)] == evt3(words)


def test_clocks_that_wrap():
    words = np.array([0x8FFF, 0x6FFF, 0x0001, 0x2002, 0x8000, 0x2003, 0x6001, 0x2004], np.uint16)
    assert evt_decoder("evt3").decode(words).t.tolist() == [0xFFFFFF, 1 << 24, (1 << 24) + 1]
    high = 0xFFFFFFF
    words = np.array([0x8 << 28 | high, 63 << 22, 0x8 << 28, 1 << 22], np.uint32)
    assert evt_decoder("evt2").decode(words).t.tolist() == [(high << 6) + 63, (1 << 34) + 1]
    words = np.array([0x8 << 60 | high << 32, 63 << 54 | 1, 0x8 << 60, 1 << 54 | 3], np.uint64)
    assert evt_decoder("evt21").decode(words).t.tolist() == [(high << 6) + 63, (1 << 34) + 1, (1 << 34) + 1]


@pytest.mark.parametrize("kind", ["dat", "aedat2"])
def test_32_bit_times_that_wrap(tmp_path, kind):
    late = EventStream.from_arrays([2**32 - 2, 2**32 - 1], [1, 2], [3, 4], [0, 1], (128, 128))
    early = EventStream.from_arrays([0, 5], [5, 6], [7, 8], [1, 0], (128, 128))
    head = len(ENCODERS[kind](EventStream.empty((128, 128))))
    path = tmp_path / "e"
    path.write_bytes(ENCODERS[kind](late) + ENCODERS[kind](early)[head:])
    assert read_events(path).t.tolist() == [2**32 - 2, 2**32 - 1, 2**32, 2**32 + 5]


def read_or_error(path, **options):
    try:
        return rows(read_events(path, **options))
    except FormatError as error:
        return error


CUT = [*ENCODERS, "aedat4", "raw", "hdf5", "npz", "npy", "csv", "mat"]


@pytest.mark.parametrize("kind", CUT)
def test_cut_at_many_bytes(tmp_path, kind, caplog):
    caplog.set_level("CRITICAL", logger="had_snn")
    size = encoded(tmp_path, kind, stream_for(kind, 12)).stat().st_size
    check_cuts(tmp_path, kind, sorted({*range(0, size, max(1, size // 60)), *range(max(0, size - 60), size)}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", CUT)
def test_cut_at_every_byte(tmp_path, kind, caplog):
    caplog.set_level("CRITICAL", logger="had_snn")
    size = encoded(tmp_path, kind, stream_for(kind, 12)).stat().st_size
    check_cuts(tmp_path, kind, range(0, size, 11 if kind == "hdf5" else 1))  # a library reads it, and refuses any cut


RECORD = {"dat": 8, "nmnist": 5, "aedat1": 6, "aedat2": 8, "davis": 16, "npy": 32}  # bytes from one event to the next


def check_cuts(tmp_path, kind, lengths):
    """A cut file gives an error with an offset, or with repair all events before the cut; never other events."""
    stream = stream_for(kind, 12)
    path = encoded(tmp_path, kind, stream)
    content, expected = path.read_bytes(), rows(stream)
    forced = {} if kind != "nmnist" else {"format": "nmnist"}
    begin = len(content) - 12 * RECORD.get(kind, 0)
    counts = [0]
    for length in lengths:
        path.write_bytes(content[:length])
        for repair in (False, True):
            found = read_or_error(path, repair=repair, **forced)
            if isinstance(found, FormatError):
                assert "\n" not in str(found)
                assert found.offset is not None, found
                continue
            if kind == "csv" and len(found) == 1 and found != expected[:1]:
                continue  # a single number left of the first line
            if kind in ("hdf5", "mat") and length > len(content) - 200:
                assert found == expected  # padding at the end
                continue
            assert found == expected[: len(found)], f"cut at {length}, repair={repair}"
            if repair:
                assert len(found) >= counts[-1], f"cut at {length} gives fewer events than a cut before it"
                counts.append(len(found))
            if repair and kind in RECORD:
                assert len(found) == max(0, length - begin) // RECORD[kind], f"cut at {length}"
    if kind not in ("hdf5", "npz", "mat"):
        assert len(counts) > 11


@pytest.mark.parametrize("kind", [*ENCODERS, "aedat4", "raw", "npy", "npz", "hdf5", "mat"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_events_or_a_named_error(tmp_path, kind, data):
    stream = stream_for(kind, 24)
    path = encoded(tmp_path, kind, stream)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        events = open_recording(path, repair=data.draw(st.booleans())).events
    except HadError:
        return
    EventStream.from_arrays(events.t, events.x, events.y, events.p, events.sensor_hw)
    assert len(events) <= 50 * len(content)


def test_progress_and_window_of_a_raw_file(tmp_path, monkeypatch):
    monkeypatch.setattr("had_snn.recordings.recording.BLOCK_BYTES", 128)
    stream = make_stream(2_000, span=1_000_000)
    path = write_events(stream, tmp_path / "e.raw")
    seen = []
    assert rows(read_events(path, progress=lambda done, total: seen.append((done, total)))) == rows(stream)
    assert seen[-1][0] == seen[-1][1] == path.stat().st_size
    window = (200_000, 300_000)
    seen.clear()
    part = read_events(path, window=window, progress=lambda done, total: seen.append((done, total)))
    assert rows(part) == rows(stream.slice_time(*window))
    assert seen[-1][0] < path.stat().st_size / 2  # stopped once past the window


def test_raw_without_an_encoding_or_sensor(tmp_path):
    stream = make_stream()
    path = tmp_path / "e.raw"
    body = encode_evt2(stream).split(b"% end\n", 1)[1]
    path.write_bytes(b"% evt 2.0\n% plugin_name hal_plugin_gen3_fx3\n" + body)
    assert read_events(path).sensor_hw == (480, 640)
    path.write_bytes(b"% evt 2.0\n" + body)
    assert open_recording(path).info["sensor"] == "inferred"
    path.write_bytes(b"% date today\n" + body)
    with pytest.raises(FormatError):
        read_events(path)
    assert rows(read_events(path, format="evt2", sensor_hw=(480, 640))) == rows(stream)


def test_es_of_sparse_events_and_of_another_reader(tmp_path):
    stream = make_stream(300, span=5_000_000)
    path = tmp_path / "e.es"
    path.write_bytes(encode_es(stream))
    assert rows(read_events(path)) == rows(stream)
    event_stream = pytest.importorskip("event_stream")
    with event_stream.Decoder(path) as decoder:
        theirs = np.concatenate(list(decoder))
    assert (theirs["t"] == stream.t).all()
    assert (127 - theirs["y"] == stream.y).all()
    with event_stream.Encoder(tmp_path / "theirs.es", "dvs", 128, 128) as encoder:
        encoder.write(theirs)
    assert rows(read_events(tmp_path / "theirs.es")) == rows(stream)


def test_davis_events_of_another_chip_are_out_of_range(tmp_path):
    path = tmp_path / "e.aedat"
    path.write_bytes(encode_davis(make_stream(100, (260, 346))).replace(b"Davis346blue", b"Davis240Cxxx"))
    with pytest.raises(FormatError, match="outside"):
        read_events(path)


def test_sources_are_walked_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("had_snn.recordings.recording.BLOCK_BYTES", 128)
    source, _ = open_source(write_events(make_stream(1_000), tmp_path / "e.raw"))
    assert len(list(source.chunks)) > 10
