"""Windows and the rule of their length: by hand, at its limits, and for recordings that are played faster."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.geometry import Crop
from had_snn.tracking.buffer import EventBuffer
from had_snn.tracking.policy import WindowPolicy
from had_snn.tracking.window import MIN_EVENTS, Window, pack_stretch
from had_snn.tracking.window_rule import NearEvents, WindowRule, window_length

NOW = 1_000_000
#: Lengths of 10 ms and its quarters of an octave, from 2.5 ms to 40 ms.
RULE = WindowRule(10_000.0, WindowPolicy(limits_us=(2_500.0, 40_000.0), band=2.0, fastest_change=2.0, travel=0.1))


def near(*ages, around=(), full=100.0, share=0.5) -> NearEvents:
    """Events that are so many microseconds old."""
    t, surroundings = (np.sort(NOW - np.asarray(a, dtype=np.int64).reshape(-1)) for a in (ages, around))
    return NearEvents(t, surroundings, NOW, full, share)


def steady(per_ms: float, *, around_per_ms: float = 0.0, full: float = 100.0) -> NearEvents:
    """So many events in each millisecond of the last 200 ms."""
    ages = [
        1 + (np.arange(int(200 * rate)) * 1000 / rate).astype(int) if rate else [] for rate in (per_ms, around_per_ms)
    ]
    return near(ages[0], around=ages[1], full=full)


def test_lengths_and_limits_by_hand():
    assert [window_length(10_000, n) for n in (-8, -4, 0, 4, 8)] == [2_500, 5_000, 10_000, 20_000, 40_000]
    assert window_length(10_000, 1) == pytest.approx(10_000 * 2**0.25)
    assert window_length(10_000, -1) == pytest.approx(10_000 * 2**-0.25)
    assert (RULE.shortest, RULE.longest, RULE.reach, RULE.context_us) == (-8, 8, 4, 80_000)
    other = WindowRule(10_000.0, WindowPolicy(limits_us=(12_000.0, 13_000.0)))
    assert (other.shortest, other.longest, other.context_us) == (2, 1, 2 * 11_893)
    assert other.reach == 8  # a factor of 4
    assert RULE.window(NOW, 4) == Window(NOW, 20_000.0, 10_000)
    assert RULE.full(1000.0) == pytest.approx(1600)
    assert RULE.full(1.0) == 100


def test_ages_are_counted_to_the_microsecond():
    events = near(1, 2, 2, 5, 10, around=[1, 6], share=0.25)
    assert [events.within(age) for age in (0, 1, 2, 2.9, 5, 9.9, 10)] == [0, 1, 3, 3, 4, 4, 5]
    assert events.excess(5) == pytest.approx(4 - 0.25)
    assert events.excess(10) == pytest.approx(5 - 0.5)
    assert near(1, 1, around=[1] * 40).excess(3) == pytest.approx(0.2)


def test_noise_is_events_near_and_around_together():
    assert near(*[1] * (MIN_EVENTS - 2), around=[3, 3]).noisy(3)
    assert not near(*[1] * (MIN_EVENTS - 2), around=[3, 4]).noisy(3)


def test_what_stands_out_is_more_than_three_deviations_and_three_events():
    assert not near(1, 1, 1).stand_out(5)
    assert near(1, 1, 1, 1).stand_out(5)
    around = [1] * 18  # 9 expected: more than 9 + 9 + 3
    assert not near(*[1] * 21, around=around).stand_out(5)
    assert near(*[1] * 22, around=around).stand_out(5)


def test_a_template_takes_the_shortest_window_that_is_full():
    assert RULE.at_a_box(steady(20), recorded_us=1e6) == -4  # 100 events in 5 ms
    assert RULE.at_a_box(steady(1), recorded_us=1e6) == 8
    assert RULE.at_a_box(steady(1000), recorded_us=1e6) == -8
    assert RULE.at_a_box(steady(1), recorded_us=10_000) == 0
    assert RULE.at_a_box(steady(1), recorded_us=9_999) == -1


def test_a_window_stays_within_its_band_and_moves_no_further_than_its_reach():
    def following(n, per_ms, *, travel=0.0, since_us=1e6):
        return RULE.next(n, steady(per_ms), travel_per_us=travel, since_us=since_us)

    assert following(0, 10) == following(0, 19) == following(0, 5.2) == 0
    assert following(0, 20) == -4  # to where it is full: 100 events in 5 ms
    assert following(0, 5) == 4
    assert following(0, 5.7) == 0
    assert following(0, 4) == 4  # 100 events in 25 ms, but at most twice the window
    assert following(0, 3) == 4
    assert following(0, 100) == -4
    assert following(-6, 1000) == -8
    assert following(6, 0.1) == 8
    assert following(20, 10) == 8
    assert following(-20, 10) == -8
    assert following(0, 10, travel=0.1 / 5_000) == -4  # its size in 50 ms: a tenth of it in 5 ms
    assert following(0, 10, travel=0.1 / 5_100) == 0
    assert following(0, 1, travel=0.1 / 10_000) == 0


def test_a_burst_since_the_last_look_shortens_the_window():
    burst = near(*np.linspace(1, 1_000, 40).astype(int))
    assert RULE.next(0, burst, travel_per_us=0.0, since_us=1_000) == -4
    assert RULE.next(0, burst, travel_per_us=0.0, since_us=2_500) == 4  # no sooner than a quarter of the window
    assert RULE.next(0, near(), travel_per_us=0.0, since_us=1_000) == 4


@given(st.integers(-2, 3), st.integers(-8, 8), st.floats(0.1, 200), st.floats(0, 1e-4))
def test_played_faster_the_window_is_shorter_by_as_much(octaves, n, per_ms, travel):
    wide = WindowRule(10_000.0, WindowPolicy(limits_us=(10.0, 1e7)))
    ages = 64 * (1 + np.arange(int(3 * per_ms)) * 1000 // max(per_ms, 1).__ceil__())
    slow, fast = near(ages), near(ages // 2**octaves if octaves > 0 else ages * 2**-octaves)
    chosen = wide.next(n, slow, travel_per_us=travel, since_us=1e6)
    faster = wide.next(n - 4 * octaves, fast, travel_per_us=travel * 2.0**octaves, since_us=1e6 / 2.0**octaves)
    assert faster == chosen - 4 * octaves


def test_a_target_is_gone_when_its_window_is_nearly_empty_and_nothing_stands_out():
    def gone(per_ms, n=0, quiet_us=20_000.0, around=0.0):
        return RULE.gone(n, steady(per_ms, around_per_ms=around), quiet_us=quiet_us)

    assert gone(0)
    assert not gone(2)  # 40 of the usual 200 events: nothing around explains them
    assert gone(2, around=4)
    assert not gone(2.5, around=5)  # a quarter of what is usual
    assert gone(2, quiet_us=1e9, around=4)  # looked for in the longest window at most
    assert not gone(1, n=8, around=0)
    assert gone(0.6, n=8, around=1.2)  # 24 of 100 in the longest window
    assert not gone(0.625, n=8, around=1.25)


def test_a_lost_target_is_found_where_something_stands_out():
    assert RULE.found(0, steady(2.5), moved=True)
    assert not RULE.found(0, steady(2.4), moved=True)
    assert RULE.found(0, steady(2.4), moved=False)
    assert not RULE.found(0, steady(0.3), moved=False)
    assert not RULE.found(0, steady(2.5, around_per_ms=5), moved=True)


def test_a_window_is_starved_below_half_of_what_fills_it():
    assert RULE.starved(0, steady(4.9))
    assert not RULE.starved(0, steady(5))


def test_the_window_of_a_lost_target_moves_by_a_step():
    assert RULE.while_lost(0, steady(0)) == 0
    assert RULE.while_lost(0, steady(20)) == -1
    assert RULE.while_lost(0, steady(19)) == 0
    assert RULE.while_lost(0, steady(8.3)) == 1
    assert RULE.while_lost(0, steady(8.5)) == 0
    assert RULE.while_lost(-8, steady(1000)) == -8
    assert RULE.while_lost(8, steady(1)) == 8
    assert RULE.while_lost(0, steady(1, around_per_ms=2)) == 0


def stream(*times) -> EventStream:
    t = np.array(times)
    return EventStream.from_arrays(t, np.full(len(t), 5), np.full(len(t), 5), np.arange(len(t)) % 2, (20, 20))


def test_a_window_reads_its_half_open_interval_in_network_time():
    crop, cpu = Crop(0.0, 0.0, 1.0, 20), torch.device("cpu")
    buffer = EventBuffer(stream(*range(100, 140)))
    window = Window(t_us=130, length_us=20.5, nominal_us=41)
    assert (window.first_us, window.scale) == (110, 2.0)
    assert window.count(buffer, crop, most=None) == (20, 1)
    assert [window.count(buffer, crop, most=most)[1] for most in (30, 20, 19, 10, 9, 1)] == [1, 1, 2, 2, 3, 20]
    read = window.read(buffer, crop, most=10, device=cpu)
    assert read is not None
    assert len(read.t) == 10
    assert Window(107, 7.0, 7).read(buffer, crop, most=None, device=cpu) is None
    shortest = Window(108, 8.0, 8).read(buffer, crop, most=None, device=cpu)
    assert shortest is not None
    assert len(shortest.t) == MIN_EVENTS
    whole = EventBatch.pack([stream(*range(110, 130, 2))], [110], [130], length_us=[20.5], scale=[2.0])
    assert read.t.tolist() == whole.t.tolist()
    part = pack_stretch(stream(110, 115), 110, 120, 2.0, cpu)
    assert part.t.tolist() == EventBatch.pack([stream(110, 115)], [110], [120], scale=[2.0]).t.tolist()


def test_a_window_that_is_exactly_full_stays_as_it_is():
    wide = WindowRule(10_000.0, WindowPolicy(limits_us=(2_500.0, 40_000.0), band=2.0, fastest_change=4.0))
    assert wide.next(0, steady(20), travel_per_us=0.0, since_us=1e6) == -4
    assert wide.next(0, steady(5), travel_per_us=0.0, since_us=1e6) == 4
    exactly = near(*[1] * 50, *[11_000] * 50)  # 100 within 11.9 ms
    assert RULE.while_lost(0, exactly) == 0
    assert RULE.while_lost(0, near(*[1] * 50, *[11_000] * 49)) == 1


def test_the_band_counts_twice_where_a_target_is_taken_for_gone_or_found():
    three = WindowRule(10_000.0, WindowPolicy(limits_us=(2_500.0, 40_000.0), band=3.0))
    assert not three.gone(0, steady(1.2, around_per_ms=2.4), quiet_us=20_000.0)  # a ninth of 200 is 22.2
    assert three.gone(0, steady(1.1, around_per_ms=2.2), quiet_us=20_000.0)
    assert three.found(0, steady(1.2), moved=True)
    assert not three.found(0, steady(1.1), moved=True)


def test_surroundings_are_counted_to_the_microsecond_too():
    assert near(1, 1, around=[3]).excess(2.5) == 2
    assert near(1, 1, around=[2]).excess(2.5) == 1.5


def test_half_a_microsecond_holds_no_event_around_either():
    assert not near(*[1] * (MIN_EVENTS - 2), around=[3, 3]).noisy(2.5)


def test_a_burst_is_a_rate_and_not_a_count():
    twelve = near(*np.linspace(1, 1_000, 12).astype(int))  # as many as 120 in the whole window of 10 ms
    assert RULE.next(0, twelve, travel_per_us=0.0, since_us=1_000) == 0


def test_whether_a_target_is_gone_is_asked_of_all_the_time_that_it_was_quiet():
    before = near(*range(10_100, 20_000, 165))  # 60 of the usual 200, all of them older than the window of 10 ms
    assert not RULE.gone(0, before, quiet_us=20_000.0)
    assert RULE.gone(0, before, quiet_us=10_000.0)
