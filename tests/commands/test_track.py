"""`had-snn track`: live streams give the boxes of the recording; boxes from files; what a summary says."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from had_snn.commands import track_output
from had_snn.commands.first_box import first_box, read_timed_boxes
from had_snn.commands.track_output import compared, truth_at
from had_snn.errors import InputError
from had_snn.recordings.readers import read_events
from had_snn.tracking import Estimate, OnlineTracker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A recording of a drifting blob, and its boxes: one file with two objects, one without times."""
    from had_snn.events.stream import EventStream
    from had_snn.recordings.writers import write_events

    folder = tmp_path_factory.mktemp("track")
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(1_000_000, 1_200_000, 12_000))
    x = np.clip(rng.normal(120 + (t - 1_000_000) * 5e-5, 10), 0, 239).astype(int)
    y = np.clip(rng.normal(90, 8, len(t)), 0, 179).astype(int)
    write_events(EventStream.from_arrays(t, x, y, rng.integers(0, 2, len(t)), (180, 240)), folder / "blob.npz")
    rows = [f"{k},blob,{100 + (k - 1_000_000) * 5e-5:.2f},75,40,30" for k in range(1_000_000, 1_200_001, 20_000)]
    (folder / "boxes.csv").write_text("\n".join(["# two", "t_us,object,x,y,w,h", *rows, "1000000,other,1,1,9,9"]))
    (folder / "plain.txt").write_text("100 75 40 30\n")
    return folder


def boxes(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))[1:]


