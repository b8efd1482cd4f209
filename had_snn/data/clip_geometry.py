"""What networks are shown of a recording: windows and crops by the numbers that a tracker will use too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from had_snn.data.clip_batch import Window
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import InputError
from had_snn.events.representations import crop_image, voxel_grid
from had_snn.geometry import Crop, search_crop

MODALITIES = ("events", "rgb", "voxel")


@dataclass(frozen=True)
class ClipGeometry:
    """The numbers of a network that fix its windows and crops.

    Attributes:
        window_us: Length of every event window in microseconds.
        template_size: Side of the template crop in crop pixels.
        template_factor: Side of the template crop in units of `sqrt(w * h)`.
        search_size: Side of the search crop in crop pixels.
        search_factor: Side of the search crop in units of `sqrt(w * h)`.
        voxel_bins: Instants of the voxel grid, which only a teacher has.

    Raises:
        InputError: If a number is not positive.
    """

    window_us: int
    template_size: int
    template_factor: float
    search_size: int
    search_factor: float
    voxel_bins: int = 5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise InputError(f"crops and windows of a network: {name}={value} must be positive")

    @classmethod
    def of(cls, config: Any) -> ClipGeometry:
        """That of a student or teacher, from its plain numbers."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls) if hasattr(config, f.name)})

    def template_crop(self, box_xywh: np.ndarray) -> Crop:
        """The template's crop around a box `[4]` in sensor pixels."""
        return search_crop(box_xywh, factor=self.template_factor, size=self.template_size)

    def search_crop(self, box_xywh: np.ndarray) -> Crop:
        """The search crop around a box `[4]` in sensor pixels."""
        return search_crop(box_xywh, factor=self.search_factor, size=self.search_size)

    def window(
        self,
        sequence: TrackingSequence,
        t1: int,
        crop: Crop,
        box_xywh: np.ndarray,
        visible: bool,
        modalities: Sequence[str],
    ) -> Window:
        """All that a network sees through a crop of the window that ends at a time.

        Args:
            sequence: The recording.
            t1: End of the window in microseconds.
            crop: The crop.
            box_xywh: The target's box `[4]` at `t1`, sensor pixels.
            visible: Whether the target is in sight there.
            modalities: Of `MODALITIES`, what to prepare.
        """
        t0 = t1 - self.window_us
        box = crop.relative_box(box_xywh).astype(np.float32)
        visible = visible and bool((box[:2] > 0).all() and (box[:2] < 1).all())
        if not np.isfinite(box).all():
            box = np.array([0.5, 0.5, 0.25, 0.25], np.float32)
        events = image = voxel = None
        if "events" in modalities or "voxel" in modalities:
            events = sequence.events.slice_time(t0, t1).crop(crop)
        if "voxel" in modalities and events is not None:
            voxel = voxel_grid(events, t0, t1, bins=self.voxel_bins)
        if "rgb" in modalities:
            frame = sequence.frame_at(t1)
            image = np.zeros((3, crop.size, crop.size), np.float32) if frame is None else crop_image(frame, crop)
        return Window(t0, t1, box, visible, events if "events" in modalities else None, image, voxel)
