"""Spike-driven inference equals the dense path to the last bit, and the frozen student is the trained one."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from had_snn.checkpoint import load_student
from had_snn.errors import InputError
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.models import MicroSteps, Taps, student_base, student_tiny
from had_snn.models.frozen import COUNT_LIMIT, FrozenStudent, freeze
from had_snn.models.neurons import LIF
from had_snn.models.spike_driven import BACKENDS, SpikeDrivenStudent, search_network
from had_snn.tracking import OnlineTracker

BOX = torch.tensor([[0.5, 0.5, 0.45, 0.45]])


@pytest.fixture(scope="module")
def student():
    return load_student("tiny")  # a trained one: fresh weights hardly spike in the deeper layers


def edge_batch(side: int, *, t0: int = 0, events: int = 6000, samples: int = 1, seed: int = 0) -> EventBatch:
    """Windows in which a bar moves: events where edges are, and some noise."""
    streams = []
    for sample in range(samples):
        rng = np.random.default_rng(seed + sample)
        t = np.sort(rng.integers(t0, t0 + 40_000, events))
        along = rng.integers(side // 4, 3 * side // 4, events)
        across = (side * 0.3 + (t - t0) / 40_000 * side * 0.3 + rng.normal(0, 1, events)).astype(int)
        noise = rng.random(events) < 0.1
        x = np.where(noise, rng.integers(0, side, events), across.clip(0, side - 1))
        streams.append(EventStream.from_arrays(t, x, along, rng.integers(0, 2, events), (side, side)))
    return EventBatch.pack(streams, [t0] * samples, [t0 + 40_000] * samples)


def assert_same(a, b) -> None:
    for name in ("score_logits", "offsets", "sizes"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    assert (a.state is None) == (b.state is None)
    if a.state is not None:
        mine, theirs = a.state.tensors(), b.state.tensors()
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@torch.no_grad()
@pytest.mark.parametrize("dense_above", [-1.0, 0.2, 2.0, None])
@pytest.mark.parametrize("events", [40, 6000])
def test_equals_the_dense_path(student, dense_above: float | None, events: int) -> None:
    frozen = freeze(student)
    driven = SpikeDrivenStudent(student, dense_above=dense_above)
    kernel = frozen.encode_template(edge_batch(72), BOX)
    batch = edge_batch(96, events=events, samples=2)
    dense = frozen.read_window(batch, kernel.repeat(2, 1, 1, 1), taps=Taps())
    assert_same(driven.read_window(batch, kernel.repeat(2, 1, 1, 1)), dense)
    assert events == 40 or all(spikes.sum() > 0 for spikes in dense.taps.spikes.values())


@torch.no_grad()
def test_equals_the_dense_path_with_state(student) -> None:
    frozen, driven = freeze(student), SpikeDrivenStudent(student)
    kernel, gain = frozen.encode_template(edge_batch(72), BOX), torch.tensor([1.3])
    states = [None, None]
    for i in range(3):
        steps, batch = MicroSteps(4, 10_000) if i == 0 else MicroSteps(2, 20_000), edge_batch(96, t0=40_000 * i, seed=i)
        outputs = [
            f(batch, kernel, s, steps=steps, gain=gain) for f, s in zip((frozen.step, driven.step), states, strict=True)
        ]
        assert_same(*outputs)
        states = [o.state.moved((1, -1)) for o in outputs]
    for i, share in enumerate((0.4, 0.8, 1.0)):  # one micro-step in three parts
        part = edge_batch(96, t0=120_000 + 40_000 * i, seed=i)
        steps = MicroSteps(1, 10_000 * share, share)
        outputs = [
            f(part, kernel, s, steps=steps, gain=gain) for f, s in zip((frozen.step, driven.step), states, strict=True)
        ]
        assert_same(*outputs)
        states = [o.state.moved((0, 1)) for o in outputs]
    under_way = dataclasses.replace(states[1], counts=torch.zeros(1, 1, 16, 24, 24))
    with pytest.raises(InputError, match="micro-step is under way"):
        driven.step(edge_batch(96, t0=400_000), kernel, under_way, steps=MicroSteps(2, 20_000))


@torch.no_grad()
@pytest.mark.parametrize("make", [student_tiny, student_base])
def test_fresh_students_of_both_sizes(make) -> None:
    torch.manual_seed(0)
    student = make().eval()
    for name, parameter in student.named_parameters():
        if name.endswith("norm.bias"):
            parameter.fill_(0.3)  # fresh weights hardly spike
    config, frozen = student.config, freeze(student)
    kernel = frozen.encode_template(edge_batch(config.template_size), BOX)
    batch = edge_batch(config.search_size, events=9000)
    dense = frozen.read_window(batch, kernel, taps=Taps())
    assert all(s.mean() > 0 for s in dense.taps.spikes.values())
    assert_same(SpikeDrivenStudent(student).read_window(batch, kernel), dense)


@torch.no_grad()
def test_a_burst_is_counted_up_to_the_limit(student) -> None:
    frozen, driven = freeze(student), SpikeDrivenStudent(student)
    kernel = frozen.encode_template(edge_batch(72), BOX)
    t = np.sort(np.random.default_rng(0).integers(0, 40_000, 200_000))
    x = np.random.default_rng(1).integers(40, 56, len(t))
    burst = EventStream.from_arrays(t, x, x, np.ones(len(t), int), (96, 96))
    batch = EventBatch.pack([burst], [0], [40_000])
    dense = frozen.read_window(batch, kernel, taps=Taps())
    assert student.stem(batch, n_steps=4)[0].max() > COUNT_LIMIT
    assert dense.taps.spikes["stem"].max() == COUNT_LIMIT
    assert_same(driven.read_window(batch, kernel), dense)


@torch.no_grad()
def test_freezing_hardly_changes_the_student(student) -> None:
    frozen, kernel = freeze(student), student.encode_template(edge_batch(72), BOX)
    rounded = frozen.round_kernel(kernel)
    assert (rounded - kernel).abs().max() < 0.004
    batch = edge_batch(96, samples=16)
    kernel, rounded = (k.repeat(16, 1, 1, 1) for k in (kernel, rounded))
    trained, copy = (f.read_window(batch, k, taps=Taps()) for f, k in ((student, kernel), (frozen, rounded)))
    for name, spikes in trained.taps.spikes.items():
        assert (spikes != copy.taps.spikes[name]).float().mean() < 0.03, name
    # Where two cells score alike, one spike decides between them: that happens, but rarely.
    moved = (trained.peak_boxes()[0] - copy.peak_boxes()[0]).abs().amax(dim=1)
    assert moved.median() < 0.01
    assert (moved > 0.02).float().mean() <= 0.25


def test_freezing_leaves_the_student_alone(student) -> None:
    before = {name: value.clone() for name, value in student.state_dict().items()}
    frozen = freeze(student)
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())
    assert freeze(frozen) is frozen
    assert not any(p.requires_grad for p in frozen.parameters())
    assert dataclasses.asdict(frozen.config) == dataclasses.asdict(student.config)


def test_sums_do_not_depend_on_their_order(student) -> None:
    frozen = freeze(student)
    reads_spikes = [node for node in frozen.graph().all("conv") if frozen.graph().match_behind(node) is None]
    assert len(reads_spikes) == 6
    for node in reads_spikes:
        weight = node.conv.weight.flatten(1)
        order = torch.randperm(weight.shape[1])
        forward, shuffled = weight.cumsum(1)[:, -1], weight[:, order].cumsum(1)[:, -1]
        assert torch.equal(forward, shuffled)
        assert torch.equal(forward, weight.double().sum(1).float())


def test_runs_on_a_cpu_only(student) -> None:
    with pytest.raises(InputError, match="runs on a CPU"):
        SpikeDrivenStudent(freeze(student).to("meta"))


def test_the_tracker_gives_the_same_boxes_either_way(student) -> None:
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 300_000, 60_000))
    y = rng.integers(60, 100, len(t))
    x = (80 + t * 1e-4 + rng.normal(0, 1, len(t)) + 30 * rng.integers(0, 2, len(t))).astype(int)
    events = EventStream.from_arrays(t, x, y, rng.integers(0, 2, len(t)), (180, 240))
    for options in ({}, {"carry": True, "output_period_us": 5_000}):
        found = {}
        for backend in BACKENDS:
            tracker = OnlineTracker(student, backend=backend, **options)
            tracker.init(events.slice_time(0, 60_000), [80, 60, 32, 40], t_us=60_000)
            found[backend] = tracker.update(events.slice_time(60_000, 300_000))
        assert len(found["auto"]) >= 5
        for dense, *others in zip(*(found[b] for b in ("dense", "auto", "spikes")), strict=True):
            for other in others:
                assert np.array_equal(dense.box_xywh, other.box_xywh)
                assert (dense.score, dense.lost) == (other.score, other.lost)
                assert (dense.activity is None) == (other.activity is None)
                if dense.activity is not None:
                    assert np.allclose(dense.activity, other.activity)


def test_backends_are_met_or_refused(student) -> None:
    assert isinstance(search_network(student), SpikeDrivenStudent)
    assert isinstance(search_network(student, "dense"), FrozenStudent)
    with pytest.raises(InputError, match="backend 'fast' is unknown; expected one of auto, dense, spikes"):
        search_network(student, "fast")

    class Rounded(LIF):
        """Neurons that no pass knows."""

    other = copy.deepcopy(student)
    other.lif_head = Rounded()
    assert search_network(other) is other
    with pytest.raises(InputError, match=r"lif_head: Rounded .*: it does not run from spike to spike"):
        search_network(other, "spikes")
    with pytest.raises(InputError, match="lif_head: Rounded"):
        freeze(other)