def test_a_live_stream_gives_the_recordings_boxes(folder, start, tmp_path):
    from had_snn.recordings.live import encode_events, encode_header, encode_time

    done = start(
        "track",
        f"recording={folder / 'blob.npz'}",
        f"box={folder / 'boxes.csv'}",
        "object=blob",
        "start_us=1040000",
        f"truth={folder / 'boxes.csv'}",
        "video=track.gif",
        "out=file",
    )
    assert done.returncode == 0, done.stderr
    events = read_events(folder / "blob.npz")
    stream = encode_header(events.sensor_hw) + encode_events(events) + encode_time(int(events.t[-1]))
    # A process of its own, as behind a camera tool: events come through a pipe.
    # Without a budget, which follows from how busy this machine is now.
    live = ["--live", "box=[102,75,40,30]", "start_us=1040000", "budget_us=0", "video=null", "out=live"]
    command = [sys.executable, "-m", "had_snn", "track", *live]
    done = subprocess.run(command, cwd=tmp_path, input=stream, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    expected = boxes(tmp_path / "file" / "boxes.csv")
    assert len(expected) == 16
    assert boxes(tmp_path / "live" / "boxes.csv") == expected
    printed = [line.split(",") for line in done.stdout.decode().splitlines()]
    assert printed == expected[1:]
    # Seconds count from the first event, and choose the box in a file of boxes.
    timed = [f"box={folder / 'boxes.csv'}", "object=blob", f"start_s={(1_040_000 - int(events.t[0])) / 1e6}"]
    command = [sys.executable, "-m", "had_snn", "track", "--live", *timed, *live[3:5], "out=timed"]
    done = subprocess.run(command, cwd=tmp_path, input=stream, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert boxes(tmp_path / "timed" / "boxes.csv") == expected
    summary = json.loads((tmp_path / "file" / "summary.json").read_text())
    assert summary["compared_with_truth"] == 7
    assert 0.3 < summary["mean_iou"] < 1
    assert set(summary["ms_per_box"]) == {"p50", "p95", "p99"}
    assert summary["real_time_factor"] > 0
    assert (tmp_path / "file" / "track.gif").stat().st_size > 1000


def test_rerun_file(folder, start, tmp_path):
    pytest.importorskip("rerun")
    done = start(
        "track",
        f"recording={folder / 'blob.npz'}",
        "box=[100,75,40,30]",
        "end_us=1050000",
        "video=null",
        "rerun=track.rrd",
        "out=run",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "track.rrd").read_bytes()[:3] == b"RRF"


def first_of(box, *, start_us=None, target=None, zero_us=None):
    return first_box(box, start_us=start_us, target=target, zero_us=zero_us)


def test_first_boxes(folder):
    file = str(folder / "boxes.csv")
    box, start = first_of(file, start_us=None, target="blob")
    assert (box.tolist(), start) == ([100, 75, 40, 30], 1_000_000)
    box, start = first_of(file, start_us=1_030_000, target="blob")
    assert (box.tolist(), start) == ([102, 75, 40, 30], 1_040_000)
    box, start = first_of(str(folder / "plain.txt"), start_us=7, target=None)
    assert (box.tolist(), start) == ([100, 75, 40, 30], 7)
    assert first_of("1,2,3e1,4", start_us=None, target=None)[0].tolist() == [1, 2, 30, 4]
    assert first_of("draw", start_us=5, target=None) == (None, 5)
    for given, options, says in (
        (None, {}, r"box=\[x,y,w,h\]"),
        (file, {}, "several objects, blob, other; choose one with object=NAME"),
        (file, {"target": "cat"}, "no object 'cat'"),
        (file, {"target": "blob", "start_us": 2_000_000}, "no box at or after"),
        ("nowhere.csv", {}, "nowhere.csv: no such file"),
        ("1,2,3", {}, "four numbers"),
    ):
        with pytest.raises(InputError, match=says):
            first_of(given, **{"start_us": None, "target": None, **options})


def test_first_boxes_count_from_the_start_and_show_the_target(tmp_path):
    seconds = tmp_path / "seconds.csv"
    seconds.write_text("t_s,x,y,w,h,visible\n0.3,1,2,3,4,0\n0.5,5,6,7,8,1\n")
    box, start = first_of(str(seconds), zero_us=1_000_000)
    assert (box.tolist(), start) == ([5, 6, 7, 8], 1_500_000)
    with pytest.raises(InputError, match=r"t_s counts from the recording's start, which a live stream has not yet"):
        first_of(str(seconds))
    with pytest.raises(InputError, match=r"no box at or after start_us=1600000 that shows the target"):
        first_of(str(seconds), start_us=1_600_000, zero_us=1_000_000)


def test_truth_is_silent_where_the_target_is_out_of_sight(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("t_us,x,y,w,h,visible\n0,0,0,9,9,1\n10,10,0,9,9,1\n20,20,0,9,9,0\n30,30,0,9,9,1\n40,40,0,9,9,1\n")
    truth = read_timed_boxes(path, None)
    known = {t: truth_at(truth, t) for t in (5, 10, 15, 20, 25, 30, 35, 45)}
    assert {t for t, box in known.items() if box is not None} == {5, 10, 30, 35}
    assert known[35].tolist() == [35, 0, 9, 9]
    followed = [Estimate(t, np.array([float(t), 0, 9, 9]), 1.0) for t in (0, 10, 30, 40)]
    assert compared(followed, truth)["compared_with_truth"] == 3


def test_drawing_needs_a_display(folder, monkeypatch):
    pytest.importorskip("matplotlib")
    import matplotlib

    from had_snn.viz.by_hand import draw_box_by_hand

    if os.environ.get("DISPLAY"):
        matplotlib.use("agg")
    with pytest.raises(InputError, match="needs a display"):
        draw_box_by_hand(read_events(folder / "blob.npz"), 20_000)


def test_a_drawn_box(folder, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    from types import SimpleNamespace

    from matplotlib import pyplot, widgets

    from had_snn.viz.by_hand import draw_box_by_hand

    events = read_events(folder / "blob.npz")
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "tkagg")
    made = []
    monkeypatch.setattr(widgets, "RectangleSelector", lambda axis, done, **options: made.append(done))
    corners = (SimpleNamespace(xdata=50.0, ydata=30.0), SimpleNamespace(xdata=20.0, ydata=40.0))
    monkeypatch.setattr(pyplot, "show", lambda block: made[-1](*corners))
    assert draw_box_by_hand(events, 20_000).tolist() == [20.5, 30.5, 30, 10]
    monkeypatch.setattr(pyplot, "show", lambda block: None)
    with pytest.raises(InputError, match="no box was drawn"):
        draw_box_by_hand(events, 20_000)


@pytest.mark.parametrize(
    ("arguments", "data", "says"),
    [
        (["box=[1,2,30,40]"], b"", "give recording=FILE, or --live"),
        (["--live", "box=[1,2,30,40]"], b"not a stream at all.", "expected b'HADLIVE1'"),
        (["--live", "recording=no.pipe", "box=[1,2,30,40]"], b"", "no such file or pipe"),
    ],
    ids=["nothing", "foreign", "no_pipe"],
)
def test_bad_input_is_one_line_and_leaves_nothing(start, tmp_path, arguments, data, says):
    done = start("track", *arguments, "out=run", data=data)
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert list(tmp_path.iterdir()) == []


def lines(path) -> list[str]:
    return path.read_text().splitlines()


def test_times_in_seconds_and_an_end_beyond_the_end(folder, start, tmp_path):
    given = [f"recording={folder / 'blob.npz'}", "box=[100,75,40,30]", "video=null"]
    begin = read_events(folder / "blob.npz").t_start
    for out, more in (
        ("us", [f"start_us={begin + 20_000}", f"end_us={begin + 80_000}"]),
        ("s", ["start_s=0.02", "end_s=0.08"]),
        ("far", ["start_s=0.02", f"end_us={10**15}"]),
        ("open", ["start_s=0.02"]),
    ):
        done = start("track", *given, *more, f"out={out}")
        assert done.returncode == 0, done.stderr
    made = {out: lines(tmp_path / out / "boxes.csv") for out in ("us", "s", "far", "open")}
    assert [row.split(",")[0] for row in made["us"][1:]] == [str(begin + 20_000 + 10_000 * k) for k in range(7)]
    assert made["s"] == made["us"]
    assert made["far"] == made["open"]
    done = start("track", *given, "start_us=1020000", "start_s=0.02")
    assert (done.returncode, "both given" in done.stderr) == (2, True)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), InputError("ffmpeg failed: no such codec")])
