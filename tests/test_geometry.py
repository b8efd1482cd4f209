"""Boxes and crops: conversions are inverse to each other, overlaps match hand-computed and geometric facts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from had_snn.errors import InputError
from had_snn.geometry import (
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
