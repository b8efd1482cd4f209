"""What the name of a column says: its role among t, x, y and polarity, and the unit of time."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from had_snn.errors import FormatError
from had_snn.events.fields import ROLES
from had_snn.recordings.recording import logger
from had_snn.recordings.units import EXPECTED_UNIT, parse_unit, unit_name

_BRACKETED = re.compile(r"(.*?)\s*[\[({<](.*)[\])}>]\s*")
_SEPARATOR = re.compile(r"\s+in\s+|\s*[/:,]\s*|[\s_.-]+")
_PIXELS = {"", "px", "pix", "pixel", "pixels"}


class Name(NamedTuple):
    """What a name tells.

    Attributes:
        role: `"t"`, `"x"`, `"y"`, `"p"`, or None if it is none of them.
        exponent: Power of ten that turns its times into microseconds, if it names a unit.
        unknown: The text where a unit of time should stand, if that is not understood.
    """

    role: str | None
    exponent: int | None = None
    unknown: str | None = None


@functools.lru_cache(maxsize=1024)
def split_name(name: str) -> Name:
    """Role and unit told by a column's name.

    Example:
        >>> split_name("Timestamp [ns]"), split_name("ts_us").exponent, split_name("is_increase").role
        (Name(role='t', exponent=-3, unknown=None), 0, 'p')
    """
    plain = unicodedata.normalize("NFKC", name).strip().strip("\"'").strip()
    if role := _role(plain):
        return Name(role)
    if match := _BRACKETED.fullmatch(plain):
        role, inside = _role(match[1]), match[2].strip()
        if role in ("x", "y"):
            return Name(role if inside.lower() in _PIXELS else None)
        if role != "t" or not inside:
            return Name(role)
        exponent = parse_unit(inside)
        return Name("t", exponent, inside if exponent is None else None)
    snake = re.sub(r"(?<=[a-z])(?=[A-Z\u03bc])", "_", plain)  # timestampUs
    for separator in _SEPARATOR.finditer(snake):
        role, rest = _role(snake[: separator.start()]), snake[separator.end() :]
        if role == "t" and (exponent := parse_unit(rest)) is not None:
            return Name("t", exponent)
        if role in ("x", "y") and rest.lower() in _PIXELS:
            return Name(role)
    return Name(_role(plain.rsplit(".", 1)[-1]) if "." in plain else None)


def _role(text: str) -> str | None:
    return ROLES.get("_".join(re.findall(r"[^\W_]+", text.lower())))


def has_roles(names: Iterable[str]) -> bool:
    """True if names tell at least time, column and row."""
    return {"t", "x", "y"} <= {split_name(name).role for name in names}


def index_by_name(path: Path, names: Sequence[str], *, stated: bool) -> tuple[dict[str, int], int | None]:
    """Position of each role among named columns, and the unit that the name of the times tells.

    Args:
        path: The file, for messages.
        names: The columns' names.
        stated: The caller has stated the unit of time, so that it does not matter what the name says of it.

    Raises:
        FormatError: If a role is missing, or the name of the times holds a unit that is not understood.
    """
    told = [split_name(name) for name in names]
    index: dict[str, int] = {}
    for i, name in enumerate(told):
        if name.role is None:
            continue
        if name.role in index:
            first = names[index[name.role]]
            order = "columns=... states the order of the columns, with _ for one to skip"
            problem = f"columns {first} and {names[i]} both look like {name.role}; reading {first}"
            logger.warning("%s: %s (%s)", path, problem, order)
            continue
        index[name.role] = i
    missing = [role for role in "txyp" if role not in index]
    if missing:
        raise FormatError(
            path,
            f"columns {', '.join(names)}: none is named like {', '.join(missing)}; not an event file?",
            remedy="columns=... states the order, e.g. txyp",
        )
    time = told[index["t"]]
    if time.unknown is not None and not stated:
        problem = f"column {names[index['t']]!r}: its unit {time.unknown!r} is not understood; expected {EXPECTED_UNIT}"
        raise FormatError(path, problem, remedy="time_unit=... states it")
    return index, time.exponent


def agreed_unit(path: Path, told: Sequence[tuple[str, int | None]]) -> int | None:
    """The unit that a file tells in several places, `(place, exponent)`; None if it tells none.

    Raises:
        FormatError: If they contradict each other.
    """
    found = [(place, exponent) for place, exponent in told if exponent is not None]
    if len({exponent for _, exponent in found}) > 1:
        both = " and ".join(f"{unit_name(exponent)} ({place})" for place, exponent in found)
        raise FormatError(path, f"states its unit of time twice: {both}", remedy="time_unit=... decides")
    return found[0][1] if found else None
