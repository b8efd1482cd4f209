"""Random scenes: the truth about the target against masks drawn independently, and what makes the scenes hard."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.simulator.description import FramePlan, Scene, Sprite
from had_snn.simulator.scene import ATTRIBUTES, FAMILIES, LabelledScene, sample_scene, tight_boxes, visible_share
from had_snn.simulator.sensor import SensorModel, simulate

FINE = 12  # points per pixel of the independent masks


def opacity_at(sprite: Sprite, x: np.ndarray, y: np.ndarray, step: int) -> np.ndarray:
    """Bilinear opacity of a sprite at sensor points, from its definition alone."""
    h, w = sprite.alpha.shape
    inverse = np.linalg.inv(sprite.matrix[step])
    dx, dy = x - sprite.position[step][0], y - sprite.position[step][1]
    u = inverse[0, 0] * dx + inverse[0, 1] * dy + (w - 1) / 2
    v = inverse[1, 0] * dx + inverse[1, 1] * dy + (h - 1) / 2
    inside = (u >= 0) & (u <= w - 1) & (v >= 0) & (v <= h - 1)
    u0, v0 = np.clip(u.astype(int), 0, w - 2), np.clip(v.astype(int), 0, h - 2)
    fu, fv, a = u - u0, v - v0, sprite.alpha.astype(float)
    top = a[v0, u0] * (1 - fu) + a[v0, u0 + 1] * fu
    low = a[v0 + 1, u0] * (1 - fu) + a[v0 + 1, u0 + 1] * fu
    return np.where(inside, top * (1 - fv) + low * fv, 0.0)


def masks(labelled: LabelledScene, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fine grid around box `k`: x, y, the target's mask, and its part that is in sight."""
    scene = labelled.scene
    step = round(labelled.label_times_us[k] / scene.step_us)
    bx, by, bw, bh = labelled.boxes_xywh[k]
    x = np.arange(np.floor(bx - 3), np.ceil(bx + bw + 3), 1 / FINE) + 0.5 / FINE
    y = np.arange(np.floor(by - 3), np.ceil(by + bh + 3), 1 / FINE) + 0.5 / FINE
    gx, gy = np.meshgrid(x, y)
    target = np.zeros(gx.shape, bool)
    for i in labelled.target:
        target |= opacity_at(scene.sprites[i], gx, gy, step) > 0.5
    seen = target & (gx >= 0) & (gx < scene.sensor_hw[1]) & (gy >= 0) & (gy < scene.sensor_hw[0])
    for sprite in scene.sprites[max(labelled.target) + 1 :]:
        if not sprite.adds:
            seen &= opacity_at(sprite, gx, gy, step) <= 0.5
    return x, y, target, seen


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_boxes_and_visibility_agree_with_an_independent_mask(family: str):
    worst = 0.0
    for seed in range(5):
        labelled = sample_scene([3, seed], FAMILIES[family], seconds=0.4)
        for k in (0, 4, 9):
            x, y, target, seen = masks(labelled, k)
            columns, rows = np.flatnonzero(target.any(0)), np.flatnonzero(target.any(1))
            half = 0.5 / FINE
            low = np.array([x[columns[0]] - half, y[rows[0]] - half])
            high = np.array([x[columns[-1]] + half, y[rows[-1]] + half])
            box = labelled.boxes_xywh[k]
            worst = max(worst, np.abs(box[:2] - low).max(), np.abs(box[:2] + box[2:] - high).max())
            assert labelled.visible_share[k] == pytest.approx(seen.sum() / target.sum(), abs=0.08)
    assert worst < 0.1


