"""The scripts: each composes and explains itself, and bad input is one line and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from had_snn.commands.names import command_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(p.stem for p in (ROOT / "configs").glob("*.yaml"))


def failed_with_one_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_the_script(script, start):
    done = start(script, "--help")
    assert done.returncode == 0, done.stderr
    assert command_of(script) in done.stdout
    assert "Now in force" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_option_is_named(script, start, tmp_path):
    line = failed_with_one_line(start(script, "no_such_option=1"))
    assert "no_such_option" in line
    assert list(tmp_path.iterdir()) == []


def test_a_script_is_a_process_of_its_own(tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "evaluate.py"), "results=nowhere", "annotations=nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "nowhere" in failed_with_one_line(done)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """A small recording of a drifting blob, and an untrained student beside it."""
    import numpy as np
    import torch

    from had_snn.checkpoint import save_weights
    from had_snn.events.stream import EventStream
    from had_snn.models import student_tiny
    from had_snn.recordings.writers import write_events

    folder = tmp_path_factory.mktemp("recording")
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 150_000, 6000))
    x = np.clip(rng.normal(120 + t * 1e-4, 10), 0, 239).astype(int)
    y = np.clip(rng.normal(90, 8, len(t)), 0, 179).astype(int)
    write_events(EventStream.from_arrays(t, x, y, rng.integers(0, 2, len(t)), (180, 240)), folder / "blob.npz")
    torch.manual_seed(0)
    save_weights(folder / "student.safetensors", student_tiny())
    return folder


def test_tracking_writes_boxes_video_and_summary(recording, start, tmp_path):
    done = start(
        "track",
        f"recording={recording / 'blob.npz'}",
        "box=[100,75,40,30]",
        "out=run",
        f"checkpoint={recording / 'student.safetensors'}",
        "video=track.gif",
    )
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run" / "boxes.csv").read_text().splitlines()
    assert lines[0] == "t_us,x,y,w,h,score,lost"
    assert [int(line.split(",")[0]) for line in lines[2:5]][1] == int(lines[2].split(",")[0]) + 10_000
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["boxes"] == len(lines) - 1 >= 14
    assert (tmp_path / "run" / "track.gif").stat().st_size > 1000
    assert {"config.yaml", "versions.json", "log.txt"} <= {p.name for p in (tmp_path / "run").iterdir()}


def test_a_shifted_split_is_made_on_its_own_sensor_and_described(recording, start, tmp_path):
    small = [
        f"data.root={tmp_path / 'data'}",
        "data.splits.test_shifted.count=1",
        "data.splits.test_shifted.seconds=0.2",
    ]
    made = start("prepare_data", "splits=[test_shifted]", *small)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("test_shifted: 1 sequences, 0 s, ")
    assert "of 5 labels" in made.stdout
    assert "ego_motion" in made.stdout
    told = start("event_statistics", f"recordings=[{recording / 'blob.npz'}]", "splits=[test_shifted]", *small)
    assert told.returncode == 0, told.stderr
    header, _, real, simulated = told.stdout.splitlines()
    assert len({line.count("|") for line in (header, real, simulated)}) == 1
    assert "`blob.npz` | 240x180 | 0.15 |" in real
    assert " camera (1) | 346x260 | 0.50 |" in simulated
    late = start(
        "lag",
        f"checkpoints=['{recording / 'student.safetensors'}']",
        "split=test_shifted",
        "out=lag",
        "steady.speeds=[40]",
        "steady.count=1",
        *small,
    )
    assert late.returncode == 0, late.stderr
    assert late.stdout.startswith("annotation, late by: SR 5 ms ")
    assert "   250+ px/s: no box on the target" in late.stdout
    record = json.loads((tmp_path / "lag" / "lag.json").read_text(), parse_constant=pytest.fail)  # no NaN
    (tracker,) = record["trackers"].values()
    assert list(tracker["by_speed"]) == ["0-50", "50-150", "150-250", "250+"]
    (steady,) = json.loads((tmp_path / "lag" / "speeds.json").read_text())["by_sizes_per_s"].values()
    assert steady["40"]["looks_per_s"] > 10
    assert 0 < steady["40"]["mj_per_output"] < steady["40"]["mj_per_s"]
    assert steady["40"]["mj_per_window"] > 0
    assert "| 40 | 0." in late.stdout
    assert list(tracker["SR_moved_by_ms"]) == ["-10", "-5", "0", "5", "10", "15", "20"]
    assert record["SR_of_annotation_late_by_ms"]["40"]["all"] < record["SR_of_annotation_late_by_ms"]["5"]["all"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"recording": "nothing.aedat4"}, "nothing.aedat4"),
        ({"recording": "empty.csv"}, "empty.csv"),
        ({"recording": "picture.xyz"}, "picture.xyz"),
        ({"box": "[300,20,10,10]"}, "outside the 240x180 sensor"),
        ({"box": "[1,2,3]"}, "four numbers"),
        ({"box": "null"}, "box=[x,y,w,h]"),
        ({"start_us": "999999999"}, "outside the recording"),
        ({"checkpoint": "huge"}, "no student 'huge'"),
    ],
    ids=lambda v: next(iter(v.items()))[1] if isinstance(v, dict) else None,
)
def test_bad_input_is_one_line_and_leaves_nothing(recording, start, tmp_path, change, says):
    (tmp_path / "empty.csv").touch()
    (tmp_path / "picture.xyz").write_bytes(bytes(range(256)))
    before = sorted(tmp_path.iterdir())
    options = {
        "recording": recording / "blob.npz",
        "box": "[100,75,40,30]",
        "out": "run",
        "checkpoint": recording / "student.safetensors",
        **change,
    }
    line = failed_with_one_line(start("track", *(f"{k}={v}" for k, v in options.items())))
    assert says in line
    assert sorted(tmp_path.iterdir()) == before
