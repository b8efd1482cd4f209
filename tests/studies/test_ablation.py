"""The ablation: what it plans, what it does not run twice, and the figures it draws from results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from drifting import drifting_sequence
from made_up_results import made_up

from experiments.bench import training as bench_training
from experiments.record import as_text
from experiments.studies import ablation, ablation_report
from experiments.studies.ablation_plan import Cost, costs, plan
from experiments.studies.ablation_worker import ShuffledTeacher
from had_snn.commands import distill_student
from had_snn.commands.entry import compose
from had_snn.errors import HadError, InputError
from had_snn.models import student_tiny, teacher_tiny

ROOT = Path(__file__).resolve().parents[2]


COST = {"none": Cost(0.1), "full": Cost(0.2), "plain": Cost(0.15, once=1.0)}


def test_equal_time_counts_what_distillation_costs_and_equal_steps_do_not():
    sets = [
        {"labels": 1.0, "budget": "time", "arms": ["none", "full", "plain", "shuffled"]},
        {"labels": 1.0, "budget": "steps", "arms": ["none"]},
        {"labels": 0.1, "budget": "time", "arms": ["none"]},
    ]
    jobs = plan(sets, [0, 1], steps=100, cost=COST)
    steps = {job.name: job.iterations for job in jobs}
    assert len(jobs) == len(steps) == 12
    fixed = plan([{"labels": 0.1, "budget": "fixed", "arms": ["none", "full"]}], [0], steps=100, cost=COST)
    assert [(job.name, job.iterations) for job in fixed] == [
        ("none-labels0.1-fixed-seed0", 100),
        ("full-labels0.1-fixed-seed0", 100),
    ]
    assert steps["none-labels1-time-seed0"] == 100
    assert steps["full-labels1-time-seed1"] == steps["shuffled-labels1-time-seed0"] == 50
    assert steps["plain-labels1-time-seed0"] == 60
    assert steps["none-labels1-steps-seed1"] == 50
    assert [job.seed for job in jobs[:4]] == [0, 1, 0, 1]
    assert [job.seed for job in plan([{**sets[2], "seeds": [5]}], [0, 1], steps=100, cost=COST)] == [5]
    assert {job.mode for job in jobs if job.arm == "shuffled"} == {"full"}


def test_cost_of_a_teacher_whose_answers_are_kept():
    measured = {"none": {"fresh": 1.0, "kept": 1.0}, "full": {"fresh": 3.0, "kept": 2.0}}
    kept = costs(measured, until=0.5, pool_steps=10)
    assert kept["full"] == Cost(per_step=1.5, once=10.0)
    assert kept["none"] == Cost(1.0)
    assert costs(measured, until=None, pool_steps=None)["full"] == Cost(3.0)


def test_following_targets_without_labels_is_part_of_the_time():
    measured = {"none": {"fresh": 1.0, "kept": 1.0}, "full": {"fresh": 1.0, "kept": 1.0}}
    cost = costs(measured, until=None, pool_steps=None, follow=100.0)
    sets = [{"labels": labels, "budget": "time", "arms": ["none", "full"]} for labels in (1.0, 0.4)]
    steps = {job.name: job.iterations for job in plan(sets, [0], steps=300, cost=cost)}
    assert steps["full-labels1-time-seed0"] == steps["none-labels0.4-time-seed0"] == 300
    assert steps["full-labels0.4-time-seed0"] == 240


def test_unknown_arms_and_budgets_are_refused():
    with pytest.raises(InputError, match="unknown arm fuller"):
        plan([{"labels": 1, "budget": "time", "arms": ["fuller"]}], [0], steps=1, cost=COST)
    with pytest.raises(InputError, match="expected time, steps or fixed"):
        plan([{"labels": 1, "budget": "joules", "arms": ["full"]}], [0], steps=1, cost=COST)


def test_a_finished_job_is_not_run_again_and_a_changed_one_is(tmp_path, monkeypatch):
    worker = tmp_path / "ablation_worker.py"
    worker.write_text(
        "import json, sys, pathlib\n"
        "path = pathlib.Path(sys.argv[1]); job = json.loads(path.read_text())\n"
        "with open(path.parent.parent / 'runs', 'a') as file: file.write('x')\n"
        "if job.get('fails'): sys.exit('it broke')\n"
        "path.with_name('result.json').write_text(json.dumps({'job': job, 'value': job['value']}))\n"
    )
    monkeypatch.setattr(ablation, "worker", lambda module, path: [sys.executable, str(worker), path])
    runs = tmp_path / "runs"
    work = {"a": {"value": 1}, "b": {"value": 2}}
    assert {n: r["value"] for n, r in ablation.run_all(tmp_path, work, workers=2).items()} == {"a": 1, "b": 2}
    ablation.run_all(tmp_path, work, workers=1)
    assert runs.read_text() == "xx"
    (tmp_path / "a" / "result.json").unlink()
    ablation.run_all(tmp_path, {**work, "b": {"value": 3}}, workers=1)
    assert runs.read_text() == "xxxx"
    with pytest.raises(HadError, match=r"c failed with code 1: it broke"):
        ablation.run_all(tmp_path, {"c": {"fails": True}}, workers=1)


def test_a_given_teacher_is_shared_or_each_seed_has_its_own(tmp_path):
    shared = compose("ablation", ["teacher_checkpoint=teacher.safetensors"])
    assert set(ablation.teachers(shared, tmp_path, [0, 1]).values()) == {str(Path("teacher.safetensors").resolve())}
    released = compose("ablation", ["teacher_checkpoint=tiny"])
    assert ablation.teachers(released, tmp_path, [0, 1]) == {0: "tiny", 1: "tiny"}
    own = compose("ablation", ["teacher_checkpoint='runs/seed{seed}/teacher.safetensors'"])
    assert ablation.teachers(own, tmp_path, [0, 2]) == {
        seed: str(Path(f"runs/seed{seed}/teacher.safetensors").resolve()) for seed in (0, 2)
    }


def test_figures_say_what_the_results_hold(tmp_path):
    levels = {"none": 40.0, "full": 45.0, "plain": 44.0}
    results = {f"{arm}-{s}": made_up(arm, s, level) for arm, level in levels.items() for s in range(3)}
    results |= {f"{arm}-few-{s}": made_up(arm, s, v - 9, labels=0.1) for arm, v in levels.items() for s in range(3)}
    results |= {"teacher": made_up("teacher", 0, 51.0), "baseline-static": made_up("static", 0, 20.0)}
    record = ablation_report.summarise(results, resamples=50)
    assert record["gain"]["full_vs_none"] == {"mean": 5.0, "low": 5.0, "high": 5.0}
    assert record["gain"]["full_vs_plain"]["mean"] == 1.0
    assert record["gap_closed"]["mean"] == pytest.approx(0.5, abs=0.001)
    assert [entry["labels"] for entry in record["sets"]] == [1.0, 0.1]
    assert set(record["trackers"]) == {"teacher", "static"}
    assert [run["seed"] for run in record["sets"][0]["arms"]["full"]["runs"]] == [0, 1, 2]
    assert record["sets"][0]["arms"]["full"]["by_attribute"]["blur"]["sequences"] == 3
    assert json.loads(as_text(record)) == record
    del results["teacher"]
    assert ablation_report.summarise(results, resamples=10)["gap_closed"] is None
    assert "+5.0 [5.0, 5.0]" in ablation_report.table(record)
    ablation_report.plot(record, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000


def test_arms_are_compared_over_the_seeds_that_both_have():
    results = {f"{arm}-{s}": made_up(arm, s, v) for arm, v in {"none": 40.0, "full": 45.0}.items() for s in range(3)}
    results |= {"rate-1": made_up("rate", 1, 42.0)}
    results |= {f"teacher-{s}": made_up("teacher", s, 50.0 + s) for s in range(3)}
    record = ablation_report.summarise(results, resamples=20)
    assert record["gain"]["rate_vs_none"]["mean"] == 2.0
    assert record["gain"]["full_vs_rate"]["mean"] == 3.0
    # Two of the way from 41 + noise to the teachers' mean, 52 + noise.
    assert record["sets"][0]["gap_closed"]["rate"]["mean"] == pytest.approx(2 / 11, abs=0.001)
    results["rate-1"]["job"]["seed"] = 7
    with pytest.raises(InputError, match="no seed in common"):
        ablation_report.summarise(results, resamples=20)


def test_equal_steps_compare_with_the_run_of_as_many_steps():
    results = {f"{arm}-{s}": made_up(arm, s, v) for arm, v in {"none": 40.0, "full": 45.0}.items() for s in range(3)}
    fewer = {f"steps-{s}": made_up("none", s, 39.0) for s in range(3)}
    for run in fewer.values():
        run["job"]["budget"] = "steps"
    record = ablation_report.summarise({**results, **fewer}, resamples=20)
    assert record["sets"][1]["gain"] == {"full_vs_none": {"mean": 6.0, "low": 6.0, "high": 6.0}}
    assert set(record["sets"][1]["arms"]) == {"none"}


def test_the_training_benchmark_takes_the_success_rates_of_a_finished_ablation(tmp_path):
    results = {f"none-{s}": made_up("none", s, 40.0) for s in range(3)} | {"teacher": made_up("teacher", 0, 51.0)}
    names = ("static", "mean_shift", "csrt_events", "kcf_events")
    results |= {f"baseline-{n}": made_up("static", 0, 20.0 + i) for i, n in enumerate(names)}
    path = tmp_path / "ablation.json"
    record = ablation_report.summarise(results, resamples=20)
    path.write_text(as_text(record))
    found = bench_training.success_rates(str(path))
    assert found["student"]["mean"] == record["sets"][0]["arms"]["none"]["SR"]["mean"]
    named = {name: row["mean"] for name, row in found.items() if name != "student"}
    assert named == {name: record["trackers"][key]["SR"]["mean"] for name, key in bench_training.TRACKERS.items()}
    assert (found["student"]["seeds"], found["kcf"]["seeds"]) == (3, 1)
    del results["baseline-kcf_events"]
    path.write_text(as_text(ablation_report.summarise(results, resamples=20)))
    with pytest.raises(InputError, match="kcf_events"):
        bench_training.success_rates(str(path))


def test_runs_on_other_sequences_are_not_mixed():
    results = {"a": made_up("none", 0, 40.0), "b": made_up("none", 1, 40.0), "teacher": made_up("teacher", 0, 50.0)}
    results["b"]["sequences"] = ["other"] * 20
    with pytest.raises(InputError, match="different sequences"):
        ablation_report.summarise(results, resamples=10)


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_a_shuffled_teacher_answers_about_another_clip(at_a_time):
    """Also where each call holds one distilled clip, as in the ablation."""
    torch.manual_seed(0)
    teacher, count, windows = teacher_tiny().eval(), 6, 2
    shuffled = ShuffledTeacher(teacher)
    image, box = torch.rand(count, 3, 72, 72), torch.full((count, 4), 0.4)
    search = torch.rand(windows, count, 3, 96, 96)
    own, told = [], []
    with torch.no_grad():
        for start in range(0, count, at_a_time):
            part = slice(start, start + at_a_time)
            given = (image[part], None, box[part], search[:, part].flatten(0, 1), None)
            for network, found in ((teacher, own), (shuffled, told)):
                output = network(*given, with_taps=True)
                maps = (output.score_logits, output.offsets, output.sizes, output.taps.features)
                found.append([m.unflatten(0, (windows, -1)) for m in maps])
    for plain, passed in zip(zip(*own, strict=True), zip(*told, strict=True), strict=True):
        plain, passed = torch.cat(plain, dim=1), torch.cat(passed, dim=1)
        torch.testing.assert_close(passed[:, 1:], plain[:, :-1])
        assert not torch.allclose(passed[:, 1:], plain[:, 1:])


@pytest.mark.parametrize(("mode", "taught"), [("none", 2), ("rate", 2), ("response", 5), ("full", 5)])
def test_the_response_level_learns_the_boxes_that_a_teacher_followed(monkeypatch, mode, taught):
    """Other modes ask the teacher about those sequences too, but only on distilled clips and never for a label."""
    found = [drifting_sequence(seed=seed, labels=10) for seed in range(5)]
    monkeypatch.setattr(distill_student, "training_sequences", lambda cfg: found)
    monkeypatch.setattr(distill_student, "labelled_by", lambda teacher, cfg, others: others)
    cfg = compose("distill_student", [f"distill={mode}", "labels=0.4", "distill.every=2"])
    clips = distill_student.clips_for(cfg, student_tiny(), None if mode == "none" else teacher_tiny())
    assert len(clips.sequences) == (2 if mode == "none" else 5)
    assert clips.labels == taught
    distilled = [clips[i].labelled for i in range(0, 40, 2)]
    assert all(clips[i].labelled for i in range(1, 40, 2))
    assert all(distilled) == (mode != "rate")
