"""A student whose search branch is an exported graph, to be tracked with: on our kernels or inside a simulator.

    graph = to_graph(student, events, box)
    tracker = OnlineTracker(DeployedStudent(student, graph))                                  # rounded, our kernels
    tracker = OnlineTracker(DeployedStudent(student, graph, run=open_norse(path, graph).run)) # the same in norse

Stem, leaky read-out and decoding are the student's own: they run on the host in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from had_snn.errors import ExportError
from had_snn.events.batch import EventBatch
from had_snn.export.search_graph import SearchGraph, Trace, run_graph
from had_snn.models import MicroSteps, Taps, TrackerOutput
from had_snn.models.graph import STEM
from had_snn.models.head import split_readout
from had_snn.models.search import AroundStudent, SearchModule


class DeployedStudent(AroundStudent):
    """A `SearchNetwork` for one template.

    Args:
        student: Gives the stem, the template branch and the read-out.
        graph: The search branch, from `to_graph` or `read_nir`.
        run: Runs the graph on stem counts `[T, N, C, H, W]`; our own kernels when None.
    """

    template_is_fixed = True

    def __init__(
        self, student: SearchModule, graph: SearchGraph, *, run: Callable[[Tensor], Trace] | None = None
    ) -> None:
        super().__init__(self.like(student, graph))
        self.graph, self.run = graph, run or partial(run_graph, graph)

    @staticmethod
    def like(student: SearchModule, graph: SearchGraph) -> SearchModule:
        """The student in the graph's micro-steps: what reads templates and events on the host."""
        return student.at_steps(graph.n_steps)

    def encode_template(self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None) -> Tensor:
        """The student's kernel for these events; must be the template that was baked in.

        Raises:
            ExportError: If it is another one.
        """
        kernel = self.student.encode_template(events, boxes_cxcywh, n_steps=n_steps or self.graph.n_steps)
        baked = self.graph.info.get("template")
        if isinstance(baked, dict):
            expected = torch.tensor(baked["fingerprint"])
            if not torch.allclose(fingerprint(kernel), expected, atol=0.02):
                box = ",".join(f"{v:g}" for v in baked["box_xywh"])
                raise ExportError(
                    f"the graph was exported for the target {box} at {baked['t_us']} us, found another one"
                )
        return kernel

    def read_window(
        self, events: EventBatch, kernel: Tensor, *, n_steps: int | None = None, taps: Taps | None = None
    ) -> TrackerOutput:
        """See `SearchNetwork.read_window`; `kernel` is part of the graph already and is not looked at."""
        steps = MicroSteps.of_windows(events, self.config, n_steps or self.graph.n_steps)
        if (steps.count, steps.dt_us) != (self.graph.n_steps, self.graph.dt_us):
            raise ExportError(
                f"the graph was exported for {self.graph.n_steps} micro-steps of {self.graph.dt_us:g} us; "
                f"found {steps.count} of {steps.dt_us:g} us"
            )
        counts, potentials, _ = self.student.stem(events, n_steps=steps.count)
        trace = self.run(counts)
        output = split_readout(self.student.integrator(trace.readout, dt_us=self.graph.dt_us))
        if taps is not None:
            taps.add(STEM, counts, potentials)
            for name, spikes in trace.spikes.items():
                taps.add(self.graph.taps[name], spikes.float(), None)
            output.taps = taps
        return output

    def step(self, *args: object, **options: object) -> TrackerOutput:
        """Refused: an exported graph has no membranes to hand on.

        Raises:
            ExportError: Always.
        """
        raise ExportError("an exported graph starts every window from rest; track with OnlineTracker(carry=False)")


def fingerprint(kernel: Tensor) -> Tensor:
    """Sixteen weighted sums that tell one template's kernel from another's, `[16]`."""
    flat = kernel.detach().cpu().double().reshape(-1)
    phase = torch.arange(1, 17, dtype=torch.float64)[:, None] * torch.arange(len(flat), dtype=torch.float64)
    return ((torch.cos(phase) @ flat) / len(flat) ** 0.5).float()
