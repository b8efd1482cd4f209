"""The stem on a clock: nearer to the event-driven stem the finer the clock, and the same in a simulator."""

from __future__ import annotations

import copy
import itertools
import json

import nir
import numpy as np
import pytest
import torch

from had_snn.errors import ExportError, InputError
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.export import read_nir, verify
from had_snn.export.clocked_stem import (
    event_frames,
    fixed_gain,
    run_clocked_stem,
    stem_convergence,
    stem_graph,
)
from had_snn.export.deployed import DeployedStudent, fingerprint
from had_snn.export.lowering import search_graph, template_kernel, to_graph
from had_snn.export.nir import write_nir
from had_snn.export.onepiece import OnePieceStudent, fine_graph, one_piece
from had_snn.export.search_graph import Neurons, SearchGraph, run_graph
from had_snn.models.step_norms import norm_numbers
from had_snn.tracking import OnlineTracker

from .conftest import random_events, search_batch


def distinct_times(seed: int, side: int, count: int) -> EventBatch:
    """A window whose events all have different times."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.choice(8_000, count, replace=False))
    x, y, p = rng.integers(0, side, count), rng.integers(0, side, count), rng.integers(0, 2, count)
    return EventBatch.pack([EventStream.from_arrays(t, x, y, p, (side, side))], [0], [8_000])


def test_the_mismatch_falls_to_zero_with_the_step(student):
    batch, stem = distinct_times(3, 48, 1500), copy.deepcopy(student.stem)
    stem.weight.data *= 3  # as busy as a trained one
    curve = stem_convergence(stem, batch, n_steps=4, dts_us=(2000.0, 500.0, 100.0, 10.0, 1.0))
    shares = [point["mismatch"] for point in curve]
    assert curve[0]["spikes"] > 300
    assert shares[0] > 0.2
    assert all(low <= high for high, low in itertools.pairwise(shares))
    assert shares[-2] < 0.01
    # At one microsecond every event has a step of its own: only the decay's rounding is left.
    assert shares[-1] < 0.001


def test_frames_hold_every_event_once(student):
    batch = search_batch(5, 2, 64)
    frames = event_frames(batch, dt_us=1000.0, first=0, steps=40)
    assert frames.sum() == len(batch.t)
    assert frames[:, 1].sum() == batch.offsets[2] - batch.offsets[1]
    late = event_frames(batch, dt_us=1000.0, first=25, steps=15)
    assert torch.equal(frames[25:], late)
    first = int(batch.offsets[1])
    t, x, y, p = (int(part[first]) for part in (batch.t, batch.x, batch.y, batch.p))
    assert frames[t // 1000, 1, p, y, x] >= 1


def test_steps_that_do_not_fit_are_refused(student):
    clock = stem_graph(student.stem, dt_us=3000.0, gain=1.0, size=64, n_steps=13)
    with pytest.raises(InputError, match="does not divide"):
        run_clocked_stem(clock, search_batch(5, 1, 64), n_steps=4)
    with pytest.raises(ExportError, match="does not divide"):
        fine_graph(student, torch.zeros(1, 12, 3, 3), dt_us=3000.0)
    with pytest.raises(ExportError, match="Linear"):
        stem_graph(torch.nn.Linear(1, 1), dt_us=1000.0, gain=1.0, size=64, n_steps=40)
    with pytest.raises(ExportError, match="gain follows the event rate"):
        one_piece(student, torch.zeros(1, 12, 3, 3), dt_us=1000.0, gain=None)


def test_the_body_on_its_own_clock_is_the_body(student, template, counts):
    """A fine clock that is no finer than the trained one changes nothing."""
    kernel = template_kernel(student, *template, t_us=40_000)
    graph = fine_graph(student, kernel, dt_us=10_000.0)
    batch = search_batch(300, 3, student.config.search_size)
    with torch.no_grad():
        expected = student.read_window(batch, kernel.expand(3, -1, -1, -1))
    maps = student.integrator(run_graph(graph, counts).readout, dt_us=graph.dt_us)
    torch.testing.assert_close(maps[:, 1:3], expected.offsets, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def whole(student, template):
    """Stem and body on a clock of a millisecond, and two windows of event counts."""
    batch = search_batch(11, 2, student.config.search_size)
    gain = fixed_gain(student.stem, batch)
    assert student.stem.gain(batch).min() <= gain <= student.stem.gain(batch).max()
    kernel = template_kernel(student, *template, t_us=40_000)
    graph = one_piece(student, kernel, dt_us=1000.0, gain=gain)
    return graph, event_frames(batch, dt_us=1000.0, first=0, steps=40), batch


def test_one_piece_is_stem_and_body_one_after_the_other(student, template, whole):
    graph, frames, batch = whole
    trace = run_graph(graph, frames)
    alone = stem_graph(student.stem, dt_us=1000.0, gain=graph.info["gain"], size=64, n_steps=40)
    counts = torch.cat([run_clocked_stem(alone, batch.samples(k, k + 1), n_steps=40) for k in range(2)], dim=1)
    assert torch.equal(trace.spikes["stem_lif"].float(), counts)
    body = fine_graph(student, template_kernel(student, *template, t_us=40_000), dt_us=1000.0)
    assert torch.equal(trace.readout, run_graph(body, counts).readout)
    for name, spikes in trace.spikes.items():
        assert spikes.any(), name


def test_decays_by_channel_are_exact(student):
    """A potential of one half without input: the kernel's next potential shows each channel's decay."""
    graph = stem_graph(student.stem, dt_us=37.0, gain=1.0, size=64, n_steps=40)
    decays = graph.neurons["stem_lif"].alpha
    assert len(set(decays)) > 1
    lif = SearchGraph(
        {"lif": Neurons(decays, (len(decays), 1, 1))},
        (("input", "lif"), ("lif", "output")),
        (len(decays), 1, 1),
        2,
        37.0,
    )
    x = torch.zeros(2, 1, len(decays), 1, 1)
    x[0] = 0.5
    membranes = run_graph(lif, x, with_membranes=True).membranes["lif"]
    assert torch.equal(membranes[1].flatten(), 0.5 * torch.tensor(decays))


@pytest.mark.parametrize("part", ["stem", "one piece"])
def test_every_part_survives_its_file(student, whole, tmp_path, part):
    graph = whole[0] if part == "one piece" else stem_graph(student.stem, dt_us=10.0, gain=0.7, size=64, n_steps=4000)
    write_nir(tmp_path / "a.nir", graph)
    back = read_nir(tmp_path / "a.nir")
    assert back.info == graph.info
    assert (back.edges, back.input_shape, back.n_steps, back.dt_us) == (
        graph.edges,
        graph.input_shape,
        graph.n_steps,
        graph.dt_us,
    )
    for name, node in graph.nodes.items():
        if name in graph.neurons:
            assert back.nodes[name] == node
        else:
            assert torch.equal(back.nodes[name].weight, node.weight)
            assert torch.equal(back.nodes[name].bias, node.bias)
    notes = json.loads(nir.read(tmp_path / "a.nir").metadata["had_snn"])
    assert notes["part"] == part
    assert "events counted by polarity" in notes["host_before"]


def test_one_piece_runs_in_simulators_that_take_a_decay_per_channel(whole, tmp_path):
    graph, frames, _ = whole
    path = tmp_path / "one.nir"
    write_nir(path, graph)
    report = verify(path, frames, simulators=["norse", "sinabs", "spikingjelly", "event_by_event"])
    for name in ("norse", "sinabs", "event_by_event"):
        entry = report[name]
        if entry["status"] == "not installed":
            continue
        # Trained weights: the last bit may decide a spike now and then.
        assert sum(layer["mismatches_alone"] for layer in entry["layers"].values()) <= 1e-5 * entry["decisions"], name
        assert entry["layers"]["stem_lif"]["spikes"] > 100
    assert report["spikingjelly"]["status"] in ("not supported", "not installed")


def test_a_box_is_tracked_through_one_piece(student, template, whole):
    graph, _, _ = whole
    events, box = template
    tracker = OnlineTracker(OnePieceStudent(student, graph))
    tracker.init(events, box, t_us=40_000)
    later = random_events(2, 20_000, 120, t0=40_000)
    assert np.isfinite(tracker.update(later, at_us=[80_000])[0].box_xywh).all()
    carrying = OnlineTracker(OnePieceStudent(student, graph), carry=True)
    carrying.init(events, box, t_us=40_000)
    with pytest.raises(ExportError, match="from rest"):
        carrying.update(later, at_us=[80_000])


def test_matched_rates_are_those_of_the_trained_clock(student, template):
    """Every channel of every layer fires about as often as on the trained clock, on the windows it was matched on."""
    batch = search_batch(21, 2, student.config.search_size)
    kernel = template_kernel(student, *template, t_us=40_000)
    plain, matched = (
        one_piece(student, kernel, dt_us=1000.0, gain=fixed_gain(student.stem, batch), seen=seen)
        for seen in (None, batch)
    )
    with torch.no_grad():
        coarse = run_graph(search_graph(student, kernel), student.stem(batch, n_steps=4)[0]).spikes
    frames = event_frames(batch, dt_us=1000.0, first=0, steps=40)
    found, before = run_graph(matched, frames).spikes, run_graph(plain, frames).spikes
    for name, spikes in coarse.items():
        wanted = spikes.float().sum(dim=(0, 1, 3, 4))
        busy = wanted > 20
        assert busy.any()
        ratio = (found[name].float().sum(dim=(0, 1, 3, 4)) / wanted)[busy]
        assert (ratio.log().abs() < 0.3).float().mean() > 0.9, name
        off = abs(before[name].sum() / spikes.sum() - 1)
        assert abs(found[name].sum() / spikes.sum() - 1) < max(0.1, off)
    # A convolution that feeds two layers is scaled for each of them on its own.
    assert "conv2_to_lif_out" in matched.nodes
    assert "conv2_to_lif_out" not in plain.nodes


def test_a_student_with_norms_for_the_clock_is_exported_with_them(student, template):
    """Nothing is scaled then but by the rates behind the event-driven stem."""
    batch, kernel = search_batch(22, 2, student.config.search_size), template_kernel(student, *template, t_us=40_000)
    fitted = copy.deepcopy(student)
    fitted.norms_at = {40: {name: 1.25 * part for name, part in norm_numbers(student).items()}}
    fine, expected = fine_graph(fitted, kernel, dt_us=1000.0), search_graph(fitted.at_steps(40), kernel)
    assert fine.n_steps == expected.n_steps == 40
    assert fine.info["fine_ratio"] == 10
    for name, conv in expected.convolutions.items():
        assert torch.equal(fine.convolutions[name].weight, conv.weight)
    with torch.no_grad():
        behind = run_graph(fine, fitted.stem(batch, n_steps=40)[0]).spikes
    whole = one_piece(fitted, kernel, dt_us=1000.0, gain=fixed_gain(student.stem, batch), seen=batch)
    found = run_graph(whole, event_frames(batch, dt_us=1000.0, first=0, steps=40)).spikes
    for name, spikes in behind.items():
        assert abs(found[name].float().sum() / spikes.float().sum() - 1) < 0.1, name


def test_a_graph_for_other_micro_steps_is_tracked_with_their_norms(student, template):
    fitted = copy.deepcopy(student)
    fitted.norms_at = {8: {name: 1.25 * part for name, part in norm_numbers(student).items()}}
    graph = to_graph(fitted, *template, t_us=40_000, n_steps=8)
    deployed, ours = DeployedStudent(fitted, graph), fitted.at_steps(8)
    assert deployed.config.n_steps == 8
    kernel = template_kernel(ours, *template, t_us=40_000)
    assert torch.allclose(fingerprint(kernel), torch.tensor(graph.info["template"]["fingerprint"]))
