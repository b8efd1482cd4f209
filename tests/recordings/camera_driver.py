"""What stands for `neuromorphic_drivers` 0.18 where no camera is: its names, its dtypes, its errors, given packets."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from had_snn.events.stream import EventStream

#: The driver's structured arrays are packed: 13 bytes an event.
POLARITY = np.dtype([("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")])


class Name(enum.Enum):
    INIVATION_DAVIS346 = "iniVation DAVIS 346"
    INIVATION_DVXPLORER = "iniVation DVXplorer"
    PROPHESEE_EVK3_HD = "Prophesee EVK3 HD"
    PROPHESEE_EVK4 = "Prophesee EVK4"


@dataclass
class ListedDevice:
    name: Name
    serial: str | None
    error: str | None = None
    connection: str = "USB 3.0 SuperSpeed (5.0 Gb/s)"
    address: str = "1:2"


def packet(events: EventStream | None, now_us: int, *, gaps: list[int] | None = None, dropped: int = 0) -> tuple:
    """A status and a packet, as the driver's iterator gives them; no event is None, as it does."""
    array = None
    if events is not None and len(events):
        array = np.zeros(len(events), POLARITY)
        for name, values in zip(("t", "x", "y", "on"), (events.t, events.x, events.y, events.p), strict=True):
            array[name] = values
    ring = SimpleNamespace(system_time=0.0, backlog=0, raw_packets=1, clutch_engaged=False)
    ring.current_t, ring.dropped_packets = now_us, dropped
    indices = None if gaps is None else np.array(gaps, np.uint64)
    holds = SimpleNamespace(
        polarity_events=array, polarity_events_overflow_indices=indices, imu_events=None, trigger_events=None, frames=[]
    )
    return SimpleNamespace(system_time=0.0, ring=ring), holds


#: What the iterator gives when nothing came before its timeout.
SILENCE = (SimpleNamespace(system_time=0.0, ring=None), None)


@dataclass
class Driver:
    """The module: `list_devices`, `open`, `Name`.

    Attributes:
        devices: What is plugged in.
        packets: What the opened device gives; behind them it is gone.
        size: Width and height.
    """

    devices: list[ListedDevice]
    packets: Iterable[Any] = ()
    size: tuple[int, int] = (1280, 720)
    refuses: str | None = None
    opened: list[dict] = field(default_factory=list)
    closed: int = 0
    Name = Name

    def list_devices(self) -> list[ListedDevice]:
        return self.devices

    def open(self, **options: Any) -> Driver:
        if self.refuses is not None:
            raise RuntimeError(self.refuses)
        self.opened.append(options)
        self._coming = iter(self.packets)
        return self

    def properties(self) -> Any:
        return SimpleNamespace(width=self.size[0], height=self.size[1])

    def __next__(self) -> Any:
        try:
            return next(self._coming)
        except StopIteration:
            raise RuntimeError("No such device (it may have been disconnected)") from None

    def close(self) -> None:
        self.closed += 1
