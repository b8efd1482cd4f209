"""Simulated targets of one speed move at it."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.data.steady import steady_sequence
from had_snn.errors import InputError


@pytest.mark.parametrize(("speed", "growth", "seconds"), [(0.5, 0.1, 2.0), (50.0, 0.0, 0.2)])
def test_a_target_keeps_its_speed_in_sizes(speed, growth, seconds):
    sequence = steady_sequence(3, speed, seconds=seconds, label_hz=50 / seconds, growth=growth)
    boxes, times = sequence.boxes_xywh, sequence.label_times_us * 1e-6
    assert len(sequence) == 50
    assert len(sequence.events) > 1_000
    size = np.sqrt(boxes[:, 2:].prod(axis=1))
    np.testing.assert_allclose(size[-1] / size[0], (1 + growth) ** (times[-1] - times[0]), rtol=0.03)
    velocity = np.gradient(boxes[:, :2] + boxes[:, 2:] / 2, times, axis=0)
    # The tight box of an outline is a little larger or smaller than the extent that the speed is told in.
    np.testing.assert_allclose(np.median(np.linalg.norm(velocity, axis=1) / size), speed, rtol=0.25)
    again = steady_sequence(3, speed, seconds=seconds, label_hz=50 / seconds, growth=growth)
    assert (again.events.t == sequence.events.t).all()


def test_a_resting_target_rests_and_nonsense_is_refused():
    boxes = steady_sequence(0, 0.0, seconds=1.0).boxes_xywh
    assert (boxes == boxes[0]).all()
    for options in ({"speed": -1.0, "seconds": 1.0}, {"speed": 1.0, "seconds": 0.01}):
        with pytest.raises(InputError, match="two labels"):
            steady_sequence(0, **options)
