"""Clips for training with carried state: windows that touch, through one crop that follows by whole output cells.

A student that keeps its membranes must see each event once, so window `k + 1` begins where window `k` ended, whatever
the labels' spacing; boxes between two labels are interpolated. Its crop keeps one scale and moves by whole cells of the
output grid towards where the target was, as a tracker with carried state moves it; the moves are part of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from had_snn.data.clip_batch import Window
from had_snn.data.clips import ClipGeometry, ClipSampler
from had_snn.data.sequence import TrackingSequence


class StreamingClips(ClipSampler):
    """Draws clips whose windows touch and whose crops differ by whole cells.

    Args:
        sequences: Where clips come from.
        geometry: Windows and crops.
        grid: Cells per side of the network's output maps.
        **options: Those of `ClipSampler`.
    """

    def __init__(
        self, sequences: Sequence[TrackingSequence], geometry: ClipGeometry, *, grid: int, **options: Any
    ) -> None:
        super().__init__(sequences, geometry, **options)
        self.grid = grid

    def search_windows(
        self, sequence: TrackingSequence, start: int, stride: int, rng: np.random.Generator, modalities: Sequence[str]
    ) -> tuple[Window, ...]:
        """The `K` touching windows of a clip whose first one ends at label `start`."""
        crop, move = self.search_region(sequence, start - stride, rng), (0, 0)
        t1, length_us, windows = int(sequence.label_times_us[start]), self.geometry.window_us, []
        if self.lengths is not None:
            t1, length_us = self._end_and_length(sequence, start, rng)
        for k in range(self.windows):
            if k > 0:
                x, y, w, h = sequence.box_at(t1)[0]
                crop, move = crop.moved_by_cells((x + w / 2, y + h / 2), self.grid)
                t1 += length_us
            seen = self.search_window(sequence, t1, crop, modalities, length_us)
            windows.append(replace(seen, move_cells=move))
        return tuple(windows)
