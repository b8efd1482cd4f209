"""The student's search branch computed from spike to spike: what is silent costs nothing.

`SpikeDrivenStudent` is a `SearchNetwork` for a CPU. Between layers travel lists of spikes (`spike_plan`); the bits are
those of the frozen student's dense layers, because the weights are those of `freeze`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from had_snn.errors import InputError
from had_snn.events.batch import EventBatch
from had_snn.models.frozen import COUNT_LIMIT, FrozenStudent, freeze
from had_snn.models.head import split_readout
from had_snn.models.micro_steps import MicroSteps
from had_snn.models.network import SearchNetwork
from had_snn.models.outputs import TrackerOutput
from had_snn.models.search import AroundStudent, SearchModule
from had_snn.models.search_state import SearchState
from had_snn.models.spike_plan import SpikePlan
from had_snn.ops.spike_conv import SpikeWeights

BACKENDS = ("auto", "dense", "spikes")
#: Plans that are kept: a tracker needs one, or two when it carries membranes.
MAX_PLANS = 8


class SpikeDrivenStudent(AroundStudent):
    """Runs a student from spike to spike.

    Args:
        student: The network; frozen if it is not yet.
        dense_above: Input rate from which any layer runs as a dense convolution: below 0 for all layers, above 1 for
            none. When None, `DENSE_ABOVE` for large layers only.

    Example:
        >>> from had_snn import load_student
        >>> SpikeDrivenStudent(load_student("tiny")).grid
        12
    """

    student: FrozenStudent

    def __init__(self, student: SearchModule, *, dense_above: float | None = None) -> None:
        super().__init__(freeze(student))
        if self.device.type != "cpu":
            raise InputError("spike-driven inference runs on a CPU; move the student there or use its dense layers")
        self.dense_above, self._features = dense_above, self.student.graph().features
        self._packed = {node.name: _packed(node.conv) for node in self.student.graph().all("conv")}
        self._plans: dict[tuple[int, int], SpikePlan] = {}

    def encode_template(self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None) -> Tensor:
        """See `FrozenStudent.encode_template`."""
        return self.student.encode_template(events, boxes_cxcywh, n_steps=n_steps)

    def read_window(self, events: EventBatch, kernel: Tensor, *, n_steps: int | None = None) -> TrackerOutput:
        """See `SearchNetwork.read_window`: the same maps as of the frozen student, to the last bit."""
        steps = MicroSteps.of_windows(events, self.config, n_steps)
        return self._read(events, kernel, None, steps, None, None)

    def step(
        self,
        events: EventBatch,
        kernel: Tensor,
        state: SearchState | None,
        *,
        steps: MicroSteps | None = None,
        gain: Tensor | None = None,
    ) -> TrackerOutput:
        """See `SearchNetwork.step`: the same maps and the same state as of the frozen student, to the last bit."""
        steps = MicroSteps.of_windows(events, self.config) if steps is None else steps
        return self._read(events, kernel, state, steps, gain, {})

    @torch.inference_mode()
    def _read(
        self,
        events: EventBatch,
        kernel: Tensor,
        state: SearchState | None,
        steps: MicroSteps,
        gain: Tensor | None,
        after: dict[str, Tensor] | None,
    ) -> TrackerOutput:
        """Reads events; with `after`, membranes are left there and the new state is returned."""
        plan = self._plan(steps.count, len(events))
        gain = self.student.stem.gain(events) if gain is None else gain
        # After a micro-step that is not over, the membranes are those of its begin.
        maps, stem = plan.run(events, kernel, gain, state, steps, after if steps.over else None)
        earlier = None if state is None else state.readout
        output = split_readout(self.student.integrator.look_back(maps, earlier, steps, self.config))
        output.activity = plan.fired[self._features].mean(dim=(0, 2, 3))
        if after is not None:
            counts = plan.stem.counts.permute(0, 1, 4, 2, 3)
            counts = counts if steps.over else counts.clamp(max=COUNT_LIMIT)
            output.state = SearchState.after(state, stem, after, maps, counts, steps=steps, keep=self.config.n_steps)
        return output

    def _plan(self, steps: int, samples: int) -> SpikePlan:
        plan = self._plans.get((steps, samples))
        if plan is None:
            while len(self._plans) >= MAX_PLANS:
                self._plans.pop(next(iter(self._plans)))
            plan = SpikePlan(self.student, self._packed, steps=steps, samples=samples, dense_above=self.dense_above)
            self._plans[(steps, samples)] = plan
        return plan


def search_network(student: SearchNetwork, backend: str = "auto") -> SearchNetwork:
    """The network that a tracker asks for boxes: the frozen student, dense or spike-driven.

    Args:
        student: A student; or another network (a deployed graph, one that counts), which is returned as it is, as are
            students with a part that has no frozen form.
        backend: `"spikes"`: from spike to spike, on a CPU. `"dense"`: ordinary convolutions, on any device; the boxes
            are the same. `"auto"`: spikes on a CPU, dense elsewhere.

    Raises:
        InputError: If the backend is unknown or cannot run this student.
    """
    if backend not in BACKENDS:
        raise InputError(f"backend {backend!r} is unknown; expected one of {', '.join(BACKENDS)}")
    spiking = backend == "spikes" or (backend == "auto" and student.device.type == "cpu")
    try:
        if not isinstance(student, SearchModule):
            raise InputError(f"{type(student).__name__} is itself what runs")
        return SpikeDrivenStudent(student) if spiking else freeze(student)
    except InputError as error:
        if backend == "spikes":
            raise InputError(f"{error}: it does not run from spike to spike; use backend='auto'") from error
        return student


def _packed(conv: nn.Conv2d) -> SpikeWeights:
    return SpikeWeights.pack(conv.weight, conv.bias, stride=conv.stride[0], padding=int(conv.padding[0]))
