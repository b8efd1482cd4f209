"""Rules and cost tables against sums done by hand, and what a profile writes."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch

from had_snn.evaluate.report_profile import write_profile_report
from had_snn.profiling import (
    COSTS,
    EXACT,
    EXACT_MAC,
    HOROWITZ_FP32,
    LOIHI,
    NEUROBENCH,
    PUBLISHED_MJ,
    RULES,
    SDTRACK,
    SPIKEFET,
    LayerProfile,
    NeuronProfile,
    Operations,
    Profile,
)

ONE = torch.zeros(1, dtype=torch.int64)


@pytest.fixture
def profile() -> Profile:
    """One output and one template: an event layer, counts, a real-valued layer, a read-out and one population."""
    found = Profile("by hand", "spiking", outputs=4, tracks=1, seconds=0.16)
    stem = LayerProfile("stem", "search", "events", position="first")
    counts = LayerProfile("conv1", "search", "counts")
    real = LayerProfile("mix", "search", "real", form="staged")
    folded = LayerProfile("match", "search", "spikes", form="folded")
    last = LayerProfile("readout", "search", "spikes", position="last")
    template = LayerProfile("stem", "template", "events", position="first")
    for _ in range(4):
        stem.add(ONE, input_spikes=100, input_sites=800, synops=180, effective=180, textbook=1600)
        counts.add(
            ONE,
            input_spikes=30,
            input_active=20,
            input_sites=300,
            synops=250,
            active=170,
            effective=160,
            effective_graded=90,
            dense=2500,
            textbook=3000,
            additions=40,
        )
        real.add(ONE, dense=900, textbook=1000, effective=500, effective_graded=500)
        folded.add(ONE, input_spikes=10, input_sites=100, synops=77, textbook=900)
        last.add(ONE, input_spikes=5, input_sites=50, synops=40, effective=40, textbook=500)
    template.add(ONE, input_spikes=40, input_sites=400, synops=60, effective=60, textbook=800)
    neurons = NeuronProfile("lif", "search", 10, 40)
    neurons.add(ONE.repeat(4), 30)
    found.layers = [stem, counts, real, folded, last, template]
    found.neurons = [neurons]
    return found


def test_presets_count_as_their_sources_do(profile):
    def of(rules, **options):
        found = profile.operations(rules, **options)
        return found.acs, found.macs, found.updates

    assert of(EXACT) == (180 + 250 + 40 + 40 + 60 / 4, 900, 30)
    assert of(EXACT_MAC) == (180 + 40 + 40 + 60 / 4, 900 + 170, 30)
    # rate * textbook: 100/800 * 1600 = 200 (MACs, as first layers), 30/300 * 3000 = 300, 5/50 * 500 = 50
    assert of(SDTRACK) == (300 + 50, 200 + 1000 + 80 / 4, 0)
    assert of(SPIKEFET) == (200 + 300 + 500 + 80 / 4, 1000, 0)
    assert of(NEUROBENCH) == (180 + 70 + 40 + 60 / 4, 90 + 500, 0)
    assert of(EXACT, template="every") == (180 + 250 + 40 + 40 + 60, 900, 30)
    assert of(EXACT, template="none") == (180 + 250 + 40 + 40, 900, 30)
    assert of(EXACT, folded=True) == (180 + 250 + 40 + 77 + 40 + 60 / 4, 0, 30)


def test_energy_is_operations_times_costs(profile):
    pj = (180 + 250 + 40 + 40 + 15) * 0.9 + 900 * 4.6 + 30 * 4.6
    assert profile.energy_mj() == pytest.approx(pj * 1e-9)
    assert sum(profile.energy_by_layer().values()) == pytest.approx(profile.energy_mj())
    accesses = 3 * (180 + 250 + 40 + 40 + 15) + 2 * 900 + 2 * 30
    assert profile.memory_mj() == pytest.approx(accesses * 5e-9)
    assert profile.summary()["exact"]["mj_per_second"] == pytest.approx(profile.energy_mj() * 25)
    # A chip without multipliers runs the folded form.
    assert profile.energy_mj(EXACT, LOIHI) == pytest.approx(((180 + 250 + 40 + 77 + 40 + 15) * 23.6 + 30 * 81) * 1e-9)
    assert Operations(macs=1).energy_pj(LOIHI) is None
    assert Operations(acs=2, macs=3).energy_pj(HOROWITZ_FP32) == pytest.approx(2 * 0.9 + 3 * 4.6)


def test_tables_name_their_sources():
    assert (HOROWITZ_FP32.ac_pj, HOROWITZ_FP32.mac_pj) == (0.9, 4.6)
    assert all(cost.source for cost in COSTS)
    assert all(rules.source for rules in RULES)
    assert len({cost.name for cost in COSTS}) == len(COSTS)
    assert PUBLISHED_MJ["SDTrack-Tiny"] == 8.16


def test_rows_csv_json_and_page_hold_the_same(profile, tmp_path):
    rows = profile.to_rows()
    assert sum(row["uj_exact"] for row in rows if row["form"] != "folded") == pytest.approx(profile.energy_mj() * 1e3)
    read = list(csv.DictReader(io.StringIO(profile.to_csv())))
    assert [row["name"] for row in read] == [row["name"] for row in rows]
    assert float(read[1]["synops"]) == 250
    record = json.loads(profile.to_json())
    assert record["summary"]["sdtrack"]["mj_per_output"] == pytest.approx(profile.energy_mj(SDTRACK))
    page = tmp_path / "page.html"
    write_profile_report(page, [profile], measured={"by hand": {"seconds": 1.0, "outputs": 4, "notes": ["<none>"]}})
    text = page.read_text()
    assert "by hand" in text
    assert "CEUTrack (published)" in text
    assert "&lt;none&gt;" in text
    assert "http" not in text.replace("http://www.w3.org", "")
