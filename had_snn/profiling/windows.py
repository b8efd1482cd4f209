"""Profiling over windows: those of a labelled recording, as a tracker on target would cut them, or any others."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from had_snn.data.clip_batch import Window, pack_windows
from had_snn.data.clips import ClipGeometry
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import InputError
from had_snn.events.batch import EventBatch
from had_snn.geometry import Crop
from had_snn.models import SpikingTracker, StudentConfig
from had_snn.profiling.counted import CountedStudent
from had_snn.profiling.profile import Profile


@dataclass(frozen=True)
class TrackWindows:
    """What a tracker reads of one target: a template window and the search windows that follow.

    Attributes:
        template: One window.
        template_box: `[1, 4]` cx, cy, w, h relative to the template crop's side.
        search: Any number of windows.
    """

    template: EventBatch
    template_box: Tensor
    search: EventBatch


def track_windows(sequence: TrackingSequence, config: StudentConfig, *, limit: int | None = None) -> TrackWindows:
    """Template and search windows of a sequence, one search window for each window length.

    The template shows the first visible label; each later window is cropped around the visible label before it, which
    is where a tracker that has not lost its target looks.

    Args:
        sequence: The recording and its labels.
        config: Crop sizes and window length of the student.
        limit: At most this many search windows, from the start.

    Returns:
        The windows.

    Raises:
        InputError: If fewer than two visible labels lie a window apart.
    """
    times, boxes = sequence.label_times_us, sequence.boxes_xywh
    usable = np.flatnonzero(sequence.usable)
    chosen = [int(usable[0])] if len(usable) else []
    for k in usable[1:]:
        # Labels are seldom exactly a window apart: a tenth early still counts as the next window.
        if times[k] - times[chosen[-1]] >= 0.9 * config.window_us:
            chosen.append(int(k))
    if len(chosen) < 2:
        raise InputError(f"{sequence.name}: {len(chosen)} visible labels a window apart, expected at least 2")
    chosen = chosen[: limit + 1] if limit is not None else chosen
    geometry = ClipGeometry.of(config)

    def window(k: int, crop: Crop) -> Window:
        return geometry.window(sequence, int(times[k]), crop, ("events",))

    template = window(chosen[0], geometry.template_crop(boxes[chosen[0]]))
    search = [window(k, geometry.search_crop(boxes[before])) for before, k in itertools.pairwise(chosen)]
    packed = pack_windows([template]), pack_windows(search)
    assert packed[0] is not None
    assert packed[1] is not None
    return TrackWindows(packed[0], torch.from_numpy(template.box_cxcywh[None]), packed[1])


def profile_student(
    student: SpikingTracker,
    tracks: Iterable[TrackWindows],
    *,
    name: str = "student",
    batch_size: int = 16,
    n_steps: int | None = None,
) -> Profile:
    """Counts a student over tracks, in constant memory.

    Args:
        student: The network; put into evaluation mode.
        tracks: Windows of one target each.
        name: Its name in tables.
        batch_size: Search windows in one forward pass.
        n_steps: Micro-steps; the configured number when None.

    Returns:
        The profile.

    Raises:
        InputError: If there was no window at all.
    """
    counted = CountedStudent(student.eval(), name=name)
    for track in tracks:
        kernel = counted.encode_template(track.template, track.template_box, n_steps=n_steps)
        for first in range(0, len(track.search), batch_size):
            windows = track.search.samples(first, first + batch_size)
            counted.read_window(windows, kernel.expand(len(windows), -1, -1, -1), n_steps=n_steps)
    if not counted.profile.outputs:
        raise InputError("nothing to profile: no track holds a search window")
    return counted.profile
