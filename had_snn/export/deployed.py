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
from torch import Tensor, nn

from had_snn.errors import ExportError
from had_snn.events.stream import EventBatch
from had_snn.export.graph import SearchGraph, Trace, run_graph
from had_snn.models import SpikingTracker, Taps, TrackerOutput
from had_snn.models.head import split_readout


class DeployedStudent(nn.Module):
    """Has the face of a `SpikingTracker`, for one template.

    Args:
        student: Gives the stem, the template branch and the read-out.
        graph: The search branch, from `to_graph` or `read_nir`.
        run: Runs the graph on stem counts `[T, N, C, H, W]`; our own kernels when None.
    """

    template_is_fixed = True

    def __init__(
        self, student: SpikingTracker, graph: SearchGraph, *, run: Callable[[Tensor], Trace] | None = None
    ) -> None:
        super().__init__()
        self.student, self.graph = student.eval(), graph
        self.config, self.grid = student.config, student.grid
        self.run = run or partial(run_graph, graph)

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

    def forward_search(
        self,
        events: EventBatch,
        kernel: Tensor,
        *,
        n_steps: int | None = None,
        with_taps: bool = False,
        with_state: bool = False,
    ) -> TrackerOutput:
        """See `SpikingTracker.forward_search`; `kernel` is part of the graph already and is not looked at.

        Raises:
            ExportError: If membranes are to be carried on: an exported graph starts every window from rest.
        """
        refuse_state(with_state)
        steps = n_steps or self.graph.n_steps
        if steps != self.graph.n_steps or int(events.t_end[0] - events.t_begin[0]) != self.graph.dt_us * steps:
            raise ExportError(
                f"the graph was exported for {self.graph.n_steps} micro-steps of {self.graph.dt_us:g} us; "
                f"found {steps} in a window of {int(events.t_end[0] - events.t_begin[0])} us"
            )
        counts = self.student.stem(events, n_steps=steps)[0]
        trace = self.run(counts)
        output = split_readout(self.student.integrator(trace.readout, dt_us=self.graph.dt_us))
        if with_taps:
            spikes = {self.graph.taps[name]: value.float() for name, value in trace.spikes.items()}
            output.taps = Taps(spikes={"stem": counts, **spikes}, rates=spikes["backbone.lif_out"].mean(dim=0))
        return output


def refuse_state(with_state: bool) -> None:
    """An exported graph has no membranes to hand on."""
    if with_state:
        raise ExportError("an exported graph starts every window from rest; track with OnlineTracker(carry=False)")


def fingerprint(kernel: Tensor) -> Tensor:
    """Sixteen weighted sums that tell one template's kernel from another's, `[16]`."""
    flat = kernel.detach().cpu().double().reshape(-1)
    phase = torch.arange(1, 17, dtype=torch.float64)[:, None] * torch.arange(len(flat), dtype=torch.float64)
    return ((torch.cos(phase) @ flat) / len(flat) ** 0.5).float()