def rendered_box(labelled: LabelledScene, k: int) -> np.ndarray:
    """Box `k` (x0, y0, x1, y1) as the compiled renderer draws the target: white on black, `FINE` pixels to a pixel."""
    scene = labelled.scene
    step = round(labelled.label_times_us[k] / scene.step_us)
    origin = np.floor(labelled.boxes_xywh[k, :2]) - 4
    hw = np.ceil(labelled.boxes_xywh[k, 3:1:-1] + 8).astype(int) * FINE
    lit = np.zeros(hw, bool)
    for i in labelled.target:  # each part alone: where soft edges overlap, opacities would add up
        part = scene.sprites[i]
        white = Sprite(
            rgb=np.ones_like(part.rgb),
            alpha=part.alpha,
            matrix=np.stack([part.matrix[step] * FINE] * 2),
            position=np.stack([(part.position[step] - origin) * FINE] * 2),
        )
        frame = simulate(
            Scene(
                sensor_hw=(int(hw[0]), int(hw[1])),
                step_us=1000,
                plane=np.zeros((2, 2, 3)),
                plane_matrix=np.tile(np.eye(2), (2, 1, 1)),
                plane_offset=np.zeros((2, 2)),
                sprites=[white],
                light_log=np.zeros(2),
                frames=FramePlan(np.array([1000]), np.zeros(1), np.ones(1), samples=1),
            ),
            SensorModel(shot_hz=0.0, hot_share=0.0, full_well=0.0, read_noise=0.0),
        ).frames
        assert frame is not None
        lit |= frame[0, :, :, 0] > 255 * 0.5 ** (1 / 2.2)
    columns, rows = np.flatnonzero(lit.any(0)), np.flatnonzero(lit.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / FINE + np.tile(origin, 2)


@pytest.fixture(scope="module")
def drawn() -> list[LabelledScene]:
    return [sample_scene([4, seed], FAMILIES["train"], seconds=0.32, sensor_hw=(90, 120)) for seed in range(22)]


@pytest.mark.parametrize("case", ["rotation", "limbs", "squeeze", "zoom", "ego_motion"])
def test_boxes_agree_with_what_the_renderer_draws(drawn: list[LabelledScene], case: str):
    """The truth comes from outlines, the image from opacities: they meet to a tenth of a pixel."""

    def fits(labelled: LabelledScene) -> bool:
        attributes, parts = labelled.attributes, len(labelled.target)
        matrix = labelled.scene.sprites[labelled.target[-1]].matrix
        turned = np.abs(np.diff(np.unwrap(np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])))).sum()
        return {
            "rotation": turned > 0.4,
            "limbs": parts > 1,
            "squeeze": parts == 1 and "deformation" in attributes,
            "zoom": "scale_change" in attributes,
            "ego_motion": "ego_motion" in attributes,
        }[case]

    chosen = [labelled for labelled in drawn if fits(labelled)][:2]
    assert len(chosen) == 2
    for labelled in chosen:
        for k in (1, 6):
            x, y, w, h = labelled.boxes_xywh[k]
            np.testing.assert_allclose([x, y, x + w, y + h], rendered_box(labelled, k), atol=0.1)


def square(centre: tuple[float, float], side: int, *, adds: bool = False) -> Sprite:
    alpha = np.pad(np.ones((side, side), np.float32), 2)
    still = np.tile(np.eye(2), (2, 1, 1))
    return Sprite(np.full((*alpha.shape, 3), 0.5, np.float32), alpha, still, np.tile(centre, (2, 1)), adds=adds)


def test_what_is_hidden_or_off_the_sensor_is_not_in_sight():
    hw, steps = (100, 120), np.array([0, 1])

    def share(target: Sprite, *others: Sprite, at: int = 0) -> float:
        sprites = [*others[:at], target, *others[at:]]
        return float(visible_share(sprites, (at,), steps, hw)[0])

    inside, border, outside = (square((x, 50.0), 20) for x in (60.0, 0.0, -15.0))
    assert share(inside) == 1.0
    assert share(border) == pytest.approx(0.5, abs=0.03)
    assert share(outside) == 0.0
    assert share(square((120.0, 100.0), 20)) == pytest.approx(0.25, abs=0.03)
    # The box goes on beyond the border, as the outline does.
    np.testing.assert_allclose(tight_boxes([border], np.array([0.0]))[0], [-10, 40, 20, 20], atol=0.01)
    assert share(inside, square((60.0, 50.0), 40)) == 0.0
    assert share(inside, square((70.0, 50.0), 20)) == pytest.approx(0.5, abs=0.04)
    assert share(inside, square((60.0, 50.0), 40), at=1) == 1.0  # behind it
    assert share(inside, square((60.0, 50.0), 40, adds=True)) == 1.0  # a shadow hides nothing