def test_a_film_that_fails_takes_no_box_with_it(folder, start, tmp_path, monkeypatch, error):
    def fails(path, frames, *, fps):
        next(iter(frames))
        next(iter(frames))
        raise error

    given = [f"recording={folder / 'blob.npz'}", "box=[100,75,40,30]"]
    assert start("track", *given, "video=null", "out=without").returncode == 0
    monkeypatch.setattr(track_output, "write_video", fails)
    done = start("track", *given, "video=track.mp4", "out=with")
    assert done.returncode == 2
    assert "the film failed" in done.stderr.splitlines()[-1]
    assert lines(tmp_path / "with" / "boxes.csv") == lines(tmp_path / "without" / "boxes.csv")
    assert (
        json.loads((tmp_path / "with" / "summary.json").read_text())["boxes"]
        == len(lines(tmp_path / "with" / "boxes.csv")) - 1
    )


@pytest.mark.parametrize("video", ["null", "track.gif"])
def test_what_was_tracked_before_an_error_is_kept(folder, start, tmp_path, monkeypatch, video):
    update, calls = OnlineTracker.update, []

    def full(self, events, **options):
        calls.append(1)
        if len(calls) == 6:
            raise OSError(28, "No space left on device", "boxes.csv")
        return update(self, events, **options)

    monkeypatch.setattr(OnlineTracker, "update", full)
    done = start("track", f"recording={folder / 'blob.npz'}", "box=[100,75,40,30]", f"video={video}", "out=run")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: [Errno 28] No space left on device: 'boxes.csv'"
    assert len(lines(tmp_path / "run" / "boxes.csv")) == 1 + 1 + 5
    assert len(calls) == 6


def test_ctrl_c_ends_a_recording_early_and_keeps_its_boxes(folder, tmp_path):
    given = [f"recording={folder / 'blob.npz'}", "box=[100,75,40,30]", "output_period_us=20", "video_period_us=20000"]
    command = [sys.executable, "-m", "had_snn", "track", *given, "out=run", "video=track.gif"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        boxes_csv = tmp_path / "run" / "boxes.csv"
        while process.poll() is None and not (boxes_csv.is_file() and len(lines(boxes_csv)) > 20):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    rows = lines(boxes_csv)
    assert 20 < len(rows) < 8000
    assert all(row.count(",") == 6 for row in rows)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["boxes"] == len(rows) - 1
    assert (tmp_path / "run" / "track.gif").stat().st_size > 1000
