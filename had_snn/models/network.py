"""What a tracker asks of a network: to read a template, to read a window, and to go on from where it stopped."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from had_snn.events.batch import EventBatch
from had_snn.models.micro_steps import MicroSteps
from had_snn.models.outputs import TrackerOutput
from had_snn.models.search_state import SearchState
from had_snn.models.student_config import StudentConfig


class SearchNetwork(Protocol):
    """A student to track with: as trained, frozen, spike-driven, counted, or deployed in a simulator."""

    @property
    def config(self) -> StudentConfig:
        """The student's plain numbers."""
        ...

    @property
    def grid(self) -> int:
        """Cells per side of the output maps."""
        ...

    @property
    def device(self) -> torch.device:
        """Where events and kernels must be."""
        ...

    @property
    def template_is_fixed(self) -> bool:
        """Whether a tracker must stay with the template it began with: true of exports, which hold it as weights."""
        ...

    def eval(self) -> SearchNetwork:
        """Puts it into evaluation mode."""
        ...

    def gain_at(self, rate: float) -> float:
        """Scale of the stem's jumps for a window of `rate` events per crop pixel and second."""
        ...

    def encode_template(self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None) -> Tensor:
        """Reads template windows into correlation kernels.

        Args:
            events: `B` template windows.
            boxes_cxcywh: The target's box in each template crop, `[B, 4]`, relative to the crop's side.
            n_steps: Micro-steps; the configured number when None.

        Returns:
            Kernels `[B, C, k, k]`.
        """
        ...

    def read_window(self, events: EventBatch, kernel: Tensor, *, n_steps: int | None = None) -> TrackerOutput:
        """Finds the template in whole windows, each from rest.

        Args:
            events: `N` search windows.
            kernel: Template kernels `[N, C, k, k]`, one per window.
            n_steps: Micro-steps; the configured number when None.

        Returns:
            The head's maps on a `G x G` grid.
        """
        ...

    def step(
        self,
        events: EventBatch,
        kernel: Tensor,
        state: SearchState | None,
        *,
        steps: MicroSteps | None = None,
        gain: Tensor | None = None,
    ) -> TrackerOutput:
        """Goes on from the state that the call before left behind.

        Args:
            events: `N` stretches of events that follow what has been read.
            kernel: Template kernels `[N, C, k, k]`.
            state: `output.state` of the call before, or None for rest.
            steps: The micro-steps that end with these events; those of a whole window when None. The read-out looks
                back over the configured number of micro-steps, however few these are.
            gain: Scale of the stem's jumps `[N]`, for stretches too short to tell their own event rate; from these
                events' rate when None.

        Returns:
            The head's maps, and the new state in `state`.

        Raises:
            HadError: If the network cannot carry a state.
        """
        ...
