"""Facts that a file states beside its events: the sensor's size, the unit of time, an offset of all times.

Comments of text files, arrays of NPZ and MATLAB files, attributes and scalars of HDF5 files state them under the same
names, so they are understood in one place. Facts that contradict each other are refused by name: which one is wrong
only the caller can know.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings.recording import ReadOptions
from had_snn.recordings.units import EXPECTED_UNIT, parse_unit

# Sensors in use, by size; a recording that does not name its sensor gets the smallest that holds its events.
KNOWN_SENSORS_HW = ((128, 128), (180, 240), (240, 304), (240, 320), (260, 346), (320, 320), (480, 640), (720, 1280))
_UNIT_KEYS = {"time_unit", "t_unit", "ts_unit", "timestamp_unit", "unit", "units", "time_units", "unit_of_time"}
_ROWS_FIRST = {"sensor_hw", "shape_hw", "height_width", "hw"}
_COLUMNS_FIRST = {"geometry", "width_height", "wh"}
_EITHER = {"resolution", "sensor_resolution", "sensor_size", "sensor_shape", "image_size", "img_size"}
_WIDTHS, _HEIGHTS = (
    {f"{prefix}{side}" for prefix in ("", "sensor_", "img_", "image_")} for side in ("width", "height")
)

_NOTHING = r"[^\d\n]{0,40}?"
_TEXT_SIZE = re.compile(
    rf"\b(geometry|resolution|sensor(?:[ _-](?:size|hw|resolution|shape))?|dimensions?|image[ _-]size)\b"
    rf"({_NOTHING})(?<![a-z0-9.-])(\d+)(?: ?px)?\s*[x\u00d7*,; ]\s*(\d+)(?![\d.-])"
)
_TEXT_SIDE = re.compile(r"\b(width|height)\b\"?\s*[=:]?\s*(\d+)\b|\b(w|h)\s*[=:]\s*(\d+)\b")
_TEXT_UNIT = re.compile(
    r"\b((?:time|t|ts|timestamps?)[ _-])?units?( of (?:time|t))?\s*[=:]\s*[\"']?([^\s\"'|,;]+(?: [a-z\u03bc]+)?)"
)
_TEXT_TIME_IN = re.compile(r"\bt(?:ime)?(?:[ _-]?stamp)?s?\s*(?:(?:are|is) )?(?:in ([a-z]+)|[\[({<]([^\])}>]+)[\])}>])")
_TEXT_OFFSET = re.compile(r"\bt_?offset\b\s*[=:]?\s*([-+\d.e]+)")
_NUMBER_WORDS = re.compile(r"^(?:u?int\d*|float\d*|double)\s+")


@dataclass
class Facts:
    """What was found, each with the place that states it.

    Attributes:
        sensors: Heights and widths.
        units: Powers of ten that turn times into microseconds.
        offset: What is to be added to all times, in the file's own unit.
    """

    sensors: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    units: list[tuple[str, int | None]] = field(default_factory=list)
    offset: float | int | None = None

    def add(self, other: Facts) -> None:
        """Takes in what another place of the same file states; its offset counts where it has one."""
        self.sensors += other.sensors
        self.units += other.units
        self.offset = self.offset if other.offset is None else other.offset

    def sensor_hw(self, path: Path, options: ReadOptions) -> tuple[int, int] | None:
        """The one sensor that is stated, or None.

        Raises:
            FormatError: If two are stated, and the caller has not stated one.
        """
        found = {hw for _, hw in self.sensors}
        if len(found) > 1 and options.sensor_hw is None:
            both = " and ".join(f"{hw[1]}x{hw[0]} ({place})" for place, hw in self.sensors)
            problem = f"states its sensor twice, differently: {both}"
            raise FormatError(path, problem, remedy="sensor_hw=(height, width) decides")
        return next(iter(found)) if len(found) == 1 else None


def smallest_sensor(y_max: int, x_max: int) -> tuple[int, int]:
    """The smallest known sensor that holds a pixel, or else exactly that pixel's row and column plus one."""
    for height, width in KNOWN_SENSORS_HW:
        if y_max < height and x_max < width:
            return height, width
    return y_max + 1, x_max + 1


