"""State carried from window to window: cutting time changes nothing, and the state follows a crop that moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from had_snn.checkpoint import load_student
from had_snn.errors import InputError
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.models import MicroSteps, SearchState, Taps

BOX = torch.tensor([[0.5, 0.5, 0.45, 0.45]])


@pytest.fixture(scope="module")
def student():
    return load_student("tiny")  # a trained one: fresh weights hardly spike in the deeper layers


def crop_events(t0: int, t1: int, *, shift: int = 0, seed: int = 0, low: int = 24, high: int = 72) -> EventStream:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 80_000, 6000))
    x, y = rng.integers(low, high, (2, 6000))
    events = EventStream.from_arrays(t, x - shift, y, rng.integers(0, 2, 6000), (96, 96))
    return events.slice_time(t0, t1)


def batch(t0: int, t1: int, **options) -> EventBatch:
    return EventBatch.pack([crop_events(t0, t1, **options)], [t0], [t1])


@torch.no_grad()
def test_two_windows_with_state_are_one_long_window(student, random_batch):
    kernel, gain = student.encode_template(random_batch(1, 72), BOX), torch.tensor([1.2])
    whole = student.step(batch(0, 80_000), kernel, None, steps=MicroSteps(8, 10_000), gain=gain, taps=Taps())
    first = student.step(batch(0, 40_000), kernel, None, gain=gain, taps=Taps())
    second = student.step(batch(40_000, 80_000), kernel, first.state, gain=gain, taps=Taps())
    for name, spikes in whole.taps.spikes.items():
        assert torch.equal(spikes, torch.cat([first.taps.spikes[name], second.taps.spikes[name]])), name
        assert name == "stem" or spikes.sum() > 0
    for name, value in whole.state.tensors().items():
        torch.testing.assert_close(value, second.state.tensors()[name])
    # The read-out looks back over one window's micro-steps, however they were cut.
    steps = [student.step(batch(0, 40_000), kernel, None, gain=gain)]
    for t in range(40_000, 80_000, 10_000):
        steps.append(
            student.step(batch(t, t + 10_000), kernel, steps[-1].state, steps=MicroSteps(1, 10_000), gain=gain)
        )
    torch.testing.assert_close(steps[-1].score_logits, second.score_logits)


@torch.no_grad()
def test_the_state_moves_with_the_crop(student, random_batch):
    kernel, gain = student.encode_template(random_batch(1, 72), BOX), torch.tensor([1.2])
    first = student.step(batch(0, 40_000), kernel, None, gain=gain).state
    stay = student.step(batch(40_000, 80_000), kernel, first, gain=gain, taps=Taps())
    moved = student.step(batch(40_000, 80_000, shift=8), kernel, first.moved((1, 0)), gain=gain, taps=Taps())
    # One output cell is 8 crop pixels, two sites of the stem. Far from the border both crops tell the same.
    stem = (stay.taps.spikes["stem"], moved.taps.spikes["stem"])
    assert torch.equal(stem[0][..., 2:], stem[1][..., :-2])
    assert stem[0].sum() > 0
    rates = [output.taps.spikes["backbone.lif_out"].mean(dim=0) for output in (stay, moved)]
    torch.testing.assert_close(rates[0][..., 4:-3], rates[1][..., 3:-4])


@torch.no_grad()
def test_what_comes_in_is_at_rest(student, random_batch):
    kernel = student.encode_template(random_batch(1, 72), BOX)
    state = student.step(random_batch(1, 96, events=9000), kernel, None).state
    moved = state.moved((2, -3))
    lif = moved.membranes["lif_mix"]
    assert (lif[..., -2:] == 0).all()
    assert (lif[..., :3, :] == 0).all()
    assert torch.equal(lif[..., 3:, :-2], state.membranes["lif_mix"][..., :-3, 2:])
    assert (moved.stem.v[..., -4:] == 0).all()
    assert (moved.stem.t_last[..., -4:] == state.stem.t_last.min()).all()
    assert torch.equal(moved.readout[..., 3:, -1], state.readout[..., :-3, -1])
    assert state.moved((0, 0)) is state
    assert (state.moved((50, 0)).membranes["lif_mix"] == 0).all()


@torch.no_grad()
def test_a_step_that_is_not_over_counts_by_its_share(student, random_batch):
    kernel = student.encode_template(random_batch(1, 72), BOX)
    first = student.step(batch(0, 40_000), kernel, None)
    steps = {s: MicroSteps(1, 5_000, s) for s in (0.5, 1.0)}
    maps = {s: student.step(batch(40_000, 45_000), kernel, first.state, steps=steps[s]).offsets for s in steps}
    torch.testing.assert_close(maps[0.5], (maps[1.0] + first.offsets) / 2, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_step_in_parts_is_the_step(student, random_batch):
    kernel, gain = student.encode_template(random_batch(1, 72), BOX), torch.tensor([1.2])
    first = student.step(batch(0, 40_000), kernel, None, gain=gain)
    whole = student.step(batch(40_000, 50_000), kernel, first.state, steps=MicroSteps(1, 10_000), gain=gain)
    state = first.state
    for begin, end in ((40_000, 43_000), (43_000, 49_000)):
        steps = MicroSteps.passed(end - 40_000, student.config)
        assert steps.share == (end - 40_000) / 10_000
        part = student.step(batch(begin, end), kernel, state, steps=steps, gain=gain)
        state = part.state
        assert state.counts.sum() > 0
        assert all(torch.equal(state.membranes[n], v) for n, v in first.state.membranes.items())
    last = student.step(batch(49_000, 50_000), kernel, state, steps=MicroSteps(1, 10_000), gain=gain)
    assert torch.equal(last.score_logits, whole.score_logits)
    assert last.state.tensors().keys() == whole.state.tensors().keys()
    assert all(torch.equal(v, last.state.tensors()[name]) for name, v in whole.state.tensors().items())
    with pytest.raises(InputError, match="micro-step is under way"):
        student.step(batch(49_000, 50_000), kernel, state, steps=MicroSteps(2, 500))


@torch.no_grad()
def test_names_and_back(student, random_batch):
    kernel = student.encode_template(random_batch(1, 72), BOX)
    state = student.step(random_batch(1, 96), kernel, None).state
    state = replace(state, counts=torch.ones(1, 1, 16, 24, 24))
    again = SearchState.from_tensors({**state.tensors(), "kernel": kernel})
    assert again.tensors().keys() == state.tensors().keys()
    assert all(torch.equal(a, b) for a, b in zip(again.tensors().values(), state.tensors().values(), strict=True))
    with pytest.raises(InputError, match=r"needs stem\.v, stem\.t_last, readout; found kernel"):
        SearchState.from_tensors({"kernel": kernel})


def test_gradients_pass_through_the_state_unless_cut(student, random_batch):
    with torch.no_grad():
        kernel = student.encode_template(random_batch(1, 72), BOX)
    first = student.step(batch(0, 40_000), kernel, None)
    before = first.state.membranes["backbone.lif1"]
    for state, reached in ((first.state, True), (first.state.detach(), False)):
        output = student.step(batch(40_000, 80_000), kernel, state)
        (grad,) = torch.autograd.grad(output.score_logits.sum(), before, allow_unused=True, retain_graph=True)
        assert (grad is not None and bool(grad.abs().sum() > 0)) is reached


@torch.no_grad()
def test_each_sample_can_move_by_its_own_cells(student, random_batch):
    kernel = student.encode_template(random_batch(1, 72), BOX).repeat(2, 1, 1, 1)
    events = EventBatch.pack([crop_events(0, 40_000), crop_events(0, 40_000, seed=1)], [0, 0], [40_000, 40_000])
    state = student.step(events, kernel, None).state
    each = state.moved(torch.tensor([[1, -2], [0, 3]])).tensors()
    for sample, cells in enumerate([(1, -2), (0, 3)]):
        alone = state.moved(cells).tensors()
        for name, value in alone.items():
            index = (slice(None), sample) if name == "readout" else (sample,)
            assert torch.equal(each[name][index], value[index]), name
    assert state.moved(torch.zeros(2, 2, dtype=torch.int64)) is state
