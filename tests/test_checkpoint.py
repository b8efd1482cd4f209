"""Weights on disk: what is written comes back, and nothing else is accepted."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from had_snn.checkpoint import load_student, load_teacher, round_to_half, save_weights
from had_snn.errors import CheckpointError
from had_snn.files import atomic_file
from had_snn.models import student_tiny, teacher_tiny


def test_a_student_comes_back_with_its_numbers(tmp_path):
    student = student_tiny(n_steps=8)
    save_weights(tmp_path / "s.safetensors", student, card={"seed": 1})
    again = load_student(tmp_path / "s.safetensors")
    assert again.config == student.config
    assert not again.training
    for a, b in zip(student.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert json.loads((tmp_path / "s.json").read_text()) == {"seed": 1}


def test_halves_take_half_the_room_and_come_back_as_the_rounded_student(tmp_path):
    student = student_tiny()
    save_weights(tmp_path / "whole.safetensors", student)
    save_weights(tmp_path / "half.safetensors", student, half=True)
    round_to_half(student)
    again = load_student(tmp_path / "half.safetensors")
    for a, b in zip(student.state_dict().values(), again.state_dict().values(), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_teacher_is_not_a_student(tmp_path):
    save_weights(tmp_path / "t.safetensors", teacher_tiny())
    assert load_teacher(tmp_path / "t.safetensors").config.dim == 96
    with pytest.raises(CheckpointError, match="holds a teacher, expected a student"):
        load_student(tmp_path / "t.safetensors")


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no student 'nothing'"):
        load_student("nothing")
    with pytest.raises(CheckpointError, match="train-teacher"):
        load_teacher(tmp_path / "none.safetensors")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}garbage")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        load_student(bad)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(2)}, str(foreign))
    with pytest.raises(CheckpointError, match="foreign network"):
        load_student(foreign)


def test_weights_of_another_shape_are_refused(tmp_path):
    student = student_tiny()
    metadata = {"kind": "student", "config": json.dumps({"stem_channels": 8})}
    path = tmp_path / "other.safetensors"
    save_file(student.state_dict(), str(path), metadata=metadata)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_student(path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "w.txt"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
