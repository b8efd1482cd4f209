"""Rounds a search graph so that every machine computes it exactly.

Two simulators that add the same numbers in another order differ in the last bit, and now and then that bit decides a
spike. The remedy is not luck but numbers that need no rounding:

* decays `alpha = a / 2**m` with `a` odd, so that `alpha * v` is exact;
* weights `n / 2**q`, so that any sum over spikes is exact in whatever order;
* biases on odd multiples of `1 / 2**(q + 1)`, where no weight of the layer is on a finer grid than `1 / 2**q`. After a
  rest or a reset the potential is then an odd multiple of `1 / 2**(q + 1 + m * k)` after `k + 1` steps, hence never
  equal to the threshold 1: `>` and `>=` decide alike, and the nearest potential to the threshold stays that far away.

With `T` steps a window all potentials below `2**p` fit into float32's 24 bits if `p + q + 1 + m * (T - 1) <= 24`; that
fixes `q`, and what a coarser grid or a shorter decay leaves over goes to `p`. A simulator that orders the arithmetic
otherwise (Euler form, scaled weights) rounds in its own last bit, far below that distance.

A rounded decay changes how far a layer charges up, so its weights and biases are scaled until a constant drive gives
the same potential on average over a window (without that, boxes came out slightly worse). Fewer `weight_bits`
give integer weights of that width with one power-of-two scale per layer group: 8 is the int8 network.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from had_snn.errors import ExportError, InputError
from had_snn.export.search_graph import Conv, Neurons, SearchGraph
from had_snn.models.grids import connected

#: Bits of a float32 significand.
_SIGNIFICAND = 24
#: Fraction bits of the finest grid; what a layer could have beyond it serves as headroom.
_FINEST = 9


@dataclass(frozen=True)
class Rounding:
    """How a graph is rounded.

    Attributes:
        weight_bits: Weights are signed integers of so many bits times a power of two.
        decay_bits: Decays are multiples of `2**-decay_bits`, between the first and the last one in (0, 1).
        headroom_bits: Potentials up to `2**headroom_bits` thresholds, or more, are exact in float32.
    """

    weight_bits: int = 16
    decay_bits: int = 4
    headroom_bits: int = 4

    def __post_init__(self) -> None:
        if not (2 <= self.weight_bits <= 24 and 1 <= self.decay_bits <= 8 and 0 <= self.headroom_bits <= 10):
            raise InputError(
                f"rounding {self}: expected weight_bits in 2..24, decay_bits in 1..8, headroom_bits in 0..10"
            )


def groups(graph: SearchGraph) -> list[list[str]]:
    """LIF layers that must share one input scale, because some convolution feeds several of them.

    A convolution that feeds a LIF layer only through another convolution counts with the first one behind it.
    """
    links = [(name, name) for name in graph.neurons]
    for name in graph.convolutions:
        links += itertools.pairwise(target for target in graph.targets(name) if target in graph.neurons)
    order = list(graph.nodes)
    found = (sorted(group, key=order.index) for group in connected(links))
    return sorted(found, key=lambda group: order.index(group[0]))


def input_convolutions(graph: SearchGraph, group: list[str]) -> list[str]:
    """The convolutions that feed a group of LIF layers, in order."""
    return [name for name in graph.convolutions if any(target in group for target in graph.targets(name))]


def round_decay(alpha: float, bits: int) -> tuple[float, int]:
    """The nearest multiple of `2**-bits` inside (0, 1), and the bits that it really needs."""
    number = min(max(round(alpha * 2**bits), 1), 2**bits - 1)
    while number % 2 == 0:
        number, bits = number // 2, bits - 1
    return number / 2**bits, bits


def mean_charge(alpha: float, steps: int) -> float:
    """Mean potential over a window of `steps`, from rest, under a constant input of 1 that never fires."""
    return sum((steps - k) * alpha**k for k in range(steps)) / steps


def round_graph(graph: SearchGraph, rounding: Rounding | None = None) -> SearchGraph:
    """Rounds decays, weights and biases; see the head of this file.

    Args:
        graph: The graph as trained.
        rounding: Number formats.

    Returns:
        A graph of the same wiring; its metadata name the formats and, per layer, decay, grid and whether float32
        arithmetic is exact for every potential below `2**headroom_bits`, with the layer's own `headroom_bits`.
    """
    rounding = rounding or Rounding()
    nodes = dict(graph.nodes)
    report: dict[str, dict[str, Any]] = {}
    steps = graph.n_steps - 1
    for group in groups(graph):
        deepest, gains = 0, []
        for name in group:
            old = graph.neurons[name]
            alpha, bits = round_decay(old.decay, rounding.decay_bits)
            nodes[name] = Neurons(alpha, old.shape)
            deepest = max(deepest, bits)
            gains.append(mean_charge(old.decay, graph.n_steps) / mean_charge(alpha, graph.n_steps))
            report[name] = {"alpha_trained": old.decay, "alpha": alpha, "decay_bits": bits}
        gain = sum(gains) / len(gains)
        feeding = input_convolutions(graph, group)
        scaled = {name: graph.convolutions[name].scaled(gain, gain) for name in feeding}
        grid = min(_FINEST, _SIGNIFICAND - 1 - rounding.headroom_bits - deepest * steps)
        headroom = _SIGNIFICAND - 1 - grid - deepest * steps
        # Too many steps for exact sums: keep the weights' own grid and say so instead of throwing precision away.
        exact = grid >= 6 and not _reads_convolutions(graph, feeding)
        limit = grid if exact else _SIGNIFICAND
        bits = rounding.weight_bits
        grids = {name: min(limit, best_grid(conv.weight, bits)) for name, conv in scaled.items()}
        bias_grid = grid if exact else max(grids.values())
        odd = _needs_odd(graph, feeding, group)
        for name, conv in scaled.items():
            nodes[name] = _round_conv(conv, grids[name], bits, bias_grid=bias_grid, odd=name in odd)
        for name in group:
            report[name] |= {"grid_bits": grids, "bias_grid_bits": bias_grid, "exact_float32": exact, "gain": gain}
            report[name]["headroom_bits"] = headroom
    for name, conv in graph.convolutions.items():
        if nodes[name] is conv:  # the read-out, and a separate matching convolution
            width = min(best_grid(conv.weight, rounding.weight_bits), 12)
            nodes[name] = _round_conv(conv, width, rounding.weight_bits, bias_grid=12, odd=False)
    return graph.with_nodes(nodes, rounded=True, rounding=asdict(rounding), layers=report)


def _reads_convolutions(graph: SearchGraph, feeding: list[str]) -> bool:
    """Whether a convolution reads another one's real values, whose sums are not exact on this grid."""
    return any(source in graph.convolutions for name in feeding for source in graph.sources(name))


