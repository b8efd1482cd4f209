"""Units of time as people write them; what is not understood to the last character is no unit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from had_snn.errors import InputError
from had_snn.recordings.units import parse_unit, stated_unit, unit_name, unit_of_dtype

KNOWN = {
    6: ("s", "sec", "Seconds", "[s]", "1e0 s", "10^0 s"),
    3: ("ms", "msec", "milliseconds", "(ms)", "1e-3 s", "1000 us", "0.001s"),
    0: ("us", "\u00b5s", "\u03bcs", "<usec>", "{micros}", "10\u207b\u2076 s", "1 us", "1e-6 s", "10**-6*s", "'us'"),
    -3: ("ns", "NS", "nanosecond", "1E-9 s", "0.001 \u00b5s"),
    -1: ("100 ns", "0.1us"),
    -6: ("ps", "1e-12 s"),
}
UNKNOWN = (
    "",
    " ",
    "ticks",
    "25 ns",
    "2us",
    "-1 us",
    "us2",
    "m",
    "min",
    "h",
    "us/s",
    "1e-6",
    "10^ s",
    "nan s",
    "inf s",
    "[]",
)


@pytest.mark.parametrize(("exponent", "text"), [(e, t) for e, texts in KNOWN.items() for t in texts])
def test_known_units(exponent, text):
    assert parse_unit(text) == stated_unit(text) == exponent


@pytest.mark.parametrize("text", [*UNKNOWN, "1e-99999999 s", "1e30 s", "1e-20 s"])
def test_what_is_no_unit(text):
    assert parse_unit(text) is None
    with pytest.raises(InputError, match="time_unit is"):
        stated_unit(text)


@given(st.integers(-9, 9))
def test_names_are_read_as_what_they_name(exponent):
    assert parse_unit(unit_name(exponent)) == exponent


@given(st.text(max_size=20))
def test_any_text_gives_an_exponent_or_none(text):
    assert parse_unit(text) in {None, *range(-9, 10)}


def test_dtypes():
    ticks = ("m8[s]", "M8[ms]", "m8[us]", "m8[ns]", "m8[100ns]", "m8[25ns]", "m8[D]", "m8")
    assert [unit_of_dtype(np.dtype(name)) for name in ticks] == [6, 3, 0, -3, -1, None, None, None]
