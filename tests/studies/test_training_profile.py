"""The profile of a training step: every layer's operations, their limits, and sums of both."""

from __future__ import annotations

import json

import pytest
import torch

from experiments.bench import training_profile
from had_snn.commands.entry import compose


def test_each_operation_stands_beside_its_limit(tmp_path, capsys):
    threads = torch.get_num_threads()
    splits = "data.splits={train:{count:1,seconds:0.4}}"
    data = ",".join(f"'{option}'" for option in ("data=synthetic", f"data.root={tmp_path / 'data'}", splits))
    options = [f"out={tmp_path / 'profile.json'}", f"data_options=[{data}]", "rounds=1", "batch_size=1", "windows=1"]
    try:
        training_profile.main(compose("bench_training_profile", options))
    finally:
        torch.set_num_threads(threads)
    record = json.loads((tmp_path / "profile.json").read_text())
    rows = {(row["layer"], row["what"]): row for row in record["rows"]}
    convolutions, norms, neurons = 6, 7, 5
    assert len(rows) == 3 * convolutions + 2 * norms + 2 * neurons
    assert rows["conv_head", "gradient of the input"]["limit"] in ("arithmetic", "memory")
    for row in record["rows"]:
        assert row["ms"] >= 0
        assert row["limit_ms"] >= 0
    sums = record["by_kind"]
    assert sum(part["ms"] for part in sums.values()) == pytest.approx(record["operations_ms"], abs=0.5)
    assert record["gflops"] > 1
    assert record["step_ms"] > 0
    assert "step " in capsys.readouterr().out


def test_a_gradient_of_an_input_costs_what_a_dense_one_does():
    torch.manual_seed(0)
    module = training_profile.ConvNorm(8, 16, reads="spikes")
    maps = (torch.rand(2, 8, 6, 6) < 0.25).float()
    works = {work.what: work for work in training_profile.of_conv("x", module, maps)}
    dense = 2 * 2 * 16 * 6 * 6 * 8 * 9
    share = float((maps != 0).float().mean())
    assert works["gradient of the input"].operations == dense
    assert works["convolution"].operations == pytest.approx(dense * share / 2)
    assert works["gradient of the weight"].operations == pytest.approx(dense * share / 2)
    (g_maps,), (g_weight,) = (works[f"gradient of the {name}"].call() for name in ("input", "weight"))
    assert g_maps.shape == maps.shape
    assert g_weight.shape == module.conv.weight.shape