def best_grid(weight: Tensor, bits: int) -> int:
    """Fraction bits that serve a layer best in signed integers of `bits`.

    The grid on which the largest weight just fits, or one of the two finer ones on which the largest are clipped:
    whichever has the least squared error.
    """
    limit = 2 ** (bits - 1) - 1
    widest = math.floor(math.log2(limit / max(float(weight.abs().max()), 2.0**-20)))
    values = weight.double()

    def error(grid: int) -> float:
        rounded = (values * 2.0**grid).round().clamp(-limit, limit) * 2.0**-grid
        return float((rounded - values).square().sum())

    return min(range(widest, widest + 3), key=error)


def _needs_odd(graph: SearchGraph, feeding: list[str], group: list[str]) -> set[str]:
    """Convolutions whose bias is put on odd half steps so that exactly one of them enters each LIF layer.

    Walking the layers in order: where none of a layer's convolutions is chosen yet, its first one is. A residual chain
    adds convolutions to the ones before it, so no layer ever meets two.
    """
    chosen: set[str] = set()
    for name in group:
        sources = [source for source in graph.sources(name) if source in feeding]
        if not chosen & set(sources):
            chosen.add(sources[0])
    for name in group:
        if len(chosen & set(graph.sources(name))) != 1:
            raise ExportError(
                f"{name}: its biases cannot be rounded so that no potential meets the threshold; export "
                "with rounding=None"
            )
    return chosen


def _round_conv(conv: Conv, grid: int, bits: int, *, bias_grid: int, odd: bool) -> Conv:
    """Weights to multiples of `2**-grid` that fit `bits`, biases to even or odd multiples of `2**-(bias_grid + 1)`."""
    limit = 2 ** (bits - 1) - 1
    weight = (conv.weight.double() * 2.0**grid).round().clamp(-limit, limit) * 2.0**-grid
    scaled = conv.bias.double() * 2.0**bias_grid
    bias = ((scaled - 0.5).round() + 0.5) if odd else scaled.round()
    return Conv(weight.float(), (bias * 2.0**-bias_grid).float(), conv.stride, conv.padding)


def input_scales(graph: SearchGraph) -> tuple[dict[str, float | list[float]], dict[str, float]]:
    """Factor on each convolution's weights, and threshold of each LIF layer, in the Euler form that NIR means.

    Where a layer has a decay per channel, its convolution has a factor per channel.

    NIR's neuron is `tau dv/dt = -v + i`; Euler's step at `tau = dt / (1 - alpha)` is `alpha * v + (1 - alpha) * i`,
    so inputs are multiplied by `1 / (1 - alpha)` to get our line back, at threshold 1. Layers that share a convolution
    share the factor of the first of them and carry the rest in their threshold. In a rounded graph the factor is the
    nearest power of two, so that scaling changes no digit, and the threshold carries the rest (it stays 1 for decays
    of the form `1 - 2**-k`).
    """
    factors: dict[str, float | list[float]] = {}
    thresholds: dict[str, float] = {}
    for group in groups(graph):
        decays = graph.neurons[group[0]].alpha
        if isinstance(decays, tuple):
            factors |= {name: [1 / (1 - alpha) for alpha in decays] for name in input_convolutions(graph, group)}
            thresholds |= dict.fromkeys(group, 1.0)
            continue
        share = 1 - decays
        if graph.info.get("rounded"):
            share = 2.0 ** round(math.log2(share))
        for name in input_convolutions(graph, group):
            factors[name] = 1 / share
        for name in group:
            thresholds[name] = (1 - graph.neurons[name].decay) / share
    for name in graph.convolutions:
        factors.setdefault(name, 1.0)
    return factors, thresholds
