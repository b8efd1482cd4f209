"""Simulators, each from the file, against our kernels."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from had_snn.errors import ExportError, InputError
from had_snn.export import DeployedStudent, read_nir, run_graph, table, to_graph, verify, write_nir
from had_snn.export.adapters import OPENERS
from had_snn.export.reference_runner import run_events, thinned
from had_snn.export.search_graph import Neurons
from had_snn.tracking import OnlineTracker

from .conftest import make_student, random_events

SIMULATORS = [*OPENERS, "event_by_event"]


@pytest.fixture(scope="module")
def path(graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("nir") / "student.nir"
    write_nir(path, graph)
    return path


def need(name):
    pytest.importorskip(name)


@pytest.mark.parametrize("name", SIMULATORS)
def test_no_spike_differs(path, counts, name):
    if name != "event_by_event":
        need(name)
    report = verify(path, counts, simulators=[name])
    entry = report[name]
    assert entry["status"] == "exact", entry
    assert entry["mismatches"] == 0
    assert entry["spikes"] == sum(layer["spikes"] for layer in entry["layers"].values()) > 1000
    assert all(layer["spikes"] > 50 and layer["status"] == "exact" for layer in entry["layers"].values())
    assert max(layer["membrane_error"] for layer in entry["layers"].values()) < 1e-5
    assert f"| {name} |" in table(report)


@pytest.fixture(scope="module")
def long_student():
    return make_student(blocks=2)


@pytest.mark.parametrize("fuse", [True, False])
def test_trained_weights_and_longer_residual_chains_agree_too(template, counts, tmp_path, long_student, fuse):
    """Without rounding the last bit may decide a spike, but not more than one in a hundred thousand decisions."""
    installed = [name for name in OPENERS if importlib.util.find_spec(name)]
    graph = to_graph(long_student, *template, t_us=40_000, rounding=None, fuse_matching=fuse)
    write_nir(tmp_path / "a.nir", graph)
    for entry in verify(tmp_path / "a.nir", counts, simulators=installed).values():
        assert sum(layer["mismatches_alone"] for layer in entry["layers"].values()) <= entry["decisions"] * 1e-5


@pytest.mark.parametrize("name", SIMULATORS)
def test_a_wrong_network_is_found_and_located(path, graph, counts, name):
    """Our side runs another decay in one layer: the report must blame that layer and no other."""
    if name != "event_by_event":
        need(name)
    nodes = dict(graph.nodes)
    old = graph.neurons["lif_out"]
    nodes["lif_out"] = Neurons(1 - (1 - old.alpha) / 2, old.shape)
    entry = verify(path, counts, simulators=[name], graph=graph.with_nodes(nodes))[name]
    assert entry["status"] == "differs"
    alone = {layer: found["mismatches_alone"] for layer, found in entry["layers"].items()}
    assert alone.pop("lif_out") > 0
    assert set(alone.values()) == {0}
    assert entry["layers"]["lif_head"]["mismatches"] > 0
    assert entry["layers"]["lif1"]["mismatches"] == 0


def test_unknown_names_and_other_windows_are_refused(path, counts):
    with pytest.raises(InputError, match=r"brain.*there are: norse"):
        verify(path, counts, simulators=["brain"])
    with pytest.raises(InputError, match="file reads counts"):
        verify(path, counts[:2], simulators=["norse"])


def test_a_missing_simulator_is_named(path, counts, monkeypatch):
    monkeypatch.setitem(sys.modules, "norse", None)
    entry = verify(path, counts, simulators=["norse"])["norse"]
    assert entry["status"] == "not installed"
    assert "norse" in entry["notes"]


def test_the_event_runner_counts_what_a_convolution_of_ones_counts(graph, counts):
    run = run_events(graph, counts)
    values = {"input": counts, **{name: spikes.float() for name, spikes in run.trace.spikes.items()}}
    for name, conv in graph.convolutions.items():
        ones = torch.ones_like(conv.weight)
        source = values[graph.sources(name)[0]].flatten(0, 1)
        expected = torch.nn.functional.conv2d(source, ones, stride=conv.stride, padding=conv.padding).sum()
        assert run.synops[name] == int(expected), name
    doubled = run_events(graph, counts * 2)
    assert doubled.synops["conv1"] == 2 * run.synops["conv1"]
    assert run_events(graph, counts * 0).synops["conv1"] == 0
    assert torch.equal(run.trace.readout, run_graph(graph, counts).readout)


def test_operations_follow_spikes_and_updates_do_not(graph, counts):
    few, all_of_it = (run_events(graph, thinned(counts, share)) for share in (0.2, 1.0))
    assert torch.equal(thinned(counts, 1.0), counts)
    assert few.synops["conv1"] == pytest.approx(0.2 * all_of_it.synops["conv1"], rel=0.1)
    # Behind the first layer biases keep some neurons firing whatever comes in, so the sum falls less than the input.
    assert sum(few.synops.values()) < 0.8 * sum(all_of_it.synops.values())
    assert few.updates == all_of_it.updates


@pytest.mark.parametrize("name", OPENERS)
def test_boxes_tracked_in_a_simulator_are_ours(student, path, name):
    """The tracked box through the file equals the deployed student's to 1e-4 px; here it is equal."""
    events = random_events(1, 40_000, 120, duration=240_000)
    box = [40.0, 45.0, 34.0, 28.0]
    graph = to_graph(student, events, box, t_us=40_000)
    file = path.with_name("tracked.nir")
    write_nir(file, graph)
    need(name)
    run = OPENERS[name](file, read_nir(file)).run
    times = list(range(60_000, 240_001, 40_000))
    found = []
    for network in (DeployedStudent(student, graph), DeployedStudent(student, graph, run=run)):
        tracker = OnlineTracker(network)
        tracker.init(events.slice_time(0, 40_000), box, t_us=40_000)
        estimates = tracker.update(events.slice_time(40_000, 240_000), at_us=times)
        found.append([(*e.box_xywh, e.score) for e in estimates])
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=0, atol=1e-6)


def test_another_template_is_refused(student, graph):
    other = random_events(7, 20_000, 120)
    tracker = OnlineTracker(DeployedStudent(student, graph))
    with pytest.raises(ExportError, match="exported for the target 40,45,34,28"):
        tracker.init(other, [60.0, 20.0, 20.0, 40.0], t_us=40_000)


def test_an_export_keeps_the_template_that_is_part_of_it(student):
    """A recording that begins less than a window before the box: the student reads it anew, an export cannot."""
    events, box = random_events(1, 20_000, 120, duration=120_000), [40.0, 45.0, 34.0, 28.0]
    kernels = []
    for network in (DeployedStudent(student, to_graph(student, events, box, t_us=10_000)), student):
        tracker = OnlineTracker(network)
        tracker.init(events.slice_time(0, 10_000), box, t_us=10_000)
        first = tracker.state.kernel.clone()
        tracker.update(events.slice_time(10_000, 120_000), at_us=[60_000, 120_000])
        kernels.append(torch.equal(tracker.state.kernel, first))
    assert kernels == [True, False]
