"""The file: lossless, self-describing, and refused by name when it is damaged or foreign."""

from __future__ import annotations

import json

import h5py
import nir
import numpy as np
import pytest
import torch

from had_snn.errors import FormatError
from had_snn.export import graph_to_nir, read_nir, run_graph, to_graph, to_nir, write_nir
from had_snn.export.rounding import Rounding
from had_snn.export.search_graph import Conv


@pytest.mark.parametrize("rounding", [None, Rounding(), Rounding(weight_bits=8)])
def test_round_trip_loses_nothing(student, template, counts, tmp_path, rounding):
    graph = to_graph(student, *template, t_us=40_000, rounding=rounding)
    write_nir(tmp_path / "a.nir", graph)
    back = read_nir(tmp_path / "a.nir")
    assert list(back.nodes) == list(graph.nodes)
    assert set(back.edges) == set(graph.edges)
    assert (back.info, back.taps, back.n_steps, back.dt_us) == (graph.info, graph.taps, graph.n_steps, graph.dt_us)
    for name, node in graph.nodes.items():
        other = back.nodes[name]
        if isinstance(node, Conv):
            assert torch.equal(node.weight, other.weight)
            assert torch.equal(node.bias, other.bias)
            assert (node.stride, node.padding) == (other.stride, other.padding)
        else:
            assert node == other
    ours, theirs = run_graph(graph, counts), run_graph(back, counts)
    assert torch.equal(ours.readout, theirs.readout)


def test_the_file_says_what_it_is(student, template, tmp_path):
    write_nir(tmp_path / "a.nir", to_nir(student, *template, t_us=40_000))
    stored = nir.read(tmp_path / "a.nir")
    notes = json.loads(stored.metadata["had_snn"])
    assert notes["dt_us"] * notes["n_steps"] == notes["window_us"] == student.config.window_us
    assert notes["neuron"]["reset"] == "hard"
    assert notes["info"]["template"]["box_xywh"] == template[1]
    assert {"nir", "torch", "had_snn"} <= set(notes["versions"])
    lif = stored.nodes["lif1"]
    assert lif.tau.dtype == np.float64
    assert lif.tau.shape == (8, 16, 16)
    assert (lif.r == 1).all()
    assert (lif.v_reset == 0).all()


def test_trained_numbers_have_threshold_one_and_the_stated_tau(student, template):
    graph = to_graph(student, *template, t_us=40_000, rounding=None)
    stored = graph_to_nir(graph)
    alpha = graph.neurons["lif1"].alpha
    assert np.unique(stored.nodes["lif1"].v_threshold) == 1
    np.testing.assert_allclose(stored.nodes["lif1"].tau, 1e-4 / (1 - alpha), rtol=1e-15)
    expected = graph.convolutions["conv1"].weight.double().numpy() / (1 - alpha)
    np.testing.assert_allclose(stored.nodes["conv1"].weight, expected, rtol=1e-14)
    # One convolution feeds these two, so they share its scale and the second carries the rest in its threshold.
    first, second = graph.neurons["block0_lif"].alpha, graph.neurons["lif_out"].alpha
    np.testing.assert_allclose(stored.nodes["lif_out"].v_threshold, (1 - second) / (1 - first), rtol=1e-15)


def test_damaged_and_foreign_files_are_named(graph, tmp_path):
    with pytest.raises(FormatError, match=r"missing\.nir: no such file"):
        read_nir(tmp_path / "missing.nir")
    (tmp_path / "text.nir").write_text("not HDF5")
    with pytest.raises(FormatError, match=r"text\.nir: not a readable NIR file"):
        read_nir(tmp_path / "text.nir")
    good = tmp_path / "good.nir"
    write_nir(good, graph)
    (tmp_path / "cut.nir").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with pytest.raises(FormatError, match=r"cut\.nir"):
        read_nir(tmp_path / "cut.nir")
    foreign = nir.NIRGraph.from_list(nir.Affine(np.ones((2, 2)), np.ones(2)))
    nir.write(tmp_path / "foreign.nir", foreign)
    with pytest.raises(FormatError, match="another program"):
        read_nir(tmp_path / "foreign.nir")


def test_nodes_that_contradict_the_notes_are_refused(graph, tmp_path):
    path = tmp_path / "a.nir"
    write_nir(path, graph)
    with h5py.File(path, "r+") as file:
        file["node/nodes/lif_mix/tau"][...] *= 1.5
    with pytest.raises(FormatError, match="lif_mix decays by"):
        read_nir(path)


def test_a_missing_node_is_refused(graph, tmp_path):
    path = tmp_path / "a.nir"
    write_nir(path, graph)
    with h5py.File(path, "r+") as file:
        del file["node/nodes/lif_head"]
    with pytest.raises(FormatError, match=r"a\.nir"):
        read_nir(path)


def test_no_damaged_byte_passes_unnoticed(graph, counts, tmp_path):
    """Every change of a byte is refused by name, or lies where it changes nothing."""
    good, bad = tmp_path / "good.nir", tmp_path / "bad.nir"
    write_nir(good, graph)
    content, expected = bytearray(good.read_bytes()), run_graph(graph, counts[:, :1]).readout
    refused = names = 0
    for position in np.random.default_rng(0).integers(0, len(content), 80):
        damaged = bytearray(content)
        damaged[position] ^= 0x5A
        bad.write_bytes(damaged)
        try:
            found = read_nir(bad)
        except FormatError as error:
            names += "bad.nir" in str(error)
            refused += 1
            continue
        assert torch.equal(run_graph(found, counts[:, :1]).readout, expected), position
    assert names == refused > 2


def test_a_newer_layout_is_refused(graph, tmp_path):
    stored = graph_to_nir(graph)
    notes = json.loads(stored.metadata["had_snn"])
    stored.metadata["had_snn"] = json.dumps({**notes, "layout": 99})
    write_nir(tmp_path / "a.nir", stored)
    with pytest.raises(FormatError, match="newer version"):
        read_nir(tmp_path / "a.nir")


def test_the_notes_say_how_events_become_input(graph, tmp_path):
    write_nir(tmp_path / "a.nir", graph)
    notes = json.loads(nir.read(tmp_path / "a.nir").metadata["had_snn"])
    assert notes["part"] == "body"
    assert notes["preprocessing"]["sensor_hw"] == [120, 120]
    assert notes["preprocessing"]["crop_size"] == 64
    assert "spike counts" in notes["host_before"]
    assert "leaky read-out" in notes["host_after"]
