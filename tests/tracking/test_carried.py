"""Carried membranes: when they can be kept, and where micro-steps end between looks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from had_snn.checkpoint import load_student
from had_snn.events.stream import EventStream
from had_snn.geometry import search_crop
from had_snn.models.spike_driven import search_network
from had_snn.tracking.buffer import EventBuffer
from had_snn.tracking.carried import CarriedSearch, read_on
from had_snn.tracking.window import Window

SENSOR, NOMINAL_US = (180, 240), 40_000
CROP = search_crop(np.array([100.0, 60.0, 40.0, 30.0]), factor=3.0, size=96)


@pytest.fixture(scope="module")
def network():
    return search_network(load_student("tiny"), "auto")


def events(t1: int) -> EventBuffer:
    rng = np.random.default_rng(0)
    count = t1 * 3 // 50
    columns = rng.integers(80, 160, count), rng.integers(40, 110, count), rng.integers(0, 2, count)
    return EventBuffer(EventStream.from_arrays(np.sort(rng.integers(0, t1, count)), *columns, SENSOR))


@torch.no_grad()
def start(network, buffer: EventBuffer, window: Window) -> tuple[torch.Tensor, CarriedSearch]:
    batch = window.read(buffer, CROP, most=None, device=torch.device("cpu"))
    template = window.read(
        buffer, dataclasses.replace(CROP, size=48, scale=CROP.scale / 2), most=None, device=batch.t.device
    )
    kernel = network.encode_template(template, torch.tensor([[0.5, 0.5, 0.5, 0.4]]))
    return kernel, CarriedSearch(CROP, window.t_us, 0.0, network.step(batch, kernel, None).state)


def test_a_gap_or_another_scale_cannot_be_bridged(network):
    buffer = events(100_000)
    _, carried = start(network, buffer, Window(50_000, 40_000.0, NOMINAL_US))
    other = dataclasses.replace(CROP, scale=CROP.scale * 1.3)
    assert carried.reaches(CROP, Window(90_000, 40_000.0, NOMINAL_US), scale_tolerance=1.15)
    assert not carried.reaches(CROP, Window(90_001, 40_000.0, NOMINAL_US), scale_tolerance=1.15)
    assert not carried.reaches(CROP, Window(60_001, 10_000.0, NOMINAL_US), scale_tolerance=1.15)
    assert not carried.reaches(other, Window(60_000, 40_000.0, NOMINAL_US), scale_tolerance=1.15)
    assert carried.reaches(other, Window(60_000, 40_000.0, NOMINAL_US), scale_tolerance=1.35)


@torch.no_grad()
@pytest.mark.parametrize("length_us", [40_000.0, 10_000.0])
def test_a_step_under_way_ends_before_it_gets_much_too_long(network, length_us):
    faster = NOMINAL_US / length_us
    buffer = events(200_000)
    kernel, carried = start(network, buffer, Window(90_000, length_us, NOMINAL_US))
    passed = []
    for after in (8_000, 14_000, 17_000, 30_000, 60_000):
        window = Window(90_000 + int(after / faster), length_us, NOMINAL_US)
        found = read_on(network, kernel, carried, buffer, CROP, window, most=None)
        assert found is not None
        carried = found[1]
        assert carried.read_us == window.t_us
        assert (carried.search.counts is None) == (carried.passed == 0)
        passed.append(carried.passed)
    # A micro-step is 10 ms of network time: 8 ms of one; 14 ms; 3 ms of one, which ends there, as it would have become
    # 16; three more.
    assert passed == [8_000, 0, 3_000, 0, 0]
    assert carried.passed == 0
