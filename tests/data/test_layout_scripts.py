"""The scripts on data sets on disk: check, one step of training of teacher and student, evaluation, energy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "experiments" / f"{script}.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fe108", "eventvot"])
def test_chain_of_scripts(name, tiny, tmp_path):
    data = [f"data={name}", f"data.root={tiny(name).root}", f"data.cache={tiny(name).cache}"]
    once = ["fit.iterations=1", "fit.batch_size=2", "fit.warmup=1"]
    done = call("train_teacher", *data, *once, "out=teacher", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = call(
        "distill_student", *data, *once, "distill=full", "distill_every=1", "out=student",
        "teacher_checkpoint=teacher/teacher.safetensors", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = call(
        "evaluate", *data, "checkpoint=student/student.safetensors", "teacher_checkpoint=teacher/teacher.safetensors",
        "baselines=[static]", "resamples=0", "out=evaluation", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "evaluation" / "metrics.json").is_file()
    done = call("profile_energy", *data, "checkpoint=student/student.safetensors", "windows=5", "measure=false",
                "out=energy", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_check_data_tells_usable_from_damaged(tiny, tmp_path):
    root = tiny("coesot").copy(tmp_path)
    options = ["data=coesot", f"data.root={root}", f"data.cache={tmp_path / 'cache'}", "out=report.json"]
    done = call("check_data", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("usable")
    assert json.loads((tmp_path / "report.json").read_text())["usable"] is True
    (root / "test" / "dvSave-2021_07_30_11_04_57" / "dvSave-2021_07_30_11_04_57.aedat4").unlink()
    done = call("check_data", *options, cwd=tmp_path)
    assert done.returncode == 1
    assert "error: missing_recording (1)" in done.stdout
    assert "dvSave-2021_07_30_11_04_57.aedat4 is missing" in done.stdout
    assert "not usable as it is" in done.stdout
    done = call("evaluate", *options[:3], "baselines=[static]", "checkpoint=null", cwd=tmp_path)
    assert done.returncode == 2
    assert "check_data.py data=coesot" in done.stderr


def test_check_data_writes_an_example_and_refuses_what_is_no_data_set(tmp_path):
    done = call("check_data", "data=fe108", "example=example", "data.cache=cache", "deep=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "example" / "train" / "dove" / "events.aedat4").is_file()
    for arguments, says in (
        (["data=fe108", "data.root=nothing"], "no such folder"),
        (["data=fe108"], "data.root"),
        (["data=synthetic"], "needs no check"),
    ):
        done = call("check_data", *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert says in done.stderr
