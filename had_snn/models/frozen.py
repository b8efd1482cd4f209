"""An inference copy of the student whose spikes do not depend on the order in which sums are taken.

A dense convolution and one that adds up the weights of the spikes in reach sum the same numbers in another order; in
float32 the last bit then differs, and now and then that bit decides a spike. `freeze` rounds the weights so little
that the student stays the same, and so much that no sum is ever rounded: a weight is `n / 2**q`, where `2**q` times the
largest current that any spikes could make stays within float32's 24 bits. Whatever computes the currents, and in
whatever order, then gets the same bits, and so the same spikes, scores and boxes. (`grids` says
why export rounds to others.)

* Norms are folded into their convolutions in double precision.
* Convolutions whose currents add up somewhere (the residual chain) share one grid.
* The correlation feeds a real-valued 1x1 convolution, so its kernel and those weights share the bits between them; the
  template's kernel takes what is left over (about eight bits behind the point) when it is read.
* Decays need no grid: `alpha * v + current` is one defined line of arithmetic for each neuron.
* A stem neuron counts at most `COUNT_LIMIT` spikes in a micro-step (the shipped student's rarely reach ten).
* The read-out's average over time is summed one micro-step after another.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.errors import CheckpointError, InputError
from had_snn.models.graph import STEM, Graph, Node, is_pointwise
from had_snn.models.grids import connected, fold, scale_and_shift, to_grid
from had_snn.models.layers import ClockedLayers
from had_snn.models.micro_steps import MicroSteps
from had_snn.models.neurons import LeakyReadout
from had_snn.models.outputs import Taps
from had_snn.models.search import SearchModule
from had_snn.models.stem import EventLIFStem
from had_snn.models.student_config import StudentConfig
from had_snn.ops import EventLIFState

#: A frozen student's stem neuron counts at most so many spikes in a micro-step: the largest input that sums must hold.
COUNT_LIMIT = 32
#: Bits that sums may use; float32 has 24, one is kept for what rounding adds to the weights.
_BITS = 23
#: Bits behind the point of the 1x1 convolution on the correlation, relative to its largest weight.
_MIX_BITS = 10
#: Read-out weights that are kept, one set for each number of micro-steps and share of the newest.
MAX_READOUT_WEIGHTS = 64


class FrozenStem(EventLIFStem):
    """A stem whose counts end at `COUNT_LIMIT`."""

    count_limit = COUNT_LIMIT

    def forward(self, *args, **options) -> tuple[Tensor, Tensor, EventLIFState]:
        """See `EventLIFStem.forward`."""
        counts, membranes, state = super().forward(*args, **options)
        return counts.clamp(max=COUNT_LIMIT), membranes, state


class OrderedReadout(LeakyReadout):
    """A leaky read-out that adds up micro-steps one after another, so that its sum has one value."""

    def __init__(self, like: LeakyReadout) -> None:
        super().__init__()
        self.log_tau = nn.Parameter(like.log_tau.detach().clone(), requires_grad=False)
        self._kept: dict[tuple[int, float, float], Tensor] = {}

    def look_back(self, maps: Tensor, earlier: Tensor | None, steps: MicroSteps, config: StudentConfig) -> Tensor:
        """See `LeakyReadout.look_back`."""
        dt_us = steps.dt_us
        if earlier is not None:
            dt_us = config.step_us
            # The whole window of micro-steps, and the one before it where the newest counts for a share only.
            maps = torch.cat([earlier, maps])[-config.n_steps - (not steps.over) :]
        key = (len(maps), dt_us, steps.share)
        weights = self._kept.get(key)
        if weights is None:
            if len(self._kept) >= MAX_READOUT_WEIGHTS:
                self._kept.clear()
            weights = self._kept[key] = self._mixed(*key, window=config.n_steps).reshape(-1, 1, 1, 1, 1)
        total, *others = (maps * weights).unbind()
        for product in others:
            total = total + product
        return total

    def _mixed(self, count: int, dt_us: float, share: float, *, window: int) -> Tensor:
        """The weight of each micro-step; one step more for a share, which mixes two windows."""
        if share == 1.0:
            return self.weights(count, dt_us=dt_us)
        newest = self.weights(min(count, window), dt_us=dt_us)
        before = self.weights(count - 1, dt_us=dt_us)
        return share * F.pad(newest, (count - len(newest), 0)) + (1 - share) * F.pad(before, (0, 1))


class FrozenStudent(SearchModule):
    """A student made by `freeze`: weights on grids, no norms, no training.

    Args:
        student: Gives the stem, the template's kernel and the read-out.
        graph: The search branch on its grids.
    """

    def __init__(self, student: SearchModule, graph: Graph) -> None:
        super().__init__()
        self.config, self.matching = student.config, copy.deepcopy(student.matching)
        self.stem = FrozenStem(student.stem.channels, kernel=student.stem.kernel, stride=student.stem.stride)
        self.stem.load_state_dict(student.stem.state_dict())
        self.integrator, self.readout = OrderedReadout(student.integrator), graph.readout.conv
        self._graph, self._names = graph, {node.module: name for name, node in graph.nodes.items()}
        # Registered under the nodes' names, so that they move with the network; a path's dots are not allowed.
        for module, name in self._names.items():
            self.add_module(name.replace(".", "_"), module)
        self._trunk, self._branch = graph.upto(graph.features), graph.upto(graph.readout.source)
        self.to(student.device).eval().requires_grad_(False)

    def graph(self) -> Graph:
        """See `SearchModule.graph`."""
        return self._graph

    def layer_names(self) -> dict[nn.Module, str]:
        """See `SearchModule.layer_names`."""
        return self._names

    @torch.no_grad()
    def features(self, counts: Tensor, layers: ClockedLayers) -> Tensor:
        """See `SearchModule.features`."""
        return self._trunk.run(counts, None, layers)

    @torch.no_grad()
    def head(self, counts: Tensor, kernel: Tensor, layers: ClockedLayers) -> Tensor:
        """See `SearchModule.head`."""
        return self._branch.run(counts, kernel, layers)

    @torch.no_grad()
    def encode_template(self, *args, taps: Taps | None = None, **options) -> Tensor:
        """See `SearchNetwork.encode_template`; the kernels are on the grid that `round_kernel` finds."""
        return self.round_kernel(super().encode_template(*args, taps=taps, **options))

    @torch.no_grad()
    def round_kernel(self, kernel: Tensor) -> Tensor:
        """Rounds template kernels `[N, C, k, k]` so that correlation and 1x1 convolution are exact together."""
        scales = []
        for mixed, spiking in _groups(self._graph):
            if mixed is not None:
                weight, bias = _numbers(mixed)
                rest = sum((_reach(node.source, *_numbers(node)) for node in spiking), start=bias.abs())
                reach = (kernel.abs().sum(dim=(2, 3)) @ weight[:, :, 0, 0].abs().T + rest).amax(dim=1)
                scales.append(torch.exp2(_BITS - reach.log2().ceil() - _mix_grid(mixed, weight)))
        scale = torch.stack(scales).amin(dim=0)[:, None, None, None]
        return (kernel * scale).round() / scale


def _mix_grid(mixed: Node, weight: Tensor) -> int:
    return _bits_behind(_MIX_BITS, weight.abs().max(), mixed)


def _bits_behind(bits: int, largest: Tensor, node: Node) -> int:
    """Bits behind the point where so many have to do for numbers as large as this."""
    if not bool(largest.isfinite()):
        raise CheckpointError(f"{node.name}: its weights, or what its norm makes of them, are not finite")
    return bits - math.ceil(math.log2(max(float(largest), 2.0**-20)))


def _numbers(node: Node) -> tuple[Tensor, Tensor]:
    """Weight and bias of a frozen convolution."""
    assert node.conv.bias is not None
    return node.conv.weight, node.conv.bias


def _reach(source: str, weight: Tensor, bias: Tensor) -> Tensor:
    """The largest current of each output channel that any spikes of a source could make."""
    return weight.abs().sum(dim=(1, 2, 3)) * (COUNT_LIMIT if source == STEM else 1.0) + bias.abs()


def _groups(graph: Graph) -> Iterator[tuple[Node | None, list[Node]]]:
    """Convolutions whose currents add up somewhere: the one of the matched maps, if any, and those of spikes."""
    links = [(node.name, node.name) for node in graph.all("conv")]
    for node in graph.nodes.values():
        links += itertools.pairwise(leaf.name for leaf in graph.currents(node.name))
    for names in connected(links):
        group = [node for node in graph.all("conv") if node.name in names]
        matched = [node for node in group if graph.match_behind(node) is not None]
        for node in matched:
            if len(matched) > 1 or not is_pointwise(node):
                raise InputError(f"{node.name}: of matched maps, one 1x1 convolution in a sum has a frozen form")
        yield (matched[0] if matched else None), [node for node in group if node not in matched]


@torch.no_grad()
def freeze(student: SearchModule) -> FrozenStudent:
    """The inference copy of a student; see the head of this file.

    Args:
        student: As trained; it is not changed.

    Returns:
        A student in evaluation mode, on the same device, without gradients.

    Raises:
        InputError: If a part of the student has no frozen form.
        CheckpointError: If its weights make currents that are no numbers.
    """
    if isinstance(student, FrozenStudent):
        return student
    if type(student.stem) is not EventLIFStem:
        raise InputError(f"stem={student.config.stem} ({type(student.stem).__name__}) has no frozen form")
    graph, nodes = student.graph(), dict[str, Node]()
    rounded = _rounded(graph)
    for name, node in graph.nodes.items():
        if node.kind == "conv":
            nodes[name] = Node(name, (graph.reads(node),), _with_weights(node.conv, *rounded[name]))
        elif node.kind != "norm":
            nodes[name] = copy.deepcopy(node)
    return FrozenStudent(student, Graph(nodes, graph.output))


def _rounded(graph: Graph) -> dict[str, tuple[Tensor, ...]]:
    """Weight and bias of every convolution, with norms folded, on their grids."""
    found = {node.name: tuple(v.float() for v in fold(node.conv, node.norm)) for node in graph.all("conv")}
    for mixed, spiking in _groups(graph):
        if mixed is None:
            reach = torch.stack([_reach(node.source, *found[node.name]) for node in spiking]).sum(dim=0)
            grid = _bits_behind(_BITS, reach.max(), spiking[0])
            found |= {node.name: tuple(to_grid(v, grid) for v in found[node.name]) for node in spiking}
            continue
        # The norm of the correlation goes into the 1x1 convolution behind it, and so do the other biases.
        weight, bias = found[mixed.name]
        total, behind = bias.double(), graph.match_behind(mixed)
        if behind is not None and behind[1] is not None and (norm := behind[1].norm) is not None:
            scale, shift = scale_and_shift(norm)
            total = total + weight[:, :, 0, 0].double() @ shift
            weight = (weight * scale[:, None, None]).float()
        for node in spiking:
            total = total + found[node.name][1]
        grid = _mix_grid(mixed, weight)
        # The kernel has at least four bits behind the point, so these are on the grid of the whole current.
        found[mixed.name] = (to_grid(weight, grid), to_grid(total.float(), grid + 4))
        for node in spiking:
            weight, bias = found[node.name]
            found[node.name] = (to_grid(weight, grid + 4), torch.zeros_like(bias))
    return found


def _with_weights(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of the same shape with these weights."""
    outputs, inputs, side, _ = weight.shape
    made = nn.Conv2d(inputs, outputs, side, stride=conv.stride[0], padding=int(conv.padding[0]))
    made.weight, made.bias = nn.Parameter(weight), nn.Parameter(bias)
    return made
