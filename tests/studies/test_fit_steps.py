"""Fitting norms to other numbers of micro-steps from the command line."""

from __future__ import annotations

import json

import pytest
import torch

from experiments.studies import fit_steps
from had_snn.checkpoint import load_student
from had_snn.commands.entry import compose


def test_a_student_gets_norms_and_keeps_all_else(tmp_path, monkeypatch, capsys):
    splits = "data.splits={train:{count:2,seconds:0.4},val:{count:1,seconds:0.4}}"
    quoted = ",".join(f"'{option}'" for option in ("data=synthetic", f"data.root={tmp_path / 'data'}", splits))
    numbers = ["norms.statistics=1", "norms.iterations=1", "norms.batch_size=1"]
    options = [f"data_options=[{quoted}]", *numbers, "steps=[2]", "score_steps=[2,3,4]", f"out={tmp_path / 'run'}"]
    fit_steps.main(compose("fit_steps", options))
    student, shipped = load_student(tmp_path / "run" / "student.safetensors"), load_student("tiny")
    assert student.norms_at.keys() == {*shipped.norms_at, 2}
    assert all(
        torch.equal(a, b) for a, b in zip(student.state_dict().values(), shipped.state_dict().values(), strict=True)
    )
    record = json.loads((tmp_path / "run" / "steps.json").read_text())
    assert [row["steps"] for row in record["rows"]] == [2, 3, 4]
    assert "data.root" not in json.dumps(record)
    assert "  4 micro-steps  SR " in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "student.json").read_text())["name"] == "student_tiny"
    monkeypatch.setattr(fit_steps, "fit_norms", lambda *given, **options: pytest.fail("fitted again"))
    fit_steps.main(compose("fit_steps", options))
