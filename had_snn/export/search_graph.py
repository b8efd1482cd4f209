"""A network as a file holds it: a plain graph of convolutions with constant weights and LIF layers.

Norms are folded, the template is a constant convolution, currents that meet are edges (several edges into one node add
up), and nothing depends on anything but the spike counts that go in. `lowering` makes it of a student's search branch:

    input -> conv1 -> lif1 -> conv2 -> block0_lif -> block0_conv -> lif_out -> match -> lif_mix -> conv_head
                                  \\_______________________________/              -> lif_head -> readout -> output

`run_graph` executes it on the student's own kernels. What follows the read-out convolution (the leaky read-out and the
decoding of the box) stays on the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from had_snn.errors import ExportError
from had_snn.ops import lif_multi_step
from had_snn.ops.lif import decay_factor

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True, eq=False)
class Conv:
    """An ordinary convolution, square kernel, one group.

    Attributes:
        weight: float32 `[C', C, k, k]`.
        bias: float32 `[C']`.
        stride: Stride.
        padding: Zeros around the map, `k // 2`.
    """

    weight: Tensor
    bias: Tensor
    stride: int = 1
    padding: int = 0

    def scaled(self, weight: Tensor | float, bias: Tensor | float) -> Conv:
        """The same convolution with its weights and biases multiplied."""
        return replace(self, weight=self.weight * weight, bias=self.bias * bias)

    def __call__(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, C', H', W']`."""
        return F.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)


@dataclass(frozen=True)
class Neurons:
    """A layer of LIF neurons with threshold 1 and hard reset to 0.

    Attributes:
        alpha: Decay per micro-step, exactly representable in float32: what the kernels make of `tau` and `dt`. One
            value for a layer of the body, one per channel for the stem on a clock.
        shape: `(C, H, W)`.
    """

    alpha: float | tuple[float, ...]
    shape: tuple[int, int, int]

    @property
    def decay(self) -> float:
        """The one decay of the layer.

        Raises:
            ExportError: If it has one per channel.
        """
        if isinstance(self.alpha, tuple):
            raise ExportError("one time constant per layer is needed here; the stem has one per channel")
        return self.alpha


@dataclass(frozen=True, eq=False)
class SearchGraph:
    """The graph and what is needed to run it.

    Attributes:
        nodes: Layers by name, in an order in which they can be computed.
        edges: Pairs of names; `"input"` and `"output"` are the ends.
        input_shape: `(C, H, W)` of the stem's spike counts, or of event counts where the stem is part of the graph.
        n_steps: Micro-steps per window.
        dt_us: Micro-step in microseconds.
        taps: The student's name of each LIF layer.
        info: Plain values that travel in the file's metadata.
    """

    nodes: dict[str, Conv | Neurons]
    edges: tuple[tuple[str, str], ...]
    input_shape: tuple[int, int, int]
    n_steps: int
    dt_us: float
    taps: dict[str, str] = field(default_factory=dict)
    info: dict[str, object] = field(default_factory=dict)

    def sources(self, name: str) -> list[str]:
        """Names of the nodes with an edge into `name`."""
        return [source for source, target in self.edges if target == name]

    def targets(self, name: str) -> list[str]:
        """Names of the nodes that `name` has an edge into."""
        return [target for source, target in self.edges if source == name]

    @property
    def neurons(self) -> dict[str, Neurons]:
        """The LIF layers by name."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, Neurons)}

    @property
    def convolutions(self) -> dict[str, Conv]:
        """The convolutions by name."""
        return {name: node for name, node in self.nodes.items() if isinstance(node, Conv)}

    def with_nodes(self, nodes: dict[str, Conv | Neurons], **info: object) -> SearchGraph:
        """The same wiring with other layers; `info` is added to the metadata."""
        return replace(self, nodes=nodes, info={**self.info, **info})


@dataclass
class Trace:
    """What a run of the graph did, anywhere.

    Attributes:
        spikes: bool `[T, N, C, H, W]` by layer.
        membranes: Potentials after the reset in units of the threshold, same shape, by layer; empty when not recorded.
        readout: Maps of the read-out convolution `[T, N, 5, G, G]`.
    """

    spikes: dict[str, Tensor]
    membranes: dict[str, Tensor]
    readout: Tensor


def decay_times(alpha: float | tuple[float, ...]) -> tuple[Tensor, float]:
    """`tau` and `dt` from which the kernels, which take times, make the decay `alpha` to the last bit of float32."""
    if not isinstance(alpha, tuple):
        return torch.tensor(1.0), -math.log(alpha)
    wanted = torch.tensor(alpha, dtype=torch.float32)
    tau = (-1 / torch.tensor(alpha, dtype=torch.float64).log()).float()
    # A last digit of tau moves alpha by less than a last digit of alpha, so some neighbour of tau gives it exactly.
    for _ in range(8):
        found = decay_factor(tau, 1.0)
        up = torch.nextafter(tau, torch.full_like(tau, math.inf))
        down = torch.nextafter(tau, torch.zeros_like(tau))
        tau = torch.where(found < wanted, up, torch.where(found > wanted, down, tau))
    return tau, 1.0


@torch.no_grad()
def run_graph(
    graph: SearchGraph,
    counts: Tensor,
    *,
    feed: dict[str, Tensor] | None = None,
    with_membranes: bool = False,
) -> Trace:
    """Runs the graph on the student's kernels, from rest.

    Args:
        graph: The graph.
        counts: Input counts `[T, N, C, H, W]`: the stem's spikes, or events where the stem is part of the graph.
        feed: Spikes by layer that the layers behind it get instead of the computed ones.
        with_membranes: Also record potentials after the reset.

    Returns:
        Spikes of every layer and the read-out maps.
    """
    if counts.dim() != 5 or tuple(counts.shape[2:]) != graph.input_shape:
        raise ExportError(f"input counts are {tuple(counts.shape)}, the graph reads [T, N, {graph.input_shape}]")
    values: dict[str, Tensor] = {INPUT: counts.float()}
    trace = Trace({}, {}, counts)
    for name, node in graph.nodes.items():
        first, *others = (values[source] for source in graph.sources(name))
        current = sum(others, start=first)
        if isinstance(node, Conv):
            values[name] = node(current.flatten(0, 1)).unflatten(0, current.shape[:2])
            continue
        tau, dt = decay_times(node.alpha)
        spikes, _, membranes = lif_multi_step(current, None, tau=tau, dt=dt, return_membranes=with_membranes)
        trace.spikes[name] = spikes > 0
        if membranes is not None:
            trace.membranes[name] = membranes * (1 - spikes)
        values[name] = feed[name].float() if feed else spikes
    trace.readout = values[graph.sources(OUTPUT)[0]]
    return trace
