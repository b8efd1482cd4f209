"""The search graph as a NIR file, and back.

NIR (Neuromorphic Intermediate Representation, Pedersen et al., Nature Communications 2024) states neurons as
differential equations and leaves the time step to the reader; importers take a forward Euler step. The file is
written so that this step is exactly the student's: nominal `dt = 1e-4 s` (some importers fix it), `tau = dt /
(1 - alpha)`, `r = 1`, leak and reset potential 0, inputs scaled by `rounding.input_scales`, arrays in full shape and
float64. The true micro-step, the window, the crop, what the input means and where the host takes over are in the
metadata.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from had_snn.errors import FormatError, first_line, optional_import
from had_snn.events.stream import EventStream
from had_snn.export.lowering import to_graph
from had_snn.export.rounding import input_scales
from had_snn.export.search_graph import INPUT, OUTPUT, Conv, Neurons, SearchGraph
from had_snn.files import atomic_file
from had_snn.models.search import SearchModule
from had_snn.recordings.hdf5_guard import open_contained

#: Nominal time step of the file in seconds; snnTorch and SpikingJelly assume it.
NOMINAL_DT = 1e-4
#: Version of what `metadata["had_snn"]` holds.
LAYOUT = 1


def to_nir(
    student: SearchModule, template_events: EventStream, box_xywh: Sequence[float] | np.ndarray, **options: Any
) -> Any:
    """`to_graph` and `graph_to_nir` in one call; arguments are those of `to_graph`.

    Returns:
        A `nir.NIRGraph`; write it with `write_nir`.

    Raises:
        ExportError: If the student has a part that NIR cannot express, with the module's path and the reason.
    """
    return graph_to_nir(to_graph(student, template_events, box_xywh, **options))


def graph_to_nir(graph: SearchGraph) -> Any:
    """States a search graph in NIR.

    Returns:
        A type-checked `nir.NIRGraph`.
    """
    nir = optional_import("nir", extra="export")
    factors, thresholds = input_scales(graph)
    nodes: dict[str, Any] = {INPUT: nir.Input(np.array(graph.input_shape))}
    sizes = {INPUT: graph.input_shape}
    for name, node in graph.nodes.items():
        channels, height, width = sizes[graph.sources(name)[0]]
        if isinstance(node, Conv):
            factor = np.array(factors[name])
            nodes[name] = nir.Conv2d(
                input_shape=(height, width),
                weight=node.weight.double().numpy() * factor.reshape(-1, 1, 1, 1),
                bias=node.bias.double().numpy() * factor,
                stride=(node.stride, node.stride),
                padding=(node.padding, node.padding),
                dilation=(1, 1),
                groups=1,
            )
            sizes[name] = (len(node.weight), -(-height // node.stride), -(-width // node.stride))
            continue
        full = np.ones(node.shape)
        nodes[name] = nir.LIF(
            tau=full * (NOMINAL_DT / (1 - np.array(node.alpha))).reshape(-1, 1, 1),
            r=full,
            v_leak=full * 0,
            v_reset=full * 0,
            v_threshold=full * thresholds[name],
        )
        sizes[name] = (channels, height, width)
    nodes[OUTPUT] = nir.Output(np.array(sizes[graph.sources(OUTPUT)[0]]))
    notes = {"had_snn": json.dumps(_notes(graph, factors, thresholds)), "dt": NOMINAL_DT}
    return nir.NIRGraph(nodes, list(graph.edges), metadata=notes)


#: What the host does in front of and behind each part, and what the input of one step is.
HOST = {
    "body": (
        "event-driven LIF stem on raw timestamps; input of a micro-step: its spike counts [C, H, W]",
        "leaky read-out over the micro-steps, then score, offset and size maps are decoded to a box",
    ),
    "stem": (
        "crop; input of a step: events counted by polarity (0 darker, 1 brighter) and crop pixel [2, H, W]",
        "spikes are summed up to the body's micro-steps and go into the body",
    ),
    "one piece": (
        "crop; input of a step: events counted by polarity (0 darker, 1 brighter) and crop pixel [2, H, W]",
        "leaky read-out over the steps, then score, offset and size maps are decoded to a box",
    ),
}


def part_of(graph: SearchGraph) -> str:
    """Which part of the search branch a graph is: `"body"`, `"stem"` or `"one piece"`."""
    return str(graph.info.get("part", "body"))


def _preprocessing(graph: SearchGraph) -> dict[str, Any]:
    """How sensor events become the crop's; present when the graph knows its student."""
    config = graph.info.get("student")
    if not isinstance(config, dict):
        return {}
    size, factor = config["search_size"], config["search_factor"]
    return {
        "sensor_hw": graph.info.get("sensor_hw"),
        "crop": f"square of {factor:g} * sqrt(w * h) around the last box, mapped to {size} x {size} crop pixels",
        "crop_size": size,
        "crop_factor": factor,
        "coordinates": "events move as coordinates, no image is made; those outside the crop are dropped",
        "window": "half-open [t - W, t) before the time of a look; every window starts from rest",
        "network_time": "(time - (t - W)) * window_us / W: steps and time constants are in network time",
    }


