"""The committed figures: every network under every rule, and the limits that the networks are built for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from had_snn.models import student_base
from had_snn.profiling import PUBLISHED_MJ

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PRESETS = ("exact", "exact_mac", "sdtrack", "spikefet", "neurobench")


@pytest.fixture(scope="module")
def energy() -> dict:
    return json.loads((FOLDER / "energy.json").read_text())


def test_every_network_has_a_figure_under_every_rule(energy):
    for network in ("student_tiny", "student_base", "teacher_tiny", "teacher_small", "teacher_base"):
        for preset in PRESETS:
            assert energy[network][preset]["mj_per_output"] > 0
            assert energy[network][preset]["mj_per_second"] > 0
    published = energy["published_mj_per_output"]
    assert {name: published[name] for name in PUBLISHED_MJ} == PUBLISHED_MJ


def test_students_keep_their_limits(energy):
    assert energy["student_tiny"]["sdtrack"]["mj_per_output"] <= 0.1
    assert energy["student_base"]["sdtrack"]["mj_per_output"] <= 1.0
    assert energy["student_base"]["parameters"] == sum(p.numel() for p in student_base().parameters())
    assert energy["teacher_tiny"]["exact"]["mj_per_output"] > 10 * energy["student_tiny"]["exact"]["mj_per_output"]


def test_counting_stays_below_a_tenth_of_a_forward_pass_in_constant_memory():
    record = json.loads((FOLDER / "profiling.json").read_text())
    for network in ("student_tiny", "student_base"):
        for row in record[network]["overhead"].values():
            assert row["overhead_median"] < 0.1
    memory = record["student_tiny"]["memory"]
    assert memory["sequences"] >= 100
    assert memory["numbers_held_after"]["50"] == memory["numbers_held_after"]["100"]
    assert memory["mb_grown_in_second_half"] < 1
