"""The search branch with its template baked in, as a plain graph of convolutions and LIF layers.

This is the form between the student and a file: norms are folded, the template is a constant convolution, residuals
are edges (several edges into one node add up), and nothing depends on anything but the stem's spike counts:

    input -> conv1 -> lif1 -> conv2 -> block0_lif -> block0_conv -> lif_out -> match -> lif_mix -> conv_head
                                  \\_______________________________/              -> lif_head -> readout -> output

`run_graph` executes it on the student's own kernels. What follows the read-out convolution (the leaky read-out and the
decoding of the box) stays on the host.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.errors import ExportError
from had_snn.models import SpikingTracker
from had_snn.models.matching import DepthwiseMatching
from had_snn.models.neurons import LIF, ConvNorm, LeakyReadout
from had_snn.models.stem import EventLIFStem
from had_snn.models.student import ResidualBlock, SpikingBackbone
from had_snn.ops import lif_multi_step
from had_snn.ops.lif import decay_factor

INPUT, OUTPUT = "input", "output"

#: What a student may be built of; a module of any other class has no counterpart in the graph.
_KNOWN = (
    SpikingTracker,
    EventLIFStem,
    SpikingBackbone,
    ResidualBlock,
    ConvNorm,
    LIF,
    LeakyReadout,
    DepthwiseMatching,
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.ModuleList,
)


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


def check_exportable(student: SpikingTracker) -> None:
    """Refuses what the graph cannot say.

    Raises:
        ExportError: With the module's path and the reason.
    """
    if not isinstance(student, SpikingTracker):
        raise ExportError(f"{type(student).__name__} cannot be exported: only the spiking student has an event graph")
    for path, module in student.named_modules():
        name = path or "student"
        # Subclasses may compute something else, so the class itself must be known.
        if type(module) not in _KNOWN and not isinstance(module, SpikingTracker):
            raise ExportError(f"{name}: {type(module).__name__} has no counterpart in NIR")
        if getattr(module, "reset", "hard") != "hard":
            raise ExportError(f"{name}: NIR cannot express soft reset; train with reset='hard' to export")
        if isinstance(module, LIF) and module.log_tau.numel() != 1:
            raise ExportError(f"{name}: one time constant per layer is needed, found {module.log_tau.numel()}")
        if isinstance(module, nn.Conv2d):
            _check_conv(name, module)
        if isinstance(module, nn.BatchNorm2d) and module.running_var is None:
            raise ExportError(f"{name}: batch norm without running statistics cannot be folded")


def _check_conv(name: str, conv: nn.Conv2d) -> None:
    if conv.groups != 1:
        raise ExportError(f"{name}: NIR tools reject grouped convolutions, found groups={conv.groups}")
    if len(set(conv.kernel_size)) != 1 or len(set(conv.stride)) != 1 or isinstance(conv.padding, str):
        raise ExportError(f"{name}: needs a square kernel, one stride and a number as padding")
    if tuple(conv.dilation) != (1, 1) or conv.padding_mode != "zeros" or len(set(conv.padding)) != 1:
        raise ExportError(f"{name}: dilation and padding other than zeros are not exported")


@torch.no_grad()
def search_graph(
    student: SpikingTracker, kernel: Tensor, *, n_steps: int | None = None, fuse_matching: bool = True
) -> SearchGraph:
    """Bakes a template into the search branch.

    Args:
        student: The network.
        kernel: Correlation kernel of the template, `[1, C, k, k]`, from `student.encode_template`.
        n_steps: Micro-steps per window; the configured number when None.
        fuse_matching: Join the depth-wise correlation, its norm, the 1x1 convolution behind it and the 1x1 convolution
            beside it into one convolution `match`: they are linear with nothing between them, every convolution then
            reads spikes, as chips require, and no importer can compute the branches in a wrong order. Otherwise the
            correlation is a node of its own (`match`), written out dense, followed by `mix_match`, and `mix_search`
            enters `lif_mix` by a second edge.

    Returns:
        The graph; folding is done in double precision and rounded once to float32.

    Raises:
        ExportError: If the student has a part that the graph cannot express.
    """
    check_exportable(student)
    config = student.config
    # A kernel of another student or of several templates would broadcast silently.
    if kernel.shape != (1, config.channels[1], config.match_kernel, config.match_kernel):
        raise ExportError(f"template kernel has the shape {tuple(kernel.shape)}, expected one template of this student")
    steps = n_steps or config.n_steps
    dt_us = config.window_us / steps
    fine = copy.deepcopy(student).cpu().double().eval()
    builder = _Builder(dt_us, (config.stem_channels, config.search_size // 4, config.search_size // 4))
    backbone = fine.backbone
    builder.conv("conv1", backbone.conv1, [INPUT])
    builder.neurons("lif1", backbone.lif1, ["conv1"], tap="backbone.lif1")
    builder.conv("conv2", backbone.conv2, ["lif1"])
    current = ["conv2"]
    for index, block in enumerate(backbone.blocks):
        assert isinstance(block, ResidualBlock)
        builder.neurons(f"block{index}_lif", block.lif, list(current), tap=f"backbone.blocks.{index}.lif")
        builder.conv(f"block{index}_conv", block.conv, [f"block{index}_lif"])
        current.append(f"block{index}_conv")
    builder.neurons("lif_out", backbone.lif_out, current, tap="backbone.lif_out")
    _add_matching(builder, fine, kernel.detach().cpu().double(), fuse=fuse_matching)
    builder.neurons("lif_mix", fine.lif_mix, builder.ends, tap="lif_mix")
    builder.conv("conv_head", fine.conv_head, ["lif_mix"])
    builder.neurons("lif_head", fine.lif_head, ["conv_head"], tap="lif_head")
    assert fine.readout.bias is not None
    builder.plain("readout", fine.readout.weight, fine.readout.bias, ["lif_head"])
    builder.edges.append(("readout", OUTPUT))
    return SearchGraph(
        builder.nodes,
        tuple(builder.edges),
        builder.input_shape,
        steps,
        dt_us,
        builder.taps,
        {"integrator_tau_us": float(student.integrator.tau_us), "rounded": False},
    )


def _add_matching(builder: _Builder, student: SpikingTracker, kernel: Tensor, *, fuse: bool) -> None:
    """Correlation, its norm and both 1x1 convolutions, from `lif_out` to the edges into `lif_mix`."""
    norm = student.match_norm
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    depthwise, shift = kernel[0] * scale[:, None, None], norm.bias - norm.running_mean * scale
    mix_weight, mix_bias = student.mix_match.folded()
    if fuse:
        weight = torch.einsum("hc,cyx->hcyx", mix_weight[:, :, 0, 0], depthwise)
        search_weight, search_bias = student.mix_search.folded()
        middle = kernel.shape[-1] // 2
        weight[:, :, middle, middle] += search_weight[:, :, 0, 0]
        builder.plain("match", weight, mix_weight[:, :, 0, 0] @ shift + mix_bias + search_bias, ["lif_out"])
        builder.ends = ["match"]
        return
    dense = torch.diag_embed(depthwise.permute(1, 2, 0)).permute(2, 3, 0, 1)
    builder.plain("match", dense, shift, ["lif_out"])
    builder.plain("mix_match", mix_weight, mix_bias, ["match"])
    builder.conv("mix_search", student.mix_search, ["lif_out"])
    builder.ends = ["mix_match", "mix_search"]


class _Builder:
    """Collects nodes and edges and keeps track of map sizes."""

    def __init__(self, dt_us: float, input_shape: tuple[int, int, int]) -> None:
        self.nodes: dict[str, Conv | Neurons] = {}
        self.edges: list[tuple[str, str]] = []
        self.taps: dict[str, str] = {}
        self.ends: list[str] = []
        self.dt_us, self.input_shape = dt_us, input_shape
        self.shapes: dict[str, tuple[int, int, int]] = {INPUT: input_shape}

    def _connect(self, name: str, sources: list[str]) -> tuple[int, int, int]:
        self.edges += [(source, name) for source in sources]
        return self.shapes[sources[0]]

    def conv(self, name: str, block: ConvNorm, sources: list[str]) -> None:
        self.plain(name, *block.folded(), sources, stride=block.conv.stride[0])

    def plain(self, name: str, weight: Tensor, bias: Tensor, sources: list[str], *, stride: int = 1) -> None:
        _, height, width = self._connect(name, sources)
        self.nodes[name] = Conv(weight.float().contiguous(), bias.float(), stride, weight.shape[-1] // 2)
        self.shapes[name] = (len(weight), -(-height // stride), -(-width // stride))

    def neurons(self, name: str, lif: LIF, sources: list[str], *, tap: str) -> None:
        self.shapes[name] = self._connect(name, sources)
        alpha = float(decay_factor(lif.tau_us.detach().float(), self.dt_us))
        self.nodes[name] = Neurons(alpha, self.shapes[name])
        self.taps[name] = tap


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
    backend: str = "auto",
) -> Trace:
    """Runs the graph on the student's kernels, from rest.

    Args:
        graph: The graph.
        counts: Input counts `[T, N, C, H, W]`: the stem's spikes, or events where the stem is part of the graph.
        feed: Spikes by layer that the layers behind it get instead of the computed ones.
        with_membranes: Also record potentials after the reset.
        backend: See `had_snn.ops.lif_multi_step`.

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
        spikes, _, membranes = lif_multi_step(
            current, None, tau=tau, dt=dt, return_membranes=with_membranes, backend=backend
        )
        trace.spikes[name] = spikes > 0
        if membranes is not None:
            trace.membranes[name] = membranes * (1 - spikes)
        values[name] = feed[name].float() if feed else spikes
    trace.readout = values[graph.sources(OUTPUT)[0]]
    return trace
