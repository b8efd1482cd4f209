"""The times in an AEDAT4 file, found without decoding its events."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.errors import FormatError
from had_snn.events.stream import EventStream
from had_snn.recordings.aedat4_index import index_aedat4, read_aedat4_frames
from had_snn.recordings.readers import open_recording
from had_snn.recordings.recording import Frames
from had_snn.recordings.writers import write_events


def write(path, *, grey: bool = False):
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 10**6, 40_000)) + 1_600_000_000_000_000
    events = EventStream.from_arrays(t, rng.integers(0, 40, len(t)), rng.integers(0, 30, len(t)), t % 2, (30, 40))
    images = rng.integers(0, 255, (25, 30, 40) if grey else (25, 30, 40, 3)).astype(np.uint8)
    ends = t[0] + 40_000 * (np.arange(25) + 1)
    write_events(events, path, frames=Frames(images, ends - 9_000, ends))
    return events, images, ends


@pytest.mark.parametrize("grey", [False, True])
def test_times_and_pictures_are_those_of_the_whole_reader(tmp_path, grey):
    events, images, ends = write(tmp_path / "a.aedat4", grey=grey)
    index = index_aedat4(tmp_path / "a.aedat4")
    whole = open_recording(tmp_path / "a.aedat4")
    assert whole.frames is not None
    np.testing.assert_array_equal(index.end_us, whole.frames.end_us)
    np.testing.assert_array_equal(index.end_us, ends)
    np.testing.assert_array_equal(index.start_us, ends - 9_000)
    assert index.first_event_us == events.t[0]
    assert index.sensor_hw == (30, 40)
    for found, wanted in zip(read_aedat4_frames(tmp_path / "a.aedat4", [3, 24, 0]), images[[3, 24, 0]], strict=True):
        np.testing.assert_array_equal(found, np.repeat(wanted[..., None], 3, -1) if grey else wanted)
    with pytest.raises(FormatError, match="no frame 25; the recording holds 25"):
        read_aedat4_frames(tmp_path / "a.aedat4", [25])


def test_damage_is_named(tmp_path):
    write(tmp_path / "a.aedat4")
    data = (tmp_path / "a.aedat4").read_bytes()
    (tmp_path / "cut.aedat4").write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match="the file ends in a packet"):
        index_aedat4(tmp_path / "cut.aedat4")
    assert 5 < len(index_aedat4(tmp_path / "cut.aedat4", repair=True)) < 25
    (tmp_path / "text.aedat4").write_text("1,2,3,4\n")
    with pytest.raises(FormatError, match="not an AEDAT4 file"):
        index_aedat4(tmp_path / "text.aedat4")
    with pytest.raises(FormatError, match="cannot be read"):
        index_aedat4(tmp_path / "nothing.aedat4")


def test_real_recordings_give_the_same_times(real_data):
    path = real_data / "event-vision-library"
    for file in sorted(path.rglob("*.aedat4")):
        whole, index = open_recording(file), index_aedat4(file)
        assert index.first_event_us == whole.events.t[0]
        assert whole.frames is not None
        np.testing.assert_array_equal(index.end_us, whole.frames.end_us)
