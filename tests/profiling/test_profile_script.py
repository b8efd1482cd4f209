"""The script from a checkpoint to its run folder, on a small simulated set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from had_snn.checkpoint import save_weights
from had_snn.models import student_tiny, teacher_tiny

SMALL = ["data.root=data", "data.splits.test.count=1", "data.splits.test.seconds=0.4", "data.workers=1", "out=run"]


@pytest.fixture
def weights(tmp_path) -> tuple[Path, Path]:
    paths = tmp_path / "student.safetensors", tmp_path / "teacher.safetensors"
    save_weights(paths[0], student_tiny())
    save_weights(paths[1], teacher_tiny())
    return paths


def test_writes_tables_json_and_page(weights, start, tmp_path):
    networks = [f"checkpoint={weights[0]}", f"teacher_checkpoint={weights[1]}", "teachers=[tiny]"]
    done = start("profile_energy", *SMALL, *networks, "windows=6")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "energy.json").read_text())
    assert record["teacher"]["exact"] == record["teacher_tiny"]["exact"]
    for network in ("student", "teacher", "teacher_tiny"):
        for preset in ("exact", "sdtrack", "spikefet", "neurobench"):
            assert record[network][preset]["mj_per_output"] > 0
        for suffix in ("json", "csv"):
            assert (tmp_path / "run" / f"{network}.{suffix}").stat().st_size > 500
    assert record["student"]["outputs"] <= 6
    assert record["measured"]["student"]["seconds"] > 0
    assert record["about"]["machine"]["cores"] > 0
    assert record["student"]["exact"]["mj_per_output"] < record["teacher"]["exact"]["mj_per_output"]
    assert "<svg" in (tmp_path / "run" / "energy.html").read_text()


def test_a_mistake_is_one_line_and_leaves_nothing(weights, start, tmp_path):
    done = start("profile_energy", *SMALL, f"checkpoint={weights[0]}", "crops=nowhere")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "crops=nowhere" in done.stderr
    assert not (tmp_path / "run").exists()


def test_energy_over_speed_beside_networks_counted_before(weights, start, tmp_path):
    teacher = start("profile_energy", *SMALL, f"checkpoint={weights[0]}", "teachers=[tiny]", "windows=6")
    assert teacher.returncode == 0, teacher.stderr
    before = json.loads((tmp_path / "run" / "energy.json").read_text())
    assert before["over_sizes_per_s"] == {}
    options = [f"checkpoint={weights[0]}", "others=run/energy.json", "steady.speeds=[100]", "steady.count=1"]
    done = start("profile_energy", *SMALL, *options, "windows=6", "measure=false", "out=again")
    assert done.returncode == 0, done.stderr
    after = json.loads((tmp_path / "again" / "energy.json").read_text())
    assert after["teacher_tiny"] == before["teacher_tiny"]
    assert after["about"]["others"] == {"networks": ["teacher_tiny"], "about": before["about"]}
    assert list(after["measured"]) == ["teacher_tiny"]
    row = after["over_sizes_per_s"]["student"]["100"]
    assert row["outputs_per_s"] == 1000
    assert row["windows_per_s"] > 100
    for preset in ("exact", "sdtrack", "spikefet", "neurobench"):
        assert 0 < row[preset]["mj_per_output"] < row[preset]["mj_per_second"]
