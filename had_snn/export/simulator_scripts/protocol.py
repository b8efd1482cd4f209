"""What these scripts share, which run an exported file in a simulator, in that simulator's own environment.

    python run_brian2.py student.nir request.npz answer.npz

They know NIR, numpy and their simulator, and nothing of this package. `request.npz` holds the stem's spike counts
`counts` `[T, N, C, H, W]` and, when layers are to be compared one by one, spikes `feed/LAYER` that the layers behind
LAYER get instead of the simulator's own. `answer.npz` holds `spikes/LAYER` (bool) and `membranes/LAYER` (after the
reset, in thresholds), both `[T, N, ...]`, `readout` `[T, N, 5, G, G]`, `version` and `notes`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import nir
import numpy as np


@dataclass
class Network:
    """A NIR graph in an order in which it can be computed.

    Attributes:
        nodes: NIR nodes by name, without the ends.
        sources: Names of the nodes with an edge into a node.
        dt: Time step of the file in seconds.
        stored: The graph as `nir.read` gave it.
    """

    nodes: dict[str, nir.NIRNode]
    sources: dict[str, list[str]]
    dt: float
    stored: nir.NIRGraph

    @property
    def layers(self) -> dict[str, nir.LIF]:
        """The LIF nodes."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, nir.LIF)}

    @property
    def convolutions(self) -> dict[str, nir.Conv2d]:
        """The convolutions."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, nir.Conv2d)}

    @property
    def last(self) -> str:
        """The node that the output reads."""
        return self.sources["output"][0]


@dataclass
class Answer:
    """What a simulator did; see the head of this file."""

    readout: np.ndarray
    spikes: dict[str, np.ndarray] = field(default_factory=dict)
    membranes: dict[str, np.ndarray] = field(default_factory=dict)
    notes: str = ""


def read_network(path: str) -> Network:
    """Reads a file and sorts its nodes."""
    stored = nir.read(path)
    sources: dict[str, list[str]] = {name: [] for name in stored.nodes}
    for source, target in stored.edges:
        sources[target].append(source)
    order: list[str] = ["input"]
    waiting = [name for name in stored.nodes if name not in ("input", "output")]
    while waiting:
        ready = [name for name in waiting if all(source in order for source in sources[name])]
        if not ready:
            raise ValueError(f"the graph has a loop through {', '.join(waiting)}")
        order += ready
        waiting = [name for name in waiting if name not in ready]
    return Network({n: stored.nodes[n] for n in order[1:]}, sources, float(stored.metadata["dt"]), stored)


def one_value(node: nir.LIF, key: str) -> float:
    """A parameter that is the same in a whole layer."""
    values = np.unique(getattr(node, key))
    if len(values) != 1:
        raise ValueError(f"{key} has {len(values)} values in one layer")
    return float(values[0])


def convolve(node: nir.Conv2d, x: np.ndarray) -> np.ndarray:
    """A convolution in NumPy: `[N, C, H, W]` to `[N, C', H', W']`, for simulators that have none."""
    kernel, stride, pad = node.weight.shape[-1], int(node.stride[0]), int(node.padding[0])
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]
    out = np.tensordot(patches, node.weight.astype(x.dtype), axes=([1, 4, 5], [1, 2, 3]))
    return np.moveaxis(out, -1, 1) + node.bias.astype(x.dtype)[:, None, None]


def layer_by_layer(
    network: Network, counts: np.ndarray, feed: dict[str, np.ndarray], fire: Callable[[str, np.ndarray], tuple]
) -> Answer:
    """Runs the graph layer after layer with a simulator's neurons and convolutions in NumPy.

    Args:
        network: The graph.
        counts: Input `[T, N, C, H, W]`.
        feed: Spikes that replace a layer's own in what it sends on.
        fire: A layer's name and its input current `[T, N, ...]` to its spikes and membranes after the reset.
    """
    values, answer = {"input": counts.astype(np.float32)}, Answer(np.zeros(0))
    for name, node in network.nodes.items():
        current = sum(values[source] for source in network.sources[name])
        if isinstance(node, nir.LIF):
            answer.spikes[name], answer.membranes[name] = fire(name, current)
            values[name] = feed.get(name, answer.spikes[name]).astype(np.float32)
            continue
        values[name] = convolve(node, current.reshape(-1, *current.shape[2:])).reshape(*current.shape[:2], *_out(node))
    answer.readout = values[network.last]
    return answer


def _out(node: nir.Conv2d) -> tuple[int, ...]:
    return tuple(int(v) for v in node.output_type["output"])


def serve(run: Callable[[Network, np.ndarray, dict[str, np.ndarray]], Answer], version: str) -> None:
    """The script's main: file, request and answer are its arguments."""
    path, request, answer = sys.argv[1:4]
    with np.load(request) as stored:
        counts = stored["counts"]
        feed = {key.split("/", 1)[1]: stored[key] for key in stored.files if key.startswith("feed/")}
    found = run(read_network(path), counts, feed)
    arrays = {f"spikes/{name}": value for name, value in found.spikes.items()}
    arrays |= {f"membranes/{name}": value.astype(np.float32) for name, value in found.membranes.items()}
    np.savez(answer, readout=found.readout.astype(np.float32), version=version, notes=found.notes, **arrays)
