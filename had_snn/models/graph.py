"""The search branch as a graph: from the stem's spike counts to the read-out maps, one named node a layer.

A network builds its graph once (`SpikingTracker.graph`); freezing (`frozen`), spike-driven running (`spike_driven`),
counting operations (`profiling.counted`) and export (`export.lowering`) are passes over it and know no network. A
node's name is the path of its module in the network, so it stands in the code once, as the attribute; taps, carried
membranes and profiles know layers by the same name. Nodes have one source each, except sums.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from had_snn.errors import InputError
from had_snn.models.layers import ClockedLayers
from had_snn.models.matching import DepthwiseMatching
from had_snn.models.neurons import LIF, BatchNorm, ConvNorm, Sum

#: Name of the stem's spike counts: what the graph reads.
STEM = "stem"
#: Name of the correlation with the template and what mixes its maps, where they are one convolution.
MATCH = "match"

#: What a node can be. Passes replace modules by what they know of them, and subclasses may compute something else, so
#: the class itself must be one of these.
KINDS: dict[type[nn.Module], str] = {
    nn.Conv2d: "conv",
    ConvNorm: "conv",
    nn.BatchNorm2d: "norm",
    BatchNorm: "norm",
    LIF: "lif",
    DepthwiseMatching: "match",
    Sum: "sum",
}
#: What each kind of node may read.
_READS = {
    "conv": (STEM, "lif", "match", "norm"),
    "norm": ("match",),
    "match": ("lif",),
    "sum": ("conv", "sum"),
    "lif": ("conv", "sum"),
}


@dataclass(frozen=True, eq=False)
class Node:
    """A layer.

    Attributes:
        name: Path of its module in the network.
        sources: Names of what it reads.
        module: What it computes with.
    """

    name: str
    sources: tuple[str, ...]
    module: nn.Module

    @property
    def kind(self) -> str:
        """One of the values of `KINDS`."""
        return KINDS[type(self.module)]

    @property
    def source(self) -> str:
        """The name of what it reads, where that is one thing."""
        (source,) = self.sources
        return source

    @property
    def conv(self) -> nn.Conv2d:
        """The convolution of a node that is one."""
        found = self.module.conv if isinstance(self.module, ConvNorm) else self.module
        assert isinstance(found, nn.Conv2d)
        return found

    @property
    def norm(self) -> nn.BatchNorm2d | None:
        """The norm behind the convolution, or the norm itself."""
        found = self.module.norm if isinstance(self.module, ConvNorm) else self.module
        return found if isinstance(found, nn.BatchNorm2d) else None

    @property
    def lif(self) -> LIF:
        """The neurons of a node that has some."""
        assert isinstance(self.module, LIF)
        return self.module

    @property
    def side(self) -> int:
        """Cells per side of the kernel of a node that matches."""
        assert isinstance(self.module, DepthwiseMatching)
        return self.module.kernel

    def compute(self, layers: ClockedLayers, kernel: Tensor | None, *inputs: Tensor) -> Tensor:
        """Runs it on `[T, N, C, H, W]`."""
        if self.kind == "lif":
            return layers.fire(self.module, inputs[0])
        if self.kind == "match":
            assert kernel is not None
            return layers.match(self.module, inputs[0], kernel)
        if isinstance(self.module, (ConvNorm, Sum)):
            return self.module(*inputs)
        return self.module(inputs[0].flatten(0, 1)).unflatten(0, inputs[0].shape[:2])


@dataclass(frozen=True)
class Mixing:
    """1x1 convolutions that mix the matched maps with what stands beside them, and that a chip runs as one.

    Attributes:
        match: The correlation.
        norm: The norm behind it, or None.
        conv: The 1x1 convolution of the matched maps.
        beside: 1x1 convolutions of the same features, whose currents join those of `conv`.
    """

    match: Node
    norm: Node | None
    conv: Node
    beside: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which they can be computed.

    Attributes:
        nodes: By name.
        output: The node whose values are the result; the read-out convolution, in a whole graph.
    """

    nodes: dict[str, Node]
    output: str

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a node."""
        return [node for node in self.nodes.values() if name in node.sources]

    def all(self, kind: str) -> list[Node]:
        """The nodes of a kind."""
        return [node for node in self.nodes.values() if node.kind == kind]

    @property
    def features(self) -> str:
        """The spikes that are matched with the template.

        Raises:
            InputError: If there are none, or several: a template has one kernel.
        """
        found = {node.source for node in self.all("match")}
        if len(found) != 1:
            raise InputError(f"{len(found)} layers are matched with the template ({', '.join(found)}); expected one")
        return found.pop()

    @property
    def readout(self) -> Node:
        """The read-out convolution."""
        return self.nodes[self.output]

    def upto(self, name: str) -> Graph:
        """The part that a node is computed from, with it."""
        wanted = {name}
        for node in reversed(self.nodes.values()):
            wanted |= set(node.sources) if node.name in wanted else set()
        return Graph({key: node for key, node in self.nodes.items() if key in wanted}, name)

    def currents(self, name: str) -> list[Node]:
        """The nodes whose values add up in a node: those behind sums, or itself."""
        node = self.nodes[name]
        return [leaf for s in node.sources for leaf in self.currents(s)] if node.kind == "sum" else [node]

    def channels(self, name: str) -> int:
        """Channels of a layer of neurons."""
        return self.currents(self.nodes[name].source)[0].conv.out_channels

    def match_behind(self, node: Node) -> tuple[Node, Node | None] | None:
        """The correlation that a convolution reads, and a norm between them; None where it reads spikes."""
        source = self.nodes.get(node.source)
        if source is not None and source.kind == "norm":
            return self.nodes[source.source], source
        return None if source is None or source.kind != "match" else (source, None)

    def reads(self, node: Node) -> str:
        """What a convolution reads: spikes, or the matched maps behind a norm, which only scales them."""
        behind = self.match_behind(node)
        return node.source if behind is None else behind[0].name

    def mixings(self) -> list[Mixing]:
        """What is made of the matched maps, with every 1x1 convolution of the same features beside it."""
        found = []
        for node in self.all("conv"):
            behind = self.match_behind(node)
            if behind is None:
                continue
            (reader, *others), beside = self.readers(node.name), []
            if reader.kind == "sum" and not others:
                alone = [self.nodes[source] for source in reader.sources if len(self.readers(source)) == 1]
                beside = [n for n in alone if n.kind == "conv" and n.source == behind[0].source and is_pointwise(n)]
            found.append(Mixing(*behind, node, tuple(beside)))
        return found

    def run(self, counts: Tensor, kernel: Tensor | None, layers: ClockedLayers) -> Tensor:
        """Computes the output.

        Args:
            counts: The stem's spike counts `[T, N, C, H, W]`.
            kernel: Template kernels `[N, C, k, k]`; None for a part without matching.
            layers: Runs and records the layers.

        Returns:
            The output's values `[T, N, C', H', W']`.
        """
        values = {STEM: counts}
        for name, node in self.nodes.items():
            values[name] = node.compute(layers, kernel, *(values[source] for source in node.sources))
        return values[self.output]


def is_pointwise(node: Node) -> bool:
    """Whether a convolution looks at one cell: 1x1, stride 1."""
    conv = node.conv
    return tuple(conv.kernel_size) == (1, 1) and tuple(conv.stride) == (1, 1) and tuple(conv.padding) == (0, 0)


def _unsupported(module: nn.Module) -> str | None:
    """Why a module of a known class is no layer that every pass can express."""
    if getattr(module, "reset", "hard") != "hard":
        return "soft reset; only neurons with reset='hard' can be frozen or exported"
    if isinstance(module, LIF) and module.log_tau.numel() != 1:
        return f"one time constant per layer is needed, found {module.log_tau.numel()}"
    if isinstance(module, nn.BatchNorm2d) and module.running_var is None:
        return "batch norm without running statistics cannot be folded"
    if not isinstance(module, nn.Conv2d):
        return None
    if module.groups != 1:
        return f"grouped convolutions are no single sum over spikes, found groups={module.groups}"
    if len(set(module.kernel_size)) != 1 or len(set(module.stride)) != 1 or isinstance(module.padding, str):
        return "needs a square kernel, one stride and a number as padding"
    if tuple(module.dilation) != (1, 1) or module.padding_mode != "zeros" or len(set(module.padding)) != 1:
        return "dilation and padding other than zeros are not supported"
    return None


class GraphBuilder:
    """Collects the nodes of a network.

    Args:
        network: The network; node names are the paths of its modules.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.nodes = network, dict[str, Node]()
        self.paths = {module: path for path, module in network.named_modules()}

    def add(self, module: nn.Module, *sources: str) -> str:
        """Adds a layer.

        Args:
            module: One of the network's modules.
            *sources: What it reads, by name: `STEM` or what `add` returned. Sums read several.

        Returns:
            The node's name.

        Raises:
            InputError: If no pass could express it, with the module's path and the reason.
        """
        node = Node(self.paths[module], sources, module)
        for part in module.modules() if type(module) is ConvNorm else (module,):
            path = self.paths[part]
            if type(part) not in KINDS:
                raise InputError(f"{path}: {type(part).__name__} is no layer that a graph can hold")
            reason = _unsupported(part)
            if reason is not None:
                raise InputError(f"{path}: {reason}")
        for source in sources:
            kind = STEM if source == STEM else self.nodes[source].kind
            if kind not in _READS[node.kind]:
                raise InputError(f"{node.name}: a {node.kind} that reads {source}, a {kind}, has no known meaning")
        if node.name in self.nodes or len(set(sources)) != len(sources):
            raise InputError(f"{node.name}: what is used twice is one node that two read, what is added twice a weight")
        self.nodes[node.name] = node
        return node.name

    def graph(self, output: str, *, outside: tuple[nn.Module, ...]) -> Graph:
        """The graph that ends with a read-out convolution.

        Args:
            output: The convolution.
            outside: Modules that are no part of the graph: the stem and the leaky read-out.

        Raises:
            InputError: If a node leads nowhere, or a module with parameters is no node.
        """
        graph = Graph(self.nodes, output)
        idle = self.nodes.keys() - graph.upto(output).nodes.keys()
        if idle:
            raise InputError(f"{', '.join(sorted(idle))}: nothing on the way to the read-out reads it")
        held = (*(node.module for node in self.nodes.values()), *outside)
        known = {id(p) for module in held for p in module.parameters()}
        left = [name for name, p in self.network.named_parameters() if id(p) not in known]
        if left:
            raise InputError(f"{left[0].rpartition('.')[0]}: the network has it, its graph() does not")
        return graph