def _tau_us(alpha: float | tuple[float, ...], dt_us: float) -> float | list[float]:
    times = [-dt_us / math.log(a) for a in (alpha if isinstance(alpha, tuple) else (alpha,))]
    return times if isinstance(alpha, tuple) else times[0]


def _written_for(graph: SearchGraph) -> dict[str, float]:
    """Length of the window that the template was read from, and what a step lasts in such a window."""
    template = graph.info.get("template")
    if not isinstance(template, dict):
        return {}
    physical_us = float(template["window_us"])
    return {"physical_window_us": physical_us, "physical_dt_us": physical_us / graph.n_steps}


def _physical(alpha: float | tuple[float, ...], graph: SearchGraph) -> dict[str, float | list[float]]:
    dt_us = _written_for(graph).get("physical_dt_us")
    return {} if dt_us is None else {"physical_tau_us": _tau_us(alpha, dt_us)}


def _notes(graph: SearchGraph, factors: dict[str, float | list[float]], thresholds: dict[str, float]) -> dict[str, Any]:
    """Everything that a reader needs and NIR has no field for."""
    before, after = HOST[part_of(graph)]
    return {
        "layout": LAYOUT,
        "part": part_of(graph),
        "versions": {name: metadata.version(name) for name in ("nir", "torch", "numpy")} | {"had_snn": _version()},
        "dt_nominal_s": NOMINAL_DT,
        "dt_us": graph.dt_us,
        "n_steps": graph.n_steps,
        "window_us": graph.dt_us * graph.n_steps,
        **_written_for(graph),
        "neuron": {
            "euler": "v = v + dt/tau * (i - v); spike if v > v_threshold; then v = 0 at once; no output delay",
            "reset": "hard",
            "compare": ">",
            "weight_scale": factors,
            "v_threshold": thresholds,
        },
        "preprocessing": _preprocessing(graph),
        "host_before": before,
        "host_after": after,
        "nodes": {
            name: {"alpha": node.alpha, "tau_us": _tau_us(node.alpha, graph.dt_us), **_physical(node.alpha, graph)}
            if isinstance(node, Neurons)
            else {"stride": node.stride}
            for name, node in graph.nodes.items()
        },
        "taps": graph.taps,
        "info": graph.info,
    }


def _version() -> str:
    from had_snn import __version__

    return __version__


def write_nir(path: str | Path, graph: Any) -> None:
    """Writes a NIR graph, atomically.

    Args:
        path: `*.nir`; its folder is made when missing.
        graph: A `nir.NIRGraph`, or a `SearchGraph`.
    """
    nir = optional_import("nir", extra="export")
    if isinstance(graph, SearchGraph):
        graph = graph_to_nir(graph)
    whole = io.BytesIO()  # HDF5 tells of a full disk in a hundred lines, and not always
    nir.write(whole, graph)
    with atomic_file(path) as temporary:
        temporary.write_bytes(whole.getbuffer())


def load_nir(path: str | Path) -> Any:
    """Reads a file into a `nir.NIRGraph`, type-checked.

    Raises:
        FormatError: If the file is missing, damaged or no NIR.
    """
    nir = optional_import("nir", extra="export")
    if not Path(path).is_file():
        raise FormatError(path, "no such file; expected a .nir file", remedy="had-snn export writes one")
    try:
        open_contained(Path(path)).close()
        return nir.read(path)
    except FormatError:
        raise
    # h5py and nir report damage by whatever exception the damaged field happens to cause.
    except Exception as error:
        raise FormatError(path, f"not a readable NIR file ({type(error).__name__}: {first_line(error)})") from error


def read_nir(path: str | Path) -> SearchGraph:
    """Reads a file that `write_nir` wrote back into a search graph, without loss.

    Raises:
        FormatError: If the file is missing, damaged, no NIR, or not a search graph of this package.
    """
    return graph_from_nir(load_nir(path), path)


