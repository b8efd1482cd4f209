"""Training sequences whose labels may not be used: the teacher follows their targets, and that is where clips look."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from progress import progress

from had_snn.atomic import atomic_file
from had_snn.checkpoint import load_teacher
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import InputError
from had_snn.evaluate.one_pass import run_one_pass
from had_snn.tracking import TeacherTracker

#: Sequences that the cost of following is measured on.
SAMPLED = 6
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


def seconds_to_follow(found: Sequence[TrackingSequence], teacher_checkpoint: str) -> float:
    """Computing seconds that a teacher takes to follow the targets of all sequences, from some spread among them."""
    tracker, some = TeacherTracker(load_teacher(teacher_checkpoint)), found[:: max(1, len(found) // SAMPLED)]
    run_one_pass(tracker, some[0])
    begun = time.process_time()
    for sequence in some:
        run_one_pass(tracker, sequence)
    return (time.process_time() - begun) / len(some) * len(found)


def followed(found: Sequence[TrackingSequence], teacher_checkpoint: str, cache: str) -> list[TrackingSequence]:
    """The sequences with the teacher's boxes for labels; only the first box of each is a true one.

    Args:
        found: Sequences with frames and events.
        teacher_checkpoint: The teacher.
        cache: Folder that keeps the boxes, by teacher and sequences.

    Returns:
        Sequences whose target counts as visible where the teacher is confident.
    """
    digest = hashlib.sha256(Path(teacher_checkpoint).read_bytes())
    for sequence in found:
        digest.update(sequence.name.encode() + np.asarray(sequence.boxes_xywh[:1]).tobytes())
    path = Path(cache) / f"{digest.hexdigest()[:16]}.npz"
    if not path.is_file():
        tracker, arrays = TeacherTracker(load_teacher(teacher_checkpoint)), {}
        with progress("follow unlabelled targets", unit="sequences") as bar:
            for i, sequence in enumerate(found):
                result = run_one_pass(tracker, sequence)
                arrays[f"boxes_{i}"], arrays[f"scores_{i}"] = result.boxes_xywh, result.scores
                bar(i + 1, len(found), sequence.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
    with np.load(path) as arrays:
        return [
            replace(sequence, boxes_xywh=arrays[f"boxes_{i}"], visible=arrays[f"scores_{i}"] >= CONFIDENT)
            for i, sequence in enumerate(found)
        ]
