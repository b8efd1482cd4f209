"""The event sensor and its frame camera: from a moving scene to events and frames.

`simulate` runs the compiled pixel model over a `Scene`. The model and its sources are described in
`kernels/sensor/pixel.hpp`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import numpy as np

from had_snn.errors import InputError
from had_snn.events.stream import EventStream
from had_snn.native import FLOAT64, INT32, INT64, POINTER, Parameters, bind, fields
from had_snn.simulator.description import Scene, Sprite, check_scene

READOUT_US = 100  # slice of time in which the read-out is limited
DARK_LEVEL = 0.02  # added to every intensity before the logarithm: the photodiode's dark current
LUMA = np.array([0.2126, 0.7152, 0.0722])  # of linear RGB (ITU-R BT.709)
_FAILURES = {1: "out of memory", 2: "too many events"}


@dataclass(frozen=True)
class SensorModel:
    """What a pixel adds to, and takes from, the light that reaches it.

    Attributes:
        theta_on: Contrast threshold of brighter events, natural log units.
        theta_off: Contrast threshold of darker events.
        mismatch: Relative standard deviation of the thresholds over pixels.
        jitter: Relative standard deviation of the threshold from event to event.
        leak_per_s: Drift of the stored reference in log units a second; makes brighter events in a still scene.
        shot_hz: Rate of noise events of a pixel in the dark.
        shot_level: Intensity at which that rate has halved.
        hot_share: Share of hot pixels.
        hot_hz: Event rate of a hot pixel.
        refractory_us: Time after an event during which a pixel is held in reset.
        cutoff_hz: Bandwidth of the photoreceptor in bright light.
        cutoff_level: Intensity at which that bandwidth has halved.
        full_well: Electrons of the frame camera at full scale; sets its photon noise.
        read_noise: Read-out noise of the frame camera as a share of full scale.
        readout_hz: Events a second that the sensor can send; of more, within a slice of `READOUT_US`, some are dropped;
            None for no limit.
    """

    theta_on: float = 0.25
    theta_off: float = 0.25
    mismatch: float = 0.06
    jitter: float = 0.03
    leak_per_s: float = 0.02
    shot_hz: float = 2.0
    shot_level: float = 0.1
    hot_share: float = 2e-4
    hot_hz: float = 40.0
    refractory_us: float = 150.0
    cutoff_hz: float = 600.0
    cutoff_level: float = 0.15
    full_well: float = 6000.0
    read_noise: float = 0.004
    readout_hz: float | None = None


@dataclass(frozen=True, eq=False)
class Simulation:
    """What the sensor saw.

    Attributes:
        events: Sorted by time, in `[0, n_steps * step_us)`.
        frames: uint8 `[F, H, W, 3]`, gamma 2.2, or None.
        frame_times_us: End of each exposure, int64 `[F]`, or None.
    """

    events: EventStream
    frames: np.ndarray | None = None
    frame_times_us: np.ndarray | None = field(default=None)


def log_intensity(rgb: np.ndarray) -> np.ndarray:
    """Natural log of the intensity that an event pixel sees, `[...]` from linear RGB `[..., 3]`."""
    return np.log(np.maximum(rgb, 0.0) @ LUMA + DARK_LEVEL)


def simulate(
    scene: Scene,
    sensor: SensorModel,
    *,
    seed: int = 0,
    threads: int = 1,
    max_events: int = 200_000_000,
    source: str = "simulator",
) -> Simulation:
    """Runs the pixel model over a scene. The same arguments give the same bits, whatever `threads` is.

    Args:
        scene: Textures and their motion.
        sensor: The pixel model.
        seed: Of all noise and mismatch.
        threads: Rows are shared out over this many threads.
        max_events: A scene that gives more is refused.
        source: Name kept in the event stream.

    Returns:
        Events, and frames where the scene plans some.

    Raises:
        InputError: If the scene's arrays do not fit together or it gives too many events.
    """
    check_scene(scene)
    native, keep, images = _native_scene(scene, sensor, seed, threads, max_events)
    found = SensorEvents()
    code = bind("had_sensor_run", SensorScene, SensorEvents)(native, found)
    del keep  # held the arrays that the call read
    if code:
        raise InputError(f"{source}: the simulator stopped: {_FAILURES.get(code, code)} (limit {max_events} events)")
    try:
        t, x, y, p = (np.empty(found.count, dtype) for dtype in (np.int64, np.uint16, np.uint16, np.uint8))
        found.t, found.x, found.y, found.p = (column.ctypes.data for column in (t, x, y, p))
        bind("had_sensor_copy", SensorEvents, returns=None)(found)
    finally:
        bind("had_sensor_free", SensorEvents, returns=None)(found)
    events = _read_out(EventStream.from_arrays(t, x, y, p, scene.sensor_hw, source, validate=False), sensor, seed)
    if scene.frames is None:
        return Simulation(events)
    return Simulation(events, images, np.asarray(scene.frames.end_us, np.int64))


def _read_out(events: EventStream, sensor: SensorModel, seed: int) -> EventStream:
    """What is left of a burst that the sensor cannot send: an even share of each slice, as an event rate controller
    leaves (Prophesee, Event Rate Control)."""
    if sensor.readout_hz is None:
        return events
    piece, most = events.t // READOUT_US, sensor.readout_hz * READOUT_US * 1e-6
    share = np.minimum(1.0, most / np.bincount(piece)[piece]) if len(events) else np.ones(0)
    kept = np.random.default_rng([seed, 4]).random(len(events)) < share
    t, x, y, p = (column[kept] for column in (events.t, events.x, events.y, events.p))
    return EventStream.trusted(t, x, y, p, events.sensor_hw, events.source)


class SensorScene(Parameters):
    """`SensorScene` of `kernels/sensor/scene.hpp`."""

    _fields_ = (
        *fields(INT32, "height", "width", "n_steps", "step_us", "n_sprites", "n_frames", "n_sub", "plane_size"),
        *fields(INT32, "n_threads", "band_rows"),
        *fields(POINTER, "plane_log", "plane_rgb", "plane_map", "sprite_log", "sprite_rgb", "sprite_size"),
        *fields(POINTER, "sprite_mode", "sprite_map", "sprite_rect", "light_log"),
        *fields(FLOAT64, "theta_on", "theta_off", "mismatch", "jitter", "leak_per_s", "shot_hz", "shot_level"),
        *fields(FLOAT64, "hot_share", "hot_hz", "refractory_us", "cutoff_hz", "cutoff_level"),
        ("seed", ctypes.c_ulonglong),
        *fields(INT64, "max_events"),
        *fields(POINTER, "frame_steps", "frame_gain"),
        *fields(FLOAT64, "full_well", "read_noise"),
        *fields(POINTER, "frames"),
    )


class SensorEvents(Parameters):
    """`SensorEvents` of `kernels/sensor/scene.hpp`."""

    _fields_ = (*fields(POINTER, "owner", "t", "x", "y", "p"), *fields(INT64, "count"))


def _native_scene(
    scene: Scene, sensor: SensorModel, seed: int, threads: int, max_events: int
) -> tuple[SensorScene, list[np.ndarray | ctypes.Array], np.ndarray | None]:
    """The scene as the kernel reads it, the arrays that must outlive the call, and the frames it will fill."""
    keep: list[np.ndarray | ctypes.Array] = []

    def pin(array: np.ndarray | list, dtype: type) -> int:
        whole = np.ascontiguousarray(array, dtype)
        keep.append(whole)
        return whole.ctypes.data

    def pin_all(arrays: list[np.ndarray]) -> int:
        pointers = (ctypes.c_void_p * max(1, len(arrays)))(*(pin(a, np.float32) for a in arrays))
        keep.append(pointers)
        return ctypes.addressof(pointers)

    height, width = scene.sensor_hw
    plane = np.pad(scene.plane, ((0, 1), (0, 1), (0, 0)), mode="wrap")
    native = SensorScene(height=height, width=width, n_steps=scene.n_steps, step_us=scene.step_us)
    native.plane_size, native.n_threads, native.band_rows = scene.plane.shape[0], max(1, threads), 16
    native.plane_log, native.plane_rgb = pin(log_intensity(plane), np.float32), pin(_with_fourth(plane, 0), np.float32)
    native.plane_map = pin(_maps(scene.plane_matrix, scene.plane_offset), np.float64)
    native.n_sprites = len(scene.sprites)
    native.sprite_log = pin_all([_log_texture(s) for s in scene.sprites])
    native.sprite_rgb = pin_all([_with_fourth(s.rgb, s.alpha) for s in scene.sprites])
    native.sprite_size = pin(np.array([s.alpha.shape for s in scene.sprites]), np.int32)
    native.sprite_mode = pin(np.array([s.adds for s in scene.sprites]), np.int32)
    native.sprite_map = pin(np.stack([_inverse_maps(s) for s in scene.sprites], 1) if scene.sprites else [], np.float64)
    native.sprite_rect = pin(
        np.stack([_rectangles(s, scene.sensor_hw) for s in scene.sprites], 1) if scene.sprites else [], np.int32
    )
    native.light_log = pin(scene.light_log, np.float32)
    for name in ("theta_on", "theta_off", "mismatch", "jitter", "leak_per_s", "shot_hz", "shot_level", "hot_share"):
        setattr(native, name, getattr(sensor, name))
    for name in ("hot_hz", "refractory_us", "cutoff_hz", "cutoff_level", "full_well", "read_noise"):
        setattr(native, name, getattr(sensor, name))
    native.seed, native.max_events = seed & (2**64 - 1), max_events
    if scene.frames is None:
        return native, keep, None
    plan = scene.frames
    images = np.empty((len(plan.end_us), height, width, 3), np.uint8)
    native.n_frames, native.n_sub = len(images), plan.samples
    native.frame_steps, native.frame_gain = pin(_exposure_steps(scene), np.int32), pin(plan.gain, np.float32)
    native.frames = images.ctypes.data
    return native, keep, images


def _with_fourth(rgb: np.ndarray, fourth: np.ndarray | float) -> np.ndarray:
    out = np.empty((*rgb.shape[:2], 4), np.float32)
    out[..., :3], out[..., 3] = rgb, fourth
    return out


def _log_texture(sprite: Sprite) -> np.ndarray:
    """`[h, w, 2]`: log-intensity (or log of the factor, for a shadow) and opacity."""
    level = np.log(np.maximum(sprite.rgb @ LUMA, 1e-3)) if sprite.adds else log_intensity(sprite.rgb)
    return np.stack([level, sprite.alpha], -1)


def _maps(matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """`[S + 1, 6]` rows (a, b, c, d, e, f) of affine maps."""
    return np.concatenate([matrix, offset[..., None]], -1).reshape(len(matrix), 6)


def _inverse_maps(sprite: Sprite) -> np.ndarray:
    inverse = np.linalg.inv(sprite.matrix)
    centre = (np.array(sprite.alpha.shape[::-1]) - 1) / 2
    return _maps(inverse, centre - (inverse @ sprite.position[..., None])[..., 0])


def _rectangles(sprite: Sprite, sensor_hw: tuple[int, int]) -> np.ndarray:
    """Pixels `[S + 1, 4]` (x0, y0, x1, y1) that the sprite's texture may touch, cut to the sensor."""
    h, w = sprite.alpha.shape
    corners = np.array([[0, 0], [w - 1, 0], [0, h - 1], [w - 1, h - 1]], np.float64)
    points = sprite.to_pixels(corners, np.arange(len(sprite.position)))
    low, high = np.floor(points.min(1)) - 1, np.ceil(points.max(1)) + 1
    limit = np.array(sensor_hw[::-1])
    return np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], -1).astype(np.int32)


def _exposure_steps(scene: Scene) -> np.ndarray:
    """Render steps `[F, samples]`, evenly spread over each exposure."""
    plan = scene.frames
    assert plan is not None
    share = (np.arange(plan.samples) + 0.5) / plan.samples
    times = np.asarray(plan.end_us)[:, None] - np.asarray(plan.exposure_us)[:, None] * (1 - share)
    return np.clip(np.rint(times / scene.step_us), 0, scene.n_steps).astype(np.int32)
