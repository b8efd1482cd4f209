"""Chip limits: counts against a count by hand, and findings that name the layer."""

from __future__ import annotations

import torch

from had_snn.export import Rounding, to_graph
from had_snn.export.chips import (
    LOIHI2_NEURONS_PER_CORE,
    LOIHI2_SYNAPSES_PER_CORE,
    chip_lines,
    chip_report,
    chip_table,
    layer_needs,
)


def test_synapses_are_those_that_a_full_map_would_use(graph):
    needs = layer_needs(graph)
    conv = graph.convolutions["conv2"]
    ones = torch.nn.functional.conv2d(
        torch.ones(1, 8, 16, 16), torch.ones_like(conv.weight), stride=conv.stride, padding=conv.padding
    )
    assert needs["conv2"]["synapses"] == int(ones.sum())
    assert needs["conv2"]["neurons"] == ones.numel()
    assert needs["conv2"]["fan_in"] == 8 * 9


def test_wide_weights_and_large_maps_are_named(student, template):
    eight = chip_report(to_graph(student, *template, t_us=40_000, rounding=Rounding(weight_bits=8)))
    assert eight["speck"]["fits"], eight["speck"]
    assert eight["loihi2"]["fits"]
    wide = chip_report(to_graph(student, *template, t_us=40_000))
    assert not wide["speck"]["fits"]
    assert any("16 bits" in reason for reason in wide["speck"]["reasons"])
    separate = chip_report(to_graph(student, *template, t_us=40_000, fuse_matching=False))
    assert any(reason.startswith("mix_match: reads real values") for reason in separate["speck"]["reasons"])
    assert any("speck: does not fit" in line for line in chip_lines(separate))


def test_layers_are_placed_on_cores_that_hold_them(student, template):
    report = chip_report(to_graph(student, *template, t_us=40_000, rounding=Rounding(weight_bits=8)))
    places = report["speck"]["cores"]
    assert len({place["core"] for place in places.values()}) == len(places) == len(report["layers"])
    for place in places.values():
        assert place["kernel_words"] <= place["of_kernel_words"]
        assert place["neuron_words"] <= place["of_neuron_words"]
    for name, layer in report["layers"].items():
        cores = report["loihi2"]["cores"][name]
        assert layer["neurons"] <= cores * LOIHI2_NEURONS_PER_CORE
        assert layer["synapses"] <= cores * LOIHI2_SYNAPSES_PER_CORE
        assert f"| {name} |" in chip_table(report)


def test_a_network_that_needs_too_many_cores_is_told_by_its_largest_layer(student, template):
    graph = to_graph(student, *template, t_us=40_000, rounding=Rounding(weight_bits=8))
    wide = graph.convolutions["match"]
    weight = wide.weight.repeat(2000, 1, 1, 1)
    nodes = {**graph.nodes, "match": type(wide)(weight, wide.bias.repeat(2000), wide.stride, wide.padding)}
    report = chip_report(graph.with_nodes(nodes))
    assert any(reason.startswith("match:") for reason in report["speck"]["reasons"])
    assert any(reason.startswith("match:") and "cores" in reason for reason in report["loihi2"]["reasons"])
    assert "none (" in chip_table(report)
