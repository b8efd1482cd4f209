"""Chip limits: counts against a count by hand, and findings that name the layer."""

from __future__ import annotations

import torch

from had_snn.export import Rounding, to_graph
from had_snn.export.chips import chip_lines, chip_report, layer_needs


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
    apart = chip_report(to_graph(student, *template, t_us=40_000, fuse_matching=False))
    assert any(reason.startswith("mix_match: reads real values") for reason in apart["speck"]["reasons"])
    assert any("speck: does not fit" in line for line in chip_lines(apart))
