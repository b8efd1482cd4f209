"""One adapter per simulator: loads the file with the simulator's own importer and runs it step by step.

The importers differ in what they read from the file (see the table in `docs`), so each adapter sets right what its
importer gets wrong, and says so in `notes`. Every adapter watches the LIF layers through forward hooks; with `feed`
the hook hands our spikes to the layers behind, so that one deviating spike is counted once and does not cascade.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from had_snn.errors import ExportError, optional_import
from had_snn.export.nir import NOMINAL_DT, load_nir
from had_snn.export.search_graph import SearchGraph, Trace

#: Packages that the importers live in, as the package index names them.
PACKAGES = {"norse": "norse", "snntorch": "snntorch", "spikingjelly": "spikingjelly", "sinabs": "sinabs"}


@contextlib.contextmanager
def _third_party() -> Iterator[None]:
    """Keeps what importers warn, log and print about themselves away from the user's terminal."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # norse compiles its functionals with torch.jit.script, which torch announces it will drop.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.script.*", category=DeprecationWarning)
        # norse and sinabs call nirtorch.load, which nirtorch calls deprecated but still ships for them.
        warnings.filterwarnings("ignore", message=r"nirtorch\.load is being deprecated", category=DeprecationWarning)
        # sinabs and spikingjelly still read pkg_resources-style versions and old numpy names at import.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(sinabs|spikingjelly|norse|snntorch).*")
        yield


def _import(name: str) -> ModuleType:
    with _third_party():
        return optional_import(name, extra="simulators")


class Simulation:
    """A network inside a simulator.

    Args:
        name: The simulator.
        model: What its importer made of the file; LIF layers are children with the nodes' names.
        layers: Names of the LIF layers.
        scales: Threshold of each layer in the simulator's unit.
        notes: What the adapter had to set right.
    """

    def __init__(self, name: str, model: nn.Module, layers: list[str], *, scales: dict[str, float], notes: str) -> None:
        self.name, self.model, self.layers, self.scales, self.notes = name, model.eval(), layers, scales, notes
        self.version = metadata.version(PACKAGES[name])
        self._spikes: dict[str, list[Tensor]] = {}
        self._membranes: dict[str, list[Tensor]] = {}
        self._feed: dict[str, Tensor] | None = None
        modules = dict(model.named_modules())
        for layer in layers:
            if layer not in modules:
                raise ExportError(f"{name}: its importer dropped the node {layer}")
            modules[layer].register_forward_hook(self._hook(layer))

    def potential(self, module: nn.Module, output: Any) -> Tensor:
        """Potential after the reset, from a LIF layer's module and output; here the first part of the state put out."""
        return output[1][0]

    def reset(self) -> None:
        """Brings hidden state to rest, where a simulator keeps any."""

    def _hook(self, layer: str) -> Callable[[nn.Module, Any, Any], Any]:
        def watch(module: nn.Module, _: Any, output: Any) -> Any:
            spikes = output[0] if isinstance(output, tuple) else output
            step = len(self._spikes[layer])
            self._spikes[layer].append(spikes > 0)
            self._membranes[layer].append(self.potential(module, output) / self.scales[layer])
            if self._feed is None:
                return output
            forced = self._forced(layer, step).to(spikes.dtype)
            return (forced, *output[1:]) if isinstance(output, tuple) else forced

        return watch

    def _forced(self, layer: str, step: int) -> Tensor:
        assert self._feed is not None
        return self._feed[layer][step]

    def _steps(self, counts: Tensor) -> Tensor:
        """Runs all micro-steps; returns the read-out `[T, N, 5, G, G]`."""
        outputs, state = [], None
        for step in counts:
            output, state = self.model(step, state)
            outputs.append(output)
        return torch.stack(outputs)

    def _collect(self, recorded: list[Tensor], counts: Tensor) -> Tensor:
        return torch.stack(recorded)

    @torch.no_grad()
    def run(self, counts: Tensor, *, feed: dict[str, Tensor] | None = None) -> Trace:
        """Runs windows from rest.

        Args:
            counts: Spike counts of the stem `[T, N, C, H, W]`.
            feed: Spikes `[T, N, ...]` by layer that the layers behind it get instead of the simulator's own.

        Returns:
            Spikes, potentials and read-out.
        """
        self.reset()
        self._spikes, self._membranes = {layer: [] for layer in self.layers}, {layer: [] for layer in self.layers}
        self._feed = feed
        with _third_party():
            readout = self._steps(counts.float())
        spikes = {layer: self._collect(self._spikes[layer], counts) for layer in self.layers}
        membranes = {layer: self._collect(self._membranes[layer], counts) for layer in self.layers}
        self._spikes, self._membranes, self._feed = {}, {}, None
        return Trace(spikes, membranes, readout)


class _SnnTorch(Simulation):
    def potential(self, module: nn.Module, output: Any) -> Tensor:
        return module.mem.clone()  # pyright: ignore[reportCallIssue]

    def reset(self) -> None:
        for name, module in self.model.named_modules():
            if name in self.layers:
                module.mem = torch.zeros(0)  # another shape than the input's makes Leaky start at rest


