"""Runs an exported file in simulators and compares every spike with our own kernels.

    report = verify("student.nir", counts)
    report["norse"]["mismatches"], report["norse"]["layers"]["lif_mix"]["spikes"]

Per simulator the file is loaded by its own importer and run from the stem's spike counts to the read-out. Where a layer
deviates, a second run hands our spikes to the layers behind each layer, so that `mismatches_alone` counts what that
layer itself decided otherwise, and one flipped spike is not counted again in every layer behind it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from had_snn.errors import ExportError, InputError, MissingExtraError
from had_snn.export.adapters import OPENERS
from had_snn.export.external import EXTERNAL, external_version, run_external
from had_snn.export.nir import read_nir
from had_snn.export.reference_runner import run_events
from had_snn.export.search_graph import SearchGraph, Trace, run_graph

logger = logging.getLogger("had_snn")

#: The reference that executes spike by spike in NumPy.
EVENTS = "event_by_event"

#: What `verify` runs when nothing is asked for.
DEFAULT = ("norse", "snntorch", "spikingjelly", "sinabs")
#: All that there is. The `_own` entries leave a simulator's own neuron as it comes; spyx has no other.
KNOWN = (*OPENERS, EVENTS, *EXTERNAL)

#: Windows that a simulator in another environment gets at once: starting one costs more than holding them.
_EXTERNAL_CHUNK = 50


@torch.no_grad()
def verify(
    path: str | Path,
    windows: Tensor,
    *,
    simulators: Sequence[str] = DEFAULT,
    graph: SearchGraph | None = None,
    chunk: int = 10,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, dict[str, Any]]:
    """Compares simulators with our kernels, spike by spike.

    Args:
        path: A file that `write_nir` wrote.
        windows: Spike counts of the stem on real events, `[T, N, C, H, W]`.
        simulators: Names out of `KNOWN`; one that is not installed or fails is listed in the report with the reason.
        graph: The graph in memory; our side runs it instead of what is read back from the file.
        chunk: Windows that are held in memory at once.
        progress: Called with simulator, windows done and windows in all.

    Returns:
        By simulator: `status` ("exact", "differs", "not installed", "not supported", "failed"), `spikes`, `mismatches`,
        `rate` (mismatches by spikes), `decisions`, `version`, `notes`, `seconds`, `readout_error`, `layers`; by layer
        `status`, `spikes`, `mismatches`, `mismatches_alone`, `membrane_error` (largest difference of potentials, in
        thresholds, where spikes agree), `potential_max` (largest potential of ours that did not fire, in size) and
        `guaranteed` (the rounding makes every decision exact for potentials of that size, see `rounding`).

    Raises:
        FormatError: If the file cannot be read.
        InputError: If a simulator's name is unknown or the windows do not fit the file.
    """
    unknown = [name for name in simulators if name not in KNOWN]
    if unknown:
        raise InputError(f"unknown simulator {', '.join(unknown)}; there are: {', '.join(KNOWN)}")
    graph = graph if graph is not None else read_nir(path)
    if windows.dim() != 5 or tuple(windows.shape[2:]) != graph.input_shape or len(windows) != graph.n_steps:
        expected = f"[{graph.n_steps}, N, {', '.join(map(str, graph.input_shape))}]"
        raise InputError(f"windows are {list(windows.shape)}; the file reads counts {expected}")
    report = {}
    for name in simulators:
        started = time.perf_counter()
        report[name] = _verify_one(name, path, graph, windows, chunk, progress)
        report[name]["seconds"] = round(time.perf_counter() - started, 3)
        logger.info(line(name, report[name]))
    return report


def _absent(status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "notes": reason, "spikes": 0, "mismatches": 0, "rate": 0.0, "decisions": 0, "layers": {}}


def _verify_one(
    name: str,
    path: str | Path,
    graph: SearchGraph,
    windows: Tensor,
    chunk: int,
    progress: Callable[[str, int, int], None] | None,
) -> dict[str, Any]:
    try:
        run, version, notes = _open(name, path, graph)
    except MissingExtraError as error:
        return _absent("not installed", str(error))
    except ExportError as error:
        return _absent("not supported", str(error))
    # Importers fail in their own ways on what they do not know; that is a finding about them, not a crash of ours.
    except Exception as error:  # noqa: BLE001
        return _absent("failed", f"{type(error).__name__}: {error}")
    tally = _Tally(graph)
    chunk = max(chunk, _EXTERNAL_CHUNK) if name in EXTERNAL else chunk
    for start in range(0, windows.shape[1], chunk):
        counts = windows[:, start : start + chunk]
        ours = run_graph(graph, counts, with_membranes=True)
        try:
            theirs, said = run(counts, None)
        except ExportError as error:
            return _absent("failed", str(error))
        notes = said or notes
        if tally.add(ours, theirs):
            tally.add_alone(ours, run(counts, ours.spikes)[0])
        else:
            tally.add_alone(ours, theirs)  # equal inputs everywhere: a run with ours fed in would be the same run
        if progress is not None:
            progress(name, min(start + chunk, windows.shape[1]), windows.shape[1])
    return {"version": version, "notes": notes, "windows": windows.shape[1], **tally.report()}


def _open(name: str, path: str | Path, graph: SearchGraph):
    """A function `(counts, feed) -> (Trace, notes)`, the version and the adapter's notes."""
    if name == EVENTS:
        stored = read_nir(path)
        if any(source in stored.convolutions for conv in stored.convolutions for source in stored.sources(conv)):
            raise InputError("a convolution reads real values of another one, which are no events; fuse the matching")
        return (lambda counts, feed: (run_events(stored, counts, feed=feed).trace, "")), "", "spikes walk one by one"
    if name in EXTERNAL:
        return (lambda counts, feed: run_external(name, path, graph, counts, feed)), external_version(name), ""
    simulation = OPENERS[name](path, graph)
    return (lambda counts, feed: (simulation.run(counts, feed=feed), "")), simulation.version, simulation.notes


