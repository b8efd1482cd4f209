"""The curve of success against training time: one run for each length, in order, with the time it took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.bench import training as bench_training
from experiments.studies import training_curve
from had_snn.commands.entry import compose
from had_snn.errors import InputError

ROOT = Path(__file__).resolve().parents[2]


def test_lengths_differ_in_nothing_but_steps_and_seed(tmp_path):
    cfg = compose("training_curve", ["steps=[20,10]", "seeds=[1,4]", "limit=5"])
    found = training_curve.jobs(cfg, tmp_path)
    assert list(found) == ["steps10-seed1", "steps10-seed4", "steps20-seed1", "steps20-seed4", "baseline-kcf_events"]
    students = [job for job in found.values() if job["kind"] == "student"]
    rest = [[o for o in job["overrides"] if not o.startswith(("seed=", "fit.iterations="))] for job in students]
    assert all(options == rest[0] for options in rest)
    assert "distill=none" in rest[0]
    made = compose("distill_student", students[-1]["overrides"])
    assert (made.fit.iterations, made.seed) == (20, 4)
    assert all(job["limit"] == 5 for job in found.values())


def test_teachers_are_trained_on_both_modalities_with_their_own_options(tmp_path):
    cfg = compose("training_curve", ["steps=[10]", "teacher_steps=[9,4]", "teacher_options=['fit.batch_size=3']"])
    teachers = {name: job for name, job in training_curve.jobs(cfg, tmp_path).items() if name.startswith("teacher")}
    assert list(teachers) == ["teacher-steps4-seed0", "teacher-steps9-seed0"]
    job = teachers["teacher-steps9-seed0"]
    made = compose("train_teacher", job["overrides"])
    assert (made.fit.iterations, made.fit.batch_size, made.seed) == (9, 3, 0)
    assert list(made.modalities) == job["modalities"] == ["rgb", "events"]


def result(kind: str, steps: int | None, seed: int | None, rates: list[float]) -> dict:
    job = {"kind": kind, "seed": seed, "iterations": steps}
    per_sequence = {score: rates for score in ("SR", "PR", "NPR")}
    return {
        "job": job,
        "seconds": 7.0,
        "sequences": ["a", "b"],
        "per_sequence": per_sequence,
        "by_attribute": {},
        "scores": {score: sum(rates) / len(rates) for score in ("SR", "PR", "NPR")},
    }


def test_leads_are_those_of_the_longest_trainings(tmp_path):
    results = {
        "steps1-seed0": result("student", 1, 0, [0, 0]),
        "steps2-seed0": result("student", 2, 0, [40, 50]),
        "steps2-seed1": result("student", 2, 1, [42, 52]),
        "teacher-steps3-seed0": result("new_teacher", 3, 0, [60, 70]),
        "teacher-steps3-seed1": result("new_teacher", 3, 1, [60, 70]),
        "baseline-still": result("baseline", None, None, [11, 21]),
    }
    record = training_curve.summarise(results, resamples=50)
    assert [point["steps"] for point in record["curve"]] == [1, 2]
    assert [point["steps"] for point in record["teachers"]] == [3]
    assert record["lead"]["student_vs_still"]["mean"] == pytest.approx(30)
    assert record["lead"]["teacher_vs_student"]["mean"] == pytest.approx(19)


def test_students_of_another_run_are_compared_at_equal_steps(tmp_path):
    for name, made in (
        ("steps2-seed0", result("student", 2, 0, [30, 40])),
        ("steps3-seed0", result("student", 3, 0, [0, 0])),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps(made))
    ours = {"steps1-seed0": result("student", 1, 0, [0, 0]), "steps2-seed0": result("student", 2, 0, [40, 50])}
    record = training_curve.summarise({**ours, **training_curve.beside(tmp_path)}, resamples=50)
    assert [point["steps"] for point in record["curve"]] == [1, 2]
    assert [point["steps"] for point in record["beside"]] == [2, 3]
    assert record["lead"] == {"steps2_vs_beside": {"mean": 10.0, "low": 10.0, "high": 10.0}}
    training_curve.plot(record, tmp_path / "curve.png")
    with pytest.raises(InputError, match="expected results of this study"):
        training_curve.beside(tmp_path / "steps2-seed0")


@pytest.mark.usefixtures("mostly_here")
def test_a_small_curve_from_end_to_end(small_run, tmp_path):
    options = [
        *small_run,
        "steps=[2,1]",
        "baselines=[static]",
        "teacher_steps=[1]",
        "teacher_options=['fit.batch_size=1']",
    ]
    record = training_curve.run(compose("training_curve", options))
    assert [point["steps"] for point in record["curve"]] == [1, 2]
    assert [point["steps"] for point in record["teachers"]] == [1]
    points = [*record["curve"], *record["teachers"]]
    assert all(point["cpu_seconds"] > 0 and 0 <= point["SR"]["mean"] <= 100 for point in points)
    assert set(record["lead"]) == {"student_vs_static", "teacher_vs_student"}
    assert 0 < record["baselines"]["static"]["SR"]["mean"] < 100
    assert json.loads((tmp_path / "run" / "curve.json").read_text())["setting"]["seeds"] == [0]
    assert (tmp_path / "run" / "curve.png").stat().st_size > 1000


def test_the_training_benchmark_takes_the_longest_training_within_its_time(tmp_path):
    rates = [{"mean": float(n), "low": 0.0, "high": 9.0} for n in (1, 2, 3)]
    # More steps may have taken less time on a machine that was less busy.
    seconds, steps = (510.0, 500.0, 900.0), (10, 20, 30)
    points = [
        {"steps": n, "cpu_seconds": s, "SR": sr, "runs": [{}, {}]}
        for n, s, sr in zip(steps, seconds, rates, strict=True)
    ]
    path = tmp_path / "curve.json"
    path.write_text(json.dumps({"curve": points, "teachers": points[:1]}))
    assert bench_training.best_in_time(str(path), 600) == rates[1] | {"seeds": 2, "seconds": 500}
    teacher = bench_training.best_in_time(str(path), 600, part="teachers")
    assert teacher == rates[0] | {"seeds": 2, "seconds": 510}
    assert bench_training.best_of_curve(str(path), 600)["teacher"] == teacher
    path.write_text(json.dumps({"curve": points, "teachers": []}))
    assert set(bench_training.best_of_curve(str(path), 600)) == {"student"}
    with pytest.raises(InputError, match="no curve with a training of at most 10 s"):
        bench_training.best_in_time(str(path), 10)


@pytest.mark.parametrize("option", ["steps=[]", "steps=[0]", "seeds=[]"])
def test_nothing_to_train_is_refused(option, tmp_path):
    with pytest.raises(InputError, match=rf"{option.partition('=')[0]} expects a list of a whole number"):
        training_curve.run(compose("training_curve", [option, f"out={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()
