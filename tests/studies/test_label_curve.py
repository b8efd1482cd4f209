"""The label curve: what it compares, and a small one from end to end."""

from __future__ import annotations

import json

import pytest
from made_up_results import made_up

from experiments.studies import ablation_worker, label_curve
from had_snn.commands.entry import compose
from had_snn.errors import InputError

LEVELS = {("none", 0.1): 30.0, ("none", 0.25): 36.0, ("none", 1.0): 40.0, ("full", 0.1): 35.0, ("full", 1.0): 39.0}


def results() -> dict:
    return {
        f"{arm}-{labels}-{seed}": made_up(arm, seed, level, labels=labels, budget="fixed")
        for (arm, labels), level in LEVELS.items()
        for seed in range(3)
    }


def test_arms_are_compared_at_the_same_share_and_with_none_at_the_next():
    record = label_curve.summarise({**results(), "teacher": made_up("teacher", 0, 60.0)}, resamples=50)
    assert {arm: [p["labels"] for p in points] for arm, points in record["curve"].items()} == {
        "none": [0.1, 0.25, 1.0],
        "full": [0.1, 1.0],
    }
    few, all_labels = record["curve"]["full"]
    assert few["gain"] == pytest.approx({"mean": 5.0, "low": 5.0, "high": 5.0})
    assert all_labels["gain"]["mean"] == pytest.approx(-1.0)
    assert len(few["seeds"]) == 3
    assert list(record["saved"]) == ["full"]
    assert list(record["saved"]["full"]) == ["0.1 against 0.25"]
    assert record["saved"]["full"]["0.1 against 0.25"]["mean"] == pytest.approx(-1.0)
    assert record["teacher"]["mean"] > few["SR"]["mean"]
    assert "gain" not in record["curve"]["none"][0]


def test_equal_steps_alone_make_a_curve():
    found = results() | {"other": made_up("none", 0, 30.0, labels=0.1, budget="time")}
    with pytest.raises(InputError, match="budget=time in a label curve: expected fixed"):
        label_curve.summarise(found, resamples=10)


@pytest.mark.usefixtures("mostly_here")
def test_a_small_curve_from_end_to_end(small_run, tmp_path, capsys, monkeypatch):
    options = [
        *small_run,
        "steps=1",
        "seeds=[0]",
        "sets=[{labels: 0.5, budget: fixed, arms: [none, response]}, {labels: 1.0, budget: fixed, arms: [none]}]",
        "distill.pool=null",
        "distill.until=null",
        "speed_turns=1",
    ]
    label_curve.main(compose("label_curve", options))
    record = json.loads((tmp_path / "run" / "label_curve.json").read_text())
    assert [point["labels"] for point in record["curve"]["none"]] == [0.5, 1.0]
    assert set(record["saved"]["response"]) == {"0.5 against 1"}
    assert record["setting"]["teacher"]["released"] == "teacher_tiny"
    assert record["seconds_to_follow_all"] > 0
    assert (tmp_path / "run" / "label_curve.png").stat().st_size > 1000
    assert "response, labels 0.5 against 1 of none: " in capsys.readouterr().out

    monkeypatch.setattr(ablation_worker, "trained", lambda job: pytest.fail("trained again for another test"))
    label_curve.main(compose("label_curve", [*options, "limit=1"]))
    tested = json.loads((tmp_path / "run" / "none-labels1-fixed-seed0" / "result.json").read_text())
    assert len(tested["per_sequence"]["SR"]) == 1
