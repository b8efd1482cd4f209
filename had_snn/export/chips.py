"""What a search graph asks of a chip, against published limits: fits or not, and which layer breaks what.

Speck-class: nine cores, one convolution with its neurons each; limits and the two memory formulas are those that the
vendor's tools state (sinabs 3.1.3, `sinabs/backend/dynapcnn/chips/dynapcnn.py` and `validate_memory_speck.py`).
Loihi-2-class: 128 cores with up to 8192 neurons each, 120 million synapses in all (Intel Labs, "Taking neuromorphic
computing to the next level with Loihi 2", brief, 2021); a core's share of the synapses is its limit here, and
every synapse is written out, because how far a core may share the weights of a convolution is not published.
A chip with the right numbers can still lack what the graph needs (leak per layer, weights of more than 8 bits): `needs`
lists that. These are counts, not measurements on a device.
"""

from __future__ import annotations

import math
from typing import Any

from had_snn.export.search_graph import INPUT, Conv, SearchGraph
from had_snn.profiling.synops import ConvShape

_KI = 1024
#: Kernel words (8 bit) and neuron words (16 bit) of the nine cores.
SPECK_CORES = tuple(
    zip(
        (16 * _KI, 16 * _KI, 16 * _KI, 32 * _KI, 32 * _KI, 64 * _KI, 64 * _KI, 16 * _KI, 16 * _KI),
        (64 * _KI, 64 * _KI, 64 * _KI, 32 * _KI, 32 * _KI, 16 * _KI, 16 * _KI, 16 * _KI, 16 * _KI),
        strict=True,
    )
)
LOIHI2_CORES, LOIHI2_NEURONS_PER_CORE, LOIHI2_SYNAPSES = 128, 8192, 120_000_000
LOIHI2_SYNAPSES_PER_CORE = LOIHI2_SYNAPSES // LOIHI2_CORES


def layer_needs(graph: SearchGraph) -> dict[str, dict[str, Any]]:
    """Neurons, synapses, fan-in, fan-out, kernel and weights of each convolution with the neurons behind it."""
    shapes = {INPUT: graph.input_shape}
    needs: dict[str, dict[str, Any]] = {}
    for name, node in graph.nodes.items():
        channels, height, width = shapes[graph.sources(name)[0]]
        if not isinstance(node, Conv):
            shapes[name] = (channels, height, width)
            continue
        out, _, kernel, _ = node.weight.shape
        shape = ConvShape.square(channels, out, kernel, stride=node.stride, padding=node.padding)
        rows, columns = shape.outputs((height, width))
        shapes[name] = (out, rows, columns)
        needs[name] = {
            "neurons": out * rows * columns,
            "synapses": shape.dense((height, width)),  # zero padding makes none
            "fan_in": channels * kernel * kernel,
            "fan_out": out * math.ceil(kernel / node.stride) ** 2,
            "kernel": kernel,
            "stride": node.stride,
            "channels": out,
            "weights": node.weight.numel(),
            "output_hw": [rows, columns],
            "reads_spikes": all(source not in graph.convolutions for source in graph.sources(name)),
            "feeds": graph.targets(name),
        }
    return needs


def chip_report(graph: SearchGraph) -> dict[str, Any]:
    """Checks a graph against both classes of chips.

    Returns:
        `layers` (see `layer_needs`), and `speck` and `loihi2`, each with `fits`, `reasons` (one line per broken limit,
        with the layer) and `needs`.
    """
    needs = layer_needs(graph)
    rounding = graph.info.get("rounding")
    bits = rounding["weight_bits"] if isinstance(rounding, dict) else 32
    return {"layers": needs, "weight_bits": bits, "speck": _speck(needs, bits), "loihi2": _loihi2(needs, bits)}


