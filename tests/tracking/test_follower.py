"""The rules between maps and boxes, by hand: where to look, how scores decay, when a target is lost and found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from had_snn.geometry import Crop
from had_snn.models import TrackerOutput
from had_snn.tracking import BoxFollower, TrackingPolicy

SENSOR, WINDOW_US, START_US, GRID = (180, 240), 10_000, 1_000_000, 12
POLICY = TrackingPolicy(lost_widening=2.0, silence_windows=5.0)


@pytest.fixture
def follower() -> BoxFollower:
    return BoxFollower(search_size=96, search_factor=3.0, grid=GRID, policy=POLICY)


def started(follower: BoxFollower, *box: float):
    return follower.start(np.array(box), SENSOR, START_US, WINDOW_US)


def seen(score: float, *, cell: tuple[int, int] = (6, 6)) -> TrackerOutput:
    """A map with one peak of this score, of a box of a third of the crop."""
    logits = torch.full((1, GRID, GRID), -12.0)
    logits[0, cell[0], cell[1]] = math.log(score / (1 - score))
    return TrackerOutput(logits, torch.zeros(1, 2, GRID, GRID), torch.full((1, 2, GRID, GRID), 1 / 3))


def corners(crops: list[Crop]) -> list[tuple[float, float]]:
    return [(round(float(crop.x0), 9), round(float(crop.y0), 9)) for crop in crops]


def test_one_region_around_the_box_and_nine_while_it_is_lost(follower):
    state = started(follower, 90, 70, 20, 20)
    assert corners(follower.regions(state)) == [(70, 50)]
    state.lost = True
    half = 30.0  # of a crop of 60 pixels
    expected = [(70 + right, 50 + down) for down in (-half, 0, half) for right in (-half, 0, half)]
    assert corners(follower.regions(state)) == expected
    assert {(round(crop.scale, 9), crop.size) for crop in follower.regions(state)} == {(1.6, 96)}


@pytest.mark.parametrize(
    ("box", "outside"),
    [
        ((0, 70, 20, 20), "left"),
        ((205, 70, 20, 20), "right"),
        ((200, 70, 20, 20), "right"),
        ((90, 0, 20, 20), "top"),
        ((90, 145, 20, 20), "bottom"),
    ],
)
def test_no_region_is_centred_outside_the_sensor_but_that_of_the_box(follower, box, outside):
    state = started(follower, *box)
    state.lost = True
    found = corners(follower.regions(state))
    x, y = box[0] - 20, box[1] - 20
    assert len(found) == 6
    assert (x, y) in found
    gone = {"left": (x - 30, y), "right": (x + 30, y), "top": (x, y - 30), "bottom": (x, y + 30)}[outside]
    assert gone not in found


def test_without_widening_a_lost_target_has_one_region():
    follower = BoxFollower(search_size=96, search_factor=3.0, grid=GRID, policy=TrackingPolicy(lost_widening=1.0))
    state = started(follower, 90, 70, 20, 20)
    state.lost = True
    assert corners(follower.regions(state)) == [(70, 50)]


def test_a_score_decays_from_one_window_after_the_newest_look(follower):
    state = started(follower, 90, 70, 20, 20)
    scores = [follower.estimate(state, START_US + passed).score for passed in (0, WINDOW_US, 6 * WINDOW_US)]
    assert scores == pytest.approx([1.0, 1.0, math.exp(-1)])
    follower.hold(state, START_US + 5 * WINDOW_US, WINDOW_US)
    assert state.score == pytest.approx(math.exp(-1))
    assert follower.estimate(state, START_US + 5 * WINDOW_US).score == pytest.approx(math.exp(-1))


def test_a_target_is_lost_when_scores_fall_and_found_when_they_are_back(follower):
    state, now = started(follower, 90, 70, 20, 20), START_US
    for score in (0.8, 0.8, 0.8):
        now += WINDOW_US
        follower.accept(state, [(follower.regions(state)[0], seen(score))], now, WINDOW_US)
    assert not state.lost
    assert state.usual_score == pytest.approx(0.8)
    looks = 0
    while not state.lost and looks < 50:
        now, looks = now + WINDOW_US, looks + 1
        follower.accept(state, [(follower.regions(state)[0], seen(0.01))], now, WINDOW_US)
    assert looks < 50
    where = follower.box_at(state, now)
    crops = follower.regions(state)
    now += WINDOW_US
    # A peak too low to be believed, then one that the events deny, then one that they do not.
    for score, there, lost in ((0.05, True, True), (0.8, False, True), (0.8, True, False)):
        follower.accept(state, [(crops[8], seen(score))], now, WINDOW_US, found=lambda box, there=there: there)
        assert state.lost == lost
        now += WINDOW_US
    assert np.hypot(*(follower.box_at(state, now)[:2] - where[:2])) > 20  # half a crop away, both ways
    assert state.motion.velocity == (0.0, 0.0)


def test_noise_loses_a_target_that_moved_and_no_other(follower):
    for moved in (True, False):
        state = started(follower, 90, 70, 20, 20)
        state.recent_score, state.usual_score, state.moved = 0.8, 0.8, moved
        for look in range(1, 100):
            follower.miss(state, START_US + look * WINDOW_US, WINDOW_US)
        assert state.lost == moved
        assert state.score < 1e-3


def test_the_place_where_a_lost_target_may_be_is_shown_to_whoever_counts_its_events(follower):
    state, asked = started(follower, 90, 70, 20, 20), []
    state.lost = True
    state.usual_score, crop = 0.8, follower.regions(state)[8]
    follower.accept(
        state,
        [(crop, seen(0.8))],
        START_US + WINDOW_US,
        WINDOW_US,
        found=lambda box: asked.append(box.tolist()) or False,
    )
    corner = 60 * 6.5 / GRID - 10  # of a box of 20 pixels around the middle of cell 6 of a crop of 60
    assert asked == [pytest.approx([crop.x0 + corner, crop.y0 + corner, 20, 20], abs=0.05)]
    assert state.lost
    follower.accept(state, [(crop, seen(0.8))], START_US + 2 * WINDOW_US, WINDOW_US)  # nobody counts
    assert not state.lost


@pytest.mark.parametrize("windows", [1, 3])
def test_scores_are_remembered_as_long_as_the_policy_says(follower, windows):
    state, now = started(follower, 90, 70, 20, 20), START_US + WINDOW_US
    follower.accept(state, [(follower.regions(state)[0], seen(0.8))], now, WINDOW_US)
    assert state.recent_score == state.usual_score == pytest.approx(0.8)
    now += windows * WINDOW_US
    follower.accept(state, [(follower.regions(state)[0], seen(0.6))], now, WINDOW_US)
    for found, memory in ((state.recent_score, POLICY.recent_windows), (state.usual_score, POLICY.usual_windows)):
        assert found == pytest.approx(0.8 - 0.2 * (1 - math.exp(-windows / memory)), abs=1e-4)


def test_a_region_may_be_centred_on_the_first_pixel_and_that_of_the_box_anywhere(follower):
    state = started(follower, 20, 70, 20, 20)  # half a crop of 60 from the left edge
    state.lost = True
    assert len(follower.regions(state)) == 9
    state = started(follower, 90, 20, 20, 20)
    state.lost = True
    assert len(follower.regions(state)) == 9
    state.motion.centre = (-5.0, 80.0)  # more than its middle has left the sensor
    assert (-35.0, 50.0) in corners(follower.regions(state))


@pytest.mark.parametrize(
    ("centre", "sides", "box"),
    [
        ((100.0, 80.0), (20.0, 10.0), (90, 75, 20, 10)),
        ((-50.0, 80.0), (20.0, 10.0), (-16, 75, 20, 10)),
        ((300.0, 250.0), (20.0, 10.0), (236, 176, 20, 10)),
        ((100.0, 80.0), (300.0, 1.0), (0, 78, 200, 4)),  # ten times the first box at most, and no side below 4 pixels
        ((-50.0, -60.0), (3.0, 3.0), (0, 0, 4, 4)),
    ],
)
def test_a_box_that_leaves_is_held_at_the_edge_and_goes_on_from_there(centre, sides, box):
    policy = TrackingPolicy(size_limits=(0.1, 10.0))
    follower = BoxFollower(search_size=96, search_factor=3.0, grid=GRID, policy=policy)
    state = started(follower, 90, 75, 20, 10)
    state.motion.centre, state.motion.log_sides = centre, (math.log(sides[0]), math.log(sides[1]))
    follower._limit(state)
    np.testing.assert_allclose(state.motion.box_at(state.motion.t_us), box, atol=1e-9)
    np.testing.assert_allclose(follower.box_at(state, state.motion.t_us), box, atol=1e-9)


def test_sides_stay_within_their_share_of_the_first_box():
    follower = BoxFollower(search_size=96, search_factor=3.0, grid=GRID, policy=TrackingPolicy(size_limits=(0.5, 2.0)))
    state = started(follower, 90, 75, 20, 12)
    for sides, held in (((6.0, 5.0), (10, 6)), ((50.0, 25.0), (40, 24)), ((15.0, 20.0), (15, 20))):
        state.motion.log_sides = (math.log(sides[0]), math.log(sides[1]))
        follower._limit(state)
        np.testing.assert_allclose(follower.box_at(state, state.motion.t_us)[2:], held)


@pytest.mark.parametrize(("cells", "anew"), [(1, False), (2, True)])
def test_a_lost_target_that_is_found_away_begins_anew_there(follower, cells, anew):
    state = started(follower, 90, 70, 20, 20)
    state.lost, state.usual_score = True, 0.8
    crop = follower.regions(state)[4]
    found = seen(0.8, cell=(6, 6 + cells))  # a cell is 5 pixels, a quarter of the target's size
    follower.accept(state, [(crop, found)], START_US + WINDOW_US, WINDOW_US)
    assert not state.lost
    middle = follower.box_at(state, state.motion.t_us)[0] + 10
    exactly = crop.x0 + 60 * (6.5 + cells) / GRID
    assert (abs(middle - exactly) < 1e-6) == anew
