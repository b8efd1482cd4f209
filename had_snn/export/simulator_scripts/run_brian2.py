"""brian2: NIR's equation, threshold and reset as they stand, in brian2's own language; every synapse explicit.

brian2 has no NIR importer. Its default schedule delivers spikes after the thresholds, so each layer would lag one step
behind the one before and its input would decay once more. A schedule with four slots per layer (convolution, step,
threshold, reset) sends spikes through all layers in one step, and what arrives is used up in it.
"""

from __future__ import annotations

import brian2
import nir
import numpy as np
from brian2 import NeuronGroup, SpikeMonitor, StateMonitor, Synapses, second
from protocol import Answer, Network, one_value, serve

brian2.prefs.codegen.target = "numpy"

_LIF = """
dv/dt = (r * (current + bias) - v) / tau : 1
current : 1
bias : 1 (constant)
tau : second (constant)
"""
_SENDER = """
count : 1
"""


def synapses_of(node: nir.Conv2d) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every synapse of a convolution: source cell, target cell, weight."""
    out, inputs, kernel, _ = node.weight.shape
    rows, columns = (int(v) for v in node.input_shape)
    _, high, wide = (int(v) for v in node.output_type["output"])
    pad, stride = int(node.padding[0]), int(node.stride[0])
    sources, targets, weights = [], [], []
    oy, ox = np.meshgrid(np.arange(high), np.arange(wide), indexing="ij")
    to, c = np.meshgrid(np.arange(out), np.arange(inputs), indexing="ij")
    for dy in range(kernel):
        for dx in range(kernel):
            y, x = oy * stride + dy - pad, ox * stride + dx - pad
            there = (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
            cells, places = (y * columns + x)[there], (oy * wide + ox)[there]
            sources.append((c[..., None] * rows * columns + cells).ravel())
            targets.append((to[..., None] * high * wide + places).ravel())
            weights.append(np.repeat(node.weight[:, :, dy, dx].ravel(), len(cells)))
    return np.concatenate(sources), np.concatenate(targets), np.concatenate(weights)


def receivers(network: Network, name: str) -> list[str]:
    """The nodes that `name` has an edge into."""
    return [target for target, sources in network.sources.items() if name in sources]


class Simulation:
    """The network in brian2; `feed` puts senders of given spikes behind each layer."""

    def __init__(self, network: Network, feed: bool) -> None:
        self.network, self.objects, self.fed = network, [], feed
        self.dt = network.dt * second
        self.groups: dict[str, NeuronGroup] = {}
        self.monitors: dict[str, tuple[SpikeMonitor, StateMonitor]] = {}
        schedule = ["start", "groups", "thresholds", "synapses", "resets"]  # its own slots: senders fire in them
        self._sender("input", int(np.prod(network.stored.nodes["input"].input_type["input"])))
        for name, node in network.nodes.items():
            schedule += [f"{kind}_{name}" for kind in ("send", "step", "fire", "reset")]
            if isinstance(node, nir.LIF):
                self._layer(name, node)
                if feed:
                    self._sender(f"{name}_fed", node.tau.size)
        self._readout()
        for name in network.convolutions:
            self._connect(name)
        self.net = brian2.Network(self.objects)
        self.net.schedule = [*schedule, "send_last", "end"]

    def _sender(self, name: str, size: int) -> None:
        """Cells that send a given count in each step; `count` is set from outside before the step."""
        group = NeuronGroup(size, _SENDER, threshold="count > 0", reset="", dt=self.dt, name=f"sender_{name}")
        self.groups[name] = group
        self.objects.append(group)

    def _layer(self, name: str, node: nir.LIF) -> None:
        group = NeuronGroup(
            node.tau.size,
            _LIF,
            method="euler",
            threshold="v > v_threshold",
            reset="v = 0",
            dt=self.dt,
            name=f"lif_{name}",
            namespace={"r": one_value(node, "r"), "v_threshold": one_value(node, "v_threshold")},
        )
        group.tau = node.tau.ravel() * second
        group.state_updater.when = f"step_{name}"
        group.thresholder["spike"].when = f"fire_{name}"
        group.resetter["spike"].when = f"reset_{name}"
        clear = group.run_regularly("current = 0", when="end", dt=self.dt)
        self.groups[name] = group
        spikes = SpikeMonitor(group, name=f"spikes_{name}")
        trace = StateMonitor(group, "v", record=True, when="end", dt=self.dt, name=f"trace_{name}")
        self.monitors[name] = (spikes, trace)
        self.objects += [group, clear, spikes, trace]

    def _readout(self) -> None:
        node = self.network.nodes[self.network.last]
        size = int(np.prod(node.output_type["output"]))
        group = NeuronGroup(size, "current : 1\nbias : 1 (constant)", dt=self.dt, name="readout_cells")
        self.readout = StateMonitor(group, "current", record=True, when="end", order=-1, dt=self.dt, name="readout")
        clear = group.run_regularly("current = 0", when="end", order=1, dt=self.dt)
        self.groups["output"] = group
        self.objects += [group, self.readout, clear]

    def _connect(self, name: str) -> None:
        node = self.network.convolutions[name]
        source, target, weight = synapses_of(node)
        for receiver in receivers(self.network, name):
            cells = self.groups[receiver]
            slot = "send_last" if receiver == "output" else f"send_{receiver}"
            bias = np.repeat(node.bias, cells.N // len(node.bias))
            cells.bias = np.asarray(cells.bias[:]) + bias
            for sender in self.network.sources[name]:
                key = f"{sender}_fed" if self.fed and sender != "input" else sender
                graded = key not in self.network.layers
                pathway = Synapses(
                    self.groups[key],
                    cells,
                    "w : 1 (constant)",
                    dt=self.dt,
                    name=f"{name}_to_{receiver}",
                    on_pre="current_post += w * count_pre" if graded else "current_post += w",
                )
                pathway.connect(i=source, j=target)
                pathway.w = weight
                pathway.pre.when = slot
                self.objects.append(pathway)

    def run_window(self, counts: np.ndarray, feed: dict[str, np.ndarray]) -> None:
        """One window `[T, ...]` from rest."""
        for name in self.network.layers:
            self.groups[name].v = 0
        for step in range(len(counts)):
            self.groups["input"].count = counts[step].ravel()
            for name, spikes in feed.items():
                self.groups[f"{name}_fed"].count = spikes[step].ravel()
            self.net.run(self.dt, namespace={})


def run(network: Network, counts: np.ndarray, feed: dict[str, np.ndarray]) -> Answer:
    """Every window from rest, one after the other on one time line."""
    simulation = Simulation(network, bool(feed))
    steps, windows = counts.shape[:2]
    for window in range(windows):
        simulation.run_window(counts[:, window], {name: spikes[:, window] for name, spikes in feed.items()})

    def unfold(lines: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """`[cells, windows * T]` to `[T, windows, ...]`."""
        return lines.T.reshape(windows, steps, *shape).swapaxes(0, 1)

    last = network.nodes[network.last]
    shape = tuple(int(v) for v in last.output_type["output"])
    bias = np.asarray(simulation.groups["output"].bias[:])
    answer = Answer(unfold(np.asarray(simulation.readout.current) + bias[:, None], shape))
    for name, node in network.layers.items():
        spikes, trace = simulation.monitors[name]
        fired = np.zeros((node.tau.size, windows * steps), bool)
        fired[np.asarray(spikes.i), np.round(np.asarray(spikes.t / second) / network.dt).astype(int)] = True
        answer.spikes[name] = unfold(fired, node.tau.shape)
        answer.membranes[name] = unfold(np.asarray(trace.v), node.tau.shape) / one_value(node, "v_threshold")
    total = sum(len(synapses_of(node)[0]) for node in network.convolutions.values())
    answer.notes = f"no importer: NIR's equation in its language, {total} explicit synapses, schedule slots per layer"
    return answer


if __name__ == "__main__":
    serve(run, brian2.__version__)