class _Sinabs(Simulation):
    """sinabs takes all steps at once, samples outside, steps inside: `[N * T, C, H, W]`."""

    def potential(self, module: nn.Module, output: Any) -> Tensor:
        return module.recordings["v_mem"].flatten(0, 1)  # pyright: ignore[reportIndexIssue]

    def reset(self) -> None:
        for name, module in self.model.named_modules():
            if name in self.layers:
                module.reset_states()  # pyright: ignore[reportCallIssue]

    def _forced(self, layer: str, step: int) -> Tensor:
        assert self._feed is not None
        return self._feed[layer].transpose(0, 1).flatten(0, 1)

    def _steps(self, counts: Tensor) -> Tensor:
        output = self.model(counts.transpose(0, 1).flatten(0, 1))
        output = output[0] if isinstance(output, tuple) else output
        return output.unflatten(0, (counts.shape[1], counts.shape[0])).transpose(0, 1)

    def _collect(self, recorded: list[Tensor], counts: Tensor) -> Tensor:
        return recorded[0].unflatten(0, (counts.shape[1], counts.shape[0])).transpose(0, 1)


def open_norse(path: str | Path, graph: SearchGraph) -> Simulation:
    """norse: Euler step `v += dt/tau * (i - v)`, strict `>`, hard reset; ignores `r`, needs `dt`."""
    _import("norse")
    importer = _import("norse.torch.utils.import_nir")
    stored = load_nir(path)
    with _third_party():
        model = importer.from_nir(stored, dt=NOMINAL_DT)
    notes = "dt passed" + _in_order(model, graph)
    return Simulation("norse", model, list(graph.neurons), scales=_thresholds(stored, graph), notes=notes)


def open_snntorch(path: str | Path, graph: SearchGraph) -> Simulation:
    """snnTorch: `mem = beta * mem + i`, threshold divided by `dt / tau` instead of scaling inputs, strict `>`."""
    _import("snntorch")
    importer = _import("snntorch.import_nir")
    stored = load_nir(path)
    scales = {name: float(stored.nodes[name].v_threshold.flat[0]) / (1 - n.decay) for name, n in graph.neurons.items()}
    with _third_party():
        model = importer.import_from_nir(stored)
    return _SnnTorch("snntorch", model, list(graph.neurons), scales=scales, notes="none")


def open_spikingjelly(path: str | Path, graph: SearchGraph) -> Simulation:
    """SpikingJelly: `v = v + (i - v) / tau`, fires at `>=`, hard reset."""
    # Without Triton, torch logs a warning for every kernel that spikingjelly would offer it.
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    for node in graph.neurons.values():
        _ = node.decay  # its neurons hold one time constant per layer
    _import("spikingjelly")
    importer = _import("spikingjelly.activation_based.nir_exchange")
    stored = load_nir(path)
    with _third_party():
        model = importer.import_from_nir(stored, dt=NOMINAL_DT)
    scales = _thresholds(stored, graph)
    return Simulation("spikingjelly", model, list(graph.neurons), scales=scales, notes="compares with >=")


def open_sinabs(path: str | Path, graph: SearchGraph) -> Simulation:
    """sinabs: reads tau in steps, subtracts on reset, lets a neuron fire several times; all set right after import."""
    _import("sinabs")
    importer, activation = _import("sinabs.nir"), _import("sinabs.activation")
    stored = load_nir(path)
    scales = _thresholds(stored, graph)
    for name in graph.neurons:
        node = stored.nodes[name]
        # Its importer asks for the truth value of whole arrays, so they must hold one element.
        for key in ("r", "v_leak", "v_reset", "v_threshold", "tau"):
            setattr(node, key, torch.from_numpy(np.unique(getattr(node, key))[:1]).float())
    with _third_party():
        model = importer.from_nir(stored, num_timesteps=graph.n_steps)
    for name, module in model.named_modules():
        if name in graph.neurons:
            alpha = torch.tensor(graph.neurons[name].alpha, dtype=torch.float64)
            steps = (-1 / alpha.log()).float()
            module.tau_mem.data = steps.reshape(-1, 1, 1) if steps.dim() else steps.reshape(1)
            module.spike_fn, module.reset_fn = activation.SingleSpike, activation.MembraneReset()
            module.norm_input, module.record_states = True, True
    mended = _in_order(model, graph)
    notes = "one-element arrays before, tau in steps, single spike, hard reset and normed input after import" + mended
    return _Sinabs("sinabs", model, list(graph.neurons), scales=scales, notes=notes)


def _in_order(model: nn.Module, graph: SearchGraph) -> str:
    """Lets nirtorch's old executor compute every node after all its sources.

    It walks depth first and takes a node at the first visit, so where branches of equal rank meet it uses one of them a
    step late. The joined matching has no such branches; without it the order must be set.
    """
    executor: Any = model
    rank = {name: index for index, name in enumerate(["input", *graph.nodes, "output"])}
    # Sorting is stable: a stem in front of the body keeps its place behind the input.
    order = sorted(executor.execution_order, key=lambda node: rank.get(node.name, 0))
    if [node.name for node in order] == [node.name for node in executor.execution_order]:
        return ""
    executor.execution_order = order
    return "; order of execution mended"


def _thresholds(stored: Any, graph: SearchGraph) -> dict[str, float]:
    return {name: float(np.unique(stored.nodes[name].v_threshold)[0]) for name in graph.neurons}


#: Simulators whose importer takes the file, by name.
OPENERS: dict[str, Callable[[str | Path, SearchGraph], Simulation]] = {
    "norse": open_norse,
    "snntorch": open_snntorch,
    "spikingjelly": open_spikingjelly,
    "sinabs": open_sinabs,
}
