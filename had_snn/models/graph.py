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
from had_snn.models.neurons import LIF, ConvNorm, Sum

#: Name of the stem's spike counts: what the graph reads.
STEM = "stem"
#: Name of the correlation with the template and what mixes its maps, where they are one convolution.
MATCH = "match"


@dataclass(frozen=True, eq=False)
class Node:
    """A layer.

    Attributes:
        name: Path of its module in the network.
        sources: Names of what it reads.
    """

    name: str
    sources: tuple[str, ...]

    @property
    def source(self) -> str:
        """The name of what it reads, where that is one thing."""
        (source,) = self.sources
        return source

    def parts(self) -> list[tuple[str, nn.Module, type[nn.Module]]]:
        """Its modules with their paths, and the class that passes know each of them by."""
        raise NotImplementedError

    def compute(self, layers: ClockedLayers, kernel: Tensor | None, *inputs: Tensor) -> Tensor:
        """Runs it on `[T, N, C, H, W]`."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class ConvNode(Node):
    """A convolution and the norm behind it, if there is one."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None = None

    def parts(self) -> list[tuple[str, nn.Module, type[nn.Module]]]:
        if self.norm is None:
            return [(self.name, self.conv, nn.Conv2d)]
        return [(f"{self.name}.conv", self.conv, nn.Conv2d), (f"{self.name}.norm", self.norm, nn.BatchNorm2d)]

    def compute(self, layers: ClockedLayers, kernel: Tensor | None, *inputs: Tensor) -> Tensor:
        y = self.conv(inputs[0].flatten(0, 1))
        return (y if self.norm is None else self.norm(y)).unflatten(0, inputs[0].shape[:2])


@dataclass(frozen=True, eq=False)
class NormNode(Node):
    """A batch norm of its own."""

    norm: nn.BatchNorm2d

    def parts(self) -> list[tuple[str, nn.Module, type[nn.Module]]]:
        return [(self.name, self.norm, nn.BatchNorm2d)]

    def compute(self, layers: ClockedLayers, kernel: Tensor | None, *inputs: Tensor) -> Tensor:
        return self.norm(inputs[0].flatten(0, 1)).unflatten(0, inputs[0].shape[:2])


@dataclass(frozen=True, eq=False)
class LIFNode(Node):
    """A layer of clocked LIF neurons."""

    lif: LIF

    def parts(self) -> list[tuple[str, nn.Module, type[nn.Module]]]:
        return [(self.name, self.lif, LIF)]

    def compute(self, layers: ClockedLayers, kernel: Tensor | None, *inputs: Tensor) -> Tensor:
        return layers.fire(self.lif, inputs[0])


@dataclass(frozen=True, eq=False)
class MatchNode(Node):
    """The depth-wise correlation with the template's kernel."""

    matching: DepthwiseMatching

    def parts(self) -> list[tuple[str, nn.Module, type[nn.Module]]]:
        return [(self.name, self.matching, DepthwiseMatching)]

    def compute(self, layers: ClockedLayers, kernel: Tensor | None, *inputs: Tensor) -> Tensor:
        assert kernel is not None
        return layers.match(self.matching, inputs[0], kernel)


@dataclass(frozen=True, eq=False)
class SumNode(Node):
    """Currents that meet."""

    sum: Sum

    def parts(self) -> list[tuple[str, nn.Module, type[nn.Module]]]:
        return [(self.name, self.sum, Sum)]

    def compute(self, layers: ClockedLayers, kernel: Tensor | None, *inputs: Tensor) -> Tensor:
        return self.sum(*inputs)


