"""Stem and body in one file on one fine clock: raw event counts in, read-out maps out.

NIR has one time step for all nodes, so the body must follow the stem's clock. A student whose norms were fitted to that
many micro-steps (`had_snn.models.step_norms`) is made for it. Of any other the weights stay what they are (a spike adds
its weight whenever it comes); what acted once per trained micro-step is made to act per time instead:

* biases are multiplied by `(1 - alpha') / (1 - alpha)`, which keeps the level that a constant drive settles at;
* the read-out's weights are multiplied by the number of fine steps in a trained one, because its maps are read as
  spikes per trained micro-step.

Neurons that fired at most once in a trained micro-step may now fire several times in it, and what they drive fires
even more. `match_rates` takes that back on average: on windows of events, layer by layer, it finds the factor on each
channel's input at which the channel fires as often as on the trained clock; with fitted norms, as often as behind the
event-driven stem. The rest cannot be kept, and what it costs is measured by tracking with the simulator in the loop.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from had_snn.errors import ExportError
from had_snn.events.batch import EventBatch
from had_snn.export.clocked_stem import STEM_LIF, event_frames, stem_graph
from had_snn.export.deployed import DeployedStudent
from had_snn.export.lowering import search_graph
from had_snn.export.rounding import groups, input_convolutions
from had_snn.export.search_graph import INPUT, OUTPUT, Conv, Neurons, SearchGraph, decay_times, run_graph
from had_snn.models import SpikingTracker, Taps, TrackerOutput
from had_snn.models.head import split_readout
from had_snn.models.search import SearchModule
from had_snn.ops import lif_multi_step

#: Factors between exp(-3) and exp(3) are searched, halving the range so many times.
_SEARCHED, _HALVINGS = 3.0, 12


def fine_graph(student: SpikingTracker, kernel: Tensor, *, dt_us: float) -> SearchGraph:
    """The search branch on a clock of `dt_us`, a divisor of the trained micro-step."""
    config = student.config
    trained_us = config.step_us
    ratio = trained_us / dt_us
    if ratio < 1 or abs(ratio - round(ratio)) > 1e-9:
        raise ExportError(f"a step of {dt_us:g} us does not divide the trained micro-step of {trained_us:g} us")
    fine = search_graph(student, kernel, n_steps=config.n_steps * round(ratio))
    if student.fits(fine.n_steps):
        return replace(fine, info={**fine.info, "fine_ratio": ratio})
    coarse, nodes = search_graph(student, kernel), dict(fine.nodes)
    for group in groups(fine):
        # Layers that share a convolution also share its bias; the first one's decay sets the factor.
        factor = (1 - fine.neurons[group[0]].decay) / (1 - coarse.neurons[group[0]].decay)
        for name in input_convolutions(fine, group):
            nodes[name] = fine.convolutions[name].scaled(1.0, factor)
    (last,) = fine.sources(OUTPUT)
    nodes[last] = fine.convolutions[last].scaled(ratio, 1.0)
    return fine.with_nodes(nodes, fine_ratio=ratio)


def unshared(graph: SearchGraph) -> SearchGraph:
    """Gives every LIF layer convolutions of its own: one that feeds several layers is written once for each."""
    nodes: dict[str, Conv | Neurons] = {}
    edges = [edge for edge in graph.edges if edge[0] not in graph.convolutions and edge[1] not in graph.convolutions]
    for name, node in graph.nodes.items():
        if not isinstance(node, Conv):
            nodes[name] = node
            continue
        for index, target in enumerate(graph.targets(name)):
            copy = name if index == 0 else f"{name}_to_{target}"
            nodes[copy] = node
            edges += [(source, copy) for source in graph.sources(name)] + [(copy, target)]
    return replace(graph, nodes=nodes, edges=tuple(edges))


@torch.no_grad()
def match_rates(fine: SearchGraph, coarse: SearchGraph, fine_input: Tensor, coarse_input: Tensor) -> SearchGraph:
    """Scales the input of every channel so that it fires as often as on the trained clock.

    Args:
        fine: Body on the fine clock; every LIF layer has convolutions of its own.
        coarse: The same body on the trained clock.
        fine_input: Stem spikes of some windows, `[steps, N, C, H, W]`.
        coarse_input: Stem counts of the same windows, `[T, N, C, H, W]`.

    Returns:
        The fine graph with scaled weights and biases.
    """
    trained = run_graph(coarse, coarse_input).spikes
    wanted = {name: spikes.float().sum(dim=(0, 1, 3, 4)) for name, spikes in trained.items()}
    nodes, values = dict(fine.nodes), {INPUT: fine_input.float()}
    for name, node in fine.nodes.items():
        current = torch.stack([values[source] for source in fine.sources(name)]).sum(dim=0)
        if isinstance(node, Conv):
            values[name] = node(current.flatten(0, 1)).unflatten(0, current.shape[:2])
            continue
        low, high = torch.full_like(wanted[name], -_SEARCHED), torch.full_like(wanted[name], _SEARCHED)
        tau, dt = decay_times(node.alpha)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            spikes = lif_multi_step(current * middle.exp()[:, None, None], None, tau=tau, dt=dt)[0]
            too_many = spikes.sum(dim=(0, 1, 3, 4)) > wanted[name]
            low, high = torch.where(too_many, low, middle), torch.where(too_many, middle, high)
        factor = ((low + high) / 2).exp()
        for source in fine.sources(name):
            nodes[source] = fine.convolutions[source].scaled(factor[:, None, None, None], factor)
        values[name] = lif_multi_step(current * factor[:, None, None], None, tau=tau, dt=dt)[0]
    return fine.with_nodes(nodes, matched_windows=int(fine_input.shape[1]))


def one_piece(
    student: SpikingTracker,
    kernel: Tensor,
    *,
    dt_us: float,
    gain: float | None,
    seen: EventBatch | None = None,
    **info: object,
) -> SearchGraph:
    """Stem and body on one clock.

    Args:
        student: The network.
        kernel: Template kernel `[1, C, k, k]`.
        dt_us: Step of the clock.
        gain: The stem's gain, one for the whole recording (see `stem.fixed_gain`).
        seen: Search windows on which firing rates are matched (see `match_rates`); None leaves the weights alone.
        **info: Plain values for the file's metadata.

    Returns:
        A graph from event counts `[2, H, W]` per step to the read-out maps.

    Raises:
        ExportError: As `stem_graph` and `search_graph`.
    """
    body = fine_graph(student, kernel, dt_us=dt_us)
    front = stem_graph(student.stem, dt_us=dt_us, gain=gain, size=student.config.search_size, n_steps=body.n_steps)
    if seen is not None:
        with torch.no_grad():
            like = body if student.fits(body.n_steps) else search_graph(student, kernel)
            coarse_input = student.stem(seen, n_steps=like.n_steps)[0].cpu()
            frames = event_frames(seen, dt_us=dt_us, first=0, steps=body.n_steps)
            fine_input = run_graph(front, frames).readout
        body = match_rates(unshared(body), like, fine_input, coarse_input)
    edges = tuple(edge for edge in front.edges if edge[1] != OUTPUT)
    edges += tuple((STEM_LIF if source == INPUT else source, target) for source, target in body.edges)
    notes = {**body.info, **front.info, "part": "one piece", **info}
    return SearchGraph(
        {**front.nodes, **body.nodes}, edges, front.input_shape, body.n_steps, dt_us, {**front.taps, **body.taps}, notes
    )


class OnePieceStudent(DeployedStudent):
    """A student whose whole search branch, stem included, runs elsewhere.

    Args:
        student: Gives the template branch and the read-out.
        graph: From `one_piece`.
        run: Runs event counts `[steps, N, 2, H, W]`, for example `open_norse(path, graph).run`; our own kernels when
            None.
    """

    @staticmethod
    def like(student: SearchModule, graph: SearchGraph) -> SearchModule:
        """The student as trained, which reads the template."""
        return student

    @torch.no_grad()
    def encode_template(self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None) -> Tensor:
        """The kernel in the trained micro-steps: the template is read on the host."""
        return self.student.encode_template(events, boxes_cxcywh)

    def read_window(
        self, events: EventBatch, kernel: Tensor, *, n_steps: int | None = None, taps: Taps | None = None
    ) -> TrackerOutput:
        """See `DeployedStudent.read_window`."""
        if taps is not None:
            raise ExportError("a network in one piece has no signals of the trained micro-steps")
        frames = event_frames(events, dt_us=self.graph.dt_us, first=0, steps=self.graph.n_steps)
        return split_readout(self.student.integrator(self.run(frames).readout, dt_us=self.graph.dt_us))
