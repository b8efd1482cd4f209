"""rockpool: its importer knows no Conv2d and fails on LIF, so its neurons are run alone, convolutions in NumPy.

Its LIF decays by `exp(-dt / tau)`, adds inputs without NIR's factor, fires at `>=`, subtracts the threshold for every
spike and sends as many as fit. Its constructor takes another spike function; one that fires once and sends what the
potential is, in thresholds, makes the same subtraction a hard reset. `own` as a fourth argument leaves the neuron as it
comes.
"""

from __future__ import annotations

import sys
from importlib import metadata

import numpy as np
import torch
from protocol import Answer, Network, layer_by_layer, one_value, serve
from rockpool.nn.modules.torch import LIFNeuronTorch
from rockpool.nn.modules.torch.nir import from_nir


class FireAndEmpty(torch.autograd.Function):
    """Where `v >= threshold`: all of the potential, in thresholds; the neuron then subtracts it."""

    @staticmethod
    def forward(ctx, v, threshold, window, max_spikes):
        return torch.where(v >= threshold, v / threshold, torch.zeros_like(v))


def run(network: Network, counts: np.ndarray, feed: dict[str, np.ndarray]) -> Answer:
    """All windows at once, layer after layer."""
    own = sys.argv[4:] == ["own"]
    try:
        from_nir(network.stored)
        importer = "its importer took the file, only its neurons are run"
    except Exception as error:  # noqa: BLE001 (any failure is the finding)
        importer = f"its importer: {type(error).__name__}: {error}"

    @torch.no_grad()
    def fire(name: str, current: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        node = network.nodes[name]
        share = network.dt / one_value(node, "tau")
        size, threshold = int(np.prod(current.shape[2:])), one_value(node, "v_threshold")
        options = {} if own else {"spike_generation_fn": FireAndEmpty}
        neurons = LIFNeuronTorch(
            size, tau_mem=-network.dt / np.log1p(-share), threshold=threshold, dt=network.dt, **options
        )
        inputs = torch.from_numpy(current * np.float32(share)).flatten(2).transpose(0, 1)
        spikes, _, record = neurons.evolve(inputs, record=True)
        shape = current.shape
        return (
            (spikes > 0).transpose(0, 1).reshape(shape).numpy(),
            (record["vmem"] / threshold).transpose(0, 1).reshape(shape).numpy(),
        )

    answer = layer_by_layer(network, counts, feed, fire)
    neuron = "its neuron as it comes" if own else "its neuron with another spike function (hard reset, one spike)"
    answer.notes = f"{importer}; {neuron}, convolutions in NumPy"
    return answer


if __name__ == "__main__":
    serve(run, metadata.version("rockpool"))
