"""What names of columns say, in the spellings of the tools that write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from had_snn.errors import FormatError
from had_snn.recordings.column_names import Name, agreed_unit, has_roles, index_by_name, split_name

NAMES = {
    "t": Name("t"),
    "Timestamp": Name("t"),
    "time (s)": Name("t", 6),
    "timestamp_us": Name("t", 0),
    "timestampNs": Name("t", -3),
    "t / ms": Name("t", 3),
    "t:us": Name("t", 0),
    "time_stamp in 1e-6 s": Name("t", 0),
    "t [ticks]": Name("t", None, "ticks"),
    "t []": Name("t"),
    '"x"': Name("x"),
    "x [px]": Name("x"),
    "x_pixels": Name("x"),
    "x (mm)": Name(None),
    "col": Name("x"),
    "Row": Name("y"),
    "y_addr": Name("y"),
    "polarity (0=off, 1=on)": Name("p"),
    "is_increase": Name("p"),
    "on": Name("p"),
    "dvs.events.ts": Name("t"),
    "frame_time": Name(None),
    "t0": Name(None),
    "x1": Name(None),
    "timestamp ticks": Name(None),
    "": Name(None),
    "label": Name(None),
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name):
    assert split_name(name) == NAMES[name]


def test_roles_and_their_places():
    path = Path("e.csv")
    assert has_roles(["t_us", "x", "y", "label"])
    assert not has_roles(["t0", "x", "y"])
    assert index_by_name(path, ["", "p", "y", "x", "t [ns]"], stated=False) == ({"p": 1, "y": 2, "x": 3, "t": 4}, -3)
    with pytest.raises(FormatError, match="none is named like p; not an event file"):
        index_by_name(path, ["t", "x", "y", "z"], stated=False)
    with pytest.raises(FormatError, match=r"'ticks' is not understood.*time_unit="):
        index_by_name(path, ["t [ticks]", "x", "y", "p"], stated=False)
    assert index_by_name(path, ["t [ticks]", "x", "y", "p"], stated=True)[1] is None


def test_units_told_twice():
    path = Path("e.csv")
    assert agreed_unit(path, [("name", None), ("comment", 0), ("time_unit", 0)]) == 0
    assert agreed_unit(path, []) is None
    with pytest.raises(FormatError, match=r"ns \(name\) and us \(time_unit\).*time_unit=\.\.\. decides"):
        agreed_unit(path, [("name", -3), ("time_unit", 0)])
