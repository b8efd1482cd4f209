"""Truncated backpropagation through time: clips whose windows hand on the student's membranes.

The gradient flows back through some windows and no further (Williams & Peng, 1990): a batch falls into pieces of as
many windows with a backward pass each, so memory grows with them and not with the length of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from had_snn.data.clip_batch import ClipBatch
from had_snn.errors import InputError
from had_snn.models import SearchState, SpikingTracker, TrackerOutput
from had_snn.train.guards import RateTaps


@dataclass
class Carried:
    """What the windows of a batch hand to those after them; cut from the graph between pieces."""

    state: SearchState | None = None


@dataclass
class Piece:
    """Some consecutive windows of a batch, one backward pass.

    Attributes:
        batch: Those windows.
        share: Of all windows of the batch, in (0, 1].
        carried: Shared by the pieces of one batch; None where every window starts from rest.
    """

    batch: ClipBatch
    share: float = 1.0
    carried: Carried | None = None


def cut(batch: ClipBatch, windows: int) -> Iterator[Piece]:
    """The parts of a batch of so many windows each, in order.

    Raises:
        InputError: If the windows of a clip do not touch.
    """
    events, total = batch.search_events, len(batch.boxes)
    if events is None or batch.move_cells is None or not _touching(events.t_begin, events.t_end, total):
        raise InputError("carried state needs clips whose windows touch; draw them with data.streaming")
    carried = Carried()
    for start in range(0, total, windows):
        part = batch.windows(start, start + windows)
        yield Piece(part, len(part.boxes) / total, carried)


def run_carried(
    student: SpikingTracker, batch: ClipBatch, carried: Carried, taps: Callable[[], RateTaps]
) -> TrackerOutput:
    """Runs window after window with carried state; the template is encoded again.

    Args:
        student: The network.
        batch: The windows of a piece.
        carried: The state before them, and after them.
        taps: Makes what collects a window's inner signals.

    Returns:
        Maps and signals as of all windows at once, window-major.
    """
    assert batch.template_events is not None
    assert batch.search_events is not None
    assert batch.move_cells is not None
    kernel = student.encode_template(batch.template_events, batch.template_box)
    outputs, state, clips = [], carried.state, batch.boxes.shape[1]
    for k, moves in enumerate(batch.move_cells):
        events = batch.search_events.samples(k * clips, (k + 1) * clips)
        state = None if state is None else state.moved(moves)
        outputs.append(student.step(events, kernel, state, taps=taps()))
        state = outputs[-1].state
    carried.state = None if state is None else state.detach()
    return _joined(outputs)


def _touching(begin: Tensor, end: Tensor, windows: int) -> bool:
    """Whether each window of every clip begins where the one before ended."""
    return torch.equal(begin.view(windows, -1)[1:], end.view(windows, -1)[:-1])


def _joined(outputs: list[TrackerOutput]) -> TrackerOutput:
    """Outputs of successive windows as one, window-major."""
    joined = RateTaps.joined([output.taps for output in outputs if isinstance(output.taps, RateTaps)])
    maps = [torch.cat([getattr(o, name) for o in outputs]) for name in ("score_logits", "offsets", "sizes")]
    return TrackerOutput(*maps, taps=joined)