def _speck(needs: dict[str, dict[str, Any]], bits: int) -> dict[str, Any]:
    reasons = []
    if bits > 8:
        reasons.append(f"weights have {bits} bits, the cores hold 8")
    if len(needs) > len(SPECK_CORES):
        reasons.append(f"{len(needs)} convolutions, there are {len(SPECK_CORES)} cores")
    free, placed = dict(enumerate(SPECK_CORES)), {}
    for name in sorted(needs, key=lambda name: -_speck_words(needs[name])[0]):
        layer = needs[name]
        kernel_words, neuron_words = _speck_words(layer)
        if layer["kernel"] > 16 or layer["channels"] > 1024 or layer["stride"] not in (1, 2, 4, 8):
            reasons.append(f"{name}: kernel {layer['kernel']}, stride {layer['stride']}, {layer['channels']} channels")
        if len(layer["feeds"]) > 2:
            reasons.append(f"{name}: feeds {len(layer['feeds'])} layers, a core sends to two")
        if not layer["reads_spikes"]:
            reasons.append(f"{name}: reads real values of another convolution, cores read events")
        fitting = [n for n, core in free.items() if core[0] >= kernel_words and core[1] >= neuron_words]
        words = {"kernel_words": kernel_words, "neuron_words": neuron_words}
        if fitting:
            number = min(fitting, key=lambda n: free[n])
            holds = free.pop(number)
            placed[name] = {"core": number, **words, "of_kernel_words": holds[0], "of_neuron_words": holds[1]}
        else:
            placed[name] = {"core": None, **words}
            reasons.append(f"{name}: {kernel_words} kernel words and {neuron_words} neuron words fit no free core")
    needed = ["a leak per layer (the cores have a constant leak, not a proportional one)", "hard reset"]
    return {"fits": not reasons, "reasons": reasons, "needs": needed, "cores": placed}


def _speck_words(layer: dict[str, Any]) -> tuple[int, int]:
    """Kernel and neuron words: addresses are powers of two, so memory is lost in between."""
    inputs = layer["fan_in"] // layer["kernel"] ** 2
    kernel = inputs * 2 ** (math.ceil(math.log2(layer["kernel"] ** 2)) + math.ceil(math.log2(layer["channels"])))
    rows, columns = layer["output_hw"]
    return kernel, layer["channels"] * 2 ** (math.ceil(math.log2(rows)) + math.ceil(math.log2(columns)))


def _loihi2(needs: dict[str, dict[str, Any]], bits: int) -> dict[str, Any]:
    cores = {
        name: max(
            math.ceil(layer["neurons"] / LOIHI2_NEURONS_PER_CORE),
            math.ceil(layer["synapses"] / LOIHI2_SYNAPSES_PER_CORE),
        )
        for name, layer in needs.items()
    }
    total, synapses = sum(cores.values()), sum(layer["synapses"] for layer in needs.values())
    reasons = []
    if bits > 8:
        reasons.append(f"weights have {bits} bits, synapses hold 8")
    if total > LOIHI2_CORES:
        largest = max(cores, key=lambda name: cores[name])
        reasons.append(
            f"{largest}: {needs[largest]['synapses']} synapses and {needs[largest]['neurons']} neurons take "
            f"{cores[largest]} of {total} cores, there are {LOIHI2_CORES}"
        )
    needed = ["programmed neurons (Euler step, hard reset)", "graded input spikes for the stem's counts"]
    return {"fits": not reasons, "reasons": reasons, "needs": needed, "cores": cores, "synapses": synapses}


def chip_lines(report: dict[str, Any]) -> list[str]:
    """The report for a terminal, one line per finding."""
    lines = []
    for chip in ("speck", "loihi2"):
        found = report[chip]
        lines.append(f"{chip}: {'fits' if found['fits'] else 'does not fit'}; needs {', '.join(found['needs'])}")
        lines += [f"  {reason}" for reason in found["reasons"]]
    return lines


def chip_table(report: dict[str, Any]) -> str:
    """What each layer needs, and where it would lie, as a Markdown table."""
    rows = ["| layer | kernel | neurons | synapses | fan-in | fan-out | weights | Speck core (kernel, neuron words) |"]
    rows[0] += " Loihi 2 cores |"
    rows.append("|---|---|---:|---:|---:|---:|---:|---|---:|")
    for name, layer in report["layers"].items():
        place = report["speck"]["cores"][name]
        used = [
            f"{place[key]} of {place[f'of_{key}']}"
            for key in ("kernel_words", "neuron_words")
            if place["core"] is not None
        ]
        where = f"{place['core']} ({', '.join(used)})" if used else f"none ({place['kernel_words']} kernel words)"
        rows.append(
            f"| {name} | {layer['kernel']}x{layer['kernel']} / {layer['stride']} | {layer['neurons']} "
            f"| {layer['synapses']} | {layer['fan_in']} | {layer['fan_out']} | {layer['weights']} | {where} "
            f"| {report['loihi2']['cores'][name]} |"
        )
    return "\n".join(rows) + "\n"
