"""Simulators that run in an environment of their own, because they need another numpy or their licence is not ours.

The scripts in `simulator_scripts/` know NIR, numpy and one simulator each; they are started as separate processes and
exchange files (see `simulator_scripts/protocol.py`). `make simulators` makes the environment `.venv-simulators`;
another interpreter can be named in the environment variable `HAD_SNN_SIMULATORS`.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from had_snn.errors import ExportError, MissingExtraError
from had_snn.export.search_graph import SearchGraph, Trace

#: Script, package and further arguments by name; `_own` runs the simulator's own neuron instead of NIR's.
EXTERNAL: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "brian2": ("run_brian2.py", "brian2", ()),
    "nengo": ("run_nengo.py", "nengo", ()),
    "nengo_own": ("run_nengo.py", "nengo", ("own",)),
    "rockpool": ("run_rockpool.py", "rockpool", ()),
    "rockpool_own": ("run_rockpool.py", "rockpool", ("own",)),
    "spyx": ("run_spyx.py", "spyx", ()),
}

_SCRIPTS = Path(__file__).parent / "simulator_scripts"
_CHECKOUT = Path(__file__).resolve().parents[2]


def interpreter() -> Path:
    """The Python that external simulators run in.

    Raises:
        MissingExtraError: If there is none.
    """
    named = os.environ.get("HAD_SNN_SIMULATORS")
    places = [Path(named)] if named else [root / ".venv-simulators/bin/python" for root in (Path.cwd(), _CHECKOUT)]
    for place in places:
        if place.is_file():
            return place
    raise MissingExtraError(
        f"this simulator runs in an environment of its own and {places[0]} is not there; make it with: make simulators "
        "(or name another interpreter in HAD_SNN_SIMULATORS)"
    )


@functools.cache
def _versions(python: Path) -> dict[str, str]:
    """Versions of what their environment holds."""
    code = "import json, importlib.metadata as m; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    found = json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)
    return {package.lower(): version for package, version in found.items()}


def external_version(name: str) -> str:
    """The version of an external simulator.

    Raises:
        MissingExtraError: If the environment or the simulator in it is not there.
    """
    python, package = interpreter(), EXTERNAL[name][1]
    found = _versions(python)
    if package not in found:
        raise MissingExtraError(f"{python} has no {package}; install it with: make simulators")
    return found[package]


def run_external(
    name: str, path: str | Path, graph: SearchGraph, counts: Tensor, feed: dict[str, Tensor] | None = None
) -> tuple[Trace, str]:
    """Runs windows through a file in another environment.

    Args:
        name: Key of `EXTERNAL`.
        path: The file.
        graph: What the file holds; names the layers that must be answered for.
        counts: Spike counts of the stem `[T, N, C, H, W]`.
        feed: Spikes by layer that the layers behind it get instead of the simulator's own.

    Returns:
        Spikes, membranes and read-out, and the simulator's notes.

    Raises:
        MissingExtraError: If the environment is not there.
        ExportError: If the simulator fails, with its last words, or drops a layer.
    """
    script, _, options = EXTERNAL[name]
    external_version(name)
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder) / "request.npz", Path(folder) / "answer.npz"
        fed = {f"feed/{layer}": spikes.numpy() for layer, spikes in (feed or {}).items()}
        np.savez(request, counts=counts.numpy(), **fed)  # pyright: ignore[reportArgumentType]
        command = [interpreter(), _SCRIPTS / script, Path(path).resolve(), request, answer, *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not answer.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportError(f"{name} failed on {path}: {last}")
        with np.load(answer) as stored:
            dropped = [layer for layer in graph.neurons if f"spikes/{layer}" not in stored.files]
            if dropped:
                raise ExportError(f"{name}: its importer dropped {', '.join(dropped)}")
            spikes = {layer: torch.from_numpy(stored[f"spikes/{layer}"]) for layer in graph.neurons}
            membranes = {layer: torch.from_numpy(stored[f"membranes/{layer}"]) for layer in graph.neurons}
            readout = torch.from_numpy(stored["readout"])
            return Trace(spikes, membranes, readout), str(stored["notes"])
