"""Weights, states, graphs and folders made to break what reads them: refused by name; nothing outside is touched."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file
from targets import SMALL, _graph, _state_seeds, _student

from had_snn.checkpoint import load_student, save_weights
from had_snn.data.labels import read_names
from had_snn.errors import CheckpointError, FormatError, HadError
from had_snn.export.nir import read_nir, write_nir
from had_snn.export.search_graph import Conv
from had_snn.models.pretrained import read_state_dict
from had_snn.tracking import OnlineTracker


def rewritten(path: Path, change, numbers=None) -> Path:
    """A file of weights with other tensors and other numbers of its network."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    change(tensors)
    if numbers is not None:
        metadata["config"] = json.dumps({**json.loads(metadata["config"]), **numbers})
    other = path.with_name("other.safetensors")
    save_file({name: value.contiguous() for name, value in tensors.items()}, other, metadata=metadata)
    return other


@pytest.fixture
def weights(tmp_path) -> Path:
    save_weights(tmp_path / "student.safetensors", _student())
    return tmp_path / "student.safetensors"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(weights, value):
    def change(tensors):
        tensors[name].view(-1)[-1] = value

    for name in list(load_file(weights)):
        if load_file(weights)[name].is_floating_point():
            with pytest.raises(CheckpointError, match=f"{name} holds numbers that are not finite"):
                load_student(rewritten(weights, change))


def test_numbers_whose_currents_are_none(weights):
    def change(tensors):
        for name, value in tensors.items():
            if value.ndim == 4 and name.startswith("backbone"):
                value.fill_(3e38)

    def turn(tensors):
        tensors["mix_match.norm.running_var"].fill_(-1.0)

    for broken, name in ((change, r"backbone\.conv1"), (turn, "mix_match")):
        with pytest.raises(
            CheckpointError, match=f"{name}: its weights, or what its norm makes of them, are not finite"
        ):
            OnlineTracker(load_student(rewritten(weights, broken)))


def test_other_shapes_missing_and_further_tensors(weights):
    name = next(name for name, value in load_file(weights).items() if value.ndim == 4)
    for change in (
        lambda tensors: tensors.update({name: tensors[name][..., :1]}),
        lambda tensors: tensors.pop(name),
        lambda tensors: tensors.update({"more": torch.zeros(2)}),
    ):
        with pytest.raises(CheckpointError, match=f"do not fit together.*({name}|more) is .*expected"):
            load_student(rewritten(weights, change))


@pytest.mark.parametrize(
    "numbers",
    [
        {"channels": [1 << 20, 1 << 20, 1 << 20]},
        {"blocks": 10**9},
        {"search_size": 1 << 30},
        {"n_steps": -1},
        {"match_kernel": 0},
        {"window_us": 0},
        {"stem": "__import__('os').system('true')"},
        {"channels": "abc"},
        {"search_factor": float("nan")},
    ],
    ids=lambda numbers: next(iter(numbers)),
)
def test_a_network_of_any_size_is_not_made(weights, numbers):
    with pytest.raises(CheckpointError, match="do not fit together"):
        load_student(rewritten(weights, lambda tensors: None, numbers))


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_pickle_is_run(tmp_path, weights):
    path, ran = tmp_path / "weights.pth", tmp_path / "ran"
    torch.save({"model": _Runs(ran)}, path)
    with pytest.raises(CheckpointError, match="never loaded"):
        read_state_dict(path)
    (tmp_path / "resume.pt").write_bytes(pickle.dumps(_Runs(ran)))
    from targets import TARGETS

    for kind in ("resume", "weights", "state", "nir"):
        with pytest.raises(HadError):
            TARGETS[kind].read(tmp_path / "resume.pt")
    assert not ran.exists()


