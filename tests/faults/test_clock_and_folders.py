"""Run folders that cannot be written or are taken away, a wall clock that goes back, starts that fail."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from pathlib import Path

import pytest
from faulty_jobs import KINDS, Jobs, check_whole, chosen, contents, drafts, job, losses, other


@pytest.mark.parametrize("kind", chosen(["evaluate", "distill"], ["distill"]))
def test_a_clock_that_goes_back_changes_nothing(jobs: Jobs, material, finished, tmp_path, kind):
    whole = finished(kind).before
    done = jobs(tmp_path, *job(kind, material), "out=run", under="", fails_at=-1, clock_back_s=3600)
    assert done.code == 0, done.err
    assert not done.errors
    check_whole(kind, tmp_path / "run", whole)
    if kind == "distill":
        assert losses(contents(tmp_path / "run")) == losses(whole)


def test_a_read_only_disk_is_told_and_left(jobs: Jobs, material, finished, tmp_path):
    """As one that the system has made read-only after a fault: every change is refused, also the superuser's."""
    for kind in chosen(KINDS, ["distill"]):
        before = finished(kind).before
        shutil.copytree(finished(kind).folder, tmp_path / kind)
        refused = {"under": str(tmp_path), "fails_at": 1, "error": errno.EROFS}
        done = jobs(tmp_path, *job(kind, material), *other(kind), f"out={kind}", **refused)
        assert done.code == 2, done.err
        assert len(done.errors) == 1
        assert "Traceback" not in done.err
        assert contents(tmp_path / kind) == before


@pytest.mark.parametrize("kind", chosen(["track", "distill"], ["track"]))
def test_a_folder_that_vanishes_is_told(jobs: Jobs, material, tmp_path, kind):
    """It is taken away as soon as the first results are in it."""
    more = ["output_period_us=20"] if kind == "track" else ["fit.iterations=400", "fit.checkpoint_every=2"]
    first = tmp_path / "run" / {"track": "boxes.csv", "distill": "resume.pt"}[kind]
    over = threading.Event()

    def take_away() -> None:
        while not first.exists() and not over.is_set():
            time.sleep(0.002)
        while (tmp_path / "run").exists() and not over.is_set():
            shutil.rmtree(tmp_path / "run", ignore_errors=True)

    thread = threading.Thread(target=take_away)
    thread.start()
    try:
        done = jobs(tmp_path, *job(kind, material), *more, "out=run")
    finally:
        over.set()
        thread.join()
    assert done.code == 2, done.err
    assert len(done.errors) == 1
    assert "Traceback" not in done.err
    assert "No such file or directory" in done.errors[0]


def test_a_start_that_fails_changes_no_finished_run(jobs: Jobs, material, finished, tmp_path):
    Path(tmp_path / "text").write_text("no recording\n")
    wrong = {
        "track": [["box=[900,900,10,10]"], ["recording=text"], ["truth=text"]],
        "evaluate": [["checkpoint=huge"], ["results=nowhere"]],
        "distill": [["seed=3"], ["fit.iterations=2"], ["distill=full"]],
        "export": [["part=stem", "dt_us=7"], ["windows=0"], ["checkpoint=text"]],
    }
    for kind, changes in wrong.items():
        before = finished(kind).before
        shutil.copytree(finished(kind).folder, tmp_path / kind)
        for change in chosen(changes, changes[:1]):
            done = jobs(tmp_path, *job(kind, material), *change, f"out={kind}")
            assert done.code == 2, (change, done.err)
            assert len(done.errors) == 1
            assert contents(tmp_path / kind) == before, change
    assert not drafts(tmp_path)
