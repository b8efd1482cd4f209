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
from had_snn.data.clip_geometry import ClipGeometry
from had_snn.data.clips import ClipSampler
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
        t1, windows = int(sequence.label_times_us[start]), []
        for k in range(self.windows):
            if k > 0:
                x, y, w, h = box_at(sequence, t1)[0]
                crop, move = crop.moved_by_cells((x + w / 2, y + h / 2), self.grid)
                t1 += self.geometry.window_us
            box, visible = box_at(sequence, t1)
            window = self.geometry.window(sequence, t1, crop, box, visible, modalities)
            windows.append(replace(window, move_cells=move))
        return tuple(windows)


def box_at(sequence: TrackingSequence, t_us: int) -> tuple[np.ndarray, bool]:
    """The target's box at any time: a label's own, or between two labels a straight line in time.

    Returns:
        The box `[4]` in sensor pixels, and whether the target is known to be visible: at the label, or at both
        neighbours. After the last label the last box is returned as not visible.
    """
    times = sequence.label_times_us
    after = int(np.searchsorted(times, t_us))
    if after == len(times):
        return sequence.boxes_xywh[-1], False
    if times[after] == t_us or after == 0:
        return sequence.boxes_xywh[after], bool(sequence.usable[after] and times[after] == t_us)
    share = (t_us - times[after - 1]) / (times[after] - times[after - 1])
    low, high = sequence.boxes_xywh[after - 1], sequence.boxes_xywh[after]
    return low + share * (high - low), bool(sequence.usable[after - 1] and sequence.usable[after])
