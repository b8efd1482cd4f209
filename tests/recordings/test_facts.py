"""Facts beside the events: what comments, arrays and attributes state of the sensor, the unit and an offset."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from had_snn.errors import FormatError
from had_snn.recordings.facts import facts_of_items, facts_of_text, number_of, smallest_sensor
from had_snn.recordings.recording import ReadOptions

PATH, NOTHING = Path("e"), ReadOptions()
LINES = {
    "%geometry:320,320": (320, 320),
    "# width=640 height=480 time_unit=us": (480, 640),
    "# Width: 640, Height: 480": (480, 640),
    "# w=640 h=480": (480, 640),
    "# resolution 640 x 480 px": (480, 640),
    "# resolution: 480,640": (480, 640),  # no sensor is 480 wide and 640 high
    "# sensor size (height, width): 480 640": (480, 640),
    "# sensor size (width x height): 640\u00d7480": (480, 640),
    "# sensor_hw = (260, 346)": (260, 346),
    "# dimensions=346x260": (260, 346),
    "# sensor DVS128 2019-02-19 10:00:00": None,
    "# x y w h": None,
    "# width=640": None,
    "# size of a packet: 10, 20": None,
    "# geometry: 0x0": None,
}


@pytest.mark.parametrize("line", LINES)
def test_sensors_in_comments(line):
    assert facts_of_text(PATH, [line], NOTHING).sensor_hw(PATH, NOTHING) == LINES[line]


@pytest.mark.parametrize(
    ("line", "exponent"),
    [
        ("# time_unit=us width=3", 0),
        ("# Time unit: 1e-6 s", 0),
        ("# timestamp units = [ns]", -3),
        ("# unit of time: \u03bcs", 0),
        ("# timestamps in microseconds", 0),
        ("# time (float s), x, y", 6),
        ("# units: x in pixels", None),
        ("# unit: px", None),
        ("# t0 = 5", None),
    ],
)
def test_units_in_comments(line, exponent):
    found = {e for _, e in facts_of_text(PATH, [line], NOTHING).units if e is not None}
    assert found == (set() if exponent is None else {exponent})


def test_units_that_are_not_understood():
    with pytest.raises(FormatError, match=r"'ticks' as its unit of time.*time_unit="):
        facts_of_text(PATH, ["# time_unit=ticks"], NOTHING)
    stated = ReadOptions(time_unit="us")
    assert facts_of_text(PATH, ["# time_unit=ticks"], stated).units == [("time_unit", None)]


@pytest.mark.parametrize(
    ("items", "sensor_hw"),
    [
        ({"width": np.array(640), "height": np.float64(480)}, (480, 640)),
        ({"sensor_width": 640, "sensor_height": 480}, (480, 640)),
        ({"resolution": np.array([346, 260])}, (260, 346)),
        ({"sensor_resolution": (180, 240)}, (180, 240)),
        ({"sensor_size": (346, 260, 2)}, (260, 346)),  # tonic's, with the polarities
        ({"geometry": b"640x480"}, (480, 640)),
        ({"sensor_hw": np.array([[480, 640]])}, (480, 640)),
        ({"width": 640}, None),
        ({"width": -640, "height": 480}, None),
        ({"resolution": np.array([1.5, 2.0])}, None),
        ({"resolution": np.zeros(7)}, None),
    ],
)
def test_sensors_in_items(items, sensor_hw):
    assert facts_of_items(PATH, items, NOTHING).sensor_hw(PATH, NOTHING) == sensor_hw


@pytest.mark.parametrize("order", "<>")
def test_letters_that_no_text_holds_break_nothing(order):
    words = np.array(["us", "480", "u"], f"{order}U3")
    assert facts_of_items(PATH, {"time_unit": words[:1]}, NOTHING).units == [("time_unit", 0)]
    assert facts_of_items(PATH, {"width": words[1:2], "height": words[1]}, NOTHING).sensors[0][1] == (480, 480)
    codes = np.frombuffer(words.tobytes(), f"{order}u4").copy()
    codes[[1, 4, 8]] = 0x110000, 0xFFFFFFFF, 0xD800
    damaged = np.frombuffer(codes.tobytes(), words.dtype)
    with pytest.raises(FormatError, match="states 'u\ufffd' as its unit of time"):
        facts_of_items(PATH, {"time_unit": damaged[:1]}, NOTHING)
    facts = facts_of_items(PATH, {"width": damaged[1:2], "t_offset": damaged[2:], "wh": damaged[1:2]}, NOTHING)
    assert (facts.sensors, facts.offset) == ([], None)


def test_contradictions_are_left_to_the_caller():
    facts = facts_of_items(PATH, {"width": 640, "height": 480, "sensor_hw": (260, 346)}, NOTHING)
    with pytest.raises(FormatError, match=r"346x260 \(sensor_hw\) and 640x480 \(width, height\)"):
        facts.sensor_hw(PATH, NOTHING)
    assert facts.sensor_hw(PATH, ReadOptions(sensor_hw=(9, 9))) is None
    facts.add(facts_of_items(PATH, {"t_offset": np.float64(4.5e10)}, NOTHING))
    assert facts.offset == 45_000_000_000
    assert isinstance(facts.offset, int)


def test_numbers():
    found = [number_of(v) for v in ("12", b"-3", "1.5e6", np.float32(2.5), "nan", "inf", "x", None, "9" * 20)]
    assert found == [12, -3, 1_500_000, 2.5, None, None, None, None, 10**20 - 1]


@given(st.text(max_size=80))
def test_any_comment_is_read_or_refused(line):
    with contextlib.suppress(FormatError):
        assert facts_of_text(PATH, [line], NOTHING).offset is None or "offset" in line


def test_the_smallest_sensor():
    assert smallest_sensor(330, 250) == (480, 640)
    assert smallest_sensor(235, 175) == (240, 304)
    assert smallest_sensor(0, 0) == (128, 128)
    assert smallest_sensor(1279, 719) == (1280, 720)
