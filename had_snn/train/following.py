"""A teacher follows the targets of many sequences at once, each from its first usable box."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from had_snn.data.clips import ClipGeometry
from had_snn.data.sequence import TrackingSequence, first_label
from had_snn.errors import InputError
from had_snn.geometry import Crop
from had_snn.models import RGBETeacher, TrackerOutput
from had_snn.tracking import BoxFollower, TrackingPolicy
from had_snn.train.agreement import PERIOD_US, Follow, Track

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

    def follow(found: Sequence[TrackingSequence]) -> list[Track]:
        tracks: list[Track] = []
        for begin in range(0, len(found), TOGETHER):
            some = found[begin : begin + TOGETHER]
            tracks += follow_together(teacher, some, modalities=modalities)
            progress(len(tracks), len(found), some[-1].name)
        return tracks

    return follow


@torch.no_grad()
def follow_together(
    teacher: RGBETeacher, found: Sequence[TrackingSequence], *, modalities: Sequence[str] = ("rgb", "events")
) -> list[Track]:
    """Follows the targets of several sequences at their label times, one label of all at a time: a batch costs the
    teacher half of what its windows cost one by one. A lost target is not searched, as its boxes would not count.

    Each sequence is seen as it would be alone: with a frame where it has a new one, and by its events alone where not.

    Args:
        teacher: The teacher.
        found: Sequences; the box of the first usable label is given, no other.
        modalities: What the teacher may see, of `("rgb", "events")`.

    Returns:
        Boxes and scores of each sequence, 0 before the given box, whose score is 1.

    Raises:
        InputError: If a sequence shows nothing of what the teacher may see.
    """
    geometry, teacher = ClipGeometry.of(teacher.config), teacher.eval()
    follower = BoxFollower(
        search_size=geometry.search_size,
        search_factor=geometry.search_factor,
        grid=teacher.grid,
        policy=TrackingPolicy(lost_widening=1.0),
    )
    rows = [first_label(s) for s in found]
    templates = _Templates(teacher, geometry, found, rows, modalities)
    states = [
        follower.start(
            np.asarray(s.boxes_xywh[r], np.float64), s.sensor_hw, int(s.label_times_us[r]), geometry.window_us
        )
        for s, r in zip(found, rows, strict=True)
    ]
    tracks = [Track(np.zeros((len(s), 4)), np.zeros(len(s))) for s in found]
    for track, sequence, row in zip(tracks, found, rows, strict=True):
        track.boxes_xywh[row], track.scores[row] = sequence.boxes_xywh[row], 1.0
    for ahead in range(1, max(len(s) - r for s, r in zip(found, rows, strict=True))):
        active = [i for i, s in enumerate(found) if rows[i] + ahead < len(s)]
        times = {i: int(found[i].label_times_us[rows[i] + ahead]) for i in active}
        for shown, group in _by_modality([found[i] for i in active], times.values(), active, modalities):
            crops = [follower.regions(states[i])[0] for i in group]
            image, voxel, _ = _seen(geometry, [found[i] for i in group], [times[i] for i in group], crops, shown)
            output = teacher.forward_search(image, voxel, templates.of(group, shown))
            for place, i in enumerate(group):
                look = crops[place], _of_window(output, place)
                follower.accept(states[i], [look], times[i], geometry.window_us)
                estimate = follower.estimate(states[i], times[i])
                tracks[i].boxes_xywh[rows[i] + ahead] = estimate.box_xywh
                tracks[i].scores[rows[i] + ahead] = 0.0 if estimate.lost else estimate.score
    return tracks


class _Templates:
    """Templates of sequences by what the teacher is shown of them: a search without a frame wants one without, too."""

    def __init__(
        self,
        teacher: RGBETeacher,
        geometry: ClipGeometry,
        found: Sequence[TrackingSequence],
        rows: Sequence[int],
        modalities: Sequence[str],
    ) -> None:
        self._kept: dict[tuple[int, tuple[str, ...]], Tensor] = {}
        times = [int(s.label_times_us[row]) for s, row in zip(found, rows, strict=True)]
        whole = _by_modality(found, times, range(len(found)), modalities)
        events = [(("voxel",), list(range(len(found))))] if "events" in modalities else []
        for shown, group in [*whole, *events]:
            crops = [geometry.template_crop(found[i].boxes_xywh[rows[i]]) for i in group]
            seen = _seen(geometry, [found[i] for i in group], [times[i] for i in group], crops, shown)
            self._kept |= {(i, shown): one for i, one in zip(group, teacher.encode_template(*seen), strict=True)}

    def of(self, group: Sequence[int], shown: tuple[str, ...]) -> Tensor:
        """Those of a group for a search that is shown something; one that began without a frame has no other."""
        return torch.stack([self._kept.get((i, shown), self._kept.get((i, ("voxel",)))) for i in group])  # pyright: ignore


def _by_modality(
    found: Sequence[TrackingSequence], times_us: Iterable[int], numbers: Sequence[int], modalities: Sequence[str]
) -> list[tuple[tuple[str, ...], list[int]]]:
    """Numbers of the sequences by what can be shown of each at a time: a frame that is no older than a label period,
    events, or both."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for number, sequence, time in zip(numbers, found, times_us, strict=True):
        age = sequence.frame_age_us(time)
        # Without events there is nothing but the frame, however old.
        new = age is not None and (age <= PERIOD_US or "events" not in modalities)
        shown = (*(("rgb",) if "rgb" in modalities and new else ()), *(("voxel",) if "events" in modalities else ()))
        if not shown:
            raise InputError(
                f"{sequence.name}: no frame by {time} us, and modalities={list(modalities)} show nothing else; "
                "events are shown with modalities=[rgb,events]"
            )
        groups.setdefault(shown, []).append(number)
    return list(groups.items())


def _seen(
    geometry: ClipGeometry,
    found: Sequence[TrackingSequence],
    times_us: Sequence[int],
    crops: Sequence[Crop],
    shown: Sequence[str],
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Frames, voxel grids and relative boxes of sequences, each at a time."""
    windows = [geometry.window(s, time, crop, shown) for s, time, crop in zip(found, times_us, crops, strict=True)]

    def stacked(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(window, name) for window in windows]))

    images = stacked("image") if "rgb" in shown else None
    return images, stacked("voxel") if "voxel" in shown else None, stacked("box_cxcywh")


def _of_window(output: TrackerOutput, place: int) -> TrackerOutput:
    cut = slice(place, place + 1)
    return TrackerOutput(output.score_logits[cut], output.offsets[cut], output.sizes[cut])
