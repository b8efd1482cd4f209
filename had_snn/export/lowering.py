"""From a student's search branch to the graph that a file holds, with one template baked in."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from had_snn.errors import ExportError, InputError
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.export.deployed import fingerprint
from had_snn.export.rounding import Rounding, round_graph
from had_snn.export.search_graph import INPUT, OUTPUT, Conv, Neurons, SearchGraph
from had_snn.geometry import check_box, search_crop
from had_snn.models.graph import MATCH, STEM, Graph, Mixing, Node, is_pointwise
from had_snn.models.grids import fold, scale_and_shift
from had_snn.models.search import SearchModule
from had_snn.models.stem import EventLIFStem
from had_snn.ops.lif import decay_factor
from had_snn.tracking.buffer import EventBuffer
from had_snn.tracking.policy import WindowPolicy
from had_snn.tracking.template import read_template, template_window
from had_snn.tracking.window import Window
from had_snn.tracking.window_rule import WindowRule


def check_exportable(student: SearchModule) -> Graph:
    """The student's graph, if a file can hold it.

    Raises:
        ExportError: With the module's path and the reason.
    """
    if not isinstance(student, SearchModule):
        raise ExportError(f"{type(student).__name__} cannot be exported: only the spiking student has an event graph")
    if type(student.stem) is not EventLIFStem:
        raise ExportError(f"stem: {type(student.stem).__name__} has no counterpart in NIR; expected EventLIFStem")
    try:
        return student.graph()
    except InputError as error:
        raise ExportError(f"{error}; NIR tools cannot express it") from error


@torch.no_grad()
def search_graph(
    student: SearchModule, kernel: Tensor, *, n_steps: int | None = None, fuse_matching: bool = True
) -> SearchGraph:
    """Bakes a template into the search branch.

    Args:
        student: The network.
        kernel: Correlation kernel of the template, `[1, C, k, k]`, from `student.encode_template`.
        n_steps: Micro-steps per window; the configured number when None.
        fuse_matching: Join the depth-wise correlation, its norm, the 1x1 convolution behind it and those beside it into
            one convolution `match`: they are linear with nothing between them, every convolution then reads spikes, as
            chips require, and no importer can compute the branches in a wrong order. Otherwise the correlation is a
            node of its own (`match`), written out dense, and the convolutions stay what they are in the student.

    Returns:
        The graph; folding is done in double precision and rounded once to float32.

    Raises:
        ExportError: If the student has a part that the graph cannot express.
    """
    check_exportable(student)
    student = student if n_steps is None else student.at_steps(n_steps)
    graph, config, stem = student.graph(), student.config, student.stem
    side = config.search_size // stem.stride
    steps = n_steps or config.n_steps
    lowering = _Lowering(graph, config.window_us / steps, (stem.channels, side, side))
    lowering.run(kernel.detach().cpu().double(), fuse=fuse_matching)
    return SearchGraph(
        lowering.nodes,
        (*lowering.edges, (lowering.names[graph.output], OUTPUT)),
        lowering.shapes[INPUT],
        steps,
        lowering.dt_us,
        lowering.taps,
        {"integrator_tau_us": float(student.integrator.tau_us), "rounded": False},
    )


def template_kernel(
    student: SearchModule,
    events: EventStream,
    box_xywh: Sequence[float] | np.ndarray,
    *,
    t_us: int | None = None,
    n_steps: int | None = None,
) -> Tensor:
    """Reads a template as the tracker does.

    Args:
        student: The network.
        events: Sensor events; those before `t_us` show the target.
        box_xywh: The target's box at `t_us`, sensor pixels.
        t_us: Time of the box; the end of `events` when None.
        n_steps: Micro-steps per window; the configured number when None.

    Returns:
        Correlation kernel `[1, C, k, k]`.
    """
    student = student if n_steps is None else student.at_steps(n_steps)
    return _template(student, events, box_xywh, t_us, n_steps)[0]


def template_and_look(
    student: SearchModule, events: EventStream, box_xywh: Sequence[float] | np.ndarray, *, t_us: int | None = None
) -> tuple[Tensor, EventBatch]:
    """The template, and the events around it that a first look through the same window sees.

    Args and the kernel as for `template_kernel`; the events are in the crop of the search branch.
    """
    kernel, window = _template(student, events, box_xywh, t_us, None)
    config, box = student.config, np.asarray(box_xywh, dtype=np.float64)
    crop = search_crop(box, factor=config.search_factor, size=config.search_size)
    seen = window.read(
        EventBuffer(events.slice_time(window.first_us, window.t_us)), crop, most=None, device=student.device
    )
    if seen is None:
        raise ExportError(f"hardly any events around the box between {window.first_us} and {window.t_us} us")
    return kernel, seen


def _template(
    student: SearchModule,
    events: EventStream,
    box_xywh: Sequence[float] | np.ndarray,
    t_us: int | None,
    n_steps: int | None,
) -> tuple[Tensor, Window]:
    """The kernel and the window it was read from."""
    box = check_box(np.asarray(box_xywh, dtype=np.float64), events.sensor_hw)
    end = int(t_us if t_us is not None else events.t_end)
    rule = WindowRule(student.config.window_us, WindowPolicy())
    buffer = EventBuffer(events.slice_time(end - rule.context_us, end))
    window = rule.window(end, template_window(buffer, box, end, rule)[0])
    kernel = read_template(student, buffer, box, window, n_steps=n_steps)
    if kernel is None:
        raise ExportError(
            f"hardly any events in the template's crop between {window.first_us} and {end} us: give another box or time"
        )
    return kernel.cpu(), window


def to_graph(
    student: SearchModule,
    template_events: EventStream,
    box_xywh: Sequence[float] | np.ndarray,
    *,
    t_us: int | None = None,
    n_steps: int | None = None,
    rounding: Rounding | None = Rounding(),  # noqa: B008 (frozen)
    fuse_matching: bool = True,
) -> SearchGraph:
    """The student's search branch for one template.

    Args:
        student: The network.
        template_events: Sensor events up to the template's time.
        box_xywh: The target's box, sensor pixels.
        t_us: Time of the box; the end of `template_events` when None.
        n_steps: Micro-steps per window; the configured number when None.
        rounding: Number formats that make every machine agree (see `rounding`); None keeps the weights as trained,
            where potentials within a few `1e-7` of the threshold may be decided differently elsewhere.
        fuse_matching: See `search_graph`.

    Returns:
        The graph, ready for `to_nir`, `run_graph` and `DeployedStudent`.
    """
    student = student if n_steps is None else student.at_steps(n_steps)
    kernel, window = _template(student, template_events, box_xywh, t_us, n_steps)
    graph = search_graph(student, kernel, n_steps=n_steps, fuse_matching=fuse_matching)
    if rounding is not None:
        graph = round_graph(graph, rounding)
    template = {
        "box_xywh": [float(v) for v in np.asarray(box_xywh, dtype=np.float64)],
        "t_us": window.t_us,
        "window_us": window.length_us,
        "source": template_events.source,
        "fingerprint": fingerprint(kernel).tolist(),
    }
    config = json.loads(json.dumps(asdict(student.config)))  # tuples become lists, as the file will give them back
    return graph.with_nodes(graph.nodes, student=config, sensor_hw=list(template_events.sensor_hw), template=template)


def file_names(graph: Graph) -> dict[str, str]:
    """Names of nodes in a file, where dots are not allowed: `backbone.blocks.0.lif` becomes `block0_lif`."""
    names: dict[str, str] = {}
    for path, node in graph.nodes.items():
        container, *rest = re.sub(r"s\.(\d+)", r"\1", path).split(".")
        short = MATCH if node.kind == "match" else "_".join(rest) or container
        taken = short in (*names.values(), INPUT, OUTPUT) or short[0].isdigit()
        names[path] = path.replace(".", "_") if taken else short
    return names


class _Lowering:
    """Turns the nodes of a branch into constant ones and keeps track of map sizes."""

    def __init__(self, graph: Graph, dt_us: float, input_shape: tuple[int, int, int]) -> None:
        self.graph, self.dt_us, self.names = graph, dt_us, file_names(graph)
        self.nodes: dict[str, Conv | Neurons] = {}
        self.edges: list[tuple[str, str]] = []
        self.taps: dict[str, str] = {}
        self.shapes = {INPUT: input_shape}
        #: By node of the branch: the nodes of the file whose values add up to its values.
        self.made: dict[str, list[str]] = {STEM: [INPUT]}

    def run(self, kernel: Tensor, *, fuse: bool) -> None:
        """Lowers every node, for the template of this kernel (float64)."""
        mixings = self.graph.mixings()
        for name, node in self.graph.nodes.items():
            if name in self.made:
                continue
            sources = [made for source in node.sources for made in self.made[source]]
            if node.kind == "lif":
                self._neurons(node, sources)
            elif node.kind == "conv":
                if int(node.conv.padding[0]) != node.conv.kernel_size[0] // 2:
                    raise ExportError(f"{name}: padding {node.conv.padding[0]}; expected half the kernel, rounded down")
                self._conv(name, self.names[name], *fold(node.conv, node.norm), sources, stride=node.conv.stride[0])
            elif node.kind == "match":
                # A kernel of another student or of several templates would broadcast silently.
                if kernel.shape != (1, self.shapes[sources[0]][0], node.side, node.side):
                    found = f"template kernel has the shape {tuple(kernel.shape)}"
                    raise ExportError(f"{found}, expected one template of this student")
                mixed = [mixing for mixing in mixings if mixing.match is node]
                if fuse:
                    self._fused(node, kernel, mixed, sources)
                else:
                    self._correlation(node, kernel, sources)
            else:
                self.made[name] = sources

    def _correlation(self, node: Node, kernel: Tensor, sources: list[str]) -> None:
        """The correlation and the norm behind it, written out dense."""
        readers = self.graph.readers(node.name)
        norms = [reader for reader in readers if reader.kind == "norm"]
        if norms and len(readers) > 1:
            raise ExportError(f"{norms[0].name}: a norm shares the matched maps; only one reader can be folded")
        depthwise, shift = _scaled(kernel, norms[0] if norms else None)
        dense = torch.diag_embed(depthwise.permute(1, 2, 0)).permute(2, 3, 0, 1)
        self._conv(node.name, self.names[node.name], dense, shift, sources)

    def _fused(self, node: Node, kernel: Tensor, mixings: list[Mixing], sources: list[str]) -> None:
        """The correlation, its norm and the 1x1 convolutions that mix its maps, as one convolution."""
        for index, mixing in enumerate(mixings):
            if not is_pointwise(mixing.conv):
                raise ExportError(f"{mixing.conv.name}: only a 1x1 convolution can be joined; pass fuse_matching=False")
            depthwise, shift = _scaled(kernel, mixing.norm)
            mix, bias = (part.cpu() for part in fold(mixing.conv.conv, mixing.conv.norm))
            weight, bias = torch.einsum("hc,cyx->hcyx", mix[:, :, 0, 0], depthwise), mix[:, :, 0, 0] @ shift + bias
            middle = kernel.shape[-1] // 2
            for other in mixing.beside:
                beside, more = (part.cpu() for part in fold(other.conv, other.norm))
                weight[:, :, middle, middle] += beside[:, :, 0, 0]
                bias = bias + more
                self.made[other.name] = []
            name = self.names[node.name] if index == 0 else f"{MATCH}_{self.names[mixing.conv.name]}"
            self._conv(mixing.conv.name, name, weight, bias, sources)
        self.made[node.name] = []

    def _conv(self, node: str, name: str, weight: Tensor, bias: Tensor, sources: list[str], *, stride: int = 1) -> None:
        channels, height, width = self._connect(name, sources)
        assert channels == weight.shape[1], name
        self.nodes[name] = Conv(weight.cpu().float().contiguous(), bias.cpu().float(), stride, weight.shape[-1] // 2)
        self.shapes[name] = (len(weight), -(-height // stride), -(-width // stride))
        self.made[node] = [name]

    def _neurons(self, node: Node, sources: list[str]) -> None:
        name = self.names[node.name]
        self.shapes[name] = self._connect(name, sources)
        alpha = float(decay_factor(node.lif.log_tau.detach().cpu().double().exp().float(), self.dt_us))
        self.nodes[name] = Neurons(alpha, self.shapes[name])
        self.taps[name] = node.name
        self.made[node.name] = [name]

    def _connect(self, name: str, sources: list[str]) -> tuple[int, int, int]:
        self.edges += [(source, name) for source in sources]
        return self.shapes[sources[0]]


def _scaled(kernel: Tensor, norm: Node | None) -> tuple[Tensor, Tensor]:
    """Depth-wise weights `[C, k, k]` and shift `[C]` of the correlation and the norm behind it."""
    if norm is None or norm.norm is None:
        return kernel[0], kernel.new_zeros(kernel.shape[1])
    scale, shift = (part.cpu() for part in scale_and_shift(norm.norm))
    return kernel[0] * scale[:, None, None], shift
