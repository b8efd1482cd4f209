"""A camera behind the driver's interface: its packets become chunks; what is lost, gone or started anew is said."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from camera_driver import SILENCE, Driver, ListedDevice, Name, packet

from had_snn.errors import FormatError, InputError, MissingExtraError
from had_snn.events.stream import EventStream
from had_snn.recordings.camera import CameraReader

EVK4 = ListedDevice(Name.PROPHESEE_EVK4, "00050423")
EVK4_TOO = ListedDevice(Name.PROPHESEE_EVK4, "00050424")
DAVIS = ListedDevice(Name.INIVATION_DAVIS346, "00000336")


@pytest.fixture
def plugged(monkeypatch):
    def plug(*devices: ListedDevice, **options) -> Driver:
        driver = Driver(list(devices), **options)
        monkeypatch.setitem(sys.modules, "neuromorphic_drivers", driver)
        return driver

    return plug


def some_events(t_us: int, count: int = 50) -> EventStream:
    rng = np.random.default_rng(t_us)
    t = np.sort(rng.integers(t_us, t_us + 1000, count))
    x, y, p = (rng.integers(0, end, count) for end in (1280, 720, 2))
    return EventStream.from_arrays(t, x, y, p, (720, 1280))


def test_packets_become_chunks(plugged):
    parts = [some_events(1000 * k) for k in range(3)]
    coming = [packet(parts[0], 1000), SILENCE, packet(None, 990), packet(parts[1], 2000), packet(parts[2], 2100)]
    driver, taken = plugged(EVK4, packets=coming), []
    with CameraReader(stopped=lambda: len(taken) == 4) as reader:
        assert (reader.sensor_hw, reader.name) == ((720, 1280), "Prophesee EVK4 00050423")
        for chunk in reader:
            taken.append(chunk)
    assert driver.closed == 1
    assert driver.opened[0]["serial"] == "00050423"
    assert driver.opened[0]["iterator_timeout"] > 0  # else Ctrl-C waits for a packet
    np.testing.assert_array_equal(
        np.concatenate([c.events.to_structured() for c in taken]), np.concatenate([p.to_structured() for p in parts])
    )
    # The driver's time may lag behind its events, or step back a little; neither is a camera that was started anew.
    assert [c.now_us for c in taken] == [1000, 1000, 2000, parts[2].t[-1]]


@pytest.mark.parametrize("wanted", [None, "00050423", "evk4", "Prophesee EVK4", "EVK-4"])
def test_a_camera_is_chosen(plugged, wanted):
    driver = plugged(*([EVK4] if wanted is None else [EVK4, DAVIS]))
    CameraReader(wanted)
    assert driver.opened[0]["serial"] == "00050423"


@pytest.mark.parametrize(
    ("devices", "wanted", "says"),
    [
        ([], None, "no camera is there; found: none; plug it in and see what ndls lists"),
        ([DAVIS], "EVK4", "no camera EVK4 is there; found: iniVation DAVIS 346 00000336"),
        (
            [DAVIS],
            "Kinect",
            "camera=Kinect is no serial number .*DAVIS 346 00000336.* no model .*: iniVation DAVIS 346, ",
        ),
        ([DAVIS], "--", "camera=-- is no serial number"),
        (
            [EVK4, DAVIS],
            None,
            "several .* EVK4 00050423, iniVation DAVIS 346 00000336; choose one with --camera SERIAL",
        ),
        ([EVK4, EVK4_TOO], "EVK4", "several .* 00050423, .* 00050424; choose one with"),
        ([ListedDevice(Name.PROPHESEE_EVK4, None, "Access denied")], None, "Access denied; allow it with: sudo neuro"),
    ],
)
def test_what_cannot_be_opened_is_said(plugged, devices, wanted, says):
    driver = plugged(*devices)
    with pytest.raises(InputError, match=says):
        CameraReader(wanted)
    assert driver.opened == []


def test_a_camera_that_is_in_use(plugged):
    plugged(EVK4, refuses="Resource busy")
    with pytest.raises(InputError, match="EVK4 00050423 cannot be opened: Resource busy; end other programs"):
        CameraReader()


def test_a_computer_without_a_bus(plugged, monkeypatch):
    def fails():
        raise RuntimeError("Other error")  # found where there is no /dev/bus/usb

    monkeypatch.setattr(plugged(), "list_devices", fails)
    with pytest.raises(InputError, match="cannot look for cameras: Other error"):
        CameraReader()


def test_without_the_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "neuromorphic_drivers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'had-snn\[camera\]'"):
        CameraReader()


def test_losses_are_said_ever_more_rarely(plugged, caplog):
    gaps = [packet(some_events(1000 * k), 1000 * k + 999, gaps=[3]) for k in range(1, 10)]
    plugged(EVK4, packets=[packet(some_events(0), 0), *gaps])
    with pytest.raises(InputError, match="is gone"), CameraReader() as reader:
        assert len(list(reader)) == 0
    said = [line for line in caplog.messages if "events were lost" in line]
    assert [line.split("(")[1].split(" ")[0] for line in said[:-1]] == ["1", "2", "4", "8"]
    assert "lost 9 times in all" in said[-1]


def test_dropped_packets_without_events_count(plugged, caplog):
    plugged(EVK4, packets=[packet(None, 5, dropped=0), packet(None, 6, dropped=2), packet(None, 7, dropped=2)])
    reader = CameraReader()
    with pytest.raises(InputError, match="is gone"):
        list(reader)
    assert reader.lost == 1
    assert "1 times by now" in caplog.text


@pytest.mark.parametrize(
    ("coming", "says"),
    [
        ([packet(some_events(5000), 6000), packet(some_events(0), 1000)], "before the record in front .*started anew"),
        ([packet(None, 6000), packet(None, 1904)], "time 1904 us, before the record in front of it"),
        ([packet(None, 0), packet(None, 4 * 10**9 - 2**31 - 2**30)], None),
        ([packet(None, 0), packet(None, 4 * 10**9)], "more than an hour"),
    ],
)
def test_a_clock_that_jumps_ends_the_run(plugged, coming, says):
    driver = plugged(EVK4, packets=coming)
    error, says = (InputError, "gone: No such device") if says is None else (FormatError, says)
    with pytest.raises(error, match=says), CameraReader() as reader:
        list(reader)
    assert driver.closed == 1


def test_an_event_outside_the_sensor(plugged):
    plugged(DAVIS, packets=[packet(some_events(0), 1000)], size=(346, 260))
    with pytest.raises(FormatError, match=r"iniVation DAVIS 346 00000336: event at .* outside the 346x260 sensor"):
        list(CameraReader())


def test_the_driver_itself_where_it_is_installed():
    driver = pytest.importorskip("neuromorphic_drivers")
    assert {name.value for name in Name} <= {name.value for name in driver.Name}
    assert driver.name_to_properties(driver.Name.INIVATION_DAVIS346).width == 346
    with pytest.raises(
        InputError, match=r"driver cannot look for cameras|no camera nowhere-0000 is there|is no serial"
    ):
        CameraReader("nowhere-0000")
