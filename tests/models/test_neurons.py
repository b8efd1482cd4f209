"""Clocked layers: read-out weights, explicit state."""

from __future__ import annotations

import torch

from had_snn.models.neurons import LIF, LeakyReadout


def test_readout_equals_the_leaky_membranes_averaged_over_time():
    readout = LeakyReadout(tau_us=15_000.0)
    x = torch.randn(6, 2, 5, 4, 4)
    alpha = torch.exp(-torch.tensor(10_000.0) / readout.tau_us)
    u, mean = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    for step in x:
        u = alpha * u + (1 - alpha) * step
        mean = mean + u / len(x)
    torch.testing.assert_close(readout(x, dt_us=10_000.0), mean)


def test_readout_and_convolution_can_be_exchanged():
    torch.manual_seed(0)
    readout, conv = LeakyReadout(tau_us=15_000.0), torch.nn.Conv2d(3, 5, 3, padding=1)
    spikes = (torch.rand(6, 2, 3, 4, 4) < 0.3).float()
    maps = conv(spikes.flatten(0, 1)).unflatten(0, (6, 2))
    exchanged = readout.of_convolution(spikes, conv, dt_us=10_000.0)
    torch.testing.assert_close(exchanged, readout(maps, dt_us=10_000.0), rtol=1e-4, atol=1e-5)


def test_state_carries_a_run_across_two_calls():
    torch.manual_seed(0)
    lif = LIF(tau_us=20_000.0)
    x = torch.randn(8, 2, 3, 5, 5)
    whole, end, _ = lif(x, dt_us=5_000.0)
    first, middle, _ = lif(x[:3], dt_us=5_000.0)
    second, last, _ = lif(x[3:], middle, dt_us=5_000.0)
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(end, last)
