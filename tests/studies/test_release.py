"""The script that makes the shipped student, in miniature, and the card that comes with the shipped one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments import release
from experiments.studies import release_student, release_teacher
from had_snn.checkpoint import RELEASED, load_student, load_teacher, released_names
from had_snn.commands.entry import compose
from had_snn.commands.names import command_of
from had_snn.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def one_thread_stays_local():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def quoted(options: list[str]) -> str:
    return "[" + ",".join(f"'{option}'" for option in options) + "]"


def test_a_release_in_miniature(tmp_path, monkeypatch, one_thread_stays_local):
    monkeypatch.setattr(release, "RELEASED", tmp_path)
    data = [
        "data=synthetic",
        f"data.root={tmp_path / 'data'}",
        "data.splits={train:{count:2,seconds:0.4},test:{count:2,seconds:0.4}}",
    ]
    few = ["fit.iterations=1", "fit.batch_size=1"]
    options = [
        f"out={tmp_path / 'run'}",
        "name=mini",
        "baselines=[static]",
        "limit=1",
        "install=true",
        "half=true",
        f"train_options={quoted(data)}",
        f"test_options={quoted(data)}",
        f"teacher_options={quoted(few)}",
        "fitted_steps=[2]",
        "norms={statistics: 1, iterations: 1, batch_size: 1, learning_rate: 0.001}",
        f"first_options={quoted([*few, 'seed=3'])}",
        f"student_options={quoted([*few, 'distill=full', 'distill.pool=2'])}",
    ]
    path = release_student.run(compose("release_student", options))
    card = json.loads(path.with_suffix(".json").read_text())
    made_with = json.loads((path.parent / "student" / "student.json").read_text())["made_with"]
    assert made_with["init"] == str(path.parent / "first" / "student.safetensors")
    assert set(card["figures"]) == {"protocol", "sequences", "split", "student", "teacher", "static"}
    assert card["figures"]["sequences"] == 1
    assert card["energy"]["mj_per_output"]["exact"] > 0
    assert card["data"].startswith("2 simulated sequences of 0.4 s, 240x180, data.hardship=1;")
    assert card["numbers_stored"] == sum(v.numel() for v in load_student(path).state_dict().values())
    assert card["fitted_steps"] == sorted(load_student(path).norms_at) == [2]
    assert str(tmp_path) not in json.dumps(card)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert json.loads((tmp_path / "student_mini.json").read_text()) == card

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(release_student.train_teacher, "run", never)
    monkeypatch.setattr(release_student.distill_student, "run", never)
    assert release_student.run(compose("release_student", options)) == path
    with pytest.raises(InputError, match=r"was made with seed=0 \(now 1\); give the same options, or another out="):
        release_student.run(compose("release_student", [*options, "seed=1"]))
    assert json.loads(path.with_suffix(".json").read_text())["seed"] == 0


def test_a_teacher_is_released_as_it_is_stored(tmp_path, monkeypatch, one_thread_stays_local):
    monkeypatch.setattr(release, "RELEASED", tmp_path)
    data = ["data=synthetic", f"data.root={tmp_path / 'data'}"]
    data += ["data.splits={train:{count:2,seconds:0.4},test:{count:2,seconds:0.4}}"]
    options = [f"out={tmp_path / 'run'}", "name=mini", "install=true", "limit=1", f"test_options={quoted(data)}"]
    options += [f"train_options={quoted([*data, 'fit.iterations=1', 'fit.batch_size=1'])}"]
    path = release_teacher.run(compose("release_teacher", options))
    card = json.loads((tmp_path / "teacher_mini.json").read_text())
    assert set(card["figures"]) == {"protocol", "sequences", "split", "both", "events", "rgb"}
    assert str(tmp_path) not in json.dumps(card)
    trained = tmp_path / "run" / "teacher" / "teacher.safetensors"
    assert path.stat().st_size < 0.6 * trained.stat().st_size
    stored = load_teacher(path).state_dict()
    for name, value in load_teacher(trained).state_dict().items():
        assert torch.equal(stored[name], value.half().float() if value.ndim >= 2 else value)
    monkeypatch.setattr(release_teacher.train_teacher, "run", lambda cfg: pytest.fail("trained again"))
    assert release_teacher.run(compose("release_teacher", options)) == path


def test_a_name_that_is_a_path_is_refused(tmp_path):
    with pytest.raises(InputError, match="name='a/b'"):
        release_student.run(compose("release_student", ["name=a/b", f"out={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", released_names("teacher"))
def test_the_shipped_teacher_says_how_it_was_made(name):
    path = RELEASED / f"teacher_{name}.safetensors"
    card = json.loads(path.with_suffix(".json").read_text())
    assert {"data", "command", "seed", "figures", "limits", "versions"} <= set(card)
    assert card["command"] == command_of("release_teacher")
    assert card["numbers_stored"] == sum(value.numel() for value in load_teacher(name).state_dict().values())
    assert path.stat().st_size <= 1 << 20


@pytest.mark.parametrize("name", released_names())
def test_what_is_shipped_says_how_it_was_made(name):
    path = RELEASED / f"student_{name}.safetensors"
    card = json.loads(path.with_suffix(".json").read_text())
    assert {"data", "command", "seed", "figures", "energy", "limits", "teacher", "versions"} <= set(card)
    assert card["command"] == command_of("release_student")
    assert card["numbers_stored"] == sum(value.numel() for value in load_student(name).state_dict().values())
    assert path.stat().st_size <= 4 << 20
