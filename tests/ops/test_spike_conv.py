"""Convolutions of spikes: equal to the dense convolution to the last bit, on shapes that hurt."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from had_snn.errors import InputError
from had_snn.models.matching import DepthwiseMatching
from had_snn.ops import decay_factor, lif_multi_step
from had_snn.ops.spike_conv import SpikeConvCall, SpikeCorrelateCall, SpikeList, SpikeListCall, SpikeWeights

# T, N, C, H, W, K, kernel, stride, padding: odd sizes, tails of every vector width, kernels beyond the map's edge
SHAPES = [
    (4, 1, 16, 24, 24, 32, 3, 1, 1),
    (4, 1, 32, 24, 24, 48, 3, 2, 1),
    (1, 2, 3, 7, 5, 5, 3, 2, 1),
    (3, 2, 7, 6, 9, 17, 5, 1, 2),
    (2, 1, 1, 1, 1, 1, 3, 1, 1),
    (2, 3, 5, 4, 3, 200, 1, 1, 0),
    (5, 1, 33, 8, 6, 130, 4, 3, 0),
    (2, 1, 9, 5, 11, 15, 5, 4, 4),
]


def on_grid(*shape: int, bits: int = 12) -> torch.Tensor:
    """Numbers whose sums float32 holds exactly in any order."""
    return (torch.randn(shape) * 2**bits * 0.3).round() * 2.0**-bits


def some_spikes(steps: int, samples: int, channels: int, height: int, width: int, rate: float) -> torch.Tensor:
    return (torch.rand(steps, samples, channels, height, width) < rate).float()


def rows(tensor: torch.Tensor) -> torch.Tensor:
    """`[..., C, H, W]` in the kernels' memory order, `[..., H, W, C]`."""
    return tensor.movedim(-3, -1).contiguous()


def maps(tensor: torch.Tensor | None) -> torch.Tensor:
    assert tensor is not None
    return tensor.movedim(-1, -3)


def spike_list(dense: torch.Tensor, *, valued: bool = False, most: float = math.inf) -> SpikeList:
    call = SpikeListCall(rows(dense), valued=valued, most=most)
    assert call() == call.spikes.spikes()
    return call.spikes


def spike_conv(spikes: SpikeList, weights: SpikeWeights, current: torch.Tensor | None = None) -> torch.Tensor:
    call = SpikeConvCall(spikes, weights, neurons=False, current=None if current is None else rows(current))
    call()
    return maps(call.current)


def spike_correlate(fired: torch.Tensor, spikes: SpikeList, kernel: torch.Tensor) -> torch.Tensor:
    return maps(SpikeCorrelateCall(rows(fired), spikes, kernel.shape[-1])(kernel))


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_dense_convolution_and_neurons(shape: tuple[int, ...], rate: float) -> None:
    torch.manual_seed(0)
    steps, samples, channels, height, width, outputs, kernel, stride, padding = shape
    dense = some_spikes(steps, samples, channels, height, width, rate)
    spikes = spike_list(dense)
    assert torch.equal(spikes.dense(), dense)
    assert spikes.spikes() == int(dense.sum())
    weight, bias = on_grid(outputs, channels, kernel, kernel), on_grid(outputs)
    weights = SpikeWeights.pack(weight, bias, stride=stride, padding=padding)
    expected = torch.nn.functional.conv2d(dense.flatten(0, 1), weight, bias, stride=stride, padding=padding)
    expected = expected.unflatten(0, (steps, samples))
    extra, state = on_grid(*expected.shape), torch.randn(expected.shape[1:])
    assert torch.equal(spike_conv(spikes, weights), expected)
    assert torch.equal(spike_conv(spikes, weights, extra), expected + extra)
    tau = torch.tensor(7_000.0)
    fired, v, _ = lif_multi_step(expected + extra, state, tau=tau, dt=5_000.0)
    call = SpikeConvCall(spikes, weights, current=rows(extra), keep_current=True, keep_fired=True)
    after = torch.empty_like(rows(state))
    assert call(float(decay_factor(tau, 5_000.0)), rows(state), after) == int(fired.sum())
    assert call.spikes is not None
    assert torch.equal(call.spikes.dense(), fired)
    for found, wanted in ((call.fired, fired), (after, v), (call.current, expected + extra)):
        assert torch.equal(maps(found), wanted)
    assert fired.numel() < 100 or 0 < fired.sum() < fired.numel()


