"""Stem and body in one file on one fine clock: raw event counts in, read-out maps out.

NIR has one time step for all nodes, so the body must follow the stem's clock. Weights stay what they are (a spike adds
its weight whenever it comes); what acted once per trained micro-step is made to act per time instead:

* biases are multiplied by `(1 - alpha') / (1 - alpha)`, which keeps the level that a constant drive settles at;
* the read-out's weights are multiplied by the number of fine steps in a trained one, because its maps are read as
  spikes per trained micro-step.

The rest cannot be kept: neurons that fired at most once in a trained micro-step may now fire several times in it. What
that costs is measured by tracking with the simulator in the loop, not argued away.
"""

from __future__ import annotations

import torch
from torch import Tensor

from had_snn.errors import ExportError
from had_snn.events.stream import EventBatch
from had_snn.export.deployed import DeployedStudent
from had_snn.export.graph import INPUT, OUTPUT, Conv, SearchGraph, search_graph
from had_snn.export.rounding import groups, input_convolutions
from had_snn.export.stem import STEM_LIF, event_frames, stem_graph
from had_snn.models import SpikingTracker, TrackerOutput
from had_snn.models.head import split_readout


def fine_graph(student: SpikingTracker, kernel: Tensor, *, dt_us: float) -> SearchGraph:
    """The search branch on a clock of `dt_us`, a divisor of the trained micro-step."""
    config = student.config
    trained_us = config.window_us / config.n_steps
    ratio = trained_us / dt_us
    if ratio < 1 or abs(ratio - round(ratio)) > 1e-9:
        raise ExportError(f"a step of {dt_us:g} us does not divide the trained micro-step of {trained_us:g} us")
    coarse = search_graph(student, kernel)
    fine = search_graph(student, kernel, n_steps=config.n_steps * round(ratio))
    nodes = dict(fine.nodes)
    for group in groups(fine):
        # Layers that share a convolution also share its bias; the first one's decay sets the factor.
        factor = (1 - fine.neurons[group[0]].decay) / (1 - coarse.neurons[group[0]].decay)
        for name in input_convolutions(fine, group):
            conv = fine.convolutions[name]
            nodes[name] = Conv(conv.weight, conv.bias * factor, conv.stride, conv.padding)
    readout = fine.convolutions["readout"]
    nodes["readout"] = Conv(readout.weight * ratio, readout.bias, readout.stride, readout.padding)
    return fine.with_nodes(nodes, fine_ratio=ratio)


def one_piece(
    student: SpikingTracker, kernel: Tensor, *, dt_us: float, gain: float | None, **info: object
) -> SearchGraph:
    """Stem and body on one clock.

    Args:
        student: The network.
        kernel: Template kernel `[1, C, k, k]`.
        dt_us: Step of the clock.
        gain: The stem's gain, one for the whole recording (see `stem.fixed_gain`).
        **info: Plain values for the file's metadata.

    Returns:
        A graph from event counts `[2, H, W]` per step to the read-out maps.

    Raises:
        ExportError: As `stem_graph` and `search_graph`.
    """
    body = fine_graph(student, kernel, dt_us=dt_us)
    front = stem_graph(student.stem, dt_us=dt_us, gain=gain, size=student.config.search_size, n_steps=body.n_steps)
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

    @torch.no_grad()
    def encode_template(self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None) -> Tensor:
        """The kernel in the trained micro-steps: the template is read on the host."""
        return self.student.encode_template(events, boxes_cxcywh)

    def forward_search(
        self, events: EventBatch, kernel: Tensor, *, n_steps: int | None = None, with_taps: bool = False
    ) -> TrackerOutput:
        """See `SpikingTracker.forward_search`; `kernel` is part of the graph already."""
        frames = event_frames(events, dt_us=self.graph.dt_us, first=0, steps=self.graph.n_steps)
        trace = self.run(frames)
        return split_readout(self.student.integrator(trace.readout, dt_us=self.graph.dt_us))
