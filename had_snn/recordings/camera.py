"""Events of a camera that is plugged in, through `neuromorphic-drivers` (extra `camera`, MIT licence).

The driver knows the Prophesee EVK3 HD and EVK4, the iniVation DAVIS346 and DVXplorer, and some more. It hands over
packets every few milliseconds: the events as a structured array (`t` uint64 in microseconds, `x`, `y` uint16, `on`
bool), where some were lost in front of one, and the camera's time by then, which goes on while nothing moves. Frames of
a DAVIS and what its motion unit says are left alone. Its source: https://github.com/neuromorphicsystems/neuromorphic-rs
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from had_snn.errors import InputError, first_line, optional_import
from had_snn.recordings.live import CLOCK, RECORD, CheckedRecords, LiveChunk

log = logging.getLogger("had_snn")

#: How long the driver waits for a packet before it lets others have their say, such as Ctrl-C.
WAIT_S = 0.1
#: Prophesee's cameras send the low 12 bits of their time apart from the rest, and the driver, which lets no event go
#: back, says the time as it was read last. A step back within these bits is none of the camera.
_LOW_WORD_US = 1 << 12
_RULES = "allow it with: sudo neuromorphic-drivers-install-udev-rules"


class CameraReader:
    """Reads a camera; a context that closes it.

    Args:
        wanted: Part of the model's name, such as `EVK4`, or a serial number; None for the only camera there is.
        stopped: Asked between packets; True ends the stream.

    Raises:
        MissingExtraError: If the driver is not installed.
        InputError: If there is no such camera, several could be meant, or it cannot be opened; the message lists what
            is there.
    """

    def __init__(self, wanted: str | None = None, *, stopped: Callable[[], bool] | None = None) -> None:
        driver = optional_import("neuromorphic_drivers", extra="camera")
        found = choose(driver, wanted)
        self.name = _title(found)
        self.stopped = stopped or (lambda: False)
        self.lost = 0
        self._dropped = 0
        try:
            self._device = driver.open(serial=found.serial, iterator_timeout=WAIT_S)
            properties = self._device.properties()
        except RuntimeError as error:  # the driver raises no other
            raise InputError(
                f"{self.name} cannot be opened: {first_line(error)}; end other programs that use it, or {_RULES}"
            ) from error
        self.sensor_hw = (int(properties.height), int(properties.width))
        self._checked = CheckedRecords(self.sensor_hw, self.name)
        log.info("%s: %d x %d pixels", self.name, properties.width, properties.height)

    def __enter__(self) -> CameraReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._device.close()
        if self.lost:
            log.warning("%s: events were lost %d times in all", self.name, self.lost)

    def __iter__(self) -> Iterator[LiveChunk]:
        """Chunks as they come, each with the camera's time.

        Raises:
            InputError: If the camera is gone.
            FormatError: If its clock goes back, or an event lies outside the sensor.
        """
        while not self.stopped():
            try:
                status, packet = next(self._device)
            except RuntimeError as error:
                raise InputError(
                    f"{self.name} is gone: {first_line(error)}; look after its cable, and start anew with the target's "
                    "box of that moment"
                ) from error
            if status.ring is None:  # nothing has come for so long
                continue
            self._say_losses(status.ring, packet)
            now, last = int(status.ring.current_t), self._checked.last_t
            if last is not None and 0 < last - now < _LOW_WORD_US:
                now = last
            yield self._checked.chunk(records_of(packet.polarity_events, now))

    def _say_losses(self, ring: Any, packet: Any) -> None:
        """Says when events are missing, ever more rarely: a computer that is too slow shall not write logs as well."""
        gaps = packet.polarity_events_overflow_indices
        dropped = int(getattr(ring, "dropped_packets", 0))
        lost = (0 if gaps is None else len(gaps)) + (dropped not in (0, self._dropped))
        self._dropped = dropped
        if lost and (self.lost + lost).bit_length() > self.lost.bit_length():
            log.warning(
                "%s: events were lost (%d times by now): this computer fetches them too slowly; fewer events (the "
                "camera's biases, its region of interest) or output_period_us and video=null help",
                self.name,
                self.lost + lost,
            )
        self.lost += lost


def records_of(events: np.ndarray | None, now_us: int) -> np.ndarray:
    """A packet's events as records of a live stream, and behind them the time.

    Args:
        events: With fields `t`, `x`, `y` and `on`, or None for no events.
        now_us: The camera's time when the packet was at its end.

    Returns:
        `RECORD` `[n + 1]`.
    """
    count = 0 if events is None else len(events)
    records = np.zeros(count + 1, RECORD)
    if events is not None and count:
        for name, field in zip("txyp", ("t", "x", "y", "on"), strict=True):
            records[name][:count] = events[field]
        now_us = max(now_us, int(events["t"][-1]))
    records[count] = (now_us, 0, 0, CLOCK, (0, 0, 0))
    return records


def choose(driver: ModuleType, wanted: str | None) -> Any:
    """The camera that is meant, as the driver lists it.

    Raises:
        InputError: If it is none or several.
    """
    try:
        there = driver.list_devices()
    except RuntimeError as error:
        raise InputError(
            f"the driver cannot look for cameras: {first_line(error)}; is there a USB bus here?"
        ) from error
    known = [model.value for model in driver.Name]
    listed = ", ".join(map(_title, there)) or "none"
    if wanted is None:
        meant = there
    else:
        meant = [one for one in there if one.serial == wanted] or [one for one in there if _is(one.name.value, wanted)]
        if not meant and not any(_is(model, wanted) for model in known):
            raise InputError(
                f"camera={wanted} is no serial number of a camera that is there ({listed}) and no model that the "
                f"driver knows: {', '.join(known)}"
            )
    if not meant:
        raise InputError(
            f"no camera{'' if wanted is None else ' ' + wanted} is there; found: {listed}; plug it in and see what "
            "ndls lists (the driver's own command)"
        )
    if len(meant) > 1:
        raise InputError(f"several cameras could be meant, {listed}; choose one with --camera SERIAL")
    if meant[0].error is not None:
        raise InputError(f"{_title(meant[0])} may not be read: {first_line(Exception(meant[0].error))}; {_RULES}")
    return meant[0]


def _title(device: Any) -> str:
    return device.name.value + (f" {device.serial}" if device.serial else "")


def _is(model: str, wanted: str) -> bool:
    """Whether a model is meant, however it is spelt: `evk4`, `DAVIS-346`."""
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in (wanted, model)]
    return bool(plain[0]) and plain[0] in plain[1]
