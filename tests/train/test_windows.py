"""Windows as long as the tracker's: by events and speed alone, at any time, whatever the recording's pace."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from drifting import GEOMETRY, drifting_sequence

from had_snn.data.clips import Augmentation, ClipSampler
from had_snn.data.sequence import TrackingSequence
from had_snn.data.streaming import StreamingClips
from had_snn.events.stream import EventStream
from had_snn.tracking.policy import WindowPolicy
from had_snn.train.windows import RuleLengths

BOX = np.array([60.0, 60.0, 20.0, 20.0])
NO_DRAW = np.random.default_rng(0)


def steady_events(per_us: float, *, until_us: int = 400_000) -> TrackingSequence:
    """A target at rest whose box alone makes events, evenly in time."""
    count = int(per_us * until_us)
    t = np.linspace(0, until_us - 1, count).astype(np.int64)
    x, y = np.full(count, 70), np.full(count, 70)
    times = np.arange(1, 41) * (until_us // 40)
    events = EventStream.from_arrays(t, x, y, np.zeros(count, int), (180, 240))
    return TrackingSequence("steady", events, times, np.tile(BOX, (40, 1)), np.ones(40, bool))


def paced(sequence: TrackingSequence, pace: float) -> TrackingSequence:
    """Played so many times faster."""
    old = sequence.events
    events = EventStream.from_arrays((old.t / pace).astype(np.int64), old.x, old.y, old.p, old.sensor_hw)
    frames = {"frames": None, "frame_times_us": None}
    return replace(sequence, events=events, label_times_us=(sequence.label_times_us / pace).astype(np.int64), **frames)


def test_a_window_is_as_long_as_its_events_or_its_travel_ask():
    rule = RuleLengths(40_000)
    policy = WindowPolicy()
    sequence = steady_events(0.02)  # 640 events fill a window: 32 ms
    assert rule.search(sequence, 300_000, BOX, 0.0, NO_DRAW) == pytest.approx(policy.density * 400 / 0.02, rel=0.01)
    assert rule.template(sequence, 300_000, BOX, NO_DRAW) == rule.search(sequence, 300_000, BOX, 0.0, NO_DRAW)
    fast = 20e-6  # sizes per microsecond
    assert rule.search(sequence, 300_000, BOX, fast, NO_DRAW) == pytest.approx(policy.travel / fast, abs=1)


def test_limits_and_the_beginning_of_a_recording_are_kept():
    rule = RuleLengths(40_000, jitter=2.0)
    sparse, dense = steady_events(0.0005), steady_events(4.0)
    rng = np.random.default_rng(1)
    longest = max(rule.search(sparse, 390_000, BOX, 0.0, rng) for _ in range(50))
    assert longest == 200_000
    assert max(rule.search(sparse, 50_000, BOX, 0.0, rng) for _ in range(50)) <= 50_000
    assert min(rule.search(dense, 300_000, BOX, 0.0, rng) for _ in range(50)) == 500


def test_lengths_vary_as_much_as_they_are_told_to():
    rng, rule = np.random.default_rng(2), RuleLengths(40_000, jitter=0.5)
    drawn = np.log([rule.search(steady_events(0.02), 300_000, BOX, 0.0, rng) for _ in range(200)])
    assert drawn.std() == pytest.approx(0.5, rel=0.15)


def test_a_faster_recording_gives_the_same_clips_in_network_time():
    slow = drifting_sequence(labels=20)
    options = {"modalities": ("events",), "lengths": RuleLengths(GEOMETRY.window_us)}
    exact = Augmentation(centre_jitter=0, scale_jitter=0)
    one, other = (ClipSampler([s], GEOMETRY, augmentation=exact, **options) for s in (slow, paced(slow, 8)))
    for index in range(12):
        a, b = one[index].search[0], other[index].search[0]
        # Ends are drawn between the same labels, but in whole microseconds: compare what does not depend on the draw.
        assert (b.t1 - b.t0) * 8 == pytest.approx(a.t1 - a.t0, rel=0.25)
        assert b.scale == pytest.approx(GEOMETRY.window_us / (b.t1 - b.t0))
        assert b.box_cxcywh[2] == pytest.approx(a.box_cxcywh[2], rel=0.02)


def test_windows_end_at_any_time_and_the_box_is_that_of_the_end():
    sequence = drifting_sequence(labels=20)
    sampler = ClipSampler([sequence], GEOMETRY, lengths=RuleLengths(GEOMETRY.window_us, jitter=0.5), windows=2)
    ends, batch = set(), []
    for index in range(30):
        first, second = sampler[index].search
        assert second.t0 == first.t1
        assert second.t1 - second.t0 == first.t1 - first.t0
        assert first.events.t.min(initial=first.t1 - 1) >= first.t0
        ends.add(first.t1 % 40_000)
        batch.append(sampler[index])
    assert len(ends) > 20, "not at labels"
    packed = sampler.collate(batch).search_events
    assert packed.network_length_us.tolist() == pytest.approx([GEOMETRY.window_us] * 60)


@pytest.mark.parametrize("streaming", [False, True])
def test_no_window_ends_behind_the_last_label(streaming):
    sequence = drifting_sequence(labels=12)  # few events: long windows
    made = {"lengths": RuleLengths(40_000, jitter=0.5), "modalities": ("events",), "windows": 6}
    kind = partial(StreamingClips, grid=12) if streaming else ClipSampler
    clips = kind([sequence], GEOMETRY, **made)
    for index in range(60):
        windows = clips[index].search
        assert windows[-1].t1 <= sequence.label_times_us[-1]
        assert all(window.visible for window in windows)
