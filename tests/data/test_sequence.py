from __future__ import annotations

import numpy as np
import pytest

from had_snn.data.sequence import TrackingSequence, split_by_label
from had_snn.errors import InputError
from had_snn.events.stream import EventStream


def make(**changes) -> TrackingSequence:
    fields = {
        "name": "s",
        "events": EventStream.from_arrays([5, 50, 99, 100, 199], [1] * 5, [2] * 5, [0, 1] * 2 + [1], (10, 20)),
        "label_times_us": np.array([100, 200, 300]),
        "boxes_xywh": np.ones((3, 4)),
        "visible": np.ones(3, bool),
        "frames": np.arange(2, dtype=np.uint8)[:, None, None, None] * np.ones((1, 10, 20, 3), np.uint8),
        "frame_times_us": np.array([150, 250]),
    }
    return TrackingSequence(**{**fields, **changes})


def test_a_label_is_usable_where_it_shows_a_box_with_an_area():
    boxes = np.tile([10.0, 5.0, 4.0, 3.0], (7, 1))
    boxes[1, 2] = boxes[2, 3] = 0.0
    boxes[3, 0], boxes[4, 1] = np.nan, np.inf
    times, visible = 100 * np.arange(1, 8), np.arange(7) != 5
    sequence = make(boxes_xywh=boxes, label_times_us=times, visible=visible)
    assert (len(sequence), sequence.sensor_hw) == (7, (10, 20))
    assert sequence.usable.tolist() == [True, False, False, False, False, False, True]


def test_a_frame_is_used_only_after_its_exposure():
    sequence = make()
    assert sequence.frame_at(149) is None
    first, second = sequence.frame_at(150), sequence.frame_at(1000)
    assert first is not None
    assert second is not None
    assert first.max() == 0
    assert second.max() == 1
    assert make(frames=None, frame_times_us=None).frame_at(500) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes_xywh": np.ones((2, 4))}, "one box"),
        ({"visible": np.ones(4, bool)}, "one flag"),
        ({"label_times_us": np.array([1, 1, 2])}, "strictly increasing"),
        ({"frames": None}, "frames need their times"),
        ({"frame_times_us": np.array([1])}, "2 frames but 1 frame times"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict, message: str):
    with pytest.raises(InputError, match=message):
        make(**changes)


@pytest.mark.parametrize(("share", "count"), [(0.1, 4), (0.4, 16), (0.5, 20), (1.0, 40)])
def test_labelled_sequences_lie_evenly_in_the_set(share, count):
    labelled, others = split_by_label(list(range(40)), share)
    assert len(labelled) == count
    assert sorted(labelled + others) == list(range(40))
    assert count in (1, 40) or max(np.diff(labelled)) <= np.ceil(1 / share)
    with pytest.raises(InputError, match="share"):
        split_by_label([1, 2], 0.0)
