"""Clips for carried state: windows touch, crops differ by whole cells, boxes between labels are interpolated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from had_snn.data.clip_batch import collate
from had_snn.data.clips import Augmentation, ClipGeometry
from had_snn.data.sequence import TrackingSequence
from had_snn.data.streaming import StreamingClips
from had_snn.events.stream import EventStream


def fast_sequence(*, labels: int = 40, period_us: int = 7_000) -> TrackingSequence:
    """A target that crosses 1.5 pixels a millisecond; its events and its pixels lie at its centre."""
    times = period_us * np.arange(1, labels + 1)
    boxes = np.stack([np.array([30 + 5e-4 * t, 40 + 2e-4 * t, 24.0, 24.0]) for t in times])
    t = np.sort(np.random.default_rng(0).integers(0, times[-1], 20_000))
    x, y = (30 + 5e-4 * t + 12).astype(int), (40 + 2e-4 * t + 12).astype(int)
    events = EventStream.from_arrays(t, x, y, np.zeros(len(t), int), (180, 240))
    return TrackingSequence("fast", events, times, boxes, np.ones(labels, bool))


def clips(**options) -> StreamingClips:
    geometry = ClipGeometry(40_000, 72, 2.25, 96, 3.0)
    varied = Augmentation(**options)
    return StreamingClips([fast_sequence()], geometry, grid=12, windows=5, augmentation=varied, modalities=("events",))


def test_windows_touch_whatever_the_labels_spacing():
    for index in range(10):
        search = clips()[index].search
        for before, after in itertools.pairwise(search):
            assert after.t0 == before.t1
            assert after.t1 - after.t0 == 40_000


def test_crops_follow_by_whole_cells_and_boxes_say_so():
    moved = 0
    for index in range(10):
        search = clips(centre_jitter=0.2)[index].search
        for k, (before, after) in enumerate(itertools.pairwise(search), start=1):
            # In crop units the target moved by its own motion less what the crop moved.
            own = np.array([5e-4, 2e-4]) * 40_000 / 24 * before.box_cxcywh[2]
            shift = np.array(after.move_cells) * 8 / 96
            if after.visible and before.visible:
                np.testing.assert_allclose(after.box_cxcywh[:2] - before.box_cxcywh[:2], own - shift, atol=1e-5)
                # The crop was centred, to half a cell, on where the target was at the window before.
                off = before.box_cxcywh[:2] - shift - 0.5
                assert np.abs(off).max() <= 4 / 96 + 1e-6
            moved += any(after.move_cells)
            assert k == 1 or after.box_cxcywh[2] == pytest.approx(before.box_cxcywh[2])
    assert moved > 20


def test_box_between_labels_is_interpolated_and_unknown_after_the_last():
    sequence = fast_sequence()
    box, visible = sequence.box_at(10_500)
    np.testing.assert_allclose(box, [30 + 5e-4 * 10_500, 40 + 2e-4 * 10_500, 24, 24])
    assert visible
    assert not sequence.box_at(int(sequence.label_times_us[-1]) + 1)[1]
    hidden = TrackingSequence("h", sequence.events, sequence.label_times_us, sequence.boxes_xywh, np.arange(40) != 1)
    assert not hidden.box_at(10_500)[1]
    assert hidden.box_at(7_000)[1]


def test_a_batch_keeps_the_moves_and_can_be_cut():
    batch = collate([clips()[i] for i in range(3)])
    assert batch.move_cells.shape == (5, 3, 2)
    part = batch.windows(2, 4)
    assert part.boxes.shape == (2, 3, 4)
    assert len(part.search_events) == 6
    assert part.search_events.t_begin.tolist() == batch.search_events.t_begin[6:12].tolist()
    low, high = batch.search_events.offsets[[6, 12]]
    assert part.search_events.t.tolist() == batch.search_events.t[low:high].tolist()
    assert part.search_events.offsets[0] == 0
    assert len(part.template_events) == 3


def test_mirrored_clips_move_the_other_way():
    plain, mirrored = clips()[3].search, clips(flip=1.0)[3].search
    assert [(-w.move_cells[0], w.move_cells[1]) for w in plain] == [w.move_cells for w in mirrored]
