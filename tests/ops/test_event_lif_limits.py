"""The event-driven neuron at its limits: empty and silent input, long silences, many events, bad input."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from event_batches import draw, outputs_and_gradients, pack, parameters
from torch import Tensor

from had_snn.errors import InputError
from had_snn.ops import (
    EventLIFState,
    event_lif,
    event_lif_ref,
    output_hw,
)
from had_snn.ops.event_bucket import Events, bucket_events, bucket_events_torch
from had_snn.ops.event_lif import plain_exp


def test_edges_of_the_input() -> None:
    options = {"size_hw": (6, 6), "stride": 3}
    weight, tau = torch.full((2, 2, 3, 3), 0.4), torch.tensor([100.0, 1e7])
    nothing = pack([np.zeros((0, 4)), np.zeros((0, 4))], [0, 7], [10, 9])
    counts, membranes, state = event_lif(nothing, weight, tau, n_steps=4, **options)
    assert counts.shape == (4, 2, 2, 2, 2)
    assert membranes is not None
    assert not counts.any()
    assert not membranes.any()
    assert not state.v.any()
    one = pack([[[9, 5, 5, 1]]], [0], [10])  # the last microsecond, the last pixel
    counts, membranes, _ = event_lif(one, weight, tau, n_steps=3, **options)
    assert membranes is not None
    assert membranes.nonzero()[:, 0].tolist() == [2, 2]
    crowd = pack([np.stack([np.arange(5000), *np.full((2, 5000), 4), np.ones(5000, int)], 1)], [0], [5000])
    ours = event_lif(crowd, weight, tau, n_steps=2, **options)[0]
    assert ours.sum((0, 1, 3, 4)).tolist()[1] == 5000 // 3  # 0.4 three times passes 1; tau of 10 s hardly decays
    assert ours[:, 0, :, 1, 1].sum() == ours.sum()


def test_silent_sites_keep_their_state_untouched() -> None:
    state = EventLIFState(torch.rand(1, 2, 2, 2), torch.tensor([[[-5, -7], [-9, -11]]]))
    events = pack([[[3, 0, 0, 1]]], [0], [10])
    weight, tau = torch.full((2, 2, 3, 3), 0.1), torch.tensor([100.0, 50.0])
    _, membranes, new = event_lif(events, weight, tau, n_steps=2, size_hw=(6, 6), stride=3, state=state)
    assert torch.equal(new.v[..., 1, :], state.v[..., 1, :])
    assert new.t_last.tolist() == [[[3, -7], [-9, -11]]]
    assert membranes is not None
    expected = state.v[0, 1, 1, 1] * math.exp(-(5 + 11) / 50)
    torch.testing.assert_close(membranes[0, 0, 1, 1, 1], expected)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(4, 4, 0), (3, 2, 1), (7, 3, 3), (2, 5, 0), (1, 1, 0)])
def test_both_ways_of_bucketing_agree(kernel: int, stride: int, padding: int) -> None:
    hw = (23, 19)
    events = draw([500, 0, 1, 300], hw, seed=1)
    fields = Events(*(getattr(events, name) for name in Events._fields))
    geometry = {"grid": hw, "kernel": kernel, "stride": stride, "padding": padding}
    out_h, out_w = output_hw(hw, kernel=kernel, stride=stride, padding=padding)
    start = torch.empty(4 * out_h * out_w + 1, dtype=torch.int64)
    entries = torch.empty(801 * (-(-kernel // stride)) ** 2, dtype=torch.int64)
    bucket_events(fields, **geometry, start=start, entries=entries)
    other_start, other = bucket_events_torch(fields, **geometry)
    assert torch.equal(start, other_start)
    assert torch.equal(entries[: int(start[-1])], other[: int(start[-1])])


@pytest.mark.parametrize("membranes", [True, False])
def test_silences_longer_than_the_tables_of_decays(membranes: bool) -> None:
    """A few events over 200 ms: ages beyond the coarse table's last row are computed, to the same bits."""
    events, inputs = draw([30, 12], (4, 4), span=200_000, seed=6), parameters(19, 2, 2)
    with torch.no_grad():
        inputs["tau"] *= 300
    options = {"size_hw": (4, 4), "stride": 2, "return_membranes": membranes}
    ours, our_gradients = outputs_and_gradients(event_lif, events, inputs, **options)
    theirs, their_gradients = outputs_and_gradients(event_lif_ref, events, inputs, **options)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for a, b in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5 * float(b.abs().max()) + 1e-9)


def test_long_sites_and_many_events_have_the_right_gradient() -> None:
    """More events on a site than the backward holds at once: chunks must join."""
    rng = np.random.default_rng(0)
    rows = np.stack([np.sort(rng.integers(0, 5000, 700)), *rng.integers(0, 2, (3, 700))], 1)
    events, inputs = pack([rows], [0], [5000]), parameters(3, 2, 1)
    options = {"size_hw": (2, 2), "stride": 2, "n_steps": 6}
    _, ours = outputs_and_gradients(event_lif, events, inputs, **options)
    _, theirs = outputs_and_gradients(event_lif_ref, events, inputs, **options)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5 * float(b.abs().max()))


