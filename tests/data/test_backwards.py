"""A recording played backwards: the same events, labels and frames, seen from the other end."""

from __future__ import annotations

import numpy as np
from drifting import drifting_sequence
from hypothesis import given
from hypothesis import strategies as st

from had_snn.data.backwards import AROUND_US, BackwardFrames, backwards


@given(labels=st.integers(2, 20), seed=st.integers(0, 5))
def test_twice_backwards_is_forwards(labels, seed):
    given_ = drifting_sequence(labels=labels, seed=seed)
    there = backwards(given_)
    again = backwards(there)
    shift = again.label_times_us[0] - given_.label_times_us[0]
    np.testing.assert_array_equal(again.label_times_us - shift, given_.label_times_us)
    np.testing.assert_array_equal(again.boxes_xywh, given_.boxes_xywh)
    near = given_.events.slice_time(
        int(given_.label_times_us[0]) - AROUND_US + 1, int(given_.label_times_us[-1]) + AROUND_US
    )
    for name in "xyp":
        np.testing.assert_array_equal(getattr(again.events, name), getattr(near, name))
    np.testing.assert_array_equal(again.events.t - shift, near.t)


def test_light_that_grew_falls_and_what_came_last_comes_first():
    given_ = drifting_sequence()
    there = backwards(given_)
    end_us = int(given_.label_times_us[-1]) + AROUND_US
    np.testing.assert_array_equal(there.events.t, end_us - given_.events.t[::-1])
    np.testing.assert_array_equal(there.events.p, 1 - given_.events.p[::-1])
    assert (np.diff(there.events.t) >= 0).all()
    for row in range(len(there)):
        time = int(there.label_times_us[row])
        np.testing.assert_array_equal(there.box_at(time)[0], given_.box_at(end_us - time)[0])


def test_a_frame_is_there_from_its_end_on():
    given_ = drifting_sequence()
    there = backwards(given_)
    assert isinstance(there.frames, BackwardFrames)
    for row in range(len(given_)):
        seen = there.frame_at(int(there.label_times_us[row]))
        np.testing.assert_array_equal(seen, given_.frames[len(given_) - 1 - row])
    assert len(list(there.frames)) == len(there.frames)  # ends, as iteration asks for one after the other