def test_the_same_seed_draws_the_same_scene():
    a, b = (sample_scene([1, 2], FAMILIES["train"], seconds=0.2) for _ in range(2))
    np.testing.assert_array_equal(a.scene.plane, b.scene.plane)
    np.testing.assert_array_equal(a.boxes_xywh, b.boxes_xywh)
    assert a.sensor == b.sensor
    other = sample_scene([1, 3], FAMILIES["train"], seconds=0.2)
    assert (other.boxes_xywh != a.boxes_xywh).any()


def test_scenes_are_hard_but_the_target_is_mostly_in_sight():
    drawn = [sample_scene([5, seed], FAMILIES["train"], seconds=0.6) for seed in range(20)]
    assert all(set(d.attributes) <= set(ATTRIBUTES) for d in drawn)
    share = {name: np.mean([name in d.attributes for d in drawn]) for name in ATTRIBUTES}
    assert share["distractors"] > 0.55
    assert 0.3 < share["ego_motion"] < 0.85
    assert share["occlusion"] > 0.3
    assert share["stops"] > 0.1
    assert np.mean([(d.visible_share > 0.35).mean() for d in drawn]) > 0.9
    assert all(d.visible_share[0] > 0.9 for d in drawn)


@pytest.mark.parametrize("family", ["train", "shifted"])
def test_fast_targets_get_short_render_steps(family: str):
    for seed in (1, 2):
        labelled = sample_scene([2, seed], FAMILIES[family], seconds=0.3, max_speed=5000.0, label_hz=250.0)
        assert labelled.scene.step_us == 200
        assert len(labelled.label_times_us) == 75
        centre = labelled.boxes_xywh[:, :2] + labelled.boxes_xywh[:, 2:] / 2
        assert (centre > -20).all()
        assert (centre < np.array([260, 200])).all()
        assert labelled.speeds[2] < 5100  # what shakes the image comes on top
        assert ("fast_motion" in labelled.attributes) == (labelled.speeds[1] > 250)


def test_nothing_to_draw_is_refused():
    with pytest.raises(InputError, match="nothing to do"):
        sample_scene([0], FAMILIES["train"], seconds=0.01)


def test_hardship_scales_how_often_challenges_occur():
    def shares(hardship: float) -> dict[str, float]:
        drawn = [
            sample_scene([9, 9, i], FAMILIES["train"], seconds=0.6, hardship=hardship).attributes for i in range(12)
        ]
        return {name: sum(name in a for a in drawn) / len(drawn) for name in ("distractors", "hdr", "stops")}

    none, full = shares(0.0), shares(1.0)
    assert none["distractors"] == none["hdr"] == 0
    assert full["distractors"] > 0.3
    assert none["stops"] > 0
    with pytest.raises(InputError, match="hardship"):
        sample_scene([0], FAMILIES["train"], seconds=0.4, hardship=1.5)


def test_a_pace_makes_everything_faster_but_the_sensor():
    slow, fast = (
        sample_scene([7, 1], FAMILIES["train"], seconds=s, hardship=0, pace=p) for s, p in ((0.4, 1), (0.05, 8))
    )
    assert fast.scene.step_us * 8 == slow.scene.step_us
    np.testing.assert_allclose(fast.scene.sprites[0].position, slow.scene.sprites[0].position)
    np.testing.assert_allclose(fast.speeds, np.multiply(slow.speeds, 8), rtol=1e-6)
    assert slow.scene.frames is not None
    assert len(slow.scene.frames.end_us) == 10
    assert len(fast.scene.frames.end_us) == 1


def test_a_scene_shorter_than_a_frame_has_none():
    assert sample_scene([7, 2], FAMILIES["val"], seconds=0.02, label_hz=1000, pace=50).scene.frames is None


def test_visibility_between_counted_labels_is_that_of_their_neighbours():
    dense = sample_scene([7, 3], FAMILIES["train"], seconds=1.0, label_hz=1000)
    assert len(dense.visible_share) == 1000
    counted = visible_share(dense.scene.sprites, dense.target, np.arange(1, 1001, 9), dense.scene.sensor_hw)
    np.testing.assert_allclose(dense.visible_share[::9], counted, atol=0.05)
