"""Clocked layers: read-out weights, folding of norms, explicit state."""

from __future__ import annotations

import pytest
import torch

from had_snn.errors import InputError
from had_snn.models.neurons import LIF, READOUTS, ConvNorm, LeakyReadout


@pytest.mark.parametrize("form", ["mean", "last"])
def test_readout_equals_the_leaky_membranes_averaged_over_time_or_at_the_end(form):
    readout = LeakyReadout(tau_us=15_000.0, form=form)
    x = torch.randn(6, 2, 5, 4, 4)
    alpha = torch.exp(-torch.tensor(10_000.0) / readout.tau_us)
    u, mean = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    for step in x:
        u = alpha * u + (1 - alpha) * step
        mean = mean + u / len(x)
    torch.testing.assert_close(readout(x, dt_us=10_000.0), mean if form == "mean" else u)


def test_the_mean_weighs_the_oldest_micro_step_most_and_the_end_the_newest():
    mean, last = (LeakyReadout(tau_us=15_000.0, form=form).weights(4, dt_us=10_000.0).tolist() for form in READOUTS)
    assert mean == sorted(mean, reverse=True)
    assert last == sorted(last)


def test_an_unknown_readout_is_refused():
    with pytest.raises(InputError, match=r"readout='first' is unknown; there are mean, last"):
        LeakyReadout(form="first")


def test_a_folded_block_is_one_convolution():
    torch.manual_seed(0)
    block = ConvNorm(3, 7, stride=2)
    for _ in range(3):
        block(torch.randn(2, 4, 3, 9, 9) * 2 + 1)
    block.eval()
    x = torch.randn(2, 4, 3, 9, 9)
    weight, bias = block.folded()
    folded = torch.nn.functional.conv2d(x.flatten(0, 1), weight, bias, stride=2, padding=1)
    torch.testing.assert_close(block(x).flatten(0, 1), folded, rtol=1e-4, atol=1e-5)


def test_state_carries_a_run_across_two_calls():
    torch.manual_seed(0)
    lif = LIF(tau_us=20_000.0)
    x = torch.randn(8, 2, 3, 5, 5)
    whole, end, _ = lif(x, dt_us=5_000.0)
    first, middle, _ = lif(x[:3], dt_us=5_000.0)
    second, last, _ = lif(x[3:], middle, dt_us=5_000.0)
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(end, last)
