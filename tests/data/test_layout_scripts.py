"""The scripts on data sets on disk: check, training of teacher and student, evaluation, energy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import distill_student, evaluate, profile_energy, train_teacher
from entry import compose
data = sys.argv[2:]
once = [*data, "fit.iterations=1", "fit.batch_size=2", "fit.warmup=1"]
teacher = train_teacher.run(compose("train_teacher", [*once, "out=teacher"]))
taught = [f"teacher_checkpoint={teacher}"]
student = distill_student.run(compose("distill_student", [*once, *taught, "distill.every=1", "out=student"]))
shown = [*data, f"checkpoint={student}", *taught]
evaluate.run(compose("evaluate", [*shown, "baselines=[static]", "resamples=0", "out=evaluation"]))
profile_energy.run(compose("profile_energy", [*shown, "windows=5", "measure=false", "out=energy"]))
"""


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=600)


def check_data(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return python(str(ROOT / "experiments" / "check_data.py"), *arguments, cwd=cwd)


@pytest.mark.parametrize("name", ["visevent"])
def test_train_distil_evaluate_and_profile(name, tiny, tmp_path):
    data = [f"data={name}", f"data.root={tiny(name).root}", f"data.cache={tiny(name).cache}"]
    done = python("-c", CHAIN, str(ROOT / "experiments"), *data, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for file in ("teacher/teacher.safetensors", "student/student.safetensors", "energy/energy.json"):
        assert (tmp_path / file).is_file()
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert "video_0004" in json.dumps(metrics)
    boxes = next((tmp_path / "evaluation" / "results").rglob("video_0004.txt")).read_text().splitlines()
    assert len(boxes) == 12


def test_check_data_tells_usable_from_damaged(tiny, tmp_path):
    root = tiny("coesot").copy(tmp_path)
    options = ["data=coesot", f"data.root={root}", f"data.cache={tiny('coesot').cache}", "out=report.json"]
    done = check_data(*options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("usable")
    assert json.loads((tmp_path / "report.json").read_text())["usable"] is True
    (root / "test" / "dvSave-2021_07_30_11_04_57" / "dvSave-2021_07_30_11_04_57.aedat4").unlink()
    done = check_data(*options, cwd=tmp_path)
    assert done.returncode == 1
    assert "error: missing_recording (1)" in done.stdout
    assert "dvSave-2021_07_30_11_04_57.aedat4 is missing" in done.stdout
    assert "not usable as it is" in done.stdout


def test_check_data_writes_an_example(tmp_path):
    done = check_data("data=fe108", "example=example", "data.cache=cache", "deep=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "example" / "train" / "dove" / "events.aedat4").is_file()


def test_check_data_refuses_what_is_no_data_set(tmp_path):
    done = check_data("data=fe108", "data.root=nothing", cwd=tmp_path)
    assert done.returncode == 2
    assert "no such folder" in done.stderr
