"""spyx (JAX): its own importer and neurons, as they are.

The importer walks from the input along the first edge of every node, so of a residual branch it keeps one side and
drops the other. Its LIF subtracts the threshold on reset and sends a spike one step after the potential crossed; both
are in its code and cannot be set from outside. It also adds inputs without NIR's factor `r * dt / tau`, which is
multiplied into the weights before import.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import nir
import numpy as np
import spyx
from protocol import Answer, Network, one_value, serve
from spyx.nir import from_nir


def kept_nodes(stored: nir.NIRGraph) -> list[str]:
    """The nodes that the importer keeps, by its rule."""
    names, current = [], "input"
    while current != "output":
        current = next(target for source, target in stored.edges if source == current)
        names.append(current)
    return names[:-1]


def scale_inputs(network: Network, names: list[str]) -> None:
    """Multiplies `r * dt / tau` of each LIF into the convolution in front of it, in place."""
    for before, name in itertools.pairwise(names):
        layer, conv = network.nodes[name], network.nodes[before]
        if isinstance(layer, nir.LIF) and isinstance(conv, nir.Conv2d):
            factor = one_value(layer, "r") * network.dt / one_value(layer, "tau")
            conv.weight, conv.bias = conv.weight * factor, conv.bias * factor


def channels_last(x: np.ndarray) -> jax.Array:
    """`[..., C, H, W]` to `[..., H, W, C]`, float32."""
    return jnp.asarray(np.moveaxis(x, -3, -1), jnp.float32)


def run(network: Network, counts: np.ndarray, feed: dict[str, np.ndarray]) -> Answer:
    """All windows at once, layer after layer."""
    value, names = channels_last(counts), kept_nodes(network.stored)
    scale_inputs(network, names)
    model, _ = from_nir(network.stored, value[:1, :1], dt=network.dt)
    answer = Answer(np.zeros(0))
    for name, layer in zip(names, model.layers, strict=True):
        if not isinstance(network.nodes[name], nir.LIF):
            value = jnp.stack([layer(step) for step in value])
            continue
        state, spikes, membranes = layer.initial_state(value.shape[1]), [], []
        for step in value:
            out, state = layer(step, state)
            spikes.append(out)
            membranes.append(state)
        value = jnp.stack(spikes)
        answer.spikes[name] = np.moveaxis(np.asarray(value), -1, -3) > 0
        threshold = one_value(network.nodes[name], "v_threshold")
        answer.membranes[name] = np.moveaxis(np.asarray(jnp.stack(membranes)), -1, -3) / threshold
        if name in feed:
            value = channels_last(feed[name])
    answer.readout = np.moveaxis(np.asarray(value), -1, -3)
    kept = list(itertools.pairwise(["input", *names, "output"]))
    dropped = ", ".join(f"{a} to {b}" for a, b in network.stored.edges if (a, b) not in kept)
    answer.notes = f"inputs scaled before import; subtracts on reset, sends spikes a step late, drops edge {dropped}"
    return answer


if __name__ == "__main__":
    serve(run, spyx.__version__)
