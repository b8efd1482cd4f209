"""The sensor model against closed forms, and the simulator's rendering against an independent one in NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.simulator.description import FramePlan, Scene, Sprite
from had_snn.simulator.scene import FAMILIES
from had_snn.simulator.sensor import READOUT_US, SensorModel, log_intensity, simulate

IDEAL = SensorModel(
    theta_on=0.2,
    theta_off=0.25,
    mismatch=0.0,
    jitter=0.0,
    leak_per_s=0.0,
    shot_hz=0.0,
    hot_share=0.0,
    refractory_us=0.0,
    cutoff_hz=1e9,
    full_well=0.0,
    read_noise=0.0,
)


def still_scene(
    light_log: np.ndarray, *, hw: tuple[int, int] = (20, 33), level: float = 0.2, step_us: int = 1000
) -> Scene:
    n = len(light_log)
    return Scene(
        sensor_hw=hw,
        step_us=step_us,
        plane=np.full((64, 64, 3), level, np.float32),
        plane_matrix=np.tile(np.eye(2), (n, 1, 1)),
        plane_offset=np.zeros((n, 2)),
        sprites=[],
        light_log=np.asarray(light_log, float),
    )


def moving_scene(*, steps: int = 150, hw: tuple[int, int] = (48, 61), seed: int = 0) -> Scene:
    """A textured background that drifts and turns, with two sprites and a shadow on top."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, steps + 1)
    coarse = rng.uniform(0.05, 0.8, (16, 16, 3))
    plane = np.kron(coarse, np.ones((8, 8, 1)))
    for axis in (0, 1):
        plane = (np.roll(plane, 1, axis) + plane + np.roll(plane, -1, axis)) / 3

    def turned(angle: np.ndarray, scale: float) -> np.ndarray:
        c, s = np.cos(angle), np.sin(angle)
        return scale * np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)

    def sprite(adds: bool, heading: tuple[float, float]) -> Sprite:
        alpha = np.zeros((19, 23), np.float32)
        alpha[3:-3, 3:-3] = 1.0
        alpha[3:-3, 3] = 0.5
        rgb = rng.uniform(0.05, 0.9, (19, 23, 3)).astype(np.float32)
        position = np.array([30.0, 22.0]) + 15 * t[:, None] * np.array(heading)
        return Sprite(rgb, alpha, turned(0.6 * t, 0.9), position, adds=adds)

    return Scene(
        sensor_hw=hw,
        step_us=1000,
        plane=plane.astype(np.float32),
        plane_matrix=turned(0.3 * t, 0.8),
        plane_offset=np.stack([-10 + 9 * t, 3 - 5 * t], -1),
        sprites=[sprite(False, (1, 0.3)), sprite(True, (-0.5, 0.6)), sprite(False, (-1.2, -0.4))],
        light_log=0.3 * t,
    )


def bilinear(texture: np.ndarray, u: np.ndarray, v: np.ndarray, *, wrap: bool) -> np.ndarray:
    h, w = texture.shape[:2]
    u0, v0 = np.floor(u).astype(int), np.floor(v).astype(int)
    total = 0.0
    for dv in (0, 1):
        for du in (0, 1):
            share = (1 - np.abs(u - u0 - du)) * (1 - np.abs(v - v0 - dv))
            uu, vv = u0 + du, v0 + dv
            inside = (uu >= 0) & (uu < w) & (vv >= 0) & (vv < h)
            picked = texture[vv % h, uu % w] if wrap else texture[np.clip(vv, 0, h - 1), np.clip(uu, 0, w - 1)]
            share = share if wrap else share * inside
            total = total + picked * share.reshape(share.shape + (1,) * (texture.ndim - 2))
    return total