def facts_of_text(path: Path, lines: Iterable[str], options: ReadOptions) -> Facts:
    """What comments and other lines before the events state: `width=640 height=480`, `geometry:640,480`, `unit: ns`."""
    facts, sides = Facts(), {}
    for line in lines:
        text = unicodedata.normalize("NFKC", line).lower()
        for key, between, first, second in _TEXT_SIZE.findall(text):
            name = re.sub(r"\W", "_", key)
            rows_first = name.endswith("hw") or bool(re.search(r"height.*width|\bhw\b", between))
            columns_first = name in _COLUMNS_FIRST or bool(re.search(r"width.*height|\bwh\b", between))
            if not rows_first and not columns_first:  # people write 640x480
                columns_first = (int(first), int(second)) not in KNOWN_SENSORS_HW
            hw = _ordered(int(first), int(second), rows_first=rows_first, columns_first=columns_first)
            if hw is not None:
                facts.sensors.append((key, hw))
        for word, number, letter, other in _TEXT_SIDE.findall(text):
            sides[{"w": "width", "h": "height"}.get(letter, word)] = int(number or other)
        for before, behind, words in _TEXT_UNIT.findall(text):
            first = words.split()[0]
            unit = first if parse_unit(first) is not None else words
            if before or behind or parse_unit(unit) is not None:  # "units: x in pixels" is about something else
                _add_unit(path, facts, unit, options)
        for word, inside in _TEXT_TIME_IN.findall(text):
            exponent = parse_unit(_NUMBER_WORDS.sub("", (word or inside).strip()))
            facts.units.append(("comment", exponent))
        for number in _TEXT_OFFSET.findall(text):
            facts.offset = number_of(number)
    if sides.get("width") and sides.get("height"):
        facts.sensors.append(("width, height", (sides["height"], sides["width"])))
    return facts


def is_fact(name: str) -> bool:
    """True if something of this name states a fact, so that it is worth reading."""
    return _key(name) in _UNIT_KEYS | _ROWS_FIRST | _COLUMNS_FIRST | _EITHER | _WIDTHS | _HEIGHTS | {"t_offset"}


def _key(name: str) -> str:
    return re.sub(r"\W+", "_", name).lower()


def facts_of_items(path: Path, items: Mapping[str, Any], options: ReadOptions) -> Facts:
    """What named numbers and words state (arrays of an archive, attributes); anything else is passed over."""
    facts, sides = Facts(), {}
    for key, value in items.items():
        name = _key(str(key))
        value = np.asarray(value)
        if name in _UNIT_KEYS and value.dtype.kind in "USO" and value.size == 1:
            _add_unit(path, facts, _text(value), options)
        elif name == "t_offset" and value.size == 1:
            facts.offset = number_of(_first(value))
        elif name in _ROWS_FIRST | _COLUMNS_FIRST | _EITHER:
            pair = _pair(value)
            if pair is not None:
                hw = _ordered(*pair, rows_first=name in _ROWS_FIRST, columns_first=name in _COLUMNS_FIRST)
                facts.sensors += [(key, hw)] if hw is not None else []
        elif name in _WIDTHS | _HEIGHTS and value.size == 1:
            number = number_of(_first(value))
            if number is not None and number == int(number) and number > 0:
                sides["width" if name in _WIDTHS else "height"] = int(number)
    if len(sides) == 2:
        facts.sensors.append(("width, height", (sides["height"], sides["width"])))
    return facts


def _ordered(first: int, second: int, *, rows_first: bool, columns_first: bool) -> tuple[int, int] | None:
    """Height and width of two numbers; where the key tells no order, rows come first, unless that turns a sensor."""
    if first <= 0 or second <= 0:
        return None
    if not rows_first and not columns_first:
        columns_first = (second, first) in KNOWN_SENSORS_HW
    return (second, first) if columns_first else (first, second)


def _pair(value: np.ndarray) -> tuple[int, int] | None:
    """Two whole numbers, from an array of two (a third one, of polarities, may follow) or from text."""
    if value.dtype.kind in "USO":
        found = re.findall(r"\d+", _text(value)) if value.size == 1 else []
        return (int(found[0]), int(found[1])) if len(found) >= 2 else None
    flat = value.reshape(-1)
    if value.dtype.kind not in "iuf" or not (flat.size == 2 or (flat.size == 3 and flat[2] in (1, 2))):
        return None
    return (int(flat[0]), int(flat[1])) if np.isfinite(flat).all() and (flat == np.rint(flat)).all() else None


def _text(value: np.ndarray) -> str:
    word = _first(value)
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)


def _first(value: np.ndarray) -> Any:
    """The first value; of words the sound letters, as NumPy makes strings that break Python of a damaged file's."""
    flat = value.reshape(-1)[:1]
    if value.dtype.kind != "U":
        return flat[0]
    return flat.tobytes().decode("utf-32-be" if value.dtype.str[0] == ">" else "utf-32-le", "replace").rstrip("\0")


def number_of(value: Any) -> float | int | None:
    """A finite number, exactly where it is whole; None for anything else."""
    try:
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, str):
            value = int(value) if re.fullmatch(r"\s*[-+]?\d{1,30}\s*", value) else float(value)
        found = value.item() if hasattr(value, "item") else value
        found = int(found) if found == int(found) else float(found)
    except (TypeError, ValueError, OverflowError):
        return None
    return found


def _add_unit(path: Path, facts: Facts, text: str, options: ReadOptions) -> None:
    if text.lower() in ("px", "pixel", "pixels", ""):
        return
    exponent = parse_unit(text)
    if exponent is None and options.time_unit is None:
        problem = f"states {text!r} as its unit of time; expected {EXPECTED_UNIT}"
        raise FormatError(path, problem, remedy="time_unit=... states it")
    facts.units.append(("time_unit", exponent))
