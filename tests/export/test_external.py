"""Simulators in an environment of their own: the protocol with one of ours, and the real ones where they are."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from had_snn.errors import ExportError, MissingExtraError
from had_snn.export import external, run_graph, table, verify, write_nir
from had_snn.export.external import EXTERNAL, external_version, run_external

EXACT = ("brian2", "nengo", "rockpool")
SCRIPTS = Path(external.__file__).parent / "simulator_scripts"

NUMPY_SIMULATOR = """
import sys
sys.path.insert(0, {scripts!r})
import numpy as np
from protocol import layer_by_layer, one_value, serve

def run(network, counts, feed):
    def fire(name, current):
        node = network.nodes[name]
        share, threshold = np.float32(network.dt / one_value(node, "tau")), one_value(node, "v_threshold")
        v, spikes, membranes = np.zeros_like(current[0]), [], []
        for x in current:
            v = v + share * (x - v)
            fired = v > threshold
            v = np.where(fired, np.float32(0), v)
            spikes.append(fired)
            membranes.append(v / threshold)
        return np.stack(spikes), np.stack(membranes)
    {spoil}
    return layer_by_layer(network, counts, feed, fire)

serve(run, "1")
"""


@pytest.fixture(scope="module")
def path(graph, tmp_path_factory):
    path = tmp_path_factory.mktemp("nir") / "student.nir"
    write_nir(path, graph)
    return path


def our_simulator(tmp_path, monkeypatch, spoil: str = "") -> None:
    """Puts a simulator written in NumPy, run by this Python, in the place of nengo."""
    script = tmp_path / "run_numpy.py"
    script.write_text(NUMPY_SIMULATOR.format(scripts=str(SCRIPTS), spoil=spoil))
    monkeypatch.setenv("HAD_SNN_SIMULATORS", sys.executable)
    monkeypatch.setitem(EXTERNAL, "nengo", (str(script), "numpy", ()))


def test_a_simulator_that_knows_only_the_file_agrees(path, counts, tmp_path, monkeypatch):
    our_simulator(tmp_path, monkeypatch)
    entry = verify(path, counts, simulators=["nengo"])["nengo"]
    assert (entry["status"], entry["mismatches"], entry["version"]) == ("exact", 0, np.__version__)
    assert max(layer["membrane_error"] for layer in entry["layers"].values()) < 1e-5


def test_a_deviating_simulator_is_located(path, counts, tmp_path, monkeypatch):
    our_simulator(tmp_path, monkeypatch, spoil='network.nodes["lif_mix"].v_threshold *= 1.25')
    entry = verify(path, counts, simulators=["nengo"])["nengo"]
    assert entry["status"] == "differs"
    assert entry["rate"] == entry["mismatches"] / entry["spikes"] > 0
    alone = {layer: found["mismatches_alone"] for layer, found in entry["layers"].items()}
    assert alone.pop("lif_mix") > 0
    assert set(alone.values()) == {0}


def test_a_failing_simulator_is_reported_with_its_last_words(graph, path, counts, tmp_path, monkeypatch):
    our_simulator(tmp_path, monkeypatch, spoil='raise RuntimeError("no such neuron")')
    with pytest.raises(ExportError, match=r"nengo failed on .*no such neuron"):
        run_external("nengo", path, graph, counts)
    report = verify(path, counts, simulators=["nengo"])
    assert report["nengo"]["status"] == "failed"
    assert "no such neuron" in table(report)


def test_fed_spikes_reach_the_layers_behind(graph, path, counts, tmp_path, monkeypatch):
    our_simulator(tmp_path, monkeypatch)
    trace = run_graph(graph, counts)
    silent = {name: torch.zeros_like(spikes) for name, spikes in trace.spikes.items()}
    found, _ = run_external("nengo", path, graph, counts, silent)
    assert torch.equal(found.spikes["lif1"], trace.spikes["lif1"])
    torch.testing.assert_close(found.readout, run_graph(graph, counts, feed=silent).readout)


def test_a_missing_environment_is_named(path, counts, tmp_path, monkeypatch):
    monkeypatch.setenv("HAD_SNN_SIMULATORS", str(tmp_path / "python"))
    with pytest.raises(MissingExtraError, match="make simulators"):
        external_version("brian2")
    assert verify(path, counts, simulators=["brian2"])["brian2"]["status"] == "not installed"
    monkeypatch.setenv("HAD_SNN_SIMULATORS", sys.executable)
    monkeypatch.setitem(EXTERNAL, "brian2", ("run_brian2.py", "no-such-package", ()))
    with pytest.raises(MissingExtraError, match="has no no-such-package"):
        external_version("brian2")


@pytest.mark.parametrize("stride", [1, 2])
def test_the_convolution_in_numpy_is_torchs(stride):
    spec = importlib.util.spec_from_file_location("protocol", SCRIPTS / "protocol.py")
    protocol = importlib.util.module_from_spec(spec)
    sys.modules["protocol"] = protocol
    try:
        spec.loader.exec_module(protocol)
    finally:
        del sys.modules["protocol"]
    nir = pytest.importorskip("nir")
    rng = np.random.default_rng(0)
    node = nir.Conv2d((9, 9), rng.normal(size=(4, 3, 3, 3)), stride, 1, 1, 1, rng.normal(size=4))
    x = rng.normal(size=(2, 3, 9, 9))
    node.stride, node.padding = (stride, stride), (1, 1)
    weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
    expected = torch.nn.functional.conv2d(torch.from_numpy(x), weight, bias, stride, 1)
    np.testing.assert_allclose(protocol.convolve(node, x), expected.numpy(), atol=1e-12)


@pytest.mark.parametrize("name", EXTERNAL)
def test_real_simulators(path, counts, name):
    """Those that can be set right agree in every spike; the others differ already in the first layer."""
    try:
        external_version(name)
    except MissingExtraError as error:
        pytest.skip(str(error))
    report = verify(path, counts, simulators=[name])
    entry = report[name]
    if name in EXACT:
        assert (entry["status"], entry["mismatches"]) == ("exact", 0), entry
        assert max(layer["membrane_error"] for layer in entry["layers"].values()) < 1e-5
    else:
        assert entry["status"] == "differs", entry
        assert entry["layers"]["lif1"]["mismatches_alone"] > 0
    assert f"| {name} | {entry['version']} |" in table(report)
