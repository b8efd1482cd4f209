"""Units of time as files write them: the one parser for headers, column names, attributes, dtypes and options.

A unit is the power of ten that turns its numbers into microseconds. What is not understood to its last character is no
unit: guessing at half of it would move every event.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, InvalidOperation

import numpy as np

from had_snn.errors import InputError

_WORDS = {
    6: "s sec secs second seconds",
    3: "ms msec msecs millisecond milliseconds milli millis",
    0: "us usec usecs microsecond microseconds micro micros",
    -3: "ns nsec nsecs nanosecond nanoseconds nano nanos",
    -6: "ps psec psecs picosecond picoseconds pico picos",
}
_EXPONENT_OF = {word: exponent for exponent, words in _WORDS.items() for word in words.split()}
_SHORT = {6: "s", 3: "ms", 0: "us", -3: "ns", -6: "ps"}
_BRACKETS = "[](){}<>\"'` \t"
_POWER = re.compile(r"10(?:\^|\*\*)?([+-]\d+)|10(?:\^|\*\*)(\d+)")
_LARGEST = 9  # a 32-bit clock of a larger unit does not fit 64-bit microseconds

EXPECTED_UNIT = "s, ms, us, ns or a power of ten of one, e.g. 1e-6 s"


def parse_unit(text: str) -> int | None:
    """Decimal exponent that turns numbers of a unit into microseconds, or None if it is not fully understood.

    Both micro signs, every kind of bracket and full words are known, and a power of ten before the unit.

    Example:
        >>> [parse_unit(u) for u in ("[ns]", "\\u00b5s", "10^-6 s", "0.1 ms", "microseconds", "ticks", "25 ns")]
        [-3, 0, 0, 2, 0, None, None]
    """
    plain = unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\u03bc", "u")
    plain = plain.strip(_BRACKETS).lower().removeprefix("in ").strip()
    match = re.fullmatch(r"(.*?)\s*[*x\u00b7\u22c5]?\s*([a-z]+)\.?", plain)
    if match is None or match[2] not in _EXPONENT_OF:
        return None
    power = _power_of_ten(match[1].strip())
    if power is None or abs(power + _EXPONENT_OF[match[2]]) > _LARGEST:
        return None
    return power + _EXPONENT_OF[match[2]]


def _power_of_ten(number: str) -> int | None:
    if not number:
        return 0
    if match := _POWER.fullmatch(number.replace(" ", "")):
        return int(match[1] or match[2])
    try:
        _, digits, exponent = Decimal(number).normalize().as_tuple()
    except InvalidOperation:
        return None
    return exponent if digits == (1,) and isinstance(exponent, int) and not number.startswith("-") else None


def unit_name(exponent: int) -> str:
    """The unit of a decimal exponent: `"ns"`, `"us"`, ..., or a power of ten of a second that `parse_unit` reads."""
    return _SHORT.get(exponent, f"1e{exponent - 6} s")


def stated_unit(text: str) -> int:
    """The exponent of a unit that a caller states.

    Raises:
        InputError: If it is not understood.
    """
    exponent = parse_unit(str(text))
    if exponent is None:
        raise InputError(f"time_unit is {text!r}; expected {EXPECTED_UNIT}")
    return exponent


def unit_of_dtype(dtype: np.dtype) -> int | None:
    """The exponent of a `timedelta64` or `datetime64` dtype; None if its tick is no power of ten of a second."""
    name, count = np.datetime_data(dtype)
    return parse_unit(f"{count} {name}")