@dataclass(frozen=True)
class Mixing:
    """1x1 convolutions that mix the matched maps with what stands beside them, and that a chip runs as one.

    Attributes:
        match: The correlation.
        norm: The norm behind it, or None.
        conv: The 1x1 convolution of the matched maps.
        beside: 1x1 convolutions of the same features, whose currents join those of `conv`.
    """

    match: MatchNode
    norm: NormNode | None
    conv: ConvNode
    beside: tuple[ConvNode, ...]


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

    @property
    def convs(self) -> list[ConvNode]:
        """The convolutions."""
        return [node for node in self.nodes.values() if isinstance(node, ConvNode)]

    @property
    def features(self) -> str:
        """The spikes that are matched with the template.

        Raises:
            InputError: If there are none, or several: a template has one kernel.
        """
        found = {node.source for node in self.nodes.values() if isinstance(node, MatchNode)}
        if len(found) != 1:
            raise InputError(f"{len(found)} layers are matched with the template ({', '.join(found)}); expected one")
        return found.pop()

    @property
    def readout(self) -> ConvNode:
        """The read-out convolution."""
        node = self.nodes[self.output]
        assert isinstance(node, ConvNode)
        return node

    def upto(self, name: str) -> Graph:
        """The part that a node is computed from, with it."""
        wanted = {name}
        for node in reversed(self.nodes.values()):
            wanted |= set(node.sources) if node.name in wanted else set()
        return Graph({key: node for key, node in self.nodes.items() if key in wanted}, name)

    def currents(self, name: str) -> list[Node]:
        """The nodes whose values add up in a node: those behind sums, or itself."""
        node = self.nodes[name]
        return [leaf for s in node.sources for leaf in self.currents(s)] if isinstance(node, SumNode) else [node]

    def channels(self, name: str) -> int:
        """Channels of a layer of neurons."""
        (conv, *_) = (leaf for leaf in self.currents(self.nodes[name].source) if isinstance(leaf, ConvNode))
        return conv.conv.out_channels

    def match_behind(self, node: ConvNode) -> tuple[MatchNode, NormNode | None] | None:
        """The correlation that a convolution reads, and a norm between them; None where it reads spikes."""
        source = self.nodes.get(node.source)
        if isinstance(source, NormNode) and isinstance(match := self.nodes.get(source.source), MatchNode):
            return match, source
        return (source, None) if isinstance(source, MatchNode) else None

    def mixings(self) -> list[Mixing]:
        """What is made of the matched maps, with every 1x1 convolution of the same features beside it."""
        found = []
        for node in self.convs:
            behind = self.match_behind(node)
            if behind is None:
                continue
            (reader, *others), features = self.readers(node.name), behind[0].source
            beside = []
            if isinstance(reader, SumNode) and not others:
                leaves = [self.nodes[source] for source in reader.sources if len(self.readers(source)) == 1]
                beside = [leaf for leaf in leaves if isinstance(leaf, ConvNode) and leaf.source == features]
            found.append(Mixing(*behind, node, tuple(leaf for leaf in beside if is_pointwise(leaf.conv))))
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

    def names(self) -> dict[nn.Module, str]:
        """The name of every module that `ClockedLayers` runs."""
        return {part: name for name, node in self.nodes.items() for _, part, _ in node.parts()}

    def obstacle(self) -> str | None:
        """What no pass can express, by the module's path, or None: passes replace modules by what they know of them."""
        for node in self.nodes.values():
            for path, module, known in node.parts():
                # Subclasses may compute something else, so the class itself must be known.
                reason = _reason(module) if type(module) is known else f"{type(module).__name__}, not {known.__name__}"
                if reason is not None:
                    return f"{path}: {reason}"
            for source in node.sources:
                found = type(self.nodes.get(source))
                if found not in _READS[type(node)]:
                    what = f"{source}, which is {'the stem' if source == STEM else found.__name__}"
                    return f"{node.name} ({type(node).__name__}): reads {what}; such a layer has no known meaning"
        return None


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Whether a convolution looks at one cell: 1x1, stride 1."""
    return tuple(conv.kernel_size) == (1, 1) and tuple(conv.stride) == (1, 1) and tuple(conv.padding) == (0, 0)


def _reason(module: nn.Module) -> str | None:
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


#: What each kind of node may read; the stem's counts are no node.
_READS: dict[type[Node], tuple[type, ...]] = {
    ConvNode: (type(None), LIFNode, MatchNode, NormNode),
    NormNode: (MatchNode,),
    MatchNode: (LIFNode,),
    SumNode: (ConvNode, SumNode),
    LIFNode: (ConvNode, SumNode),
}


class GraphBuilder:
    """Collects the nodes of a network; each method adds one and returns its name, to be read by others.

    Args:
        network: The network; node names are the paths of its modules.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network, self.nodes = network, dict[str, Node]()
        self.paths = {module: path for path, module in network.named_modules()}

    def _add(self, node: Node) -> str:
        unknown = [source for source in node.sources if source != STEM and source not in self.nodes]
        if unknown or node.name in self.nodes:
            raise InputError(
                f"{node.name}: {f'reads {unknown[0]}, which is no node' if unknown else 'is a node already'}"
            )
        self.nodes[node.name] = node
        return node.name

    def conv(self, module: ConvNorm | nn.Conv2d, source: str) -> str:
        """A convolution, with or without a norm."""
        if isinstance(module, ConvNorm):
            return self._add(ConvNode(self.paths[module], (source,), module.conv, module.norm))
        return self._add(ConvNode(self.paths[module], (source,), module))

    def norm(self, module: nn.BatchNorm2d, source: str) -> str:
        """A batch norm of its own."""
        return self._add(NormNode(self.paths[module], (source,), module))

    def lif(self, module: LIF, source: str) -> str:
        """A layer of neurons."""
        return self._add(LIFNode(self.paths[module], (source,), module))

    def match(self, module: DepthwiseMatching, source: str) -> str:
        """The correlation with the template."""
        return self._add(MatchNode(self.paths[module], (source,), module))

    def sum(self, module: Sum, *sources: str) -> str:
        """Currents that meet."""
        if len(set(sources)) != len(sources):
            raise InputError(f"{self.paths[module]}: adds a current to itself; a weight of 2 says the same")
        return self._add(SumNode(self.paths[module], sources, module))

    def graph(self, readout: nn.Conv2d, source: str, *, outside: tuple[nn.Module, ...]) -> Graph:
        """The graph that ends with the read-out convolution.

        Args:
            readout: The convolution.
            source: The spikes that it reads.
            outside: Modules that are no part of the graph: the stem and the leaky read-out.

        Raises:
            InputError: If a node leads nowhere, or a module with parameters is no node.
        """
        graph = Graph(self.nodes, self.conv(readout, source))
        idle = self.nodes.keys() - graph.upto(graph.output).nodes.keys()
        if idle:
            raise InputError(f"{', '.join(sorted(idle))}: nothing on the way to the read-out reads it")
        held = [part for node in self.nodes.values() for _, part, _ in node.parts()]
        known = {id(p) for module in (*held, *outside) for p in module.parameters()}
        left = [name for name, p in self.network.named_parameters() if id(p) not in known]
        if left:
            raise InputError(f"{left[0].rpartition('.')[0]}: the network has it, its graph() does not")
        return graph
