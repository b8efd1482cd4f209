"""What the trained and the frozen student share: everything around the search branch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from had_snn.events.batch import EventBatch
from had_snn.models.graph import STEM, Graph
from had_snn.models.head import split_readout
from had_snn.models.layers import ClockedLayers
from had_snn.models.matching import DepthwiseMatching
from had_snn.models.micro_steps import MicroSteps
from had_snn.models.neurons import LeakyReadout
from had_snn.models.outputs import Taps, TrackerOutput
from had_snn.models.search_state import SearchState
from had_snn.models.stem import EventLIFStem
from had_snn.models.student_config import StudentConfig

if TYPE_CHECKING:
    from typing_extensions import Self


class SearchModule(nn.Module):
    """A `SearchNetwork` in torch: the stem in front of the search branch, the leaky read-out and the state behind it.

    Attributes:
        config: Plain numbers.
        stem: Reads the events.
        matching: Makes the template's kernel.
        readout: The convolution that the search branch ends with.
        integrator: The leaky read-out.
    """

    template_is_fixed = False
    config: StudentConfig
    stem: EventLIFStem
    matching: DepthwiseMatching
    readout: nn.Conv2d
    integrator: LeakyReadout

    def graph(self) -> Graph:
        """The search branch from the stem's spike counts to the read-out maps, node by node."""
        raise NotImplementedError

    def features(self, counts: Tensor, layers: ClockedLayers) -> Tensor:
        """Stem counts `[T, N, C, H, W]` to the spikes that are matched, `[T, N, C', H', W']`."""
        raise NotImplementedError

    def head(self, counts: Tensor, kernel: Tensor, layers: ClockedLayers) -> Tensor:
        """Stem counts `[T, N, C, H, W]` and template kernels `[N, C, k, k]` to the spikes that `readout` reads."""
        raise NotImplementedError

    def layer_names(self) -> Mapping[nn.Module, str]:
        """The name of each layer, in `Taps` and `SearchState`."""
        return {module: path for path, module in self.named_modules()}

    def at_steps(self, count: int) -> SearchModule:
        """This network for windows of `count` micro-steps: itself, where no norms depend on their number."""
        return self

    @property
    def grid(self) -> int:
        """Cells per side of the output maps."""
        return self.config.search_size // (self.stem.stride * self.config.strides[0] * self.config.strides[1])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.readout.weight.device

    def gain_at(self, rate: float) -> float:
        """See `SearchNetwork.gain_at`."""
        return self.stem.gain_at(rate)

    def encode_template(
        self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None, taps: Taps | None = None
    ) -> Tensor:
        """See `SearchNetwork.encode_template`; `taps` take the inner signals of stem and backbone."""
        steps = MicroSteps.of_windows(events, self.config, n_steps)
        counts, potentials, _ = self.stem(events, n_steps=steps.count)
        if taps is not None:
            taps.add(STEM, counts, potentials)
        spikes = self.features(counts, ClockedLayers(self.layer_names(), steps.dt_us, taps=taps))
        return self.matching.template_kernel(spikes.mean(dim=0), boxes_cxcywh)

    def read_window(
        self, events: EventBatch, kernel: Tensor, *, n_steps: int | None = None, taps: Taps | None = None
    ) -> TrackerOutput:
        """See `SearchNetwork.read_window`; `taps` take the inner signals."""
        steps = MicroSteps.of_windows(events, self.config, n_steps)
        counts, potentials, _ = self.stem(events, n_steps=steps.count)
        layers = ClockedLayers(self.layer_names(), steps.dt_us, taps=taps)
        spikes = self._search(counts, potentials, kernel, layers)
        if self.training:
            maps = self.integrator.of_convolution(spikes, self.readout, dt_us=steps.dt_us)
        else:
            maps = self.integrator.look_back(self._maps(spikes), None, steps, self.config)
        return _output(maps, layers)

    def step(
        self,
        events: EventBatch,
        kernel: Tensor,
        state: SearchState | None,
        *,
        steps: MicroSteps | None = None,
        gain: Tensor | None = None,
        taps: Taps | None = None,
    ) -> TrackerOutput:
        """See `SearchNetwork.step`; `taps` take the inner signals."""
        steps = MicroSteps.of_windows(events, self.config) if steps is None else steps
        before = None if state is None else state.stem
        counts, potentials, stem = self.stem(events, before, n_steps=steps.count, gain=gain)
        earlier = None if state is None else state.under_way(steps)
        if earlier is not None:
            counts = (counts + earlier).clamp(max=self.stem.count_limit)
        membranes = {} if state is None else dict(state.membranes)
        layers = ClockedLayers(self.layer_names(), steps.dt_us, taps=taps, membranes=membranes)
        maps = self._maps(self._search(counts, potentials, kernel, layers))
        integrated = self.integrator.look_back(maps, None if state is None else state.readout, steps, self.config)
        output = _output(integrated, layers)
        output.state = SearchState.after(state, stem, membranes, maps, counts, steps=steps, keep=self.config.n_steps)
        return output

    def _search(self, counts: Tensor, potentials: Tensor, kernel: Tensor, layers: ClockedLayers) -> Tensor:
        if layers.taps is not None:
            layers.taps.add(STEM, counts, potentials)
        return self.head(counts, kernel, layers)

    def _maps(self, spikes: Tensor) -> Tensor:
        """Read-out maps `[T, N, 5, G, G]`."""
        return self.readout(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2])


def _output(maps: Tensor, layers: ClockedLayers) -> TrackerOutput:
    output = split_readout(maps)
    if layers.features is not None:
        output.activity = layers.features.detach().mean(dim=(0, 3, 4))
    output.taps = layers.taps
    return output


class AroundStudent:
    """What networks around a student have from it.

    Args:
        student: The network inside.
    """

    template_is_fixed = False

    def __init__(self, student: SearchModule) -> None:
        self.student = student.eval()
        self.config, self.grid = student.config, student.grid

    @property
    def device(self) -> torch.device:
        """Where the student is."""
        return self.student.device

    def eval(self) -> Self:
        """There is no other mode."""
        return self

    def gain_at(self, rate: float) -> float:
        """See `SearchNetwork.gain_at`."""
        return self.student.gain_at(rate)
