"""The folder of situations: each reads as its truth says, or is refused by a line that names what helps."""

from __future__ import annotations

import importlib.util
import json
import logging

import pytest

from had_snn.data.layouts import open_layout
from had_snn.errors import FormatError
from had_snn.recordings.readers import open_recording, read_events

MUST_BE_REFUSED = {  # and what the line must name
    "ms_int.npz": "time_unit=",
    "epoch_float32.npy": "lost their digits.*time_unit=",
    "polarity_three.csv": "columns=",
    "other_chip.aedat": "ATIS304.*sensor_hw=",
    "evt4.raw": "EVT4",
    "histo3d.raw": "HISTO3D",
    "filter_missing.h5": "Blosc.*hdf5plugin",
    "clock_wraps_i4.npy": "repair=True unwraps",
    "one_outside_td.dat": "repair=True drops",
}


def describe(events):
    first, last = ([int(getattr(events, name)[i]) for name in "txyp"] for i in (0, -1))
    found = {"n": len(events), "first": first, "last": last, "sensor_hw": list(events.sensor_hw)}
    return found | {"x_max": int(events.x.max()), "y_max": int(events.y.max()), "on": int(events.p.sum())}


def test_every_file_reads_as_its_truth_says(field_data):
    truth = json.loads((field_data / "truth.json").read_text())
    without_ros = importlib.util.find_spec("rosbags") is None
    wrong = {}
    for name, expected in truth.items():
        if without_ros and ("bag" in name or "alone" in name):
            continue
        stated = tuple(expected["sensor_hw"]) if expected["sensor_hw"] else None
        for options in ({}, {"sensor_hw": stated}) if stated else ({},):
            found = describe(read_events(field_data / name, **options))
            different = {k: (found[k], v) for k, v in expected.items() if v is not None and found[k] != v}
            if different:
                wrong[name, tuple(options)] = different
    assert not wrong


@pytest.mark.parametrize("name", MUST_BE_REFUSED)
def test_what_cannot_be_known_is_refused_by_name(field_data, name):
    with pytest.raises(FormatError, match=MUST_BE_REFUSED[name]) as caught:
        open_recording(field_data / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "count", "milliseconds"),
    [
        ("clock_wraps_i4.npy", {"repair": True}, 3_000, 50),
        ("edge_over_by_one.txt", {"repair": True}, 2_999, 50),
        ("one_outside_td.dat", {"repair": True}, 399, 40),
        ("index_from_first_event.h5", {"window": (7000005000, 7000020000)}, 204, 15),
        ("plain_us_decimals.txt", {}, 3_000, 75),
        ("float_us.npy", {}, 3_000, 50),
        ("ms_int.npz", {"time_unit": "ms"}, 8_000, 8_000),
        ("polarity_three.csv", {"columns": "yx_pt"}, 300, 40),
        ("polarity_three.csv", {"columns": "yx_pt", "polarity": (-1, 1)}, 300, 40),
        ("column_255.h5", {}, 600, 40),
        ("table_minus_one_unsigned.h5", {}, 600, 40),
    ],
)
def test_counts_and_durations(field_data, name, options, count, milliseconds):
    events = read_events(field_data / name, **options)
    assert len(events) == count
    assert round((events.t_end - events.t_start) / 1_000) == pytest.approx(milliseconds, abs=1)


def test_the_bag_that_is_named_is_the_one_that_is_read(field_data):
    pytest.importorskip("rosbags")
    for name, count in (("bag_mcap/bag_mcap.mcap", 500), ("bag_second", 77), ("bag_second/bag_second.mcap", 77)):
        assert len(read_events(field_data / name)) == count


def test_pictures_are_kept(field_data, caplog):
    for name, count in (("frames_16bit", 2), ("frame_of_floats", 2), ("frame_stamps_zero", 4)):
        caplog.clear()
        frames = open_recording(field_data / f"{name}.aedat4").frames
        assert frames is not None
        assert len(frames) == count
        assert frames.images.max() == 255
        assert ("left out" in caplog.text) == (name == "frame_of_floats")


def test_a_layout_reads_a_target_that_begins_in_a_corner(field_data, tmp_path, caplog):
    caplog.set_level(logging.WARNING, logger="had_snn")
    layout = open_layout("eventvot", field_data / "EventVOT", cache_dir=tmp_path)
    (sequence,) = layout.sequences("test")
    truth = json.loads((field_data / "truth.json").read_text())["EventVOT/test/near_target/near_target.csv"]
    assert describe(sequence.events) == truth
    assert "columns" not in caplog.text
