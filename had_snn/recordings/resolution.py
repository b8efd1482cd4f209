"""What a whole recording's numbers mean, known once all events have passed: the last word on guesses.

Only here are all events known, so only here is it decided whether x or y comes first, from which number pixels count,
which sensor holds them, and which events of a file that is to be repaired have to go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from had_snn.errors import FormatError
from had_snn.events.stream import MAX_SIDE
from had_snn.recordings.checks import FEW, Checker, outside_remedy
from had_snn.recordings.facts import KNOWN_SENSORS_HW, smallest_sensor
from had_snn.recordings.recording import logger

Stored = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]  # pieces of x and y as they were read
AT_ONE_TIME = 100  # events that cannot be a recording if all have the same time


@dataclass(frozen=True)
class Resolution:
    """How the file's numbers become the stream's.

    Attributes:
        sensor_hw: Height and width.
        origin: The file's number of the first pixel.
        off_on: The file's polarity values (darker, brighter).
        exchanged: What was read as x is y, and the other way round.
        outside: Events outside the sensor, which have to go.
    """

    sensor_hw: tuple[int, int]
    origin: int
    off_on: tuple[int, int]
    exchanged: bool = False
    outside: int = 0

    @classmethod
    def of(cls, checker: Checker, stored: Stored) -> Resolution:
        """Decides from what a checker has seen, and notes the decisions in the source's info.

        Args:
            checker: After its last piece.
            stored: The pixels that it has passed on; looked at only where extremes do not decide.

        Raises:
            FormatError: If the events fit no reading, or most of them would have to go.
        """
        source, options, info = checker.source, checker.options, checker.source.info
        _check_times(checker)
        _check_share(checker, checker.dropped, checker.dropped + checker.count)
        off_on = checker.polarity.off_on()
        exchanged = _is_exchanged(checker)
        low, high = (limits[::-1] if exchanged else limits for limits in (checker.low, checker.high))
        stated = checker.sensor_hw
        origin = options.origin
        if origin is None:
            origin = int(source.countable_from_one and _counts_from_one(checker.count, low, high, stated))
            if origin:
                logger.warning("%s: pixels are numbered from 1 (origin=0 would keep the numbers)", source.path)
        info["origin"] = origin
        info["sensor"] = "inferred" if stated is None else "given" if options.sensor_hw else "file"
        plan = cls((0, 0), origin, off_on, exchanged)
        sensor_hw = (int(stated[0]), int(stated[1])) if stated else plan._infer(checker, low, high, stored)
        plan = cls(sensor_hw, origin, off_on, exchanged)
        _check_size(checker, sensor_hw)
        if checker.count == 0 or (min(low) >= origin and all(high[i] - origin < sensor_hw[1 - i] for i in (0, 1))):
            return plan
        return cls(sensor_hw, origin, off_on, exchanged, plan._drop(checker, low, high, stored))

    def _infer(self, checker: Checker, low: list[int], high: list[int], stored: Stored) -> tuple[int, int]:
        """The smallest sensor that holds all events, or, of a file to be repaired, all but a few at its very edge."""
        sensor_hw = smallest_sensor(high[1] - self.origin, high[0] - self.origin)
        narrow = _one_less(high, sensor_hw) if min(low) == 0 and self.origin == 0 else None
        if narrow is not None:
            over = Resolution(narrow, 0, self.off_on, self.exchanged)._count_outside(stored)
            if over <= FEW * checker.count:
                what = f"{over} events lie just outside a {narrow[1]}x{narrow[0]} sensor that holds all others"
                if checker.options.repair:
                    logger.warning("%s: %s", checker.source.path, what)
                    return narrow
                hint = "sensor_hw=(height, width) states the sensor, repair=True drops them"
                logger.warning("%s: %s (%s)", checker.source.path, what, hint)
        logger.info("%s: sensor inferred as %dx%d", checker.source.path, sensor_hw[1], sensor_hw[0])
        return sensor_hw

    def _drop(self, checker: Checker, low: list[int], high: list[int], stored: Stored) -> int:
        """Counts the events outside the sensor; refuses them, unless they are to be dropped and few."""
        outside, path = self._count_outside(stored), checker.source.path
        if not checker.options.repair:
            height, width = self.sensor_hw
            problem = (
                f"x runs from {low[0]} to {high[0]} and y from {low[1]} to {high[1]}, outside a {width}x{height} sensor"
                f" that counts from {self.origin}: {outside} of {checker.count} events"
            )
            remedy = outside_remedy(outside / checker.count, columns=True) + ", origin=0 or 1 the first pixel"
            raise FormatError(path, problem, remedy=remedy)
        _check_share(checker, checker.dropped + outside, checker.dropped + checker.count)
        if outside:
            logger.warning("%s: repaired: %d events outside the sensor: dropped", path, outside)
            checker.source.info.setdefault("repairs", []).append(f"{outside} events outside the sensor: dropped")
        return outside

    def _count_outside(self, stored: Stored) -> int:
        return sum(len(x) - int(np.count_nonzero(self.inside(x, y))) for x, y in stored())

    def inside(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Which of the events, with pixels as they were read, lie in the sensor: bool `[n]`."""
        height, width = self.sensor_hw[::-1] if self.exchanged else self.sensor_hw
        inside = (x < width + self.origin) & (y < height + self.origin)
        return inside & (x >= self.origin) & (y >= self.origin) if self.origin else inside

    def pixels(self, column: np.ndarray) -> np.ndarray:
        """Pixel numbers of the file as pixel numbers from 0."""
        return column - np.uint16(self.origin) if self.origin else column

    def polarity(self, p: np.ndarray) -> np.ndarray:
        """Polarity values of the file as uint8, 1 = brighter."""
        on = np.array(self.off_on[1]).astype(np.int8)  # the low byte of 255, as the column holds it
        return p.view(np.uint8) if self.off_on == (0, 1) else (p == on).astype(np.uint8)


