"""A teacher follows the targets of many sequences at once, each from its first usable box."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from had_snn.data.clips import ClipGeometry
from had_snn.data.sequence import TrackingSequence, first_label
from had_snn.geometry import Crop
from had_snn.models import RGBETeacher, TrackerOutput
from had_snn.tracking import BoxFollower, TrackingPolicy
from had_snn.train.agreement import Follow

#: Sequences that are followed at once.
TOGETHER = 16


def teacher_follows(
    teacher: RGBETeacher,
    *,
    modalities: Sequence[str] = ("rgb", "events"),
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> Follow:
    """The teacher as one who follows, a batch of sequences after another.

    Args:
        teacher: The teacher.
        modalities: What it may see, of `("rgb", "events")`.
        progress: Told how many of how many sequences are done, and the newest name.
    """

    def follow(found: Sequence[TrackingSequence]) -> list[np.ndarray]:
        boxes: list[np.ndarray] = []
        for begin in range(0, len(found), TOGETHER):
            some = found[begin : begin + TOGETHER]
            boxes += follow_together(teacher, some, modalities=modalities)
            progress(len(boxes), len(found), some[-1].name)
        return boxes

    return follow


@torch.no_grad()
def follow_together(
    teacher: RGBETeacher, found: Sequence[TrackingSequence], *, modalities: Sequence[str] = ("rgb", "events")
) -> list[np.ndarray]:
    """Follows the targets of several sequences at their label times, one label of all at a time: a batch costs the
    teacher half of what its windows cost one by one. A lost target is not searched, as its boxes would not count.

    Args:
        teacher: The teacher.
        found: Sequences; the box of the first usable label is given, no other.
        modalities: What the teacher may see, of `("rgb", "events")`.

    Returns:
        Boxes `[L, 4]` of each sequence, 0 before the given one.
    """
    geometry, teacher = ClipGeometry.of(teacher.config), teacher.eval()
    follower = BoxFollower(
        search_size=geometry.search_size,
        search_factor=geometry.search_factor,
        grid=teacher.grid,
        policy=TrackingPolicy(lost_widening=1.0),
    )
    rows = [first_label(s) for s in found]
    crops = [geometry.template_crop(s.boxes_xywh[r]) for s, r in zip(found, rows, strict=True)]
    templates = teacher.encode_template(*_seen(geometry, found, rows, crops, modalities))
    states = [
        follower.start(
            np.asarray(s.boxes_xywh[r], np.float64), s.sensor_hw, int(s.label_times_us[r]), geometry.window_us
        )
        for s, r in zip(found, rows, strict=True)
    ]
    tracks = [np.zeros((len(s), 4)) for s in found]
    for i, row in enumerate(rows):
        tracks[i][row] = found[i].boxes_xywh[row]
    for ahead in range(1, max(len(s) - r for s, r in zip(found, rows, strict=True))):
        active = [i for i, s in enumerate(found) if rows[i] + ahead < len(s)]
        now = [rows[i] + ahead for i in active]
        times = [int(found[i].label_times_us[row]) for i, row in zip(active, now, strict=True)]
        crops = [follower.regions(states[i])[0] for i in active]
        images, voxels, _ = _seen(geometry, [found[i] for i in active], now, crops, modalities)
        output = teacher.forward_search(images, voxels, templates[active])
        for place, (i, row) in enumerate(zip(active, now, strict=True)):
            look = crops[place], _of_window(output, place)
            follower.accept(states[i], [look], times[place], geometry.window_us)
            tracks[i][row] = follower.estimate(states[i], times[place]).box_xywh
    return tracks


def _seen(
    geometry: ClipGeometry,
    found: Sequence[TrackingSequence],
    rows: Sequence[int],
    crops: Sequence[Crop],
    modalities: Sequence[str],
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Frames, voxel grids and relative boxes of sequences at some label of each."""
    pictured = any(sequence.frames is not None for sequence in found)
    shown = [
        name for name, there in (("rgb", "rgb" in modalities and pictured), ("voxel", "events" in modalities)) if there
    ]
    windows = [
        geometry.window(s, int(s.label_times_us[row]), crop, shown)
        for s, row, crop in zip(found, rows, crops, strict=True)
    ]

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(window, name) for window in windows]))

    images = stacked("image") if "rgb" in shown else None
    return images, stacked("voxel") if "voxel" in shown else None, stacked("box_cxcywh")


def _of_window(output: TrackerOutput, place: int) -> TrackerOutput:
    cut = slice(place, place + 1)
    return TrackerOutput(output.score_logits[cut], output.offsets[cut], output.sizes[cut])