@pytest.mark.parametrize("carry", [False, True])
def test_states_with_wrong_shapes_and_numbers(tmp_path, carry):
    tracker = OnlineTracker(_student(), carry=carry)
    whole = tmp_path / "whole.safetensors"
    whole.write_bytes(list(_state_seeds())[carry])
    tracker.load(whole)
    before = tracker.state
    with safe_open(whole, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    bad = []
    for name, value in tensors.items():
        if name != "activity":  # a picture of it is all that comes of it
            bad.append({**tensors, name: torch.cat([value, value])})
        if value.is_floating_point():
            bad.append({**tensors, name: torch.full_like(value, float("nan"))})
    for other in bad:
        save_file(other, tmp_path / "bad.safetensors", metadata=metadata)
        with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
            tracker.load(tmp_path / "bad.safetensors")
    numbers = json.loads(metadata["numbers"])
    for name, value in (("n", 10**6), ("look_us", "x"), ("looks", None), ("near", float("nan")), ("next_t_us", 1.5)):
        save_file(
            tensors,
            tmp_path / "bad.safetensors",
            metadata={**metadata, "numbers": json.dumps({**numbers, name: value})},
        )
        with pytest.raises(CheckpointError, match="damaged tracker state"):
            tracker.load(tmp_path / "bad.safetensors")
    assert tracker.state is before


@pytest.mark.parametrize(
    ("more", "without", "says"),
    [
        (("head", "conv"), None, "closes a circle"),
        (("lif", "lif"), None, "closes a circle"),
        (None, ("lif", "head"), "-> head ends at input_head, and there is no such node"),
        (None, ("head", "output"), "-> output ends at input_output, and there is no such node"),
        (("lif", "gone"), None, "gone"),
    ],
    ids=["circle", "itself", "dangling", "no_end", "nowhere"],
)
def test_graphs_that_are_no_feed_forward_graphs(tmp_path, more, without, says, monkeypatch):
    nir = pytest.importorskip("nir")
    from had_snn.export.nir import graph_to_nir

    stored = graph_to_nir(_graph())
    stored.edges = [edge for edge in (*stored.edges, more) if edge not in (without, None)]
    monkeypatch.setattr(nir.NIRGraph, "_check_types", lambda self: True, raising=False)
    nir.write(tmp_path / "bad.nir", stored)
    with pytest.raises(FormatError, match=says):
        read_nir(tmp_path / "bad.nir")


def test_graphs_with_broken_weights(tmp_path):
    graph = _graph()
    broken = Conv(torch.full((1, 1, 1, 1), float("nan")), torch.zeros(1))
    write_nir(tmp_path / "bad.nir", dataclasses.replace(graph, nodes={**graph.nodes, "conv": broken}))
    with pytest.raises(FormatError, match=r"node conv holds weights that are no finite numbers"):
        read_nir(tmp_path / "bad.nir")


def test_a_graph_that_lies_elsewhere_is_not_read(tmp_path):
    h5py = pytest.importorskip("h5py")
    write_nir(tmp_path / "good.nir", _graph())
    with h5py.File(tmp_path / "bad.nir", "w") as file:
        file["version"] = "1"
        file["node"] = h5py.ExternalLink("good.nir", "/node")
    with pytest.raises(FormatError, match="link to another file"):
        read_nir(tmp_path / "bad.nir")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_lists_whose_names_lead_out_of_the_folder(tmp_path, name):
    (tmp_path / "list.txt").write_text(f"one\n{name}\n")
    with pytest.raises(FormatError, match="leads out of the folder"):
        read_names(tmp_path / "list.txt")


def test_names_in_a_data_set_are_names_and_nothing_else(tmp_path, start, monkeypatch):
    """Folders named like overrides and interpolations, with config files in them: nothing is composed or run."""
    from had_snn.events.stream import EventStream
    from had_snn.recordings.writers import write_events

    monkeypatch.setenv("SECRET", "spilled")
    root = tmp_path / "${oc.env:SECRET}"
    names = ("${oc.env:SECRET}", "+hydra.run.dir=x", "seed=1,2", "a=${seed}", "[x]{y}", "--config-dir=z")
    t = np.arange(0, 100_000, 100)
    events = EventStream.from_arrays(t, t % 60, t % 40, t % 2, (48, 64))
    for name in names:
        (root / name).mkdir(parents=True)
        write_events(events, root / name / "events.npz")
        (root / name / "boxes.csv").write_text("t_us,x,y,w,h\n50000,20,10,20,20\n90000,22,10,20,20\n")
        (root / name / "config.yaml").write_text(f"_target_: pathlib.Path.touch\n_args_: [{tmp_path / 'ran'}]\n")
    (root / "config.yaml").write_text("hydra: {run: {dir: elsewhere}}\n")
    done = start("check_data", "data=folder", str(root))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].split() == ["all", "-", "6", "6"]
    evaluated = start(
        "evaluate",
        "data=folder",
        str(root),
        "split=all",
        "baselines=[static]",
        "checkpoint=null",
        "resamples=0",
        "out=run",
    )
    assert evaluated.returncode == 0, evaluated.stderr
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())["static"]["per_sequence"]
    assert sorted(found) == sorted(names)
    assert "spilled" not in evaluated.stdout + evaluated.stderr + done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {root.name, "run"}


def test_the_smallest_student_is_one():
    assert dataclasses.asdict(_student().config) == dataclasses.asdict(SMALL)
