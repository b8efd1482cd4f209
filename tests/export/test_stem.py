"""The stem on a clock: nearer to the event-driven stem the finer the clock, and the same in a simulator."""

from __future__ import annotations

import copy
import itertools

import nir
import numpy as np
import pytest
import torch

from had_snn.errors import ExportError, InputError
from had_snn.events.stream import EventBatch, EventStream
from had_snn.export.adapters import open_norse
from had_snn.export.graph import run_graph
from had_snn.export.nir import template_kernel, write_nir
from had_snn.export.onepiece import OnePieceStudent, fine_graph, one_piece, one_piece_to_nir
from had_snn.export.stem import (
    clocked_stem,
    event_frames,
    fixed_gain,
    one_window,
    run_clocked_stem,
    stem_convergence,
)

from .conftest import search_batch


def apart(seed: int, side: int, count: int) -> EventBatch:
    """A window whose events all have different times."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.choice(8_000, count, replace=False))
    x, y, p = rng.integers(0, side, count), rng.integers(0, side, count), rng.integers(0, 2, count)
    return EventBatch.pack([EventStream.from_arrays(t, x, y, p, (side, side))], [0], [8_000])


def test_the_mismatch_falls_to_zero_with_the_step(student):
    batch, stem = apart(3, 48, 1500), copy.deepcopy(student.stem)
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
    clock = clocked_stem(student.stem, dt_us=3000.0, gain=1.0)
    with pytest.raises(InputError, match="does not divide"):
        run_clocked_stem(clock, search_batch(5, 1, 64), n_steps=4)
    with pytest.raises(ExportError, match="does not divide"):
        fine_graph(student, torch.zeros(1, 12, 3, 3), dt_us=3000.0)
    with pytest.raises(ExportError, match="Linear"):
        clocked_stem(torch.nn.Linear(1, 1), dt_us=1000.0, gain=1.0)


def test_the_body_on_its_own_clock_is_the_body(student, template, counts):
    """A fine clock that is no finer than the trained one changes nothing."""
    kernel = template_kernel(student, *template, t_us=40_000)
    graph = fine_graph(student, kernel, dt_us=10_000.0)
    batch = search_batch(300, 3, student.config.search_size)
    with torch.no_grad():
        expected = student.forward_search(batch, kernel.expand(3, -1, -1, -1))
    maps = student.integrator(run_graph(graph, counts).readout, dt_us=graph.dt_us)
    torch.testing.assert_close(maps[:, 1:3], expected.offsets, rtol=1e-3, atol=1e-3)


def test_one_piece_in_a_simulator_is_stem_and_body_in_ours(student, template, tmp_path):
    pytest.importorskip("norse")
    batch = search_batch(11, 2, student.config.search_size)
    kernel = template_kernel(student, *template, t_us=40_000)
    gain = fixed_gain(student.stem, batch)
    assert student.stem.gain(batch).min() <= gain <= student.stem.gain(batch).max()
    graph, stem = one_piece(student, kernel, dt_us=1000.0, gain=gain)
    path = tmp_path / "one.nir"
    write_nir(path, one_piece_to_nir(graph, stem, (64, 64)))
    assert {"stem_conv", "stem_lif", "readout"} <= set(nir.read(path).nodes)
    simulation = open_norse(path, graph)
    counts = torch.cat([run_clocked_stem(stem, one_window(batch, k), n_steps=40) for k in range(2)], dim=1)
    ours = run_graph(graph, counts)
    theirs = simulation.run(event_frames(batch, dt_us=1000.0, first=0, steps=40))
    for name, spikes in ours.spikes.items():
        assert spikes.any(), name
    assert (ours.spikes["lif1"] != theirs.spikes["lif1"]).float().mean() < 1e-4
    network = OnePieceStudent(student, graph, stem, run=simulation.run)
    output = network.forward_search(batch, kernel)
    assert torch.isfinite(output.peak_boxes()[0]).all()
