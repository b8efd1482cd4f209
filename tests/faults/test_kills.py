"""SIGTERM and SIGKILL at random moments of a job: nothing finished is lost, nothing half-written is taken for whole."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys

import pytest
from faulty_jobs import KINDS, SEAL, Jobs, check_whole, chosen, contents, drafts, job, losses, other, times


@pytest.mark.parametrize(
    ("kind", "kill"),
    chosen(
        [(kind, kill) for kind in KINDS for kill in (signal.SIGTERM, signal.SIGKILL)],
        [
            ("evaluate", signal.SIGTERM),
            ("export", signal.SIGTERM),
            ("track", signal.SIGKILL),
            ("distill", signal.SIGKILL),
        ],
    ),
)
def test_at_any_moment(jobs: Jobs, material, finished, tmp_path, kind, kill):
    whole, out = finished(kind), tmp_path / "run"
    command = [*job(kind, material), *other(kind), "out=run"]
    draw, killed = random.Random(f"{kind} {kill}"), 0
    for _ in range(times(1)):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole.folder, out)
        done = jobs(tmp_path, *command, kill=(draw.uniform(0, 0.9 * whole.seconds), kill))
        if done.code == 0:  # it was faster than this time
            continue
        killed += 1
        check_whole(kind, out, whole.before, whole.after)
        if kill == signal.SIGTERM and (done.code, done.err) == (-kill, ""):  # before the job could say a word
            assert contents(out) == contents(whole.folder)
        elif kill == signal.SIGTERM:
            assert done.code == 128 + kill, done.err
            assert done.errors == ["error: terminated by SIGTERM"], done.err
            assert "Traceback" not in done.err, done.err
            assert not drafts(out)
        else:
            assert done.code == -kill, done.err
        if kind == "distill":
            assert (out / "student.safetensors").exists()
        again = jobs(tmp_path, *command)  # over whatever was left
        assert again.code == 0, again.err
        assert not drafts(out)
        check_whole(kind, out, whole.after)
        assert (out / SEAL[kind][0]).exists()
        if kind == "distill":
            assert losses(contents(out)) == losses(whole.after)
    assert killed or times(1) == 1


def test_a_terminated_tracker_keeps_its_boxes(jobs: Jobs, material, tmp_path):
    command = [*job("track", material), "output_period_us=20", "video=null", "out=run"]
    assert jobs(tmp_path, *command).code == 0
    whole = (tmp_path / "run" / "boxes.csv").read_text()
    done = jobs(tmp_path, *command, kill=(jobs.seconds * 0.6, signal.SIGTERM))
    assert done.code == 128 + signal.SIGTERM
    rows = (tmp_path / "run" / "boxes.csv").read_text()
    assert whole.startswith(rows)
    assert 10 < rows.count("\n") < whole.count("\n")
    assert (tmp_path / "run" / "summary.json").exists()


def test_an_error_that_a_termination_turned_into_is_a_termination(tmp_path):
    """An exception that a signal raises inside of a library's C code may come out as another one."""
    text = """
import os, signal, sys
from had_snn.commands import entry
def main(cfg):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.sigtimedwait([], 5)
    except BaseException:
        raise {error}("could not determine the shape") from None
sys.argv = ["sample", "out=there"]
entry.script("sample", main)
"""
    for error in ("ValueError", "MemoryError", "entry.HadError"):
        command = [sys.executable, "-c", text.format(error=error)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "error: terminated by SIGTERM\n")
