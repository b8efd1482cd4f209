"""What is checked before a job begins: outputs that can be written, and one run at a time in a folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from had_snn.commands import start
from had_snn.commands.start import (
    check_same,
    check_start,
    check_writable,
    lock_folder,
    note_made_with,
    noted_versions,
    own_output,
    release_folders,
)
from had_snn.errors import InputError


def test_an_output_that_can_be_made_is_and_nothing_is_left(tmp_path):
    check_writable(tmp_path / "a" / "b" / "c")
    check_writable(tmp_path / "a" / "table.json", kind="file")
    (tmp_path / "old").mkdir()
    check_writable(tmp_path / "old")
    assert [p.name for p in tmp_path.rglob("*")] == ["old"]


def test_outputs_that_cannot_be_made_are_named(tmp_path):
    (tmp_path / "file").touch()
    for path, kind, says in (
        (tmp_path / "file", "folder", "is a file; expected a folder"),
        (tmp_path / "file" / "below", "folder", "is a file, so nothing can be made below it"),
        (tmp_path, "file", "is a folder; expected a file"),
        (Path("/proc/nothing/here"), "folder", "cannot be written"),
        (Path("/dev/full"), "folder", "is a file"),
    ):
        with pytest.raises(InputError, match=says):
            check_writable(path, kind=kind)


def test_a_full_disk_is_named_with_what_is_needed(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(start.shutil, "disk_usage", lambda place: usage(10, 10, 5 << 20))
    check_writable(tmp_path / "run")
    with pytest.raises(InputError, match="5 MB are free there and about 300 MB are needed"):
        check_writable(tmp_path / "run", needed=300 << 20)


def test_a_full_disk_that_takes_no_byte(tmp_path, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(start.tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(InputError, match="No space left on device"):
        check_writable(tmp_path / "run")


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for values, says in (
        ({"accelerator": "cuda"}, "accelerator=cuda, but"),
        ({"device": "cuda"}, "device=cuda, but"),
        ({"accelerator": "auto", "fit": {"precision": "16-mixed"}}, "needs a GPU; on a CPU use 32-true or bf16-mixed"),
    ):
        with pytest.raises(InputError, match=says):
            check_start("distill_student", values)
    check_start("distill_student", {"accelerator": "auto", "fit": {"precision": "bf16-mixed"}})


HOLD = """
import sys, time
from pathlib import Path
from had_snn.commands.start import lock_folder
lock_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_the_second_run_into_a_folder_is_refused_until_the_first_is_gone(tmp_path):
    held = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert held.stdout is not None
        assert held.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"another run is under way in .*process {held.pid} on"):
            lock_folder(tmp_path)
        lock_folder(tmp_path.parent)  # others are free
    finally:
        held.kill()  # the lock dies with the process
        held.wait()
        held.stdout.close()
    for _ in range(100):
        try:
            lock_folder(tmp_path)
            break
        except InputError:
            time.sleep(0.05)
    lock_folder(tmp_path)  # the same process may come again
    assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    release_folders()


def test_results_made_with_other_options_are_refused_and_nothing_is_changed(tmp_path):
    run, made = tmp_path / "run", {"seed": 0, "limit": None, "steps": 5}
    check_same(run, made)
    assert not run.exists()
    run.mkdir()
    note_made_with(run, made, {"revision": "a"})
    before = (run / "made_with.json").read_bytes()
    check_same(run, made)
    check_same(run, {**made, "steps": 6}, may_grow=("steps",))
    for other, says in (
        ({**made, "seed": 1, "extra": 2}, r"was made with seed=0 \(now 1\), extra=None \(now 2\); give the same"),
        ({**made, "steps": 4}, r"steps=5 \(now 4\)"),
        ({"seed": 0, "steps": 5, "limit": 3}, r"limit=None \(now 3\)"),
    ):
        with pytest.raises(InputError, match=says):
            check_same(run, other, may_grow=("steps",))
    assert (run / "made_with.json").read_bytes() == before


def test_other_versions_warn_and_are_all_noted(tmp_path, caplog):
    for revision in ("a", "a", "b"):
        note_made_with(tmp_path, {"seed": 0}, {"revision": revision})
    assert noted_versions(tmp_path) == [{"revision": "a"}, {"revision": "b"}]
    assert caplog.text.count("was begun with other versions: revision=a (now b)") == 1


def test_a_damaged_note_is_named(tmp_path):
    (tmp_path / "made_with.json").write_text("{")
    with pytest.raises(InputError, match=r"made_with\.json is damaged"):
        check_same(tmp_path, {})


def test_outputs_of_jobs_that_start_together():
    assert own_output("runs/v1.2", 3, kind="folder") == "runs/v1.2/3"
    assert own_output("a/table.json", 3, kind="file") == "a/table-3.json"
