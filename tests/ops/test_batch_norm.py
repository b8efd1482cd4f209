"""Batch norm in training: torch's own outputs and gradients, whatever is kept for the backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from had_snn.ops.batch_norm import OutputKept
from had_snn.ops.spiking_conv import channels_last


def batch_norm(maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    out = OutputKept.apply(maps, weight, bias, None, None, 0.1, 1e-5)
    assert isinstance(out, torch.Tensor)
    return out


def gradients(out: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(7)
    return [out.detach(), *torch.autograd.grad(out, inputs, torch.randn(out.shape, dtype=out.dtype))]


def exact(maps: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> list[torch.Tensor]:
    """Torch's in float64."""
    wide = [t.detach().double().requires_grad_() for t in (maps, weight, bias)]
    out = F.batch_norm(wide[0], None, None, wide[1], wide[2], training=True)
    torch.manual_seed(7)
    return [out.detach(), *torch.autograd.grad(out, wide, torch.randn(out.shape).double())]


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5 * float(other.abs().max()) + 1e-12)


def given_maps(samples: int, channels: int, height: int, width: int, *, about: float = 0.0) -> list[torch.Tensor]:
    torch.manual_seed(3)
    maps = about + torch.randn(samples, channels, height, width) * torch.linspace(0.3, 3, channels)[:, None, None]
    weight, bias = 0.5 + torch.rand(channels), torch.randn(channels)
    return [channels_last(maps).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 70), st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.0, 3.0]))
def test_outputs_and_gradients_are_torchs_in_float64(samples, channels, height, width, about):
    if samples * height * width < 8:  # of so few cells the gradient is a difference that rounding decides
        return
    inputs = given_maps(samples, channels, height, width, about=about)
    assert_same(gradients(batch_norm(*inputs), *inputs), exact(*inputs))


@pytest.mark.parametrize(("small", "kept"), [(0.5, "output"), (1e-4, "input"), (0.0, "input")])
def test_what_is_kept_is_the_output_unless_a_weight_is_too_small_beside_its_bias(small: float, kept: str):
    inputs = given_maps(4, 20, 6, 6)
    with torch.no_grad():
        inputs[1][3], inputs[2][3] = small, 1.0
    out = batch_norm(*inputs)
    saved = out.grad_fn.saved_tensors[0]
    assert torch.equal(saved, out if kept == "output" else inputs[0])
    assert_same(gradients(out, *inputs), exact(*inputs))