def test_gradient_does_not_depend_on_the_number_of_threads() -> None:
    events, inputs = draw([30_000, 20_000], (32, 32), seed=8), parameters(16, 4, 2)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(outputs_and_gradients(event_lif, events, inputs, size_hw=(32, 32), stride=4))
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(itertools.chain(*results[0]), itertools.chain(*results[1]), strict=True):
        assert torch.equal(a, b)


def test_exponential_is_replayed_by_torch_and_accurate() -> None:
    x = -torch.rand(200_000, generator=torch.Generator().manual_seed(0)) * 90
    x[:4] = torch.tensor([0.0, -87.0, -87.0001, -1e30])
    y = plain_exp(x)
    assert y[0] == 1
    assert y[2] == y[3] == 0
    exact = torch.exp(x[x >= -87].double())
    assert float(((y[x >= -87].double() - exact) / exact).abs().max()) < 2e-7


BAD_EVENTS = [
    ({"t": [1, 5, 3, 9]}, r"event 2 .* earlier than the event before it \(5\)"),
    ({"t": [1, 5, 6, 10]}, r"event 3 .* outside its window \[0, 10\)"),
    ({"t": [-1, 5, 6, 9]}, "event 0 .* outside its window"),
    ({"x": [0, 6, 0, 0]}, "event 1 .* outside the 6x5 grid"),
    ({"y": [0, 0, 5, -1]}, "event 2 .* outside the 6x5 grid"),
    ({"p": [0, 1, 1, 2]}, "event 3 .* polarity"),
    ({"offsets": [0, 3]}, "offsets run from 0 to 3"),
    ({"offsets": [1, 4]}, "offsets run from 1 to 4"),
    ({"t_end": [0]}, "window of sample 0 is 0 us"),
    ({"x": torch.zeros(4, dtype=torch.int64)}, r"events.x is int64 \[4\]"),
    ({"y": torch.zeros(3, dtype=torch.int16)}, r"events.y is int16 \[3\]"),
]


@pytest.mark.parametrize(("change", "message"), BAD_EVENTS, ids=[m[:24] for _, m in BAD_EVENTS])
def test_bad_events_are_refused_with_the_first_index(change: dict, message: str) -> None:
    good = pack([[[1, 0, 0, 0], [5, 1, 1, 1], [6, 2, 2, 1], [9, 5, 4, 0]]], [0], [10])
    values = {
        k: v if isinstance(v, Tensor) else torch.tensor(v, dtype=getattr(good, k).dtype) for k, v in change.items()
    }
    with pytest.raises(InputError, match=message):
        event_lif(replace(good, **values), torch.ones(1, 2, 2, 2), torch.ones(1), n_steps=2, size_hw=(5, 6), stride=2)


BAD_OPTIONS = [
    ({"tau": torch.tensor([float("nan")])}, "tau of channel 0"),
    ({"tau": torch.tensor([-3.0])}, "tau of channel 0"),
    ({"tau": torch.ones(2)}, r"tau has shape \[2\]"),
    ({"v_threshold": -1.0}, "v_threshold of channel 0"),
    ({"gain": torch.ones(3)}, "gain has shape"),
    ({"gain": torch.tensor([float("inf")])}, "gain of sample 0"),
    ({"weight": torch.ones(1, 3, 2, 2)}, "weight has shape"),
    ({"weight": torch.ones(1, 2, 2, 2, dtype=torch.int32)}, "weight holds int32"),
    ({"weight": torch.ones(1, 2, 2, 2, device="meta")}, "move them to one device"),
    ({"n_steps": 0}, "n_steps is 0"),
    ({"stride": 0}, "stride 0"),
    ({"size_hw": (1, 6)}, "size_hw is 1x6"),
    ({"reset": "none"}, "'none' is unknown"),
    ({"state": EventLIFState(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.int64))}, "state has v"),
    ({"state": EventLIFState(torch.zeros(1, 1, 2, 3), torch.full((1, 2, 3), 5))}, "state.t_last lies after"),
]


@pytest.mark.parametrize(("change", "message"), BAD_OPTIONS, ids=[m[:24] for _, m in BAD_OPTIONS])
def test_bad_options_are_refused_by_name(change: dict, message: str) -> None:
    events = pack([[[1, 0, 0, 0]]], [0], [10])
    options = {"weight": torch.ones(1, 2, 2, 2), "tau": torch.ones(1), "n_steps": 2, "size_hw": (5, 6), "stride": 2}
    with pytest.raises(InputError, match=message):
        event_lif(events, **(options | change))
