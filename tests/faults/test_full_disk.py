"""A disk that is full at some change of a job: one line, nothing half-written, and finished runs stay as they were."""

from __future__ import annotations

import errno
import random
import shutil

import pytest
from faulty_jobs import KINDS, SEAL, Jobs, check_whole, chosen, contents, drafts, job, losses, other, times


def check_ended(done, folder):
    """One line and an exit code, unless the run was finished without what failed."""
    assert "Traceback" not in done.err, done.err
    assert len(done.errors) == (done.code != 0), done.err
    assert done.code in (0, 2)
    assert not drafts(folder)


def moments(kind, changes, few):
    """Numbers of changes at which the disk is full: drawn, or all where that many are asked for."""
    return sorted(random.Random(f"{kind} {changes}").sample(range(1, changes + 1), min(times(few), changes)))


@pytest.mark.parametrize("kind", chosen(KINDS, ["track", "evaluate"]))
def test_in_a_new_folder(jobs: Jobs, material, finished, tmp_path, kind):
    whole = finished(kind)
    assert whole.changes[0] > 20
    for at in moments(kind, whole.changes[0], 1):
        out = tmp_path / f"run{at}"
        done = jobs(tmp_path, *job(kind, material), f"out={out.name}", under=str(tmp_path), fails_at=at)
        check_ended(done, tmp_path)
        check_whole(kind, out, whole.before)
        assert done.code == 2 or (out / SEAL[kind][0]).exists(), at
        if done.code:
            assert "No space left on device" in done.errors[0] or "cannot be written" in done.errors[0]
        shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize("kind", chosen(KINDS, ["distill", "export"]))
def test_over_a_finished_run(jobs: Jobs, material, finished, tmp_path, kind):
    """All of the finished run stays until the other one is whole; a tracker's boxes are replaced as they come."""
    whole = finished(kind)
    command = [*job(kind, material), *other(kind)]
    for at in moments(kind, whole.changes[1], 1):
        out = tmp_path / f"run{at}"
        shutil.copytree(whole.folder, out)
        done = jobs(tmp_path, *command, f"out={out.name}", under=str(tmp_path), fails_at=at)
        check_ended(done, tmp_path)
        check_whole(kind, out, whole.before, whole.after)
        if kind == "distill":
            assert (out / "student.safetensors").exists()
            again = jobs(tmp_path, *command, f"out={out.name}")
            assert again.code == 0, again.err
            assert losses(contents(out)) == losses(whole.after)
        elif kind != "track":
            assert (out / SEAL[kind][0]).exists(), f"the finished run was lost at change {at}"
        shutil.rmtree(out)


@pytest.mark.parametrize("error", chosen([errno.EDQUOT, errno.EIO, errno.EROFS], [errno.EIO]))
def test_other_ways_to_fail_are_told_in_one_line(jobs: Jobs, material, tmp_path, error):
    done = jobs(tmp_path, *job("track", material), "out=run", under=str(tmp_path), fails_at=12, error=error)
    assert done.code == 2
    check_ended(done, tmp_path)


@pytest.mark.parametrize("kind", chosen(KINDS, ["export"]))
def test_a_limit_on_the_size_of_files(jobs: Jobs, material, tmp_path, kind):
    done = jobs(tmp_path, *job(kind, material), "out=run", largest_file=3000)
    assert done.code == 2, done.err
    check_ended(done, tmp_path)
    check_whole(kind, tmp_path / "run")
    assert "File too large" in done.errors[0]
