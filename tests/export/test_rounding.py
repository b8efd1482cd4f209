"""Rounded graphs need no rounding at run time: the order of summation and the comparison's kind change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from had_snn.errors import InputError
from had_snn.export import Rounding, round_graph, run_graph, to_graph
from had_snn.export.rounding import groups, input_scales, mean_charge, round_decay
from had_snn.export.search_graph import Neurons, SearchGraph

from .conftest import make_student


def run_in_double(graph, counts, *, at_least: bool):
    """The graph in float64 with convolutions over permuted channels; fires at `>=` or `>`."""
    values, spikes = {"input": counts.double()}, {}
    for name, node in graph.nodes.items():
        current = sum(values[source] for source in graph.sources(name))
        if name in graph.convolutions:
            order = torch.randperm(node.weight.shape[1])
            flat = current.flatten(0, 1)[:, order]
            out = F.conv2d(flat, node.weight.double()[:, order], node.bias.double(), node.stride, node.padding)
            values[name] = out.unflatten(0, current.shape[:2])
            continue
        v, fired = torch.zeros_like(current[0]), []
        for x in current:
            v = node.alpha * v + x
            s = v >= 1 if at_least else v > 1
            assert not (v == 1).any()
            v = torch.where(s, 0.0, v)
            fired.append(s)
        spikes[name] = torch.stack(fired)
        values[name] = spikes[name].double()
    return spikes


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("blocks", [1, 3])
def test_every_arithmetic_fires_alike(template, counts, bits, blocks):
    student = make_student(blocks=blocks)
    graph = to_graph(student, *template, t_us=40_000, rounding=Rounding(weight_bits=bits))
    trace = run_graph(graph, counts, with_membranes=True)
    assert all(layer["exact_float32"] for layer in graph.info["layers"].values())
    for at_least in (False, True):
        spikes = run_in_double(graph, counts, at_least=at_least)
        for name in graph.neurons:
            assert torch.equal(trace.spikes[name], spikes[name]), name


def test_numbers_are_on_their_grids(student, template):
    graph = to_graph(student, *template, t_us=40_000, rounding=Rounding(weight_bits=8))
    for name, layer in graph.info["layers"].items():
        node = graph.neurons[name]
        assert node.alpha == layer["alpha"]
        assert node.alpha * 16 == round(node.alpha * 16)
    first = graph.info["layers"]["lif1"]["grid_bits"]["conv1"]
    finest = graph.info["layers"]["lif1"]["bias_grid_bits"]
    assert finest >= first
    integers = graph.convolutions["conv1"].weight.double().numpy() * 2.0**first
    assert np.array_equal(integers, np.round(integers))
    assert np.abs(integers).max() <= 127
    halves = graph.convolutions["conv1"].bias.double().numpy() * 2.0 ** (finest + 1)
    assert np.array_equal(halves % 2, np.ones_like(halves))


def test_many_bits_come_near_the_trained_network(student, template, counts):
    raw = to_graph(student, *template, t_us=40_000, rounding=None)
    fine = round_graph(raw, Rounding(weight_bits=20, decay_bits=8, headroom_bits=4))
    for name, conv in raw.convolutions.items():
        torch.testing.assert_close(fine.convolutions[name].weight, conv.weight, rtol=1e-2, atol=1e-3)
    # Eight decay bits over four steps leave no room for exact sums, and the graph says so.
    assert not all(layer["exact_float32"] for layer in fine.info["layers"].values())


def test_shared_convolutions_share_a_scale(template):
    student = make_student(blocks=2)
    graph = to_graph(student, *template, t_us=40_000, rounding=None)
    assert ["block0_lif", "block1_lif", "lif_out"] in groups(graph)
    factors, thresholds = input_scales(graph)
    assert factors["conv2"] == factors["block0_conv"] == factors["block1_conv"]
    assert thresholds["lif1"] == thresholds["block0_lif"] == 1.0
    expected = (1 - graph.neurons["lif_out"].alpha) / (1 - graph.neurons["block0_lif"].alpha)
    assert thresholds["lif_out"] == expected != 1.0


@pytest.mark.parametrize(
    ("alpha", "bits", "found"),
    [(0.6, 3, (0.625, 3)), (0.99, 3, (0.875, 3)), (0.01, 3, (0.125, 3)), (0.52, 3, (0.5, 1)), (0.74, 3, (0.75, 2))],
)
def test_decays_go_to_the_nearest_fraction(alpha, bits, found):
    assert round_decay(alpha, bits) == found


@pytest.mark.parametrize("alpha", [*(n / 16 for n in range(1, 16)), float(np.float32(0.60653067))])
def test_our_kernel_decays_by_exactly_that(alpha):
    """A potential of one half without input: the kernel's next potential shows its decay."""
    nodes = {"lif": Neurons(alpha, (1, 1, 1))}
    graph = SearchGraph(nodes, (("input", "lif"), ("lif", "output")), (1, 1, 1), 2, 10_000.0)
    trace = run_graph(graph, torch.tensor([0.5, 0.0]).reshape(2, 1, 1, 1, 1), with_membranes=True)
    assert float(trace.membranes["lif"][1]) == 0.5 * alpha


def test_rounded_decays_keep_the_level_of_a_constant_drive(student, template):
    """Without spikes, a drive of one reaches the same mean potential over the window before and after rounding."""
    for alpha, rounded in ((0.6, 0.625), (0.53, 0.5)):
        potentials = {}
        for decay in (alpha, rounded):
            v, total = 0.0, 0.0
            for _ in range(4):
                v = decay * v + 1
                total += v
            potentials[decay] = total / 4
            assert mean_charge(decay, 4) == pytest.approx(potentials[decay])
    graph = to_graph(student, *template, t_us=40_000)
    raw = to_graph(student, *template, t_us=40_000, rounding=None)
    layer = graph.info["layers"]["lif1"]
    before = mean_charge(raw.neurons["lif1"].alpha, 4)
    assert layer["gain"] == pytest.approx(before / mean_charge(graph.neurons["lif1"].alpha, 4))
    ratio = graph.convolutions["conv1"].weight.norm() / raw.convolutions["conv1"].weight.norm()
    assert float(ratio) == pytest.approx(layer["gain"], rel=2e-3)


def test_senseless_formats_are_refused():
    with pytest.raises(InputError, match="weight_bits"):
        Rounding(weight_bits=1)
