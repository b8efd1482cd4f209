"""What the search branch of the student remembers from one window to the next.

A student that starts every window from rest needs none of this. One that carries its membranes sees each event once
and needs one micro-step where the other repeats the whole window; its crop then may only move by whole cells, and the
state moves with it (`moved`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.models.micro_steps import MicroSteps
from had_snn.ops import EventLIFState


@dataclass(frozen=True)
class SearchState:
    """State of the search branch after a window.

    Attributes:
        stem: Potentials and newest event times of the event-driven stem.
        membranes: Potentials `[N, C, H, W]` of each clocked layer, by the layer's name in `Taps`.
        readout: The newest read-out maps `[T, N, 5, G, G]`, oldest first: the read-out looks back over one window of
            micro-steps, as it did in training.
        counts: Stem spikes `[1, N, C, H, W]` of a micro-step that is not over yet: the stem has read its events so far,
            membranes and read-out are those of its begin. None between micro-steps.
    """

    stem: EventLIFState
    membranes: dict[str, Tensor]
    readout: Tensor
    counts: Tensor | None = None

    @classmethod
    def after(
        cls,
        before: SearchState | None,
        stem: EventLIFState,
        membranes: dict[str, Tensor],
        maps: Tensor,
        counts: Tensor,
        *,
        steps: MicroSteps,
        keep: int,
    ) -> SearchState:
        """The state after a call; after a micro-step that is not over, all but the stem is as before.

        Args:
            before: The state that the call went on from, or None for rest.
            stem: The stem's state now.
            membranes: Potentials of the clocked layers now.
            maps: Read-out maps of the call `[T, N, 5, G, G]`.
            counts: Stem spikes of the call `[T, N, C, H, W]`, with those of a micro-step that was under way.
            steps: The call's micro-steps.
            keep: Micro-steps that the read-out looks back over.
        """
        if before is not None and not steps.over:
            return cls(stem, before.membranes, before.readout, counts)
        history = maps if before is None else torch.cat([before.readout, maps])
        return cls(stem, membranes, history[-keep:])

    def under_way(self, steps: MicroSteps) -> Tensor | None:
        """Stem spikes of the micro-step that the next call goes on with, or None between micro-steps.

        Raises:
            InputError: If it would go on with several micro-steps at once.
        """
        if self.counts is not None and steps.count != 1:
            raise InputError(f"a micro-step is under way; finish it with one step before reading {steps.count}")
        return self.counts

    def detach(self) -> SearchState:
        """The same state, cut from the graph (truncated backpropagation)."""
        membranes = {name: v.detach() for name, v in self.membranes.items()}
        counts = None if self.counts is None else self.counts.detach()
        return SearchState(self.stem.detach(), membranes, self.readout.detach(), counts)

    def moved(self, cells_xy: tuple[int, int] | Tensor) -> SearchState:
        """The state as a crop sees it that lies `cells_xy` output cells further right and down.

        Args:
            cells_xy: Whole cells of the output grid, the coarsest of the network; finer layers move by as many pixels.
                A tensor `[N, 2]` moves each sample by its own cells.

        Returns:
            The moved state; neurons that were outside before are at rest, and the read-out repeats its border there.
        """
        cells = torch.as_tensor(cells_xy, device=self.readout.device).reshape(-1, 2)
        if not bool(cells.any()):
            return self
        grid = self.readout.shape[-1]
        oldest = int(self.stem.t_last.min())
        stem = EventLIFState(_moved(self.stem.v, cells, grid, 0.0), _moved(self.stem.t_last, cells, grid, oldest))
        membranes = {name: _moved(v, cells, grid, 0.0) for name, v in self.membranes.items()}
        counts = None if self.counts is None else _moved(self.counts, cells, grid, 0.0)
        return SearchState(stem, membranes, _moved(self.readout, cells, grid, None), counts)

    def tensors(self) -> dict[str, Tensor]:
        """The state as named tensors, for a file."""
        named = {f"membranes.{name}": v for name, v in self.membranes.items()}
        if self.counts is not None:
            named["counts"] = self.counts
        return {"stem.v": self.stem.v, "stem.t_last": self.stem.t_last, "readout": self.readout, **named}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> SearchState:
        """The inverse of `tensors`; other names are left alone.

        Raises:
            InputError: If a part is missing.
        """
        missing = [name for name in ("stem.v", "stem.t_last", "readout") if name not in tensors]
        if missing:
            raise InputError(
                f"a search state needs {', '.join(missing)}; found {', '.join(sorted(tensors)) or 'nothing'}"
            )
        start = "membranes."
        membranes = {name.removeprefix(start): v for name, v in tensors.items() if name.startswith(start)}
        stem = EventLIFState(tensors["stem.v"], tensors["stem.t_last"])
        return cls(stem, membranes, tensors["readout"], tensors.get("counts"))


def _moved(values: Tensor, cells_xy: Tensor, grid: int, fill: float | None) -> Tensor:
    """Shifts the last two dimensions by cells `[N or 1, 2]`; what comes in takes `fill`, or the nearest value when that
    is None. Samples are the first dimension, the second of five."""
    sample_dim = 1 if values.ndim == 5 else 0
    for dim, axis in ((-1, 0), (-2, 1)):
        size = values.shape[dim]
        wanted = torch.arange(size, device=values.device) + cells_xy[:, axis, None] * (size // grid)
        shape = [1] * values.ndim
        shape[sample_dim], shape[dim] = wanted.shape
        inside = ((wanted >= 0) & (wanted < size)).view(shape)
        values = values.gather(dim, wanted.clamp(0, size - 1).view(shape).expand_as(values))
        if fill is not None:
            values = torch.where(inside, values, torch.full_like(values[:1], fill))
    return values
