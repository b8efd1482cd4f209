"""Clocked layers: read-out weights, folding of norms, explicit state."""

from __future__ import annotations

import torch

from had_snn.models.neurons import LIF, ConvNorm, LeakyReadout


def test_readout_equals_the_leaky_membranes_averaged_over_time():
    readout = LeakyReadout(tau_us=15_000.0)
    x = torch.randn(6, 2, 5, 4, 4)
    alpha = torch.exp(-torch.tensor(10_000.0) / readout.tau_us)
    u, mean = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    for step in x:
        u = alpha * u + (1 - alpha) * step
        mean = mean + u / len(x)
    torch.testing.assert_close(readout(x, dt_us=10_000.0), mean)


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
