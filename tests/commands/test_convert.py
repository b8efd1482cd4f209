"""The conversion script: any readable format to any writable one, one line on stderr when it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from had_snn.events.stream import EventStream
from had_snn.recordings.readers import open_recording, read_events
from had_snn.recordings.recording import Frames
from had_snn.recordings.writers import write_events

pytest.importorskip("hydra")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def convert(start):
    """Runs the job in this process; returns its exit code and what it wrote to stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        done = start("convert", *arguments)
        return done.returncode, done.stdout, done.stderr

    return run


def test_converts_with_options_and_keeps_frames(tmp_path, convert):
    rng = np.random.default_rng(0)
    stream = EventStream.from_arrays(
        np.sort(rng.integers(0, 10**6, 500)),
        rng.integers(0, 346, 500),
        rng.integers(0, 260, 500),
        rng.integers(0, 2, 500),
        (260, 346),
    )
    table = np.stack([stream.x, stream.y, np.where(stream.p, 2, 1), stream.t / 1e6], axis=1)
    np.savetxt(tmp_path / "e.txt", table, fmt="%.6f")
    options = ("read.sensor_hw=[260,346]", "read.columns=xypt")
    code, out, err = convert(f"in={tmp_path}/e.txt", f"out={tmp_path}/out/e.aedat4", *options)
    assert code == 0, err
    assert "500 events" in out
    assert "346x260 (given)" in out
    found = read_events(tmp_path / "out" / "e.aedat4")
    assert all((getattr(found, n) == getattr(stream, n)).all() for n in "txyp")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["e.aedat4"]
    times = np.array([1_000, 500_000])
    frames = Frames(np.ones((2, 26, 34), np.uint8), times - 100, times)
    write_events(stream, tmp_path / "f.aedat4", frames=frames)
    assert convert(f"in={tmp_path}/f.aedat4", f"out={tmp_path}/g.aedat4")[0] == 0
    recording = open_recording(tmp_path / "g.aedat4")
    assert recording.frames is not None
    assert recording.frames.end_us.tolist() == times.tolist()


def test_failures_end_in_one_line_and_code_2(tmp_path, convert):
    for arguments, message in (
        ((f"in={tmp_path}/none.raw", f"out={tmp_path}/e.h5"), "no such file"),
        ((f"in={ROOT}/README.md", f"out={tmp_path}/e.avi"), "expected a suffix"),
    ):
        code, _, err = convert(*arguments)
        assert code == 2
        assert message in err.splitlines()[-1]
        assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
