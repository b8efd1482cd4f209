"""What a live stream's clock may do, and cameras that are stuck: wraps, resets, huge times, hot pixels, silence."""

from __future__ import annotations

import time

import numpy as np
import pytest

from had_snn.checkpoint import load_student
from had_snn.errors import FormatError
from had_snn.events.stream import EventStream
from had_snn.recordings.live import LiveReader, encode_events, encode_header, encode_time
from had_snn.tracking import OnlineTracker

SENSOR = (120, 160)
BOX = np.array([50.0, 40.0, 30.0, 24.0])


def target(seconds: float = 0.4, *, from_us: int = 0, rate: int = 40_000) -> EventStream:
    """Events on the edge of a resting, shaking box."""
    rng = np.random.default_rng(0)
    count = int(rate * seconds)
    t = from_us + np.sort(rng.integers(0, int(seconds * 1e6), count))
    side, along = rng.integers(0, 4, count), rng.random(count)
    x = BOX[0] + BOX[2] * np.where(side < 2, along, side - 2) + rng.normal(0, 1, count)
    y = BOX[1] + BOX[3] * np.where(side < 2, side, along) + rng.normal(0, 1, count)
    return EventStream.from_arrays(t, x.astype(int), y.astype(int), rng.integers(0, 2, count), SENSOR)


def with_hot_pixel(events: EventStream, x: int, y: int) -> EventStream:
    """One pixel that fires every microsecond of the last 0.2 s."""
    t = np.arange(events.t_end - 200_000, events.t_end)
    columns = {"t": t, "x": np.full(len(t), x), "y": np.full(len(t), y), "p": t % 2}
    joined = {name: np.concatenate([getattr(events, name), columns[name]]) for name in "txyp"}
    order = np.argsort(joined["t"], kind="stable")
    return EventStream.from_arrays(*(joined[name][order] for name in "txyp"), SENSOR)


@pytest.fixture(scope="module")
def student():
    return load_student("tiny")


def boxes(student, events: EventStream, start_us: int) -> list:
    tracker = OnlineTracker(student)
    tracker.init(events.slice_time(events.t_start, start_us), BOX, t_us=start_us)
    times = range(start_us + 20_000, events.t_end, 20_000)
    return tracker.update(events.slice_time(start_us, events.t_end), at_us=times)


@pytest.fixture
def read(tmp_path):
    """Reads a stream of records to its end."""

    def chunks(data: bytes) -> EventStream:
        (tmp_path / "stream").write_bytes(encode_header(SENSOR) + data)
        with (tmp_path / "stream").open("rb", buffering=0) as file:
            found = [c.events for c in LiveReader(file, name="stream", idle_s=0.0)]
        return EventStream.from_arrays(*(np.concatenate([getattr(e, n) for e in found]) for n in "txyp"), SENSOR)

    return chunks


@pytest.mark.parametrize("shift", [-(10**15), -1, 1 << 31, 1 << 32, 1 << 59])
def test_when_a_clock_began_changes_no_box(student, shift):
    found, moved = (boxes(student, target(from_us=us), us + 100_000) for us in (0, shift))
    assert len(found) > 10
    for one, other in zip(found, moved, strict=True):
        assert other.t_us - shift == one.t_us
        assert (other.box_xywh == one.box_xywh).all()


@pytest.mark.parametrize(("end", "begin"), [(1 << 32, 0), (1 << 31, -(1 << 31))], ids=["unsigned", "signed"])
def test_a_32_bit_clock_may_wrap(read, caplog, end, begin):
    whole = target(from_us=end - 200_000)
    wrapped = np.where(whole.t < end, whole.t, whole.t - end + begin)
    sent = encode_events(whole)
    records = np.frombuffer(bytearray(sent), "<i8").reshape(-1, 2).copy()
    records[:, 0] = wrapped
    assert (np.diff(wrapped) < 0).sum() == 1
    assert (read(records.tobytes()).t == whole.t).all()
    assert caplog.text.count("32-bit clock began again") == 1


def test_a_sensor_that_is_started_anew_ends_the_stream_by_name(read):
    sent = encode_events(target(from_us=5_000_000)) + encode_events(target())
    with pytest.raises(FormatError, match=r"time \d+ us, before the record in front of it \(a camera that is started"):
        read(sent)


@pytest.mark.parametrize(
    ("t_us", "says"),
    [
        ((1 << 62), "no time of a camera"),
        (-(1 << 63), "no time of a camera"),
        (5_000_000_000, "more than an hour after .*send the time now and then"),
    ],
)
def test_a_time_that_cannot_be_is_no_million_boxes(read, t_us, says):
    with pytest.raises(FormatError, match=says):
        read(encode_events(target()) + encode_time(t_us))


def test_a_hot_pixel_far_away_moves_no_box(student):
    """A look that is due comes with the next event, wherever it is: microseconds earlier, and hardly elsewhere."""
    events = target()
    found, hot = (boxes(student, some, 100_000) for some in (events, with_hot_pixel(events, 155, 5)))
    for one, other in zip(found, hot, strict=True):
        assert np.abs(other.box_xywh - one.box_xywh).max() < 0.03 * BOX[2]


def test_a_hot_pixel_on_the_target_costs_no_more_than_its_limit(student):
    calm, hot = target(), with_hot_pixel(target(), 60, 50)
    began = time.process_time()
    boxes(student, calm, 100_000)
    between = time.process_time()
    found = boxes(student, hot, 100_000)
    assert time.process_time() - between < 40 * (between - began) + 5
    for estimate in found:
        assert np.isfinite(estimate.box_xywh).all()
        assert 0 <= estimate.score <= 1
        centre = estimate.box_xywh[:2] + estimate.box_xywh[2:] / 2
        assert np.abs(centre - (60, 50)).max() < 2 * BOX[2]


def test_a_frozen_sensor_holds_the_box_and_stops_being_sure(student):
    """Its clock goes on and nothing else comes: boxes come, at their place, with a score that falls."""
    tracker, events = OnlineTracker(student), target(0.3)
    tracker.init(events.slice_time(0, 100_000), BOX, t_us=100_000)
    seen = tracker.update(events.slice_time(100_000, 300_000), at_us=[300_000])[-1]
    none = EventStream.empty(SENSOR)
    frozen = [tracker.update(none, at_us=[t])[0] for t in range(1_000_000, 20_000_000, 1_000_000)]
    assert all(np.abs(e.box_xywh - seen.box_xywh).max() < BOX[2] for e in frozen)
    scores = [e.score for e in frozen]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < seen.score
