"""Voxel grids, image crops and pictures against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from had_snn.errors import InputError
from had_snn.events.representations import crop_image, voxel_grid
from had_snn.events.stream import EventStream
from had_snn.geometry import Crop


def some_events(n: int = 500, hw: tuple[int, int] = (12, 17), seed: int = 0, until: int = 40_000) -> EventStream:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, until, n))
    return EventStream.from_arrays(t, rng.integers(0, hw[1], n), rng.integers(0, hw[0], n), rng.integers(0, 2, n), hw)


@pytest.mark.parametrize("bins", [1, 2, 5])
def test_voxel_grid_shares_events_between_instants(bins: int):
    events = some_events()
    expected = np.zeros((bins, 12, 17))
    for t, x, y, p in zip(events.t, events.x, events.y, events.p, strict=True):
        if not 5_000 <= t < 37_000:
            continue
        place = (t - 5_000) / 32_000 * (bins - 1)
        for b in range(bins):
            expected[b, y, x] += (1.0 if p else -1.0) * max(0.0, 1 - abs(place - b))
    grid = voxel_grid(events, 5_000, 37_000, bins=bins, normalise=False)
    assert grid.dtype == np.float32
    np.testing.assert_allclose(grid, expected, atol=1e-4)


def test_normalised_voxels_do_not_depend_on_the_rate():
    events = some_events(4000)
    grid = voxel_grid(events, 0, 40_000)
    assert np.sqrt(np.mean(grid[grid != 0] ** 2)) == pytest.approx(1.0, abs=0.05)
    assert np.abs(grid).max() <= 5.0
    assert not voxel_grid(EventStream.empty((4, 5)), 0, 100).any()
    with pytest.raises(InputError, match="positive length"):
        voxel_grid(events, 10, 10)


@pytest.mark.parametrize(
    "crop", [Crop(10.3, -7.1, 0.61, 64), Crop(3.0, 4.0, 2.3, 48), Crop(-400.0, 9.0, 1.0, 16), Crop(0.0, 0.0, 1.0, 20)]
)
def test_image_crops_are_those_of_grid_sample(crop: Crop):
    image = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    u = (torch.arange(crop.size) + 0.5) / crop.scale
    x, y = (u + crop.x0) / 61 * 2 - 1, (u + crop.y0) / 45 * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None].float()
    source = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    expected = torch.nn.functional.grid_sample(source, grid, align_corners=False, padding_mode="zeros")[0]
    np.testing.assert_allclose(crop_image(image, crop), expected.numpy(), atol=2e-4)


def test_grey_frames_become_three_equal_channels():
    image = np.arange(30, dtype=np.uint8).reshape(5, 6)
    out = crop_image(image, Crop(0.0, 0.0, 1.0, 5))
    np.testing.assert_allclose(out[0] * 255, image[:, :5], atol=1e-4)
    np.testing.assert_array_equal(out[0], out[2])
    with pytest.raises(InputError, match="frame must be"):
        crop_image(np.zeros((4, 4, 2), np.uint8), Crop(0.0, 0.0, 1.0, 5))


def test_an_event_and_a_frame_pixel_fall_into_the_same_crop_pixel():
    crop = Crop(3.7, 1.2, 2.0, 32)
    image = np.zeros((20, 20, 3), np.uint8)
    image[9, 12] = 255
    events = EventStream.from_arrays([5], [12], [9], [1], (20, 20)).crop(crop)
    centre = crop_image(image, crop)[0]
    weights = centre / centre.sum()
    rows, columns = np.indices(weights.shape)
    assert (weights * (columns + 0.5)).sum() == pytest.approx((12.5 - 3.7) * 2, abs=0.05)
    assert int(events.x[0]) == int((12.5 - 3.7) * 2)
    assert (weights * (rows + 0.5)).sum() == pytest.approx((9.5 - 1.2) * 2, abs=0.05)