class _Tally:
    """Counts by layer over chunks of windows."""

    def __init__(self, graph: SearchGraph) -> None:
        self.layers = layers = list(graph.neurons)
        self.rounded = graph.info.get("layers")
        self.potentials = dict.fromkeys(layers, 0.0)
        names = ("spikes", "mismatches", "mismatches_alone", "decisions")
        self.counts = {layer: dict.fromkeys(names, 0) for layer in layers}
        self.membranes = dict.fromkeys(layers, 0.0)
        self.readout = 0.0

    def add(self, ours: Trace, theirs: Trace) -> int:
        """Counts a run from the stem to the read-out; returns its mismatches."""
        total = 0
        for layer in self.layers:
            wrong = int((ours.spikes[layer] != theirs.spikes[layer]).sum())
            count = self.counts[layer]
            count["spikes"] += int(ours.spikes[layer].sum())
            count["decisions"] += ours.spikes[layer].numel()
            count["mismatches"] += wrong
            total += wrong
        self.readout = max(self.readout, float((ours.readout - theirs.readout).abs().max()))
        return total

    def add_alone(self, ours: Trace, theirs: Trace) -> None:
        """Counts a run in which every layer got our spikes."""
        for layer in self.layers:
            same = ours.spikes[layer] == theirs.spikes[layer]
            self.counts[layer]["mismatches_alone"] += int((~same).sum())
            error = (ours.membranes[layer] - theirs.membranes[layer]).abs() * same
            self.membranes[layer] = max(self.membranes[layer], float(error.max()))
            self.potentials[layer] = max(self.potentials[layer], float(ours.membranes[layer].abs().max()))

    def _guaranteed(self, layer: str) -> bool:
        if not isinstance(self.rounded, dict) or not self.rounded[layer]["exact_float32"]:
            return False
        return self.potentials[layer] < 2.0 ** self.rounded[layer]["headroom_bits"]

    def report(self) -> dict[str, Any]:
        layers = {
            layer: {
                "status": "exact" if self.counts[layer]["mismatches"] == 0 else "differs",
                **self.counts[layer],
                "membrane_error": self.membranes[layer],
                "potential_max": self.potentials[layer],
                "guaranteed": self._guaranteed(layer),
            }
            for layer in self.layers
        }
        sums = {key: sum(layer[key] for layer in layers.values()) for key in ("spikes", "mismatches", "decisions")}
        status = "exact" if sums["mismatches"] == 0 else "differs"
        rate = sums["mismatches"] / max(sums["spikes"], 1)
        return {"status": status, **sums, "rate": rate, "readout_error": self.readout, "layers": layers}


def line(name: str, entry: dict[str, Any]) -> str:
    """One line about a simulator, for a log or a terminal."""
    if not entry["layers"]:
        return f"{name}: {entry['status']} ({entry['notes']})"
    return (
        f"{name} {entry['version']}: {entry['mismatches']} of {entry['spikes']} spikes differ in {entry['decisions']} "
        f"decisions, potentials by at most {membrane_error(entry):.1e} thresholds"
    )


def table(report: dict[str, dict[str, Any]]) -> str:
    """The report as two Markdown tables: a row per simulator, then a row per simulator and layer."""
    rows = ["| simulator | version | status | spikes | mismatches | rate | membrane error | how, or why not |"]
    rows.append("|---|---|---|---:|---:|---:|---:|---|")
    for name, entry in report.items():
        if not entry["layers"]:
            rows.append(f"| {name} | {entry.get('version', '')} | {entry['status']} | | | | | {entry['notes']} |")
            continue
        rows.append(
            f"| {name} | {entry['version']} | {entry['status']} | {entry['spikes']} | {entry['mismatches']} "
            f"| {100 * entry['rate']:.4g} % | {membrane_error(entry):.1e} | {entry['notes']} |"
        )
    rows += ["", "| simulator | layer | status | spikes | mismatches | of these its own | membrane error |"]
    rows.append("|---|---|---|---:|---:|---:|---:|")
    for name, entry in report.items():
        rows += [
            f"| {name} | {layer} | {found['status']} | {found['spikes']} | {found['mismatches']} "
            f"| {found['mismatches_alone']} | {found['membrane_error']:.1e} |"
            for layer, found in entry["layers"].items()
        ]
    return "\n".join(rows) + "\n"


def membrane_error(entry: dict[str, Any]) -> float:
    """Largest difference of potentials in any layer where spikes agree, in thresholds."""
    return max(layer["membrane_error"] for layer in entry["layers"].values())