@pytest.mark.parametrize("shape", SHAPES)
def test_counts_weigh_what_they_count(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    steps, samples, channels, height, width, outputs, kernel, stride, padding = shape
    counts = some_spikes(steps, samples, channels, height, width, 0.3) * torch.randint(1, 30, (1,))
    counts[0, 0, 0, 0, 0] = 31
    spikes = spike_list(counts, valued=True)
    assert torch.equal(spikes.dense(), counts)
    weight = on_grid(outputs, channels, kernel, kernel)
    expected = torch.nn.functional.conv2d(counts.flatten(0, 1), weight, stride=stride, padding=padding)
    weights = SpikeWeights.pack(weight, None, stride=stride, padding=padding)
    assert torch.equal(spike_conv(spikes, weights).flatten(0, 1), expected)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    kernel, stride = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    padding = data.draw(st.integers(0, kernel - 1))
    height, width = (data.draw(st.integers(max(1, kernel - 2 * padding), 9)) for _ in "hw")
    channels, outputs = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 70))
    dense = some_spikes(2, 2, channels, height, width, data.draw(st.sampled_from([0.05, 0.5])))
    weight = on_grid(outputs, channels, kernel, kernel)
    weights = SpikeWeights.pack(weight, None, stride=stride, padding=padding)
    expected = torch.nn.functional.conv2d(dense.flatten(0, 1), weight, stride=stride, padding=padding)
    assert torch.equal(spike_conv(spike_list(dense), weights).flatten(0, 1), expected)


@pytest.mark.parametrize(("samples", "channels", "side", "kernel"), [(1, 48, 12, 5), (2, 7, 3, 5), (3, 33, 6, 1)])
def test_correlation_equals_the_matching_module(samples: int, channels: int, side: int, kernel: int) -> None:
    torch.manual_seed(2)
    dense = some_spikes(3, samples, channels, side, side, 0.2)
    dense[:, :, :, : side // 2] = 0
    template = on_grid(samples, channels, kernel, kernel)
    expected = DepthwiseMatching(kernel=kernel)(dense, template)
    assert torch.equal(spike_correlate(dense, spike_list(dense), template), expected)


def test_a_list_is_in_order_and_holds_no_more_than_its_limit() -> None:
    dense = some_spikes(2, 2, 9, 5, 7, 0.4) * 3
    found = spike_list(dense, valued=True, most=2.0)
    listed = (rows(dense).flatten(0, -3), found.entry.flatten(0, -2), found.start.flatten(0, -2))
    for row, entry, start in zip(*listed, strict=True):
        assert start.tolist() == [int(row[:x].count_nonzero()) for x in range(8)]
        assert entry[: start[-1]].tolist() == row.flatten().nonzero().flatten().tolist()
    assert torch.equal(found.dense(), dense.clamp(max=2))


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = some_spikes(4, 1, 16, 12, 12, 0.3)
    spikes, weights = spike_list(dense), SpikeWeights.pack(torch.randn(40, 16, 3, 3), torch.randn(40), padding=1)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("had_snn.ops.build.threads_for", lambda work, threads=threads: threads)
        call, after = SpikeConvCall(spikes, weights), torch.empty(1, 12, 12, 40)
        call(0.6, None, after)
        assert call.spikes is not None
        found.append((call.spikes.dense(), after))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_refuses_what_does_not_fit() -> None:
    spikes = spike_list(torch.zeros(1, 1, 4, 6, 6))
    weights = SpikeWeights.pack(torch.zeros(8, 4, 3, 3), None, padding=1)
    with pytest.raises(InputError, match="expected a square kernel"):
        SpikeWeights.pack(torch.zeros(8, 4, 3, 1), None)
    with pytest.raises(InputError, match=r"bias has shape \[7\]"):
        SpikeWeights.pack(torch.zeros(8, 4, 3, 3), torch.zeros(7))
    with pytest.raises(InputError, match="padding < kernel"):
        SpikeWeights.pack(torch.zeros(8, 4, 3, 3), None, padding=3)
    with pytest.raises(InputError, match="at most 65536"):
        spike_list(torch.zeros(1, 1, 700, 1, 100))
    with pytest.raises(InputError, match="float64"):
        spike_list(torch.zeros(1, 1, 4, 6, 6, dtype=torch.float64))
    with pytest.raises(InputError, match="weights read 5 channels"):
        spike_conv(spikes, SpikeWeights.pack(torch.zeros(8, 5, 3, 3), None))
    with pytest.raises(InputError, match=r"before is .* expected contiguous float32 \[1, 6, 6, 8\]"):
        SpikeConvCall(spikes, weights)(0.5, torch.zeros(1, 6, 5, 8))
    with pytest.raises(InputError, match="current is"):
        SpikeConvCall(spikes, weights, current=torch.zeros(1, 1, 6, 6, 8, dtype=torch.float16))
    with pytest.raises(InputError, match="current is"):
        SpikeConvCall(spikes, weights, current=torch.zeros(1, 1, 8, 6, 6).movedim(2, -1))
    with pytest.raises(InputError, match="an odd side"):
        spike_correlate(spikes.dense(), spikes, torch.zeros(1, 4, 2, 2))
    with pytest.raises(InputError, match=r"kernel has shape \[1, 5, 3, 3\]"):
        spike_correlate(spikes.dense(), spikes, torch.zeros(1, 5, 3, 3))
