"""Boxes and crops: conversions are inverse to each other, overlaps match hand-computed and geometric facts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from had_snn.errors import InputError
from had_snn.geometry import (
    Crop,
    box_giou,
    box_iou,
    check_box,
    clip_box,
    search_crop,
)

sides = st.floats(1, 300)
places = st.floats(-500, 500)
boxes = st.tuples(places, places, sides, sides).map(np.array)


@given(boxes, st.floats(1.5, 6), st.integers(16, 300))
def test_a_box_returns_from_its_crop(box, factor, size):
    crop = search_crop(box, factor=factor, size=size)
    np.testing.assert_allclose(crop.boxes_to_sensor(crop.boxes_to_crop(box)), box, atol=1e-9, rtol=1e-9)


@given(boxes)
def test_the_target_sits_in_the_middle_of_its_crop_at_the_agreed_scale(box):
    crop = search_crop(box, factor=4.0, size=128)
    x, y, w, h = crop.boxes_to_crop(box)
    assert x + w / 2 == pytest.approx(64, abs=1e-6)
    assert y + h / 2 == pytest.approx(64, abs=1e-6)
    assert np.sqrt(w * h) == pytest.approx(32)


@given(boxes, boxes, st.floats(1.5, 6), st.integers(16, 300))
def test_a_relative_box_is_the_box_in_crop_sides(target, other, factor, size):
    crop = search_crop(target, factor=factor, size=size)
    both = crop.relative_box(np.stack([target, other]))
    np.testing.assert_array_equal(both[0], crop.relative_box(target))
    np.testing.assert_allclose(both[0, :2], 0.5, atol=1e-9)
    x, y, w, h = both[1] * crop.size
    np.testing.assert_allclose(crop.boxes_to_sensor(np.array([x - w / 2, y - h / 2, w, h])), other, atol=1e-7)


@given(boxes, st.tuples(places, places), st.sampled_from([8, 12, 16, 17]))
def test_a_crop_follows_a_point_to_half_a_cell_by_whole_cells(box, point, grid):
    crop = search_crop(box, factor=3.0, size=96)
    moved, cells = crop.moved_by_cells(point, grid)
    side = crop.size / crop.scale
    assert (moved.scale, moved.size) == (crop.scale, crop.size)
    np.testing.assert_allclose(np.array([moved.x0 - crop.x0, moved.y0 - crop.y0]) * grid / side, cells, atol=1e-6)
    off = (np.array(point) - [moved.x0, moved.y0]) * grid / side - grid / 2
    assert (np.abs(off) <= 0.5 + 1e-6).all()
    assert moved.moved_by_cells([moved.x0 + side / 2, moved.y0 + side / 2], grid) == (moved, (0, 0))
    assert crop.moved_by_cells([np.nan, point[1]], grid) == (crop, (0, 0))


@given(boxes, boxes)
def test_iou_is_symmetric_bounded_and_above_giou(a, b):
    a, b = (torch.tensor([v[0] + v[2] / 2, v[1] + v[3] / 2, v[2], v[3]]) for v in (a, b))
    iou, giou = box_iou(a, b).item(), box_giou(a, b).item()
    assert iou == pytest.approx(box_iou(b, a).item(), abs=1e-12)
    assert 0 <= iou <= 1 + 1e-12
    assert -1 - 1e-12 <= giou <= iou + 1e-12


def test_overlaps_by_hand():
    a = torch.tensor([[5.0, 5.0, 10.0, 10.0]])
    b = torch.tensor([[10.0, 5.0, 10.0, 10.0]])
    assert box_iou(a, b).item() == pytest.approx(50 / 150)
    assert box_giou(a, b).item() == pytest.approx(50 / 150)
    far = torch.tensor([[25.0, 5.0, 10.0, 10.0]])
    assert box_giou(a, far).item() == pytest.approx(-(300 - 200) / 300)
    assert box_iou(a, a).item() == pytest.approx(1)


@given(boxes)
def test_clipped_boxes_keep_a_piece_on_the_sensor(box):
    x, y, w, h = clip_box(box, (180, 240))
    assert x <= 236
    assert y <= 176
    assert x + w >= 4
    assert y + h >= 4


@pytest.mark.parametrize("box", [[1, 2, 0, 5], [1, 2, 5, -1], [float("nan"), 2, 5, 5], [1, 2, 3], [300, 2, 5, 5]])
def test_bad_boxes_are_named(box):
    with pytest.raises(InputError, match="box"):
        check_box(np.array(box, dtype=float), (180, 240))


def test_a_crop_needs_an_area():
    with pytest.raises(InputError, match="no area"):
        search_crop(np.array([1.0, 2.0, 0.0, 4.0]), factor=4, size=128)


def test_the_area_of_a_crop_on_the_sensor_by_hand():
    """A crop of 20 sensor pixels on a sensor of 30 x 50."""
    for x0, y0, area in (
        (10, 5, 400),
        (-5, 5, 300),
        (0.5, 20, 200),
        (45, -15, 25),
        (-5, -5, 225),
        (-20, 5, 0),
        (50, 5, 0),
    ):
        assert Crop(x0, y0, 2.0, 40).area_on((30, 50)) == area
    assert Crop(-0.5, -0.5, 40.0, 40).area_on((30, 50)) == 0.25


def test_the_limits_of_a_given_box_belong_to_it():
    for box in ([10, 10, 1, 1], [-200, -150, 480, 360], [-5, -5, 10, 10], [235, 175, 10, 10]):
        np.testing.assert_array_equal(check_box(np.array(box), (180, 240)), box)
    refused = {
        "sides must be": ([10, 10, 0.9, 5], [10, 10, 5, 0.9], [-200, 10, 481, 5], [10, -150, 5, 361]),
        "outside the 240x180": ([-5.1, 9, 10, 10], [9, -5.1, 10, 10], [235.1, 9, 10, 10], [9, 175.1, 10, 10]),
        "expected four numbers": ([1, 2, 0, 5], [1, 2, 5, 0], [1, 2, 5, np.inf], [1, 2, 5, 5, 5]),
    }
    for words, boxes in refused.items():
        for box in boxes:
            with pytest.raises(InputError, match=words):
                check_box(np.array(box), (180, 240))


def test_clipped_boxes_by_hand():
    cases = {
        (10, 20, 30, 40): (10, 20, 30, 40),
        (10, 20, 1, 2): (8.5, 19, 4, 4),  # around its middle, or a small target would creep to the lower right
        (-300, -200, 999, 999): (-40.5, 119.5, 480, 360),
        (-99, -99, 30, 40): (-26, -36, 30, 40),
        (999, 999, 30, 40): (236, 176, 30, 40),
    }
    for given_box, clipped in cases.items():
        np.testing.assert_array_equal(clip_box(given_box, (180, 240)), clipped)


def test_overlaps_of_boxes_without_area_are_numbers():
    point, box = torch.tensor([5.0, 5.0, 0.0, 0.0]), torch.tensor([5.0, 5.0, 10.0, 10.0])
    assert (box_iou(point, point).item(), box_iou(point, box).item()) == (0.0, 0.0)
    assert (box_giou(point, point).item(), box_giou(point, box).item()) == (0.0, 0.0)
    tiny = torch.tensor([0.0, 0.0, 0.01, 0.01])
    assert box_iou(tiny, tiny).item() == pytest.approx(1)
    assert box_giou(tiny, tiny).item() == pytest.approx(1)


def test_the_smallest_side_has_an_area_and_a_side_below_has_none():
    assert search_crop(np.array([1.0, 2.0, 0.5, 0.5]), factor=4, size=128) == Crop(0.25, 1.25, 64.0, 128)
    for box in ([1, 2, -1, -1], [1, 2, 3, 0], [np.inf, 2, 3, 3], [1, 2, np.nan, 3]):
        with pytest.raises(InputError, match="no area"):
            search_crop(np.array(box, dtype=float), factor=4, size=128)
