"""What `docs/tracking.md` promises for silence, noise, bursts, targets that leave, and boxes at the limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from had_snn.checkpoint import load_student
from had_snn.events.stream import EventStream
from had_snn.geometry import Crop
from had_snn.tracking import BoxFollower, OnlineTracker, TrackingPolicy

SENSOR = (180, 240)
MODES = pytest.mark.parametrize("carry", [False, True], ids=["from_rest", "carried"])


@pytest.fixture(scope="module")
def student():
    return load_student("tiny")


def target_box(t: float) -> np.ndarray:
    return np.array([85 + 40 * t, 75 + 20 * np.sin(3 * t), 30.0, 30.0])


def scene(seconds: float, shown: list[tuple[float, float]], *, noise: float, seed: int = 0) -> EventStream:
    """A textured square, 30 px wide, drifting through noise (events a second); shown only at some times."""
    rng = np.random.default_rng(seed)
    count = int(noise * seconds)
    parts = [(rng.uniform(0, seconds, count), rng.uniform((0, 0), (240, 180), (count, 2)), rng.integers(0, 2, count))]
    side, along = rng.integers(0, 4, 200), rng.uniform(-15, 15, 200)
    edge = np.where(side % 2, 15.0, -15.0)
    outline = np.where((side < 2)[:, None], np.stack([along, edge], 1), np.stack([edge, along], 1))
    points = np.concatenate([rng.uniform(-15, 15, (60, 2)), outline])
    polarity = rng.integers(0, 2, len(points))
    for begin, end in shown:
        count = int(40_000 * (end - begin))
        t, which = rng.uniform(begin, end, count), rng.integers(0, len(points), count)
        centre = np.stack([100 + 40 * t, 90 + 20 * np.sin(3 * t)], 1)
        parts.append((t, points[which] + centre + rng.normal(0, 0.3, (count, 2)), polarity[which]))
    t, xy, p = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    inside = ((xy >= 0) & (xy < (240, 180))).all(axis=1)
    order = np.argsort(t[inside])
    columns = (1e6 * t[inside], xy[inside, 0], xy[inside, 1], p[inside])
    return EventStream.from_arrays(*(c[order].astype(np.int64) for c in columns), SENSOR)


def overlap(box: np.ndarray, truth: np.ndarray) -> float:
    low, high = np.maximum(box[:2], truth[:2]), np.minimum(box[:2] + box[2:], truth[:2] + truth[2:])
    shared = np.maximum(high - low, 0).prod()
    return float(shared / (box[2:].prod() + truth[2:].prod() - shared))


def follow(student, events: EventStream, *, until_us: int, period_us: int = 20_000, **options):
    tracker = OnlineTracker(student, **options)
    tracker.init(events.slice_time(0, 100_000), target_box(0.1), t_us=100_000)
    at_us = range(100_000 + period_us, until_us + 1, period_us)
    return tracker.update(events.slice_time(100_000, until_us), at_us=at_us)


@MODES
def test_a_target_that_leaves_is_lost_and_found_again(student, carry):
    events = scene(1.6, [(0, 0.5), (0.8, 1.6)], noise=2000)
    found = follow(student, events, until_us=1_600_000, carry=carry)
    before = [e for e in found if e.t_us <= 500_000]
    away = [e for e in found if 660_000 <= e.t_us <= 800_000]
    assert all(overlap(e.box_xywh, target_box(e.t_us / 1e6)) > 0.5 and not e.lost for e in before)
    assert all(e.lost for e in away)
    # A lost target's box stays where it was.
    assert all((e.box_xywh == away[0].box_xywh).all() for e in away)
    assert overlap(found[-1].box_xywh, target_box(1.6)) > 0.5
    assert not found[-1].lost


# In noise half as dense as the target's own events the shipped student needs a stricter rule; docs/tracking.md.
@pytest.mark.parametrize(("noise", "lost_share"), [(2_000, 0.7), (8_000, 0.7), (20_000, 0.75)])
def test_noise_alone_is_no_target(student, noise, lost_share):
    events, policy = scene(1.3, [(0, 0.5)], noise=noise, seed=1), TrackingPolicy(lost_share=lost_share)
    found = follow(student, events, until_us=1_300_000, period_us=40_000, policy=policy)
    late = [e for e in found if e.t_us > 700_000]
    assert np.mean([e.lost for e in late]) > 0.6
    assert not any(e.lost for e in found if e.t_us < 500_000)


@MODES
@pytest.mark.parametrize("noise", [500, 2_000, 20_000])
def test_a_target_at_rest_is_not_lost_in_noise(student, carry, noise):
    """It makes no events, and noise alone does not tell that it has left."""
    tracker = OnlineTracker(student, carry=carry)
    events = scene(3.0, [(0, 0.1)], noise=noise, seed=2)
    tracker.init(events.slice_time(0, 100_000), target_box(0.1), t_us=100_000)
    found = tracker.update(events.slice_time(100_000, 3_000_000), at_us=range(140_000, 3_000_001, 40_000))
    assert not any(e.lost for e in found)
    assert overlap(found[-1].box_xywh, target_box(0.1)) > 0.8
    assert tracker.looks < 20


@MODES
def test_a_minute_of_silence_holds_the_box_while_the_score_decays(student, carry):
    tracker = OnlineTracker(student, carry=carry)
    events = scene(1.0, [(0, 1.0)], noise=2000)
    tracker.init(events.slice_time(0, 100_000), target_box(0.1), t_us=100_000)
    last = tracker.update(events.slice_time(100_000, 300_000), at_us=[200_000, 300_000])[-1]
    held = tracker.update(EventStream.empty(SENSOR), at_us=range(400_000, 60_400_000, 200_000))
    # It goes on as it moved for a window, and rests then.
    assert overlap(held[0].box_xywh, last.box_xywh) > 0.8
    assert all((e.box_xywh == held[0].box_xywh).all() and not e.lost for e in held)
    scores = [e.score for e in held]
    assert scores == sorted(scores, reverse=True)
    state = tracker.state.follower
    assert state.window_us < 100_000
    silent = (400_000 - tracker.state.look_us - state.window_us) / state.window_us
    assert scores[0] == pytest.approx(state.score * np.exp(-silent / tracker.policy.silence_windows))
    assert 0 <= scores[-1] < 1e-6
    # Then it goes on as if nothing had been.
    later = EventStream.from_arrays(events.t + 60_200_000, events.x, events.y, events.p, SENSOR)
    seen = tracker.update(later.slice_time(60_450_000, 60_600_000), at_us=[60_500_000, 60_550_000, 60_600_000])
    assert overlap(seen[-1].box_xywh, target_box(0.4)) > 0.4
    assert seen[-1].score > 0.4


def test_a_minute_of_silence_is_bridged_by_the_next_event(student):
    tracker = OnlineTracker(student, output_period_us=10_000)
    tracker.init(scene(0.1, [(0, 0.1)], noise=2000), target_box(0.1), t_us=100_000)
    one = EventStream.from_arrays([60_100_000], [5], [5], [1], SENSOR)
    assert len(tracker.update(one)) == 6_000


@MODES
def test_a_burst_costs_no_more_than_its_limit(student, carry, monkeypatch):
    rng = np.random.default_rng(0)
    calm = scene(0.6, [(0, 0.6)], noise=2000)
    count = 2_000_000  # in 20 ms: 1e8 events a second
    t = np.sort(rng.integers(200_000, 220_000, count))
    burst = EventStream.from_arrays(
        t, rng.integers(0, 240, count), rng.integers(0, 180, count), rng.integers(0, 2, count), SENSOR
    )
    tracker = OnlineTracker(student, carry=carry, policy=TrackingPolicy(max_events=5_000))
    tracker.init(calm.slice_time(0, 100_000), target_box(0.1), t_us=100_000)
    before = tracker.update(calm.slice_time(100_000, 200_000), at_us=range(110_000, 200_001, 10_000))
    read = []
    for name in ("read_window", "step"):
        forward = getattr(tracker.network, name)
        monkeypatch.setattr(tracker.network, name, lambda b, *a, f=forward, **k: read.append(len(b.t)) or f(b, *a, **k))
    during = tracker.update(burst, at_us=[210_000, 220_000])
    after = tracker.update(calm.slice_time(220_000, 600_000), at_us=range(230_000, 600_001, 10_000))
    assert max(read) <= 5_000
    assert max(read) > 2_500
    for e in during + after:
        assert np.isfinite(e.box_xywh).all()
        assert 0 <= e.score <= 1
    assert overlap(before[-1].box_xywh, target_box(0.2)) > 0.5
    # The burst is forgotten with its window.
    assert overlap(after[-1].box_xywh, target_box(0.6)) > 0.3


class Peak:
    """A look that finds a box, whatever there is."""

    activity = None

    def __init__(self, box_cxcywh: list[float]) -> None:
        self.box_cxcywh = tuple(box_cxcywh)

    def peak(self, prior: np.ndarray):
        return self.box_cxcywh, 0.5


@settings(max_examples=25)
@given(
    st.lists(st.floats(-3e3, 3e3), min_size=4, max_size=4),
    st.floats(1, 480),
    st.floats(1, 360),
    st.floats(0, 240),
    st.floats(0, 180),
)
def test_boxes_keep_to_their_limits(found, width, height, cx, cy):
    follower = BoxFollower(search_size=96, search_factor=3.0, grid=12, policy=TrackingPolicy())
    state = follower.start(np.array([cx - width / 2, cy - height / 2, width, height]), SENSOR, 0, 40_000)
    far = (np.abs(found) + np.array([-1500, -1500, 1e-3, 1e-3])).tolist()
    for k in range(5):
        follower.accept(state, [(Crop(0, 0, 1.0, 1), Peak(far))], 20_000 * (k + 1), 40_000)
        x, y, w, h = follower.estimate(state, 20_000 * (k + 1)).box_xywh
        assert 4 - 1e-9 <= w <= 480 + 1e-9
        assert 4 - 1e-9 <= h <= 360 + 1e-9
        assert w <= max(4, 8 * width) + 1e-6
        assert -w + 4 - 1e-6 <= x <= 236 + 1e-6
        assert -h + 4 - 1e-6 <= y <= 176 + 1e-6
        assert all(np.isfinite(crop.scale) for crop in follower.regions(state))


def test_a_lost_target_is_sought_around_its_place():
    follower = BoxFollower(search_size=96, search_factor=3.0, grid=12, policy=TrackingPolicy())
    state = follower.start(np.array([100.0, 70, 20, 20]), SENSOR, 0, 40_000)
    assert places(follower.regions(state)) == [(80, 50)]
    state.lost = True
    crops = follower.regions(state)
    assert sorted(places(crops)) == [(80 + dx, 50 + dy) for dx in (-30, 0, 30) for dy in (-30, 0, 30)]
    assert {round(c.scale, 9) for c in crops} == {96 / 60}
    state.motion.centre = (-5, 80)  # nothing to find beyond the sensor's edge
    assert {x for x, _ in places(follower.regions(state))} == {-35, -5}


def places(crops: list[Crop]) -> list[tuple[float, float]]:
    return [(round(crop.x0, 9), round(crop.y0, 9)) for crop in crops]


STUDENT = load_student("tiny")


@settings(max_examples=8)
@given(st.integers(0, 2**31), st.booleans(), st.integers(1, 60_000), st.integers(0, 400))
def test_never_raises_on_legal_input(seed, carry, period_us, count):
    rng = np.random.default_rng(seed)
    tracker = OnlineTracker(STUDENT, output_period_us=max(period_us, 2_000), carry=carry)
    start = int(rng.integers(0, 2**40))
    box = np.concatenate([rng.uniform(-20, 200, 2), rng.uniform(1, 300, 2)])
    box[:2] = np.clip(box[:2], -box[2:] / 2, (240, 180) - box[2:] / 2)
    tracker.init(EventStream.empty(SENSOR), box, t_us=start)
    for k in range(3):
        t = np.sort(rng.integers(start + k * 30_000, start + (k + 1) * 30_000, count))
        columns = rng.integers(0, 240, count), rng.integers(0, 180, count), rng.integers(0, 2, count)
        for e in tracker.update(EventStream.from_arrays(t, *columns, SENSOR)):
            assert np.isfinite(e.box_xywh).all()
            assert 0 <= e.score <= 1
