"""What every tracker network returns, and what distillation may look at inside it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from had_snn.models.search_state import SearchState


@dataclass
class Taps:
    """Inner signals of a network, collected only when asked for.

    Attributes:
        membranes: Pre-reset membrane potentials by layer name, each `[T, N, C, H, W]` (student).
        spikes: Spike trains by layer name, each `[T, N, C, H, W]` (student; profiling and plots).
        matched: Correlations of search spikes with the template by layer name, `[T, N, C, H, W]` (student).
        features: Search-token features on their grid, `[N, D, H, W]` (teacher).
        traces: Whether membranes are wanted, which cost memory traffic of their own.
        only: The one clocked layer whose membranes are wanted; all of them when None.
    """

    membranes: dict[str, Tensor] = field(default_factory=dict)
    spikes: dict[str, Tensor] = field(default_factory=dict)
    matched: dict[str, Tensor] = field(default_factory=dict)
    features: Tensor | None = None
    traces: bool = True
    only: str | None = None

    def wants_membranes(self, name: str) -> bool:
        """Whether a layer shall keep its membranes."""
        return self.traces and self.only in (None, name)

    def add(self, name: str, spikes: Tensor, membranes: Tensor | None) -> None:
        """Takes a layer's spikes, and its membranes where they are wanted."""
        self.spikes[name] = spikes
        if membranes is not None and self.wants_membranes(name):
            self.membranes[name] = membranes

    def add_match(self, name: str, matched: Tensor) -> None:
        """Takes the correlations of a layer that matches."""
        self.matched[name] = matched


@dataclass
class TrackerOutput:
    """Maps of the centre head and the box read from them, for `N` search windows on a `G x G` grid.

    Attributes:
        score_logits: `[N, G, G]`, before the sigmoid.
        offsets: `[N, 2, G, G]`, box centre relative to the cell's centre, in cells (x, y).
        sizes: `[N, 2, G, G]`, box width and height relative to the crop's side, in (0, 1).
        activity: `[N, C]`, spikes per neuron and micro-step of each channel of the last backbone stage (student).
        taps: Inner signals, or None when not asked for.
        state: What the search branch remembers (student), or None when not asked for.
    """

    score_logits: Tensor
    offsets: Tensor
    sizes: Tensor
    activity: Tensor | None = None
    taps: Taps | None = None
    state: SearchState | None = None

    @property
    def scores(self) -> Tensor:
        """Score map `[N, G, G]` in [1e-4, 1 - 1e-4]."""
        return self.score_logits.sigmoid().clamp(1e-4, 1 - 1e-4)

    def box_maps(self) -> Tensor:
        """The box that each cell predicts: `[N, 4, G, G]` as cx, cy, w, h relative to the crop's side."""
        grid = self.score_logits.shape[-1]
        centres = (torch.arange(grid, device=self.offsets.device, dtype=self.offsets.dtype) + 0.5) / grid
        cx = centres[None, None, :] + self.offsets[:, 0] / grid
        cy = centres[None, :, None] + self.offsets[:, 1] / grid
        return torch.stack([cx, cy, self.sizes[:, 0], self.sizes[:, 1]], dim=1)

    def peak(self, prior: np.ndarray) -> tuple[tuple[float, float, float, float], float]:
        """`peak_boxes` of the first window in plain numbers, for trackers that give a thousand boxes a second.

        Args:
            prior: Map `[G, G]`.

        Returns:
            cx, cy, w, h relative to the crop's side, and the score.
        """
        scores = 1 / (1 + np.exp(-self.score_logits[0].cpu().numpy()))
        grid = scores.shape[-1]
        row, column = divmod(int((scores * prior).argmax()), grid)
        rows, columns = slice(max(0, row - 1), row + 2), slice(max(0, column - 1), column + 2)
        # Sums of nine numbers in one order, whatever the memory layout of the maps.
        near = [self.offsets[0, 0], self.offsets[0, 1], self.sizes[0, 0], self.sizes[0, 1]]
        dx, dy, w, h = (m[rows, columns].double().cpu().numpy().ravel() for m in near)
        share = scores[rows, columns].astype(np.float64).ravel() ** 2
        share /= share.sum()
        places = np.arange(grid) + 0.5
        down, right = np.repeat(places[rows], len(places[columns])), np.tile(places[columns], len(places[rows]))
        x, y = float(share @ (right + dx)), float(share @ (down + dy))
        w, h = math.exp(float(share @ np.log(w))), math.exp(float(share @ np.log(h)))
        score = min(max(float(scores[row, column]), 1e-4), 1 - 1e-4)
        return (x / grid, y / grid, w, h), score

    def peak_boxes(self, prior: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Reads one box per window at the highest score.

        Args:
            prior: Map `[G, G]` or `[N, G, G]` that the scores are multiplied with before the peak is sought (for
                example a Hann window); the returned score is the one without it.

        Returns:
            Boxes `[N, 4]` as cx, cy, w, h relative to the crop's side, and scores `[N]`.
        """
        scores = self.scores
        weighted = scores if prior is None else scores * prior
        cell = weighted.flatten(1).argmax(dim=1)
        boxes = self.box_maps().flatten(2).gather(2, cell[:, None, None].expand(-1, 4, 1)).squeeze(2)
        return boxes, scores.flatten(1).gather(1, cell[:, None]).squeeze(1)
