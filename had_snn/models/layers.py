"""A pass through the clocked layers: where they start from, what they leave behind, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from had_snn.models.outputs import Taps


class ClockedLayers:
    """Runs the layers of one call and keeps their signals under their names.

    Args:
        names: Name of each layer.
        dt_us: Length of a micro-step in microseconds.
        taps: Where spikes and membranes are recorded, or None.
        membranes: Potentials by layer name, from which layers start (from rest where there are none) and which take
            their final ones; None when every layer starts from rest and nobody goes on from here.

    Attributes:
        features: The spikes that were matched with the template, `[T, N, C, H, W]`; None before.
    """

    def __init__(
        self,
        names: Mapping[nn.Module, str],
        dt_us: float,
        *,
        taps: Taps | None = None,
        membranes: dict[str, Tensor] | None = None,
    ) -> None:
        self.names, self.dt_us, self.taps, self.membranes = names, dt_us, taps, membranes
        self.features: Tensor | None = None

    def fire(self, lif: nn.Module, current: Tensor) -> Tensor:
        """Runs a LIF layer on its current `[T, N, C, H, W]`; returns its spikes."""
        name = self.names[lif]
        before = None if self.membranes is None else self.membranes.get(name)
        wanted = self.taps is not None and self.taps.wants_membranes(name)
        spikes, after, traces = lif(current, before, dt_us=self.dt_us, return_membranes=wanted)
        if self.membranes is not None:
            self.membranes[name] = after
        if self.taps is not None:
            self.taps.add(name, spikes, traces)
        return spikes

    def match(self, matching: nn.Module, features: Tensor, kernel: Tensor) -> Tensor:
        """Correlates features `[T, N, C, H, W]` with template kernels `[N, C, k, k]`."""
        self.features = features
        matched = matching(features, kernel)
        if self.taps is not None:
            self.taps.add_match(self.names[matching], matched)
        return matched