def graph_from_nir(stored: Any, path: str | Path = "NIR graph") -> SearchGraph:
    """The inverse of `graph_to_nir`; layers come from NIR's own fields, only their units from the metadata."""
    nir = optional_import("nir", extra="export")
    notes = stored_notes(stored, path)
    if notes["layout"] > LAYOUT:
        raise FormatError(path, f"written by a newer version (layout {notes['layout']}, known up to {LAYOUT})")
    try:
        nodes: dict[str, Conv | Neurons] = {}
        for name in notes["nodes"]:  # HDF5 sorts by name; the notes keep the order of computation
            node = stored.nodes[name]
            if isinstance(node, nir.Conv2d):
                factor = np.array(notes["neuron"]["weight_scale"][name])
                weight, bias = np.asarray(node.weight) / factor.reshape(-1, 1, 1, 1), np.asarray(node.bias) / factor
                weight, bias = torch.from_numpy(weight).float(), torch.from_numpy(bias).float()
                if not (weight.isfinite().all() and bias.isfinite().all()):
                    raise FormatError(path, f"node {name} holds weights that are no finite numbers")
                nodes[name] = Conv(weight, bias, int(node.stride[0]), int(node.padding[0]))
            elif isinstance(node, nir.LIF):
                nodes[name] = _neurons(name, node, notes, path)
            else:
                raise FormatError(path, f"node {name} is a {type(node).__name__}; expected Conv2d or LIF")
        edges = tuple((str(a), str(b)) for a, b in stored.edges)
        order = [INPUT, *nodes, OUTPUT]
        _check_wiring(order, edges, path)
        edges = tuple(sorted(edges, key=lambda edge: (order.index(edge[1]), order.index(edge[0]))))
        channels, height, width = (int(v) for v in stored.nodes[INPUT].input_type["input"])
        return SearchGraph(
            nodes, edges, (channels, height, width), notes["n_steps"], notes["dt_us"], notes["taps"], notes["info"]
        )
    except FormatError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise FormatError(path, f"its nodes and its metadata do not fit together ({error})") from error


def _check_wiring(order: Sequence[str], edges: Sequence[tuple[str, str]], path: str | Path) -> None:
    """Refuses edges that end nowhere, circles, and layers that nothing goes into."""
    place = {name: at for at, name in enumerate(order)}
    for source, target in edges:
        for name in (source, target):
            if name not in place:
                raise FormatError(path, f"the edge {source} -> {target} ends at {name}, and there is no such node")
        if place[source] >= place[target]:
            raise FormatError(path, f"the edge {source} -> {target} closes a circle; expected a feed-forward graph")
    for name in order[1:]:
        if not any(target == name for _, target in edges):
            raise FormatError(path, f"nothing goes into node {name}")


def _neurons(name: str, node: Any, notes: dict[str, Any], path: str | Path) -> Neurons:
    """A LIF node, after checking that it says what the metadata say."""
    fields = {key: np.unique(getattr(node, key)) for key in ("r", "v_leak", "v_reset", "v_threshold")}
    noted = notes["nodes"][name]
    by_channel = isinstance(noted["alpha"], list)
    fields["tau"] = node.tau[:, 0, 0] if by_channel else np.unique(node.tau)
    uneven = [key for key, values in fields.items() if len(values) != 1 and not (by_channel and key == "tau")]
    if uneven or (by_channel and (node.tau != node.tau[:, :1, :1]).any()):
        uneven = uneven or ["tau in a channel"]
        raise FormatError(path, f"node {name} has several values of {', '.join(uneven)}; expected one")
    alphas = [float(np.float32(1 - NOMINAL_DT / tau)) for tau in fields["tau"]]
    alpha = tuple(alphas) if by_channel else alphas[0]
    threshold = notes["neuron"]["v_threshold"][name]
    if alphas != (noted["alpha"] if by_channel else [noted["alpha"]]) or fields["v_threshold"][0] != threshold:
        raise FormatError(path, f"node {name} decays by {alpha} a step, its metadata say {noted['alpha']}")
    channels, height, width = node.tau.shape
    return Neurons(alpha, (channels, height, width))


def stored_notes(stored: Any, path: str | Path) -> dict[str, Any]:
    """The metadata that `graph_to_nir` wrote."""
    text = (getattr(stored, "metadata", None) or {}).get("had_snn")
    if text is None:
        raise FormatError(path, "a NIR file of another program; expected one written by had_snn (metadata had_snn)")
    try:
        notes = json.loads(text)
        if not isinstance(notes["layout"], int):
            raise TypeError("layout is no number")
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(path, f"its metadata are damaged ({error})") from error
    return notes
