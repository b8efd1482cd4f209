"""Counters of a pretended machine: packages, wraps, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from had_snn.profiling.measure import RaplMeter, measure


def zone(root: Path, name: str, label: str, energy: int) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(label + "\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text("1000000\n")
    return folder


def test_packages_are_added_parts_are_not_and_wraps_are_undone(tmp_path):
    first = zone(tmp_path, "intel-rapl:0", "package-0", 100)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 999_990)
    zone(tmp_path, "intel-rapl:0:0", "core", 5)
    zone(tmp_path, "intel-rapl:2", "psys", 5)
    meter = RaplMeter(tmp_path)
    before = meter.read()
    (first / "energy_uj").write_text("2100\n")
    (second / "energy_uj").write_text("9\n")
    assert meter.joules(before, meter.read()) == pytest.approx(2000e-6 + 20e-6)


def test_missing_counters_are_none_with_a_reason(tmp_path):
    meter = RaplMeter(tmp_path)
    assert meter.joules(meter.read(), meter.read()) is None
    assert str(tmp_path) in meter.reason


def test_time_and_quotients():
    with measure() as measured:
        sum(range(10_000))
    measured.outputs = 4
    figures = measured.to_dict()
    assert figures["s_per_output"] == pytest.approx(measured.seconds / 4)
    assert measured.seconds > 0
    if measured.cpu_joules is None:
        assert any("RAPL" in note for note in measured.notes)
