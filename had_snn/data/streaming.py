"""Clips for training with carried state: windows that touch, through one crop that follows by whole output cells.

A student that keeps its membranes must see each event once, so window `k + 1` begins where window `k` ended, whatever
the labels' spacing; boxes between two labels are interpolated. Its crop keeps one scale and moves by whole cells of the
output grid towards where the target was, as a tracker with carried state moves it; the moves are part of the batch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from had_snn.data.clips import ClipSampler, Window, usable_labels
from had_snn.data.sequence import TrackingSequence
from had_snn.geometry import Crop


class StreamingClips(ClipSampler):
    """Draws clips whose windows touch and whose crops differ by whole cells.

    Args:
        sequences: Where clips come from.
        cell_px: Side of an output cell in crop pixels: the search crop's side over the network's grid.
        **options: Those of `ClipSampler`.
    """

    def __init__(self, sequences: list[TrackingSequence], *, cell_px: int, **options: Any) -> None:
        super().__init__(sequences, **options)
        self.cell_px = cell_px

    def search_windows(
        self, sequence: TrackingSequence, start: int, stride: int, rng: np.random.Generator, *, distilled: bool = True
    ) -> tuple[Window, ...]:
        """The `K` touching windows of a clip whose first one ends at label `start`."""
        crop = self.search_region(sequence, start - stride, rng)
        first = int(sequence.label_times_us[start])
        windows: list[Window] = []
        for k in range(self.windows):
            t1, move = first + k * self.window_us, (0, 0)
            if k > 0:
                crop, move = self._follow(crop, box_at(sequence, t1 - self.window_us)[0])
            box, visible = box_at(sequence, t1)
            windows.append(
                replace(self.crop_until(sequence, t1, crop, box, visible, distilled=distilled), move_cells=move)
            )
        return tuple(windows)

    def _follow(self, crop: Crop, box_xywh: np.ndarray) -> tuple[Crop, tuple[int, int]]:
        """The crop moved by whole cells so that a box is nearest to its middle; stays where the box is unknown."""
        centre = crop.boxes_to_crop(box_xywh)
        off = centre[:2] + centre[2:] / 2 - crop.size / 2
        if not np.isfinite(off).all():
            return crop, (0, 0)
        dx, dy = (round(float(v) / self.cell_px) for v in off)
        step = self.cell_px / crop.scale
        return replace(crop, x0=crop.x0 + dx * step, y0=crop.y0 + dy * step), (dx, dy)


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
    usable = usable_labels(sequence)
    if times[after] == t_us or after == 0:
        return sequence.boxes_xywh[after], bool(usable[after] and times[after] == t_us)
    share = (t_us - times[after - 1]) / (times[after] - times[after - 1])
    low, high = sequence.boxes_xywh[after - 1], sequence.boxes_xywh[after]
    return low + share * (high - low), bool(usable[after - 1] and usable[after])