def _is_exchanged(checker: Checker) -> bool:
    """True if rows come first in a file whose columns have no names: only then do its events fit the stated sensor."""
    order, path, hint = checker.source.order, checker.source.path, "columns=... states the order"
    if order is None or checker.count == 0:
        return False
    other = order.translate(str.maketrans("xy", "yx"))
    if checker.sensor_hw is None:
        straight, swapped = smallest_sensor(checker.high[1], checker.high[0]), smallest_sensor(*checker.high)
        if swapped[0] * swapped[1] < straight[0] * straight[1]:
            problem = f"columns read as {order}; read as {other} they would fit a {swapped[1]}x{swapped[0]} sensor"
            logger.warning("%s: %s (%s, sensor_hw=(height, width) the sensor)", path, problem, hint)
        return False
    height, width = (side + checker.slack for side in checker.sensor_hw)
    fits = checker.may_be_exchanged and checker.ends[0] < height and checker.ends[1] < width
    if not fits or checker.beyond <= FEW / 10 * checker.seen_count:
        return False
    size = f"{checker.sensor_hw[1]}x{checker.sensor_hw[0]}"
    logger.warning(
        "%s: columns are %s, not %s, or they would not fit the %s sensor (%s)", path, other, order, size, hint
    )
    checker.source.info["columns"] = other
    return True


def _one_less(high: list[int], sensor_hw: tuple[int, int]) -> tuple[int, int] | None:
    """The smaller known sensor that only its own width or height, as a pixel's number, does not fit."""
    for height, width in KNOWN_SENSORS_HW:
        if high[0] <= width and high[1] <= height and height * width < sensor_hw[0] * sensor_hw[1]:
            return height, width
    return None


def _check_times(checker: Checker) -> None:
    """Refuses recordings without a course of time."""
    source = checker.source
    alike = checker.first_t == checker.last_t and not checker.unsorted and checker.options.window is None
    if source.clock is not None and alike and checker.count >= AT_ONE_TIME:
        problem = f"all {checker.count} events have the time {checker.first_t} us: their times have lost their digits"
        remedy = "write them as float64 or whole numbers; columns=... states another column, time_unit=... its unit"
        raise FormatError(source.path, problem, remedy=remedy)


def _check_share(checker: Checker, gone: int, total: int) -> None:
    """Refuses a repair that would drop most of the events."""
    if gone > total - gone:
        problem = f"repair=True would drop {gone} of {total} events, which lie outside the sensor"
        states = "sensor_hw=(height, width) states the sensor, columns=... the order of the columns"
        raise FormatError(checker.source.path, problem, remedy=states)


def _check_size(checker: Checker, sensor_hw: tuple[int, int]) -> None:
    height, width = sensor_hw
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        problem = f"the sensor would be {width}x{height}; expected 1..{MAX_SIDE} a side"
        raise FormatError(checker.source.path, problem, remedy="sensor_hw=(height, width) states it")


def _counts_from_one(count: int, low: list[int], high: list[int], stated: tuple[int, int] | None) -> bool:
    """True if no pixel is 0 and some pixel is exactly the width or height of a sensor that holds all others."""
    if count == 0 or min(low) < 1:
        return False
    for height, width in (stated,) if stated else KNOWN_SENSORS_HW:
        if high[0] <= width and high[1] <= height:
            at_edge = high[0] == width or high[1] == height
            return at_edge and (stated is not None or low == [1, 1])
    return False
