"""Executes an exported network event by event, in NumPy, as an independent reference.

No convolution is called: every spike walks along its own synapses and adds its weights to the potentials that it
reaches, and only then do neurons decide. That gives spike counts that share no code with the kernels or with any
simulator, and it counts exactly what a spike costs (borders included).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from had_snn.export.search_graph import INPUT, OUTPUT, Conv, SearchGraph, Trace


@dataclass
class SparseRun:
    """Result of `run_events`.

    Attributes:
        trace: Spikes, potentials after the reset and read-out maps.
        synops: Synaptic operations by convolution, over all windows: additions caused by a spike (a stem count of `n`
            is `n` spikes).
        updates: Membrane updates by LIF layer, over all windows.
    """

    trace: Trace
    synops: dict[str, int]
    updates: dict[str, int]


def run_events(graph: SearchGraph, counts: Tensor, *, feed: dict[str, Tensor] | None = None) -> SparseRun:
    """Runs windows from rest.

    Args:
        graph: The network; a separate matching convolution is refused, because its real values are no events.
        counts: Input counts `[T, N, C, H, W]`, small integers: the stem's spikes, or events where the stem is part.
        feed: Spikes by layer that the layers behind it get instead of the computed ones.

    Returns:
        Signals and operation counts.
    """
    fed = {name: spikes.numpy() for name, spikes in (feed or {}).items()}
    windows = [
        _run_window(graph, counts[:, index].numpy(), {name: spikes[:, index] for name, spikes in fed.items()})
        for index in range(counts.shape[1])
    ]

    def join(parts: Sequence[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(parts, axis=1))

    fired, potentials, readouts, operations = zip(*windows, strict=True)
    spikes = {name: join([window[name] for window in fired]) for name in graph.neurons}
    membranes = {name: join([window[name] for window in potentials]) for name in graph.neurons}
    synops = {name: sum(window[name] for window in operations) for name in graph.convolutions}
    updates = {name: spikes[name].numel() for name in graph.neurons}
    return SparseRun(Trace(spikes, membranes, join(readouts)), synops, updates)


def thinned(counts: Tensor, share: float, *, seed: int = 0) -> Tensor:
    """Keeps each spike of integer counts with probability `share`, as if the input were less sensitive."""
    drawn = np.random.default_rng(seed).binomial(counts.numpy().astype(np.int64), share)
    return torch.from_numpy(drawn.astype(np.float32))


def _run_window(
    graph: SearchGraph, counts: np.ndarray, feed: dict[str, np.ndarray]
) -> tuple[dict, dict, np.ndarray, dict]:
    """One window `[T, C, H, W]`: spikes and membranes by layer, the read-out, and operations by convolution."""
    potentials = {name: np.zeros(node.shape, np.float32) for name, node in graph.neurons.items()}
    spikes = {name: np.zeros((len(counts), *node.shape), bool) for name, node in graph.neurons.items()}
    membranes = {name: np.zeros((len(counts), *node.shape), np.float32) for name, node in graph.neurons.items()}
    synapses = {name: _Synapses(conv) for name, conv in graph.convolutions.items()}
    readout: list[np.ndarray] = []
    for step in range(len(counts)):
        values: dict[str, np.ndarray] = {INPUT: counts[step]}
        for name, node in graph.nodes.items():
            sources = [values[source] for source in graph.sources(name)]
            if isinstance(node, Conv):
                values[name] = synapses[name].deliver(sum(sources[1:], start=sources[0]))
                continue
            decay = np.array(node.alpha, np.float32).reshape(-1, 1, 1)
            v = decay * potentials[name] + sum(sources[1:], start=sources[0])
            fired = v > np.float32(1)
            potentials[name] = np.where(fired, np.float32(0), v)
            spikes[name][step] = fired
            values[name] = feed[name][step] if feed else fired
            membranes[name][step] = potentials[name]
        readout.append(values[graph.sources(OUTPUT)[0]].astype(np.float32))
    synops = {name: synapse.operations for name, synapse in synapses.items()}
    return spikes, membranes, np.stack(readout), synops


class _Synapses:
    """Fan-out of a convolution, seen from the spike."""

    def __init__(self, conv: Conv) -> None:
        self.conv = conv
        # [C, k, k, C']: what a spike of channel c adds, kernel flipped because a spike looks forward.
        self.weight = np.ascontiguousarray(conv.weight.numpy().transpose(1, 2, 3, 0)[:, ::-1, ::-1])
        self.bias = conv.bias.numpy()
        self.operations = 0
        self.tables: dict[int, list[tuple[slice, slice]]] = {}

    def _reach(self, length: int) -> list[tuple[slice, slice]]:
        """For each input position, the output positions it reaches and the taps of the flipped kernel it uses."""
        if length not in self.tables:
            kernel, stride, padding = self.conv.weight.shape[-1], self.conv.stride, self.conv.padding
            outputs = (length + 2 * padding - kernel) // stride + 1
            table = []
            for position in range(length):
                first = max(0, -(-(position + padding - kernel + 1) // stride))
                last = min(outputs - 1, (position + padding) // stride)
                # Output o uses tap position + padding - o * stride, counted from the flipped end.
                start = kernel - 1 - (position + padding - first * stride)
                table.append((slice(first, last + 1), slice(start, start + (last - first) * stride + 1, stride)))
            self.tables[length] = table
        return self.tables[length]

    def deliver(self, spikes: np.ndarray) -> np.ndarray:
        """Sends every spike of `[C, H, W]` to its targets; returns the currents `[C', H', W']` with the bias."""
        rows, columns = self._reach(spikes.shape[1]), self._reach(spikes.shape[2])
        current = np.zeros((rows[-1][0].stop, columns[-1][0].stop, len(self.bias)), np.float32)
        for channel, y, x in zip(*np.nonzero(spikes), strict=True):
            (to_y, tap_y), (to_x, tap_x) = rows[y], columns[x]
            weights = self.weight[channel, tap_y, tap_x]
            count = int(spikes[channel, y, x])
            current[to_y, to_x] += weights if count == 1 else weights * np.float32(count)
            self.operations += weights.size * count
        return (current + self.bias).transpose(2, 0, 1)
