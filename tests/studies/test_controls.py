"""The controls: equal steps for all, the right options for each, and differences over the right sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.studies import controls
from had_snn.commands.entry import compose
from had_snn.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def test_arms_differ_in_nothing_but_what_is_controlled(tmp_path):
    numbers = ["seeds=[3]", "student_steps=7", "teacher_steps=9", "limit=5"]
    cfg = compose("controls", [*numbers, "student_options=['clips.flip=0']", "teacher_options=['data.hardship=0.5']"])
    found = controls.jobs(cfg, tmp_path)
    assert list(found) == [
        "stem-events-seed3",
        "stem-quantised-seed3",
        "stem-binned-seed3",
        "teacher-rgb+events-seed3",
        "teacher-events-seed3",
        "teacher-rgb-seed3",
    ]
    for own, fixed in (("student.stem=", "fit.iterations=7"), ("modalities=", "fit.iterations=9")):
        arms = [job["overrides"] for job in found.values() if any(o.startswith(own) for o in job["overrides"])]
        rest = [[option for option in options if not option.startswith(own)] for options in arms]
        assert len(arms) == 3
        assert rest[0] == rest[1] == rest[2]
        assert fixed in rest[0]
        assert "seed=3" in rest[0]
    assert all(job["limit"] == 5 and job["folder"] == str(tmp_path / name) for name, job in found.items())
    teacher = compose("train_teacher", found["teacher-rgb-seed3"]["overrides"])
    student = compose("distill_student", found["stem-binned-seed3"]["overrides"])
    assert (teacher.modalities, teacher.data.hardship) == (["rgb"], 0.5)
    assert (student.student.stem, student.clips.flip, student.data.hardship) == ("binned", 0, 1.0)


def test_differences_by_attribute_are_over_its_sequences():
    def made_up(arm: str, scores: np.ndarray) -> list[dict]:
        return [{"job": {"arm": arm}, "per_sequence": {"SR": list(scores + seed)}} for seed in range(2)]

    arms = {
        "events": made_up("events", np.array([9.0, 5.0, 4.0])),
        "binned": made_up("binned", np.array([3.0, 5.0, 5.0])),
    }
    attributes = [("fast_motion",), ("blur",), ("blur", "hdr")]
    found = controls.differences(arms, [("events", "binned")], attributes, resamples=20)["events_vs_binned"]
    assert {name: (value["mean"], value["sequences"]) for name, value in found.items()} == {
        "all": (pytest.approx(5 / 3, abs=1e-3), 3),
        "fast_motion": (6.0, 1),
        "blur": (-0.5, 2),
        "hdr": (-1.0, 1),
    }


def test_the_student_is_compared_with_each_teacher_by_seed():
    def result(kind: str, arm: str, seed: int, *scores: float) -> dict:
        own = {name: list(scores) for name in ("SR", "PR", "NPR")}
        return {
            "job": {"kind": kind, "arm": arm, "seed": seed},
            "per_sequence": own,
            "sequences": ["a", "b"],
            "scores": dict.fromkeys(own, sum(scores) / 2),
            "seconds": 1.0,
            "by_attribute": {},
        }

    results = {
        "stem-events-seed0": result("student", "events", 0, 50.0, 40.0),
        "stem-events-seed1": result("student", "events", 1, 52.0, 40.0),
        "teacher-rgb-seed0": result("new_teacher", "rgb", 0, 30.0, 45.0),
        "teacher-rgb-seed1": result("new_teacher", "rgb", 1, 30.0, 47.0),
        "teacher-events-seed0": result("new_teacher", "events", 0, 50.0, 40.0),
        "teacher-events-seed1": result("new_teacher", "events", 1, 52.0, 40.0),
    }
    found = controls.comparisons(results, [("hdr",), ()], resamples=20)["across_differences"]
    assert list(found) == ["student_vs_events", "student_vs_rgb"]
    assert {name: value["mean"] for name, value in found["student_vs_rgb"].items()} == {"all": 7.5, "hdr": 21.0}
    assert found["student_vs_events"]["all"] == {"mean": 0.0, "low": 0.0, "high": 0.0, "sequences": 2}


def test_an_unknown_control_is_refused(tmp_path):
    with pytest.raises(InputError, match="stems expects a list of one of events, binned, quantised"):
        controls.run(compose("controls", ["stems=[voxels]", f"out={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()