def pixel_centres(hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return np.meshgrid(np.arange(hw[1]) + 0.5, np.arange(hw[0]) + 0.5)


def rendered_log(scene: Scene, step: int) -> np.ndarray:
    """Log-intensity `[H, W]` at a render step, written again in double precision from the definitions."""
    x, y = pixel_centres(scene.sensor_hw)
    m, o = scene.plane_matrix[step], scene.plane_offset[step]
    out = bilinear(
        log_intensity(scene.plane), m[0, 0] * x + m[0, 1] * y + o[0], m[1, 0] * x + m[1, 1] * y + o[1], wrap=True
    )
    for s in scene.sprites:
        texel = s.to_texels(np.stack([x, y], -1).reshape(-1, 2), step)
        u, v = texel[:, 0].reshape(x.shape), texel[:, 1].reshape(x.shape)
        alpha = bilinear(s.alpha, u, v, wrap=False)
        level = log_intensity(s.rgb) if not s.adds else np.log(s.rgb @ np.array([0.2126, 0.7152, 0.0722]))
        value = bilinear(level, np.clip(u, 0, s.alpha.shape[1] - 1), np.clip(v, 0, s.alpha.shape[0] - 1), wrap=False)
        out = out + alpha * value if s.adds else out + alpha * (value - out)
    return out + scene.light_log[step]


def test_crossings_of_a_ramp_are_exact():
    slope = 3.3  # log units a second: one brighter event every 0.2 / 3.3 s
    events = simulate(still_scene(slope * np.arange(501) * 1e-3), IDEAL, seed=3).events
    assert (events.p == 1).all()
    for pixel in (0, 77, 659):
        t = events.t[(events.y.astype(int) * 33 + events.x) == pixel]
        assert len(t) >= 7
        np.testing.assert_allclose(np.diff(t), 0.2 / slope * 1e6, atol=3.0)
    # The first crossing is anywhere: sensors do not start in step, and nothing sits on the grid of render steps.
    phase = np.bincount(events.t % 1000 // 100, minlength=10) / len(events)
    assert phase.min() > 0.06
    assert phase.max() < 0.14


def test_darkening_uses_the_other_threshold():
    events = simulate(still_scene(-2.0 * np.arange(501) * 1e-3), IDEAL).events
    assert (events.p == 0).all()
    t = events.t[(events.x == 5) & (events.y == 7)]
    np.testing.assert_allclose(np.diff(t), 0.25 / 2.0 * 1e6, atol=3.0)


def test_refractory_time_adds_to_the_interval():
    sensor = replace(IDEAL, refractory_us=2500.0)
    events = simulate(still_scene(10.0 * np.arange(401) * 1e-3), sensor).events
    t = events.t[(events.x == 5) & (events.y == 7)]
    np.testing.assert_allclose(np.diff(t), 20_000 + 2500, atol=4.0)


def test_events_add_up_to_the_change_of_light():
    """Without noise the signed events of a pixel, times the threshold, follow its log-intensity to one threshold."""
    scene = moving_scene()
    sensor = replace(IDEAL, theta_on=0.1, theta_off=0.1)
    events = simulate(scene, sensor, seed=1).events
    change = np.zeros(scene.sensor_hw)
    np.add.at(change, (events.y, events.x), np.where(events.p == 1, 0.1, -0.1))
    truth = rendered_log(scene, scene.n_steps) - rendered_log(scene, 0)
    assert len(events) > 5000
    # A reference starts anywhere between its thresholds and ends there, so the two differ by less than their distance.
    assert np.abs(change - truth).max() < 0.2 + 1e-3
    assert abs(float((change - truth).mean())) < 0.05  # half a threshold: most pixels got brighter


def test_leak_makes_brighter_events_in_a_still_scene():
    events = simulate(still_scene(np.zeros(2001)), replace(IDEAL, leak_per_s=0.5)).events
    assert (events.p == 1).all()
    t = events.t[(events.x == 5) & (events.y == 7)]
    np.testing.assert_allclose(np.diff(t), 0.2 / 0.5 * 1e6, rtol=1e-3)


@pytest.mark.parametrize("light", [0.0, -3.0])
def test_shot_noise_grows_in_the_dark(light: float):
    sensor = replace(IDEAL, shot_hz=8.0, shot_level=0.1)
    events = simulate(still_scene(np.full(4001, light)), sensor, seed=5).events
    intensity = (0.2 + 0.02) * np.exp(light)
    expected = 8.0 / (1 + intensity / 0.1)
    assert len(events) / (4.0 * 20 * 33) == pytest.approx(expected, rel=0.06)
    assert events.p.mean() == pytest.approx(0.5, abs=0.03)


def test_hot_pixels_fire_at_their_rate():
    events = simulate(still_scene(np.zeros(2001)), replace(IDEAL, hot_share=0.05, hot_hz=50.0)).events
    pixels, counts = np.unique(events.y.astype(int) * 33 + events.x, return_counts=True)
    assert 0.02 < len(pixels) / 660 < 0.09
    assert counts.mean() == pytest.approx(100, rel=0.1)


def test_bandwidth_delays_and_spreads_a_step_of_light():
    light = np.where(np.arange(301) >= 100, 0.5, 0.0)
    quick = simulate(still_scene(light), replace(IDEAL, cutoff_hz=5000.0)).events
    slow = simulate(still_scene(light), replace(IDEAL, cutoff_hz=30.0)).events
    assert quick.t.max() < 110_000
    assert np.median(slow.t) > np.median(quick.t) + 3000
    assert slow.t.std() > 2 * quick.t.std()


def test_thresholds_differ_from_pixel_to_pixel():
    events = simulate(still_scene(5 * np.arange(401) * 1e-3), replace(IDEAL, mismatch=0.1)).events
    pixel = events.y.astype(int) * 33 + events.x
    gaps = [np.diff(events.t[pixel == k]).mean() for k in range(0, 660, 7)]
    assert np.std(gaps) / np.mean(gaps) == pytest.approx(0.1, rel=0.3)


def test_bits_do_not_depend_on_threads_or_runs():
    scene = replace(moving_scene(), frames=FramePlan(np.array([50_000, 150_000]), np.full(2, 2e4), np.full(2, 1.0)))
    first = simulate(scene, SensorModel(shot_hz=20.0), seed=11)
    assert len(first.events) > 3000
    assert (np.diff(first.events.t) >= 0).all()
    for threads in (1, 2, 5):
        again = simulate(scene, SensorModel(shot_hz=20.0), seed=11, threads=threads)
        for name in "txyp":
            np.testing.assert_array_equal(getattr(first.events, name), getattr(again.events, name))
        np.testing.assert_array_equal(first.frames, again.frames)
    other = simulate(scene, SensorModel(shot_hz=20.0), seed=12)
    assert len(other.events) != len(first.events) or (other.events.t != first.events.t).any()


def test_still_parts_need_not_be_rendered_again():
    """A scene whose background stands still takes a short cut, which must not change what is seen."""
    scene = moving_scene()
    n = scene.n_steps + 1
    still = replace(
        scene,
        plane_matrix=np.tile(scene.plane_matrix[0], (n, 1, 1)),
        plane_offset=np.tile(scene.plane_offset[0], (n, 1)),
    )
    events = simulate(still, replace(IDEAL, theta_on=0.1, theta_off=0.1)).events
    change = np.zeros(scene.sensor_hw)
    np.add.at(change, (events.y, events.x), np.where(events.p == 1, 0.1, -0.1))
    assert np.abs(change - (rendered_log(still, n - 1) - rendered_log(still, 0))).max() < 0.2 + 1e-3


def test_frames_average_the_light_over_the_exposure():
    scene = moving_scene()
    scene = replace(scene, sprites=[s for s in scene.sprites if not s.adds], light_log=np.zeros(len(scene.light_log)))
    plan = FramePlan(np.array([40_000]), np.array([16_000.0]), np.array([0.7]), samples=4)
    seen = simulate(replace(scene, frames=plan), IDEAL)
    x, y = pixel_centres(scene.sensor_hw)
    total = np.zeros((*scene.sensor_hw, 3))
    for step in (26, 30, 34, 38):
        m, o = scene.plane_matrix[step], scene.plane_offset[step]
        u, v = m[0, 0] * x + m[0, 1] * y + o[0], m[1, 0] * x + m[1, 1] * y + o[1]
        image = bilinear(scene.plane, u, v, wrap=True)
        for s in scene.sprites:
            texel = s.to_texels(np.stack([x, y], -1).reshape(-1, 2), step)
            tu, tv = texel[:, 0].reshape(x.shape), texel[:, 1].reshape(x.shape)
            alpha = bilinear(s.alpha, tu, tv, wrap=False)[..., None]
            h, w = s.alpha.shape
            image = image + alpha * (bilinear(s.rgb, np.clip(tu, 0, w - 1), np.clip(tv, 0, h - 1), wrap=False) - image)
        total += image / 4
    expected = 255 * np.clip(0.7 * total, 0, 1) ** (1 / 2.2)
    assert seen.frames is not None
    assert seen.frame_times_us is not None
    assert seen.frame_times_us.tolist() == [40_000]
    np.testing.assert_allclose(seen.frames[0], expected, atol=1.6)


def test_frames_saturate_and_carry_noise():
    plan = FramePlan(np.array([40_000, 80_000]), np.full(2, 4e3), np.array([20.0, 0.5]))
    scene = replace(still_scene(np.zeros(101)), frames=plan)
    frames = simulate(scene, replace(IDEAL, full_well=500.0, read_noise=0.01)).frames
    assert frames is not None
    assert (frames[0] == 255).all()
    linear = (frames[1] / 255.0) ** 2.2
    assert linear.mean() == pytest.approx(0.1, rel=0.02)
    assert linear.std() == pytest.approx(np.sqrt(0.1 / 500 + 1e-4), rel=0.15)


def test_bad_scenes_are_refused():
    scene = still_scene(np.zeros(11))
    cases = {
        "power of two": replace(scene, plane=np.full((60, 60, 3), 0.2)),
        "plane_matrix": replace(scene, plane_matrix=np.full((11, 2, 2), np.nan)),
        "light_log": replace(scene, light_log=np.full(11, 60.0)),
        "at least one": replace(scene, light_log=np.zeros(1)),
        "sensor": replace(scene, sensor_hw=(0, 5)),
        "border": replace(
            scene,
            sprites=[Sprite(np.ones((5, 5, 3)), np.ones((5, 5)), np.tile(np.eye(2), (11, 1, 1)), np.zeros((11, 2)))],
        ),
    }
    for message, bad in cases.items():
        with pytest.raises(InputError, match=message):
            simulate(bad, IDEAL)
    with pytest.raises(InputError, match="limit 100 events"):
        simulate(still_scene(100 * np.arange(11) * 1e-3), IDEAL, max_events=100)


def test_families_share_no_texture():
    assert FAMILIES["noisy"].textures == FAMILIES["shifted"].textures, "those of the worlds that no training sees"
    names = [name for name in FAMILIES if name != "noisy"]
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert not set(FAMILIES[a].textures) & set(FAMILIES[b].textures)


def test_a_burst_beyond_the_read_out_is_thinned_and_the_rest_is_left_alone():
    scene = moving_scene()
    whole = simulate(scene, SensorModel(), seed=3).events
    per_slice = np.bincount(whole.t // READOUT_US)
    most = int(np.percentile(per_slice[per_slice > 0], 70))
    limited = simulate(scene, SensorModel(readout_hz=most / READOUT_US * 1e6), seed=3).events
    kept = np.bincount(limited.t // READOUT_US, minlength=len(per_slice))[: len(per_slice)]
    assert (kept[per_slice <= most] == per_slice[per_slice <= most]).all()
    busy = per_slice > most
    assert kept[busy].mean() == pytest.approx(most, rel=0.1)
    assert len(limited) < len(whole)
