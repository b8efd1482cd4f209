"""Labels without anybody's: where a tracker that follows a target forwards and backwards agrees with itself.

A tracker that has lost its target, or follows another, gives no sign that can be trusted. But from where it ended it
can be asked to go back: if it was right all the time it comes back to where it began, and if it went astray it follows
what it went astray to, which came from elsewhere (forward-backward error: Kalal, Mikolajczyk and Matas, ICPR 2010;
Wang et al., "Unsupervised Deep Tracking", CVPR 2019). A box that stays where nothing is agrees with itself, too, so
both ways must also be sure of what they see. A recording is cut into segments, so that one mistake does not cost all
that was before; behind a segment whose beginning is not found again, nothing is believed any more.

Both ways together also tell more than one: a tracker lags behind, backwards in the other direction, so that the mean
of both boxes lags less than either.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from had_snn import __version__
from had_snn.data.backwards import backwards
from had_snn.data.sequence import TrackingSequence, first_label
from had_snn.errors import InputError
from had_snn.files import atomic_file
from had_snn.geometry import box_iou, check_box

log = logging.getLogger("had_snn")


class Track(NamedTuple):
    """What a tracker said of a target at the labels of a sequence.

    Attributes:
        boxes_xywh: `[L, 4]`, sensor pixels.
        scores: `[L]`, how sure it was, 0 where it had lost the target.
    """

    boxes_xywh: np.ndarray
    scores: np.ndarray


#: Follows the targets of several sequences from their first usable label.
Follow = Callable[[Sequence[TrackingSequence]], Sequence[Track]]
#: Time between labels of a recording without frames, and twice the least time between those of one with frames.
PERIOD_US = 40_000
#: Fewer labels in a row than these hold no clip.
SHORTEST = 4
#: Length of the pieces that are followed backwards, short as one mistake costs all of its piece, and the overlap of
#: both ways from which on they agree.
SEGMENT_US, LEAST_IOU = 400_000, 0.5
#: The score from which on a tracker's box counts at all: one that is lost and stands still agrees with itself.
CONFIDENT = 0.3
#: Pieces that are played backwards at once, as each is a copy of its events.
AT_ONCE = 64
#: To be raised with whatever changes the labels of the same recording: kept ones are then made again.
REVISION = 2


def first_boxes(found: Sequence[TrackingSequence], *, period_us: int | None = None) -> list[TrackingSequence]:
    """`first_box_only` of each sequence; those that there is nothing to follow in are left out, and that is said.

    Raises:
        InputError: If that is all of them.
    """
    kept, refused = [], []
    for sequence in found:
        try:
            kept.append(first_box_only(sequence, period_us=period_us))
        except InputError as error:
            refused.append(error)
    if refused and not kept:
        raise refused[0]
    for error in refused[:3]:
        log.warning("left out: %s", error)
    if len(refused) > 3:
        log.warning("left out, too: %d more targets", len(refused) - 3)
    return kept


def first_box_only(sequence: TrackingSequence, *, period_us: int | None = None) -> TrackingSequence:
    """The sequence as someone has it who drew one box: times to label from there to its end, and that box.

    Args:
        sequence: The sequence; of its boxes only the first usable one is read.
        period_us: Time between the labels that are wanted. When None, they are wanted at the ends of its frames, where
            a teacher sees what is there now, and every `PERIOD_US` where there are none.

    Raises:
        InputError: If there is no box, it lies outside the recording, or there is nothing behind it.
    """
    row = first_label(sequence)
    start, begin, end = int(sequence.label_times_us[row]), int(sequence.events.t_start), int(sequence.events.t_end)
    if not begin - SEGMENT_US <= start < end:
        raise InputError(f"{sequence.name}: its first box is at {start} us, the recording from {begin} to {end} us")
    if period_us is None:
        frames = [] if sequence.frame_times_us is None else sequence.frame_times_us.tolist()
        times = _times(start, end, [time for time in frames if start < time <= end])
    else:
        times = np.arange(start, end + 1, period_us, dtype=np.int64)
    if len(times) < 2:
        raise InputError(
            f"{sequence.name}: from its first box, at {start} us, to the end, at {end} us, is less than the "
            f"{period_us or PERIOD_US} us between two labels; give a shorter period_us"
        )
    boxes = np.zeros((len(times), 4))
    boxes[0] = sequence.boxes_xywh[row]
    return replace(sequence, label_times_us=times, boxes_xywh=boxes, visible=np.arange(len(times)) == 0)


def _times(start: int, end: int, frames: Sequence[int]) -> np.ndarray:
    """Times of labels: at frames, half of `PERIOD_US` apart at least, and in between where it is longer to the next."""
    kept = [start]
    for time in frames:
        kept += _filled(kept[-1], time)
        if time - kept[-1] >= PERIOD_US // 2:
            kept.append(time)
    return np.array(kept + _filled(kept[-1], end + PERIOD_US // 2 + 1), np.int64)


def _filled(last: int, following: int) -> list[int]:
    """Times every `PERIOD_US` between two that are much further apart."""
    return list(range(last + PERIOD_US, following - PERIOD_US // 2, PERIOD_US))


def agreeing(
    follow: Follow, found: Sequence[TrackingSequence], *, segment_us: int = SEGMENT_US, least_iou: float = LEAST_IOU
) -> list[TrackingSequence]:
    """The sequences with labels wherever both ways agree and are sure.

    Args:
        follow: The tracker.
        found: Sequences of which the first label's box is known (`first_box_only`).
        segment_us: Length of the segments that are followed backwards.
        least_iou: Overlap of the forward and the backward box from which on they agree.

    Returns:
        As many sequences; `visible` says where both ways agree, and the boxes there are the means of both.
    """
    ahead = follow(found)
    cut = [_segments(sequence, track.boxes_xywh, segment_us) for sequence, track in zip(found, ahead, strict=True)]
    segments = [(i, rows) for i, slices in enumerate(cut) for rows in slices]
    back: dict[tuple[int, int], Track] = {}
    for begin in range(0, len(segments), AT_ONCE):
        some = segments[begin : begin + AT_ONCE]
        ends = [_ending(found[i], rows, ahead[i].boxes_xywh) for i, rows in some]
        back |= {(i, rows.start): track for (i, rows), track in zip(some, follow(ends), strict=True)}
    labelled = []
    for i, sequence in enumerate(found):
        boxes, agree = ahead[i].boxes_xywh.copy(), np.zeros(len(sequence), bool)
        for rows in cut[i]:
            same, between = _agreement(ahead[i], rows, back[i, rows.start], least_iou)
            if not same[0]:
                break
            agree[rows], boxes[rows] = same, between
        boxes[0], agree[0] = sequence.boxes_xywh[0], True
        labelled.append(replace(sequence, boxes_xywh=boxes, visible=agree))
    return labelled


def _agreement(ahead: Track, rows: slice, back: Track, least_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Where in a segment both ways agree and are sure, and the means of their boxes."""
    there, again = ahead.boxes_xywh[rows], back.boxes_xywh[::-1]
    same = box_iou(torch.from_numpy(_cxcywh(there)), torch.from_numpy(_cxcywh(again))).numpy() >= least_iou
    sure = np.minimum(ahead.scores[rows], back.scores[::-1]) >= CONFIDENT
    return same & sure, (there + again) / 2


