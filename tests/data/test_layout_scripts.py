"""The scripts on data sets on disk: check, training of teacher and student, evaluation, energy."""

from __future__ import annotations

import json
import subprocess

import pytest


def done(started: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    assert started.returncode == 0, started.stderr
    return started


@pytest.mark.parametrize("name", ["visevent"])
def test_train_distil_evaluate_and_profile(name, tiny, start, tmp_path):
    data = [f"data={name}", f"data.root={tiny(name).root}", f"data.cache={tiny(name).cache}"]
    once = [*data, "fit.iterations=1", "fit.batch_size=2", "fit.warmup=1"]
    done(start("train_teacher", *once, "out=teacher"))
    taught = ["teacher_checkpoint=teacher/teacher.safetensors"]
    done(start("distill_student", *once, *taught, "distill.every=1", "out=student"))
    shown = [*data, "checkpoint=student/student.safetensors", *taught]
    done(start("evaluate", *shown, "baselines=[static]", "resamples=0", "out=evaluation"))
    done(start("profile_energy", *shown, "windows=5", "measure=false", "out=energy"))
    for file in ("teacher/teacher.safetensors", "student/student.safetensors", "energy/energy.json"):
        assert (tmp_path / file).is_file()
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert "video_0004" in json.dumps(metrics)
    boxes = next((tmp_path / "evaluation" / "results").rglob("video_0004.txt")).read_text().splitlines()
    assert len(boxes) == 12


def test_check_data_tells_usable_from_damaged(tiny, start, tmp_path):
    root = tiny("coesot").copy(tmp_path)
    options = ["data=coesot", f"data.root={root}", f"data.cache={tiny('coesot').cache}", "out=report.json"]
    assert done(start("check_data", *options)).stdout.rstrip().endswith("usable")
    assert json.loads((tmp_path / "report.json").read_text())["usable"] is True
    (root / "test" / "dvSave-2021_07_30_11_04_57" / "dvSave-2021_07_30_11_04_57.aedat4").unlink()
    damaged = start("check_data", *options)
    assert damaged.returncode == 1
    assert "error: missing_recording (1)" in damaged.stdout
    assert "dvSave-2021_07_30_11_04_57.aedat4 is missing" in damaged.stdout
    assert "not usable as it is" in damaged.stdout


def test_check_data_writes_an_example(start, tmp_path):
    done(start("check_data", "data=fe108", "example=example", "data.cache=cache", "deep=true"))
    assert (tmp_path / "example" / "train" / "dove" / "events.aedat4").is_file()


def test_check_data_refuses_what_is_no_data_set(start):
    refused = start("check_data", "data=fe108", "data.root=nothing")
    assert refused.returncode == 2
    assert "no such folder" in refused.stderr
