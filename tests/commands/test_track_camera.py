"""`had-snn track --camera`, with a recording's packets behind the driver's interface."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys

import numpy as np
import pytest
from camera_driver import SILENCE, Driver, ListedDevice, Name, packet

from had_snn.events.stream import EventStream
from had_snn.recordings.writers import write_events

START_US, END_US, STEP_US = 1_000_000, 1_200_000, 3_000


@pytest.fixture(scope="module")
def blob() -> EventStream:
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(START_US, END_US, 12_000))
    x = np.clip(rng.normal(120 + (t - START_US) * 5e-5, 10), 0, 239).astype(int)
    y = np.clip(rng.normal(90, 8, len(t)), 0, 179).astype(int)
    return EventStream.from_arrays(t, x, y, rng.integers(0, 2, len(t)), (180, 240))


def packets(events: EventStream):
    for t in range(START_US, END_US, STEP_US):
        yield packet(events.slice_time(t, min(t + STEP_US, END_US)), min(t + STEP_US, END_US))
        yield SILENCE


@pytest.fixture
def plugged(monkeypatch):
    def plug(coming, *devices: ListedDevice) -> Driver:
        driver = Driver([ListedDevice(Name.PROPHESEE_EVK4, "00050423"), *devices], coming, (240, 180))
        monkeypatch.setitem(sys.modules, "neuromorphic_drivers", driver)
        return driver

    return plug


GIVEN = ["box=[102,75,40,30]", "start_us=1040000", "budget_us=0", "video=null"]


def test_a_camera_gives_the_recordings_boxes_until_it_is_gone(start, tmp_path, plugged, blob):
    write_events(blob, tmp_path / "blob.npz")
    done = start("track", "recording=blob.npz", *GIVEN, "out=file")
    assert done.returncode == 0, done.stderr
    driver = plugged(packets(blob))
    done = start("track", "--camera", *GIVEN, "window=false", "out=camera")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: Prophesee EVK4 00050423 is gone: No such device")
    expected = (tmp_path / "file" / "boxes.csv").read_text().splitlines()
    # The file's last event is before the time at which the camera's clock stands at its end.
    made = (tmp_path / "camera" / "boxes.csv").read_text().splitlines()
    assert made[: len(expected)] == expected
    assert len(made) - len(expected) in (0, 1)
    assert done.stdout.splitlines() == made[2:]  # printed as they came
    summary = json.loads((tmp_path / "camera" / "summary.json").read_text())
    assert (summary["recording"], summary["boxes"]) == ("Prophesee EVK4 00050423", len(made) - 1)
    assert driver.closed == 1


def test_ctrl_c_ends_cleanly(start, tmp_path, plugged, blob):
    def until_it_is_pressed():
        for index, one in enumerate(packets(blob)):
            if index == 60:
                os.kill(os.getpid(), signal.SIGINT)
            yield one
        yield from itertools.repeat(SILENCE, 3)

    driver = plugged(until_it_is_pressed())
    done = start("track", "--camera", "00050423", *GIVEN, "out=run")
    assert done.returncode == 0, done.stderr
    assert "tracking without a window: no display" in done.stderr
    assert driver.closed == 1
    assert 2 < len((tmp_path / "run" / "boxes.csv").read_text().splitlines()) < 10
    assert "Prophesee EVK4 00050423" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--camera", "DVXplorer"], "no camera DVXplorer is there; found: Prophesee EVK4 00050423"),
        (["--camera", "Kinect"], "no model that the driver knows"),
        (["--camera", "recording=a.raw"], "recording=a.raw and --camera are both given"),
        (["--camera", "window=true"], "no display for a window; window=false opens none"),
        (["--camera", "start_us=5000000"], "is gone"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(start, tmp_path, plugged, blob, arguments, says):
    plugged(packets(blob))
    done = start("track", *arguments, "box=[102,75,40,30]", "budget_us=0", "out=run")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_the_missing_driver_is_named(start, monkeypatch):
    monkeypatch.setitem(sys.modules, "neuromorphic_drivers", None)
    done = start("track", "--camera", "box=[1,2,3,4]")
    assert done.returncode == 2
    assert "pip install 'had-snn[camera]'" in done.stderr.splitlines()[-1]


def test_the_window_shows_pictures_until_it_is_closed(start, plugged, blob, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    from had_snn.viz import live_window

    drawn = []
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "tkagg")
    monkeypatch.setattr(pyplot, "show", lambda block: None)
    monkeypatch.setattr(live_window, "_PERIOD_S", 0.0)
    show = live_window.LiveWindow.show

    def shown(self, picture):
        show(self, picture)
        drawn.append(picture.shape)
        if len(drawn) == 3:
            pyplot.close(self._figure)  # as its user would

    monkeypatch.setattr(live_window.LiveWindow, "show", shown)
    plugged(packets(blob))
    done = start("track", "--camera", *GIVEN, "out=run")
    assert "is gone" in done.stderr.splitlines()[-1]
    assert len(done.stdout.splitlines()) > 10
    assert len(drawn) == 3
    assert drawn[0][2] == 3
    assert not pyplot.get_fignums()
