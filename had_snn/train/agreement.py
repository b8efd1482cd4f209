"""Labels without anybody's: where a tracker that follows a target forwards and backwards agrees with itself.

A tracker that has lost its target, or follows another, gives no sign that can be trusted. But from where it ended it
can be asked to go back: if it was right all the time it comes back to where it began, and if it went astray it follows
what it went astray to, which came from elsewhere (forward-backward error: Kalal, Mikolajczyk and Matas, ICPR 2010;
Wang et al., "Unsupervised Deep Tracking", CVPR 2019). A recording is cut into segments, so that one mistake does not
cost all that was before; behind a segment whose beginning is not found again, nothing is believed any more.

Both ways together also tell more than one: a tracker lags behind, backwards in the other direction, so that the mean
of both boxes lags less than either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from had_snn.data.backwards import backwards
from had_snn.data.sequence import TrackingSequence, first_label
from had_snn.errors import InputError
from had_snn.files import atomic_file
from had_snn.geometry import box_iou, check_box

#: Follows the targets of several sequences from their first usable label; boxes `[L, 4]` at the labels of each.
Follow = Callable[[Sequence[TrackingSequence]], Sequence[np.ndarray]]
#: Time between labels of a recording without frames, and twice the least time between those of one with frames.
PERIOD_US = 40_000
#: Fewer labels in a row than these hold no clip.
SHORTEST = 4
#: Length of the pieces that are followed backwards, short as one mistake costs all of its piece, and the overlap of
#: both ways from which on they agree.
SEGMENT_US, LEAST_IOU = 400_000, 0.5


def first_box_only(sequence: TrackingSequence, *, period_us: int | None = None) -> TrackingSequence:
    """The sequence as someone has it who drew one box: times to label from there to its end, and that box.

    Args:
        sequence: The sequence; of its boxes only the first usable one is read.
        period_us: Time between the labels that are wanted. When None, they are wanted at the ends of its frames, where
            a teacher sees what is there now, or without frames every `PERIOD_US`.

    Raises:
        InputError: If there is no box, or nothing behind it.
    """
    row = first_label(sequence)
    start, end = int(sequence.label_times_us[row]), int(sequence.events.t_end)
    if period_us is None and sequence.frame_times_us is not None and len(sequence.frame_times_us):
        times = _thinned([start, *(t for t in sequence.frame_times_us.tolist() if start < t <= end)])
    else:
        times = np.arange(start, end + 1, period_us or PERIOD_US, dtype=np.int64)
    if len(times) < 2:
        raise InputError(f"{sequence.name}: nothing to follow behind the first box, from {start} to {end} us")
    boxes = np.zeros((len(times), 4))
    boxes[0] = sequence.boxes_xywh[row]
    return replace(sequence, label_times_us=times, boxes_xywh=boxes, visible=np.arange(len(times)) == 0)


def _thinned(times_us: Sequence[int]) -> np.ndarray:
    """Times that lie at least half of `PERIOD_US` apart."""
    kept = [times_us[0]]
    for time in times_us[1:]:
        if time - kept[-1] >= PERIOD_US // 2:
            kept.append(time)
    return np.array(kept, np.int64)


def agreeing(
    follow: Follow, found: Sequence[TrackingSequence], *, segment_us: int = SEGMENT_US, least_iou: float = LEAST_IOU
) -> list[TrackingSequence]:
    """The sequences with labels wherever both ways agree.

    Args:
        follow: The tracker.
        found: Sequences of which the first label's box is known (`first_box_only`).
        segment_us: Length of the segments that are followed backwards.
        least_iou: Overlap of the forward and the backward box from which on they agree.

    Returns:
        As many sequences; `visible` says where both ways agree, and the boxes there are the means of both.
    """
    ahead = follow(found)
    cut = [_segments(sequence, boxes, segment_us) for sequence, boxes in zip(found, ahead, strict=True)]
    segments = [(i, rows) for i, slices in enumerate(cut) for rows in slices]
    ends = [_ending(found[i], rows, ahead[i]) for i, rows in segments]
    back = {key: boxes[::-1] for key, boxes in zip(map(_key, segments), follow(ends), strict=True)}
    labelled = []
    for i, sequence in enumerate(found):
        boxes, agree = ahead[i].copy(), np.zeros(len(sequence), bool)
        for rows in cut[i]:
            there, again = ahead[i][rows], back[_key((i, rows))]
            same = box_iou(torch.from_numpy(_cxcywh(there)), torch.from_numpy(_cxcywh(again))).numpy() >= least_iou
            if not same[0]:
                break
            agree[rows], boxes[rows] = same, (there + again) / 2
        boxes[0], agree[0] = sequence.boxes_xywh[0], True
        labelled.append(replace(sequence, boxes_xywh=boxes, visible=agree))
    return labelled


def kept_labels(
    follow: Follow, found: Sequence[TrackingSequence], folder: Path, *, who: bytes, **options: Any
) -> list[TrackingSequence]:
    """`agreeing`, kept in a folder, as it takes a while: asked again about the same it is read from there.

    Args:
        follow: The tracker.
        found: Sequences of which the first label's box is known.
        folder: Where the labels are kept.
        who: All that the tracker's boxes depend on beside the sequences, its weights above all.
        **options: Of `agreeing`.
    """
    digest = hashlib.sha256(who + repr(sorted(options.items())).encode())
    for sequence in found:
        digest.update(f"{sequence.name} {len(sequence.events)} {sequence.events.t_end}".encode())
        digest.update(np.ascontiguousarray(sequence.boxes_xywh[0]).tobytes() + sequence.label_times_us.tobytes())
        digest.update(b"" if sequence.frame_times_us is None else sequence.frame_times_us.tobytes())
    path = folder / f"{digest.hexdigest()[:16]}.npz"
    if not path.is_file():
        labelled = agreeing(follow, found, **options)
        arrays: dict[str, Any] = {f"boxes_{i}": s.boxes_xywh for i, s in enumerate(labelled)}
        arrays |= {f"visible_{i}": s.visible for i, s in enumerate(labelled)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    with np.load(path) as kept:
        return [
            replace(sequence, boxes_xywh=kept[f"boxes_{i}"], visible=kept[f"visible_{i}"])
            for i, sequence in enumerate(found)
        ]


def runs_of_labels(sequence: TrackingSequence) -> list[TrackingSequence]:
    """A sequence for each run of labels, as nobody knows what is between them: a clip must not reach over a gap."""
    edges = np.flatnonzero(np.diff(sequence.visible.astype(int), prepend=0, append=0))
    return [
        replace(
            sequence,
            name=f"{sequence.name} {start}-{stop}",
            label_times_us=sequence.label_times_us[start:stop],
            boxes_xywh=sequence.boxes_xywh[start:stop],
            visible=sequence.visible[start:stop],
        )
        for start, stop in edges.reshape(-1, 2).tolist()
        if stop - start >= SHORTEST
    ]


def _segments(sequence: TrackingSequence, ahead: np.ndarray, segment_us: int) -> list[slice]:
    """Rows of segments; the last of one is the first of the next. Where the target leaves the sensor they end."""
    times, slices, start = sequence.label_times_us, [], 0
    while start < len(times) - 1:
        following = int(np.searchsorted(times, times[start] + segment_us, side="right")) - 1
        stop = min(max(following, start + 1), len(times) - 1)
        last = max((row for row in range(start, stop + 1) if _on_sensor(ahead[row], sequence.sensor_hw)), default=start)
        if last > start:
            slices.append(slice(start, last + 1))
        if last < stop:
            break
        start = stop
    return slices


def _on_sensor(box_xywh: np.ndarray, sensor_hw: tuple[int, int]) -> bool:
    """Whether a tracker may begin with a box."""
    try:
        check_box(box_xywh, sensor_hw)
    except InputError:
        return False
    return True


def _ending(sequence: TrackingSequence, rows: slice, ahead: np.ndarray) -> TrackingSequence:
    """A segment backwards, to be followed from the box at its end."""
    boxes = np.zeros((rows.stop - rows.start, 4))
    boxes[-1] = ahead[rows][-1]
    segment = replace(
        sequence,
        label_times_us=sequence.label_times_us[rows],
        boxes_xywh=boxes,
        visible=np.arange(len(boxes)) == len(boxes) - 1,
    )
    return backwards(segment)


def _key(segment: tuple[int, slice]) -> tuple[int, int]:
    return segment[0], segment[1].start


def _cxcywh(boxes_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2, boxes_xywh[:, 2:]], axis=1)