def kept_labels(
    follow: Follow,
    found: Sequence[TrackingSequence],
    folder: Path,
    *,
    who: bytes,
    segment_us: int = SEGMENT_US,
    least_iou: float = LEAST_IOU,
) -> list[TrackingSequence]:
    """`agreeing`, kept in a folder, as it takes a while: asked again about the same it is read from there.

    Args:
        follow: The tracker.
        found: Sequences of which the first label's box is known.
        folder: Where the labels are kept.
        who: All that the tracker's boxes depend on beside the sequences, its weights above all.
        segment_us: See `agreeing`.
        least_iou: Likewise.
    """
    digest = hashlib.sha256(who + repr((REVISION, __version__, segment_us, least_iou)).encode())
    for sequence in found:
        for part in _content(sequence):
            digest.update(part)
    path = folder / f"{digest.hexdigest()[:16]}.npz"
    if (kept := _read(path, found)) is not None:
        return kept
    labelled = agreeing(follow, found, segment_us=segment_us, least_iou=least_iou)
    arrays: dict[str, Any] = {f"boxes_{i}": s.boxes_xywh for i, s in enumerate(labelled)}
    arrays |= {f"visible_{i}": s.visible for i, s in enumerate(labelled)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return labelled


def _content(sequence: TrackingSequence) -> Iterator[bytes | memoryview]:
    """What the labels of a sequence depend on: all its events, its first box, when labels are wanted, its frames' times
    and, for what they show, the first, the middle and the last."""
    events, frames, times = sequence.events, sequence.frames, sequence.frame_times_us
    yield f"{sequence.name} {sequence.sensor_hw} {len(events)}".encode()
    for column in (events.t, events.x, events.y, events.p, sequence.boxes_xywh[:1], sequence.label_times_us):
        yield np.ascontiguousarray(column).data.cast("B") if len(column) else b""
    if frames is not None and times is not None and len(frames):
        yield np.ascontiguousarray(times).data.cast("B")
        for place in (0, len(frames) // 2, len(frames) - 1):
            yield np.ascontiguousarray(frames[place]).data.cast("B")


def _read(path: Path, found: Sequence[TrackingSequence]) -> list[TrackingSequence] | None:
    """Labels that are kept in a file; None where there is none, or it is damaged."""
    try:
        # Opened here: numpy leaves a file that is no archive to the garbage.
        with path.open("rb") as file, np.load(file) as kept:
            return [
                replace(sequence, boxes_xywh=kept[f"boxes_{i}"], visible=kept[f"visible_{i}"])
                for i, sequence in enumerate(found)
            ]
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, InputError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s), so the labels are made again", path, error)
        return None


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


def _cxcywh(boxes_xywh: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes_xywh[:, :2] + boxes_xywh[:, 2:] / 2, boxes_xywh[:, 2:]], axis=1)
