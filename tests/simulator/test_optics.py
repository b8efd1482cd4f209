"""A lens out of focus: light is spread and none of it is lost, and what is smooth already stays as it is."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.simulator.optics import out_of_focus, smoothed
from had_snn.simulator.scene import FAMILIES, sample_scene
from had_snn.simulator.sensor import simulate


def test_a_point_becomes_a_gaussian_of_the_width_that_is_asked_for():
    image = np.zeros((65, 81, 1))
    image[32, 40] = 1.0
    soft = smoothed(image, 2.5)[..., 0]
    assert soft.sum() == pytest.approx(1.0)
    y, x = np.indices(soft.shape)
    assert np.sqrt((soft * (x - 40) ** 2).sum()) == pytest.approx(2.5, rel=1e-3)
    assert np.sqrt((soft * (y - 32) ** 2).sum()) == pytest.approx(2.5, rel=1e-3)
    np.testing.assert_allclose(smoothed(np.full((8, 8, 3), 0.4), 3.0), 0.4)


def test_a_sprite_keeps_its_place_its_opacity_and_its_colour():
    labelled = sample_scene([1, 1], FAMILIES["train"], seconds=0.04)
    sharp, soft = labelled.scene, out_of_focus(labelled.scene, 1.5)
    assert out_of_focus(sharp, 0.0) is sharp
    for before, after in zip(sharp.sprites, soft.sprites, strict=True):
        if before.adds:
            assert after is before
            continue
        assert after.alpha.sum() == pytest.approx(before.alpha.sum(), rel=0.02)
        assert not any(np.any(e) for e in (after.alpha[0], after.alpha[-1], after.alpha[:, 0], after.alpha[:, -1]))
        middles = []
        for sprite in (before, after):
            rows, columns = np.indices(sprite.alpha.shape)
            texel = np.array([[(sprite.alpha * k).sum() / sprite.alpha.sum() for k in (columns, rows)]])
            middles.append(sprite.to_pixels(texel, 0.0))
            shown = (sprite.rgb * sprite.alpha[..., None]).sum((0, 1)) / sprite.alpha.sum()
            middles[-1] = np.concatenate([middles[-1].ravel(), shown.ravel()])
        np.testing.assert_allclose(middles[1], middles[0], rtol=0.02, atol=0.02)


def test_what_is_out_of_focus_makes_fewer_events():
    labelled = sample_scene([4, 2], FAMILIES["train"], seconds=0.2)
    counts = [len(simulate(out_of_focus(labelled.scene, blur), labelled.sensor, seed=1).events) for blur in (0, 1, 3)]
    assert counts[0] > counts[1] > counts[2]


def test_only_the_families_of_other_worlds_have_another_camera():
    drawn = {name: [sample_scene([2, k], FAMILIES[name], seconds=0.04) for k in range(6)] for name in FAMILIES}
    for name, scenes in drawn.items():
        assert all((s.blur_px > 0) == (name == "shifted") for s in scenes)
    usual, shifted = drawn["train"], drawn["shifted"]
    assert min(s.sensor.theta_on for s in shifted) > max(s.sensor.theta_on for s in usual) * 0.8
    assert max(s.sensor.cutoff_hz for s in shifted) < min(s.sensor.cutoff_hz for s in usual)
    for name in set(FAMILIES) - {"shifted", "noisy"}:
        assert max(s.sensor.shot_hz for s in drawn[name]) < min(s.sensor.shot_hz for s in drawn["noisy"])
