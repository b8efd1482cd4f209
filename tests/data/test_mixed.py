"""Clips from two sources: each index has one, in the proportion that is asked for, whatever the batch."""

from __future__ import annotations

import pytest
from drifting import GEOMETRY, drifting_sequence
from hypothesis import given
from hypothesis import strategies as st

from had_snn.data.clips import ClipSampler
from had_snn.data.mixed import MixedClips
from had_snn.errors import InputError

NEW, OLD = (ClipSampler([drifting_sequence(seed=seed)], GEOMETRY, epoch_length=50) for seed in (0, 1))


@given(share=st.floats(0, 0.99), begin=st.integers(0, 1000))
def test_any_stretch_of_clips_holds_both_in_proportion(share, begin):
    mixed = MixedClips(NEW, OLD, share=share)
    old = [mixed.source(index) is OLD for index in range(begin, begin + 40)]
    assert abs(sum(old) - 40 * share) <= 1


def test_a_clip_is_that_of_its_source():
    mixed = MixedClips(NEW, OLD, share=0.5)
    for index in range(6):
        clip, same = mixed[index], mixed.source(index)[index]
        assert (clip.search[0].t1, clip.template.t1) == (same.search[0].t1, same.template.t1)
        assert (clip.search[0].box_cxcywh == same.search[0].box_cxcywh).all()
    assert len(mixed) == 50
    assert mixed.sequences == [*NEW.sequences, *OLD.sequences]
    assert mixed.collate([mixed[0], mixed[1]]).boxes.shape == (2, 2, 4)
    with pytest.raises(InputError, match=r"from 0 to below 1"):
        MixedClips(NEW, OLD, share=1.0)
