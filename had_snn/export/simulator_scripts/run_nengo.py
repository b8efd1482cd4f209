"""nengo: connections, convolutions and schedule are its own; the neuron is a type in its language, as users write one.

nengo has no NIR importer. `own` as a fourth argument runs its own LIF instead, which times spikes inside a step and
carries the rest of it over (its floor at potential 0 is switched off). Connections without a synapse pass spikes on in
the same step.
"""

from __future__ import annotations

import sys

import nengo
import nir
import numpy as np
from nengo.dists import Choice
from nengo.neurons import NeuronType
from protocol import Answer, Network, one_value, serve


class EulerLIF(NeuronType):
    """`v += dt/tau * (v_leak - v + r * i)`; spike and reset at once where `v > v_threshold`: NIR's LIF."""

    state = {"voltage": Choice([0])}  # noqa: RUF012 (nengo's interface)
    negative = False
    spiking = True

    def __init__(self, tau: np.ndarray, v_threshold: float) -> None:
        super().__init__()
        self.tau, self.v_threshold = tau, v_threshold

    def step(self, dt: float, J: np.ndarray, output: np.ndarray, voltage: np.ndarray) -> None:
        """One time step, in place."""
        voltage += dt / self.tau * (J - voltage)
        output[:] = voltage > self.v_threshold
        voltage[output > 0] = 0

    def max_rates_intercepts(self, gain: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Asked for when a network is built; nothing here is solved for, so no rates are needed."""
        return np.zeros_like(gain), np.zeros_like(bias)


def build(network: Network, feed: dict[str, np.ndarray], *, own: bool):
    """A nengo network, what to probe, and the object whose `frames` the input nodes play."""
    played: dict[str, np.ndarray] = {}
    probes: dict[str, nengo.Probe] = {}
    with nengo.Network() as model:

        def source(name: str, size: int) -> nengo.Node:
            return nengo.Node(lambda t: played[name][round(t / network.dt) - 1], size_out=size)

        senders: dict[str, object] = {
            "input": source("input", int(np.prod(network.stored.nodes["input"].input_type["input"])))
        }
        for name, node in network.nodes.items():
            if isinstance(node, nir.LIF):
                tau, threshold = node.tau.ravel(), one_value(node, "v_threshold")
                # Its own LIF fires at 1; it is given the exact decay that the Euler step stands for.
                exact = -network.dt / np.log(1 - network.dt / tau)
                builtin = nengo.LIF(exact.mean(), 0, min_voltage=-np.inf, amplitude=network.dt)
                kind = builtin if own else EulerLIF(tau, threshold)
                size = node.tau.size
                layer = nengo.Ensemble(size, 1, neuron_type=kind, gain=np.ones(size), bias=np.zeros(size))
                for source_name in network.sources[name]:
                    nengo.Connection(
                        senders[source_name], layer.neurons, synapse=None, transform=1 / threshold if own else 1
                    )
                probes[f"spikes/{name}"] = nengo.Probe(layer.neurons, "output")
                probes[f"membranes/{name}"] = nengo.Probe(layer.neurons, "voltage")
                senders[name] = source(name, size) if name in feed else layer.neurons
            else:
                senders[name] = convolution(node, [senders[s] for s in network.sources[name]])
        probes["readout"] = nengo.Probe(senders[network.last])
    return model, probes, played


def convolution(node: nir.Conv2d, senders: list) -> nengo.Node:
    """A node that adds up convolved spikes and the bias; a relay so that several layers can read it."""
    channels, height, width = (int(v) for v in node.output_type["output"])
    pad, stride = int(node.padding[0]), int(node.stride[0])
    rows, columns = (int(v) for v in node.input_shape)
    high, wide = rows + 2 * pad, columns + 2 * pad
    # nengo knows "same" and "valid" only, and "same" pads unevenly with a stride: pad by hand.
    inputs = node.weight.shape[1]
    cells = np.arange(inputs * high * wide).reshape(inputs, high, wide)
    inner = cells[:, pad : pad + rows, pad : pad + columns].ravel()
    padded = nengo.Node(size_in=cells.size)
    transform = nengo.Convolution(
        n_filters=channels,
        input_shape=cells.shape,
        channels_last=False,
        strides=(stride, stride),
        padding="valid",
        kernel_size=node.weight.shape[2:],
        init=np.ascontiguousarray(node.weight.transpose(2, 3, 1, 0)),
    )
    out = nengo.Node(size_in=channels * height * width)
    for sender in senders:
        nengo.Connection(sender, padded[inner], synapse=None)
    nengo.Connection(padded, out, transform=transform, synapse=None)
    constant = nengo.Node(np.repeat(node.bias, height * width))
    nengo.Connection(constant, out, synapse=None)
    return out


def run(network: Network, counts: np.ndarray, feed: dict[str, np.ndarray]) -> Answer:
    """Every window from rest."""
    own = sys.argv[4:] == ["own"]
    model, probes, played = build(network, feed, own=own)
    steps, windows = counts.shape[:2]
    found: dict[str, list[np.ndarray]] = {key: [] for key in probes}
    with nengo.Simulator(model, dt=network.dt, progress_bar=False) as simulator:
        for window in range(windows):
            simulator.reset()
            played["input"] = counts[:, window].reshape(steps, -1).astype(np.float64)
            for name, spikes in feed.items():
                played[name] = spikes[:, window].reshape(steps, -1).astype(np.float64)
            simulator.run_steps(steps)
            for key, probe in probes.items():
                found[key].append(np.array(simulator.data[probe]))
    joined = {key: np.stack(values, axis=1) for key, values in found.items()}
    answer = Answer(joined["readout"].reshape(steps, windows, *network.nodes[network.last].output_type["output"]))
    for name, node in network.layers.items():
        shape = (steps, windows, *node.tau.shape)
        answer.spikes[name] = joined[f"spikes/{name}"].reshape(shape) > 0
        scale = 1 if own else one_value(node, "v_threshold")
        answer.membranes[name] = joined[f"membranes/{name}"].reshape(shape) / scale
    answer.notes = (
        "no importer; its own LIF times spikes inside a step and carries the rest over"
        if own
        else "no importer: connections, convolutions and schedule are its own, the Euler step is a neuron type"
    )
    return answer


if __name__ == "__main__":
    serve(run, nengo.__version__)
