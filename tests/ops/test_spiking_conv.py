"""Convolution and matching of spikes in training: outputs and gradients of torch's own, at any shape and order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from had_snn.errors import InputError
from had_snn.ops import spiking_conv
from had_snn.ops.spiking_conv import channels_last, conv2d_of_spikes, match_maps

# B, C, H, W, K, kernel, stride, padding: odd sizes, tails of every vector width, kernels beyond the map's edge
SHAPES = [
    (4, 16, 24, 24, 32, 3, 1, 1),
    (3, 32, 12, 12, 48, 3, 2, 1),
    (2, 48, 6, 6, 48, 1, 1, 0),
    (1, 3, 7, 5, 5, 3, 2, 1),
    (9, 7, 6, 9, 17, 5, 1, 2),
    (1, 1, 1, 1, 1, 3, 1, 1),
    (3, 5, 4, 3, 200, 1, 1, 0),
    (2, 33, 8, 6, 130, 4, 3, 0),
]


@pytest.fixture(autouse=True)
def follow_however_few(monkeypatch):
    monkeypatch.setattr(spiking_conv, "FEWEST", 0)


def numbers(*shape: int, counts: bool, rate: float = 0.3) -> torch.Tensor:
    fired = (torch.rand(shape) < rate).float()
    return fired * torch.randint(1, 4, shape) if counts else fired


def gradients(out: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(7)
    above = torch.randn(out.shape)
    return [out.detach(), *torch.autograd.grad(out, inputs, above)]


def assert_same(ours: list[torch.Tensor], torchs: list[torch.Tensor]) -> None:
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()) + 1e-12)


@pytest.mark.parametrize("counts", [False, True], ids=["spikes", "counts"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_convolutions_and_their_gradients_are_torchs(shape, counts: bool):
    samples, channels, height, width, outputs, kernel, stride, padding = shape
    torch.manual_seed(1)
    spikes = numbers(samples, channels, height, width, counts=counts).requires_grad_()
    weight = torch.randn(outputs, channels, kernel, kernel, requires_grad=True)
    sides = {"stride": stride, "padding": padding}
    ours = gradients(conv2d_of_spikes(spikes, weight, counts=counts, **sides), spikes, weight)
    wide = [t.detach().double().requires_grad_() for t in (spikes, weight)]
    exact = gradients(F.conv2d(*wide, **sides).float(), *wide)
    assert_same(ours, [t.float() for t in exact])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 50),
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from([1, 3, 5]),
)
def test_matching_and_its_gradients_are_those_of_a_grouped_convolution(steps, samples, channels, height, width, side):
    torch.manual_seed(2)
    maps = numbers(steps, samples, channels, height, width, counts=False).requires_grad_()
    kernel = torch.randn(samples, channels, side, side, requires_grad=True)
    groups = {"padding": side // 2, "groups": samples * channels}
    grouped = F.conv2d(maps.flatten(1, 2), kernel.reshape(-1, 1, side, side), **groups).reshape(maps.shape)
    assert_same(gradients(match_maps(maps, kernel), maps, kernel), gradients(grouped, maps, kernel))


def test_any_memory_order_gives_the_same_bits_and_outputs_have_channels_last():
    torch.manual_seed(3)
    weight = torch.randn(20, 6, 3, 3, requires_grad=True)
    plain = numbers(4, 6, 8, 8, counts=False)
    results = []
    for maps in (plain, channels_last(plain), plain.transpose(2, 3).contiguous().transpose(2, 3)):
        maps = maps.detach().requires_grad_()
        out = conv2d_of_spikes(maps, weight, padding=1)
        assert out.is_contiguous(memory_format=torch.channels_last)
        results.append(gradients(out, maps, weight))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_threads_do_not_change_a_bit(monkeypatch):
    torch.manual_seed(4)
    spikes = numbers(16, 24, 16, 16, counts=True).requires_grad_()
    weight = torch.randn(48, 24, 3, 3, requires_grad=True)
    maps = numbers(2, 3, 24, 12, 12, counts=False).requires_grad_()
    kernel = torch.randn(3, 24, 5, 5, requires_grad=True)
    results = []
    for threads in (1, 3):
        monkeypatch.setattr(spiking_conv.build, "threads_for", lambda work, threads=threads: threads)
        out = gradients(conv2d_of_spikes(spikes, weight, padding=1, counts=True), weight)
        results.append([*out, *gradients(match_maps(maps, kernel), maps, kernel)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_what_the_kernels_do_not_take_is_left_to_torch():
    spikes, weight = numbers(2, 3, 6, 6, counts=False), torch.randn(4, 3, 3, 3)
    wide = conv2d_of_spikes(spikes.double(), weight.double(), padding=1)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide, F.conv2d(spikes.double(), weight.double(), padding=1))
    oblong = torch.randn(4, 3, 3, 1)
    torch.testing.assert_close(conv2d_of_spikes(spikes, oblong), F.conv2d(spikes, oblong))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv2d_of_spikes(spikes, weight).dtype == torch.bfloat16
    assert conv2d_of_spikes(spikes[:0], weight).shape == (0, 4, 4, 4)


def test_outputs_of_few_inputs_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(spiking_conv, "FEWEST", 28)
    monkeypatch.setattr(spiking_conv, "conv_forward", lambda *given: pytest.fail("followed"))
    spikes, weight = numbers(2, 3, 6, 6, counts=False), torch.randn(4, 3, 3, 3)
    out = conv2d_of_spikes(spikes, weight, padding=1)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, F.conv2d(spikes, weight, padding=1))


def test_shapes_that_do_not_fit_are_refused_whatever_the_rate():
    for rate in (0.0, 0.2, 1.0):
        spikes = numbers(2, 8, 6, 6, counts=False, rate=rate)
        with pytest.raises(RuntimeError, match="channels"):
            conv2d_of_spikes(spikes, torch.randn(4, 4, 3, 3))
        weight = torch.randn(4, 8, 1, 1)
        torch.testing.assert_close(conv2d_of_spikes(spikes, weight, padding=1), F.conv2d(spikes, weight, padding=1))
    maps = numbers(2, 4, 8, 9, 9, counts=False)
    for shape in ((1, 8, 5, 5), (4, 3, 5, 5), (4, 8, 3, 5), (4, 8, 4, 4)):
        with pytest.raises(InputError, match=r"maps \[2, 4, 8, 9, 9\] need \[4, 8, k, k\] with an odd k"):
            match_maps(maps, torch.randn(shape))


def test_no_gradient_is_computed_that_nobody_needs(monkeypatch):
    asked = []
    real = spiking_conv.conv_backward
    monkeypatch.setattr(spiking_conv, "conv_backward", lambda *given: asked.append(given[-1]) or real(*given))
    spikes, weight = numbers(2, 3, 6, 6, counts=False), torch.randn(4, 3, 3, 3, requires_grad=True)
    conv2d_of_spikes(spikes, weight).sum().backward()
    assert asked == [[False, True]]


def test_operators_pass_torchs_own_checks():
    torch.manual_seed(5)
    spikes = numbers(2, 3, 6, 6, counts=True).requires_grad_()
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(spiking_conv.conv_forward, (spikes, weight, 2, 1, True), test_utils=checks)
    maps, kernel = numbers(2, 2, 3, 6, 6, counts=False).requires_grad_(), torch.randn(2, 3, 3, 3, requires_grad=True)
    torch.library.opcheck(spiking_conv.match_forward, (maps, kernel), test_utils=checks)
    for counts in (False, True):
        fired = spikes.detach() if counts else (spikes.detach() > 0).float()
        out, kept = spiking_conv.conv_forward(fired, weight.detach(), 1, 1, counts)
        kept = fired if counts else kept
        given = (torch.randn(out.shape), weight.detach(), kept, list(spikes.shape), 1, 1, [True, True])
        torch.library.opcheck(spiking_conv.conv_backward, given, test_utils=checks)
    given = (maps.detach(), kernel.detach(), torch.randn(maps.shape), [True, False])
    torch.library.opcheck(spiking_conv.match_backward, given, test_utils=checks)
