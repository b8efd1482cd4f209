"""Training sequences whose labels may not be used: the teacher follows their targets, and that is where clips look."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from had_snn.checkpoint import load_teacher, released
from had_snn.data.clips import ClipGeometry
from had_snn.data.sequence import TrackingSequence, first_label
from had_snn.errors import InputError
from had_snn.files import atomic_file
from had_snn.geometry import Crop
from had_snn.models import RGBETeacher, TrackerOutput
from had_snn.tracking import BoxFollower, TrackingPolicy

#: Sequences that the cost of following is measured on, and that are followed at once.
TOGETHER = 16
#: The teacher's score from which on its box counts as a visible target.
CONFIDENT = 0.3


def split_by_label(
    found: Sequence[TrackingSequence], share: float
) -> tuple[list[TrackingSequence], list[TrackingSequence]]:
    """The sequences whose labels count, spread evenly over the set, and the others.

    Args:
        found: All training sequences.
        share: Share of them that is labelled, in (0, 1].

    Raises:
        InputError: If the share is out of range or leaves nothing.
    """
    if not 0 < share <= 1:
        raise InputError(f"labels={share}: expected a share of the training sequences in (0, 1]")
    place = np.floor(np.arange(len(found) + 1) * share + 1e-9)
    chosen = np.diff(place) > 0
    if not chosen.any():
        raise InputError(f"labels={share}: leaves none of {len(found)} training sequences")
    labelled = [s for s, keep in zip(found, chosen, strict=True) if keep]
    return labelled, [s for s, keep in zip(found, chosen, strict=True) if not keep]


@torch.no_grad()
def follow_together(
    teacher: RGBETeacher, found: Sequence[TrackingSequence], *, modalities: Sequence[str] = ("rgb", "events")
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Follows the targets of several sequences at their label times, one label of all at a time: a batch costs the
    teacher half of what its windows cost one by one. A lost target is not searched, as its boxes would not count.

    Args:
        teacher: The teacher.
        found: Sequences; the box of the first usable label is given, no other.
        modalities: What the teacher may see, of `("rgb", "events")`.

    Returns:
        Boxes `[L, 4]` and scores `[L]` of each sequence; 0 before the given box, whose score is 1.
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
    tracks = [(np.zeros((len(s), 4)), np.zeros(len(s))) for s in found]
    for i, row in enumerate(rows):
        tracks[i][0][row], tracks[i][1][row] = found[i].boxes_xywh[row], 1.0
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
            estimate = follower.estimate(states[i], times[place])
            tracks[i][0][row], tracks[i][1][row] = estimate.box_xywh, 0.0 if estimate.lost else estimate.score
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


def seconds_to_follow(found: Sequence[TrackingSequence], teacher_checkpoint: str) -> float:
    """Computing seconds that a teacher takes to follow the targets of all sequences, from some spread among them."""
    teacher, some = load_teacher(teacher_checkpoint), list(found[:: max(1, len(found) // TOGETHER)])[:TOGETHER]
    follow_together(teacher, some[:1])
    begun = time.process_time()
    follow_together(teacher, some)
    return (time.process_time() - begun) / len(some) * len(found)


def followed(
    found: Sequence[TrackingSequence],
    teacher_checkpoint: str,
    cache: str,
    *,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
) -> list[TrackingSequence]:
    """The sequences with the teacher's boxes for labels; only the first box of each is a true one.

    Args:
        found: Sequences with frames and events.
        teacher_checkpoint: The teacher.
        cache: Folder that keeps the boxes, by teacher and sequences.
        progress: Told what is done, of how many, and the newest name.

    Returns:
        Sequences whose target counts as visible where the teacher is confident.
    """
    digest = hashlib.sha256(released(teacher_checkpoint, "teacher").read_bytes())
    for sequence in found:
        digest.update(sequence.name.encode() + np.asarray(sequence.boxes_xywh[:1]).tobytes())
    path = Path(cache) / f"{digest.hexdigest()[:16]}.npz"
    if not path.is_file():
        teacher, arrays = load_teacher(teacher_checkpoint), {}
        for begin in range(0, len(found), TOGETHER):
            some = found[begin : begin + TOGETHER]
            for i, (boxes, scores) in enumerate(follow_together(teacher, some), start=begin):
                arrays[f"boxes_{i}"], arrays[f"scores_{i}"] = boxes, scores
            progress(begin + len(some), len(found), some[-1].name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    with np.load(path) as arrays:
        return [
            replace(sequence, boxes_xywh=arrays[f"boxes_{i}"], visible=arrays[f"scores_{i}"] >= CONFIDENT)
            for i, sequence in enumerate(found)
        ]
