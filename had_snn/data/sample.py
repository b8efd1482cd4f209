"""The recording that comes with the package: two targets, look-alikes and noise, in an AEDAT4 file with boxes.

`sample_recording()` says where it lies. It was simulated, and `write_sample` makes it again:

    python -c "from had_snn.data.sample import write_sample; write_sample('had_snn/data/packaged')"

A still camera of 240x180 pixels looks at a textured wall for a second. `fast` runs along a lying eight at 560
to 1,150 pixels a second, `slow` drifts at 61; two look-alikes of each wander about, one of them in front, and every
pixel makes noise. Labels come every 10 ms.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from had_snn.data.labels import read_columns
from had_snn.events.stream import EventStream
from had_snn.files import atomic_file
from had_snn.recordings.aedat4_writer import write_aedat4
from had_snn.simulator.description import Scene, Sprite
from had_snn.simulator.motion import wander
from had_snn.simulator.scene import FAMILIES, tight_boxes
from had_snn.simulator.scene_parts import World, background, camera_motion, draw_look, object_sprites
from had_snn.simulator.sensor import SensorModel, simulate

#: Targets by their name in the file of boxes.
TARGETS = ("fast", "slow")
SENSOR_HW = (180, 240)
SECONDS, STEP_US, LABEL_US = 1.0, 250, 10_000
_SEED, _LEVEL = 20, -1.7
_FOLDER = Path(__file__).with_name("packaged")


class SampleRecording(NamedTuple):
    """Where the packaged recording lies, and its boxes.

    Attributes:
        path: The recording, AEDAT4.
        boxes_path: The boxes, `t_us,x,y,w,h,object`.
        times_us: Times of the boxes, int64 `[N]`.
        boxes: For each target, `fast` and `slow`, its boxes float64 `[N, 4]`: left, top, width, height in pixels.
    """

    path: Path
    boxes_path: Path
    times_us: np.ndarray
    boxes: dict[str, np.ndarray]


def sample_recording() -> SampleRecording:
    """The recording that comes with the package, for first steps, documentation and tests.

    Returns:
        Its file and its boxes.

    Example:
        >>> from had_snn import read_events, sample_recording
        >>> sample = sample_recording()
        >>> read_events(sample.path).sensor_hw, sorted(sample.boxes)
        ((180, 240), ['fast', 'slow'])
    """
    path, boxes_path = _FOLDER / "recording.aedat4", _FOLDER / "boxes.csv"
    columns = {name: read_columns(boxes_path, name) for name in TARGETS}
    boxes = {name: np.stack([found[c] for c in "xywh"], axis=1) for name, found in columns.items()}
    return SampleRecording(path, boxes_path, np.rint(columns["fast"]["t_us"]).astype(np.int64), boxes)


def write_sample(folder: str | os.PathLike[str]) -> tuple[EventStream, dict[str, np.ndarray]]:
    """Simulates the packaged recording and writes `recording.aedat4` and `boxes.csv`.

    Args:
        folder: Where to; files of these names are replaced.

    Returns:
        The events, and the boxes of each target.
    """
    folder = Path(folder)
    events, times_us, boxes = _simulated()
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / "recording.aedat4") as temporary:
        write_aedat4(events, temporary, compression="zstd")
    with atomic_file(folder / "boxes.csv") as temporary, temporary.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("t_us", "x", "y", "w", "h", "object"))
        for name in TARGETS:
            rows.writerows(
                (int(t_us), *(f"{v:.2f}" for v in box), name) for t_us, box in zip(times_us, boxes[name], strict=True)
            )
    return events, boxes


def _simulated() -> tuple[EventStream, np.ndarray, dict[str, np.ndarray]]:
    """Events, label times and boxes."""
    rng = np.random.default_rng(_SEED)
    steps = round(SECONDS * 1e6) // STEP_US
    times_s = np.arange(steps + 1) * STEP_US * 1e-6
    matrix, camera, shake = camera_motion(rng, times_s, SENSOR_HW, ego=False)
    world = World(rng, FAMILIES["test"], SENSOR_HW, times_s, camera, shake, 1e6, 0.0)
    turn = 2 * np.pi * 1.75 * times_s + 1.0
    eight = np.stack([120 + 80 * np.cos(turn), 62 + 34 * np.sin(2 * turn)], -1)
    drift = np.stack([70 + 60 * times_s, 150 - 12 * times_s], -1)
    fast_behind, fast, fast_front = _with_likes(world, eight, side=24.0, spin=3.0)
    slow_behind, slow, slow_front = _with_likes(world, drift, side=34.0, spin=0.3)
    plane, _ = background(world, _LEVEL)
    scene = Scene(
        sensor_hw=SENSOR_HW,
        step_us=STEP_US,
        plane=plane,
        plane_matrix=matrix,
        plane_offset=camera - matrix @ (np.array(SENSOR_HW[::-1]) / 2),
        sprites=[*slow_behind, *fast_behind, *slow, *fast, *slow_front, *fast_front],
        light_log=np.zeros(steps + 1),
    )
    events = simulate(
        scene,
        SensorModel(theta_on=0.34, theta_off=0.32, hot_share=3e-4, shot_hz=1.0),
        seed=_SEED,
        source="packaged recording",
    ).events
    times_us = np.arange(LABEL_US, round(SECONDS * 1e6) + 1, LABEL_US)
    at = times_us / STEP_US
    return events, times_us, {"fast": tight_boxes(fast, at), "slow": tight_boxes(slow, at)}


def _with_likes(
    world: World, path: np.ndarray, *, side: float, spin: float
) -> tuple[Sequence[Sprite], Sequence[Sprite], Sequence[Sprite]]:
    """A target on its path, and before and after it what is drawn behind and in front: look-alikes that wander."""
    rng, still = world.rng, np.ones_like(world.times_s)
    look = draw_look(world, _LEVEL)

    def made(where: np.ndarray, turn: float) -> list[Sprite]:
        pose = rng.uniform(0, 2 * np.pi) + turn * world.times_s, still, still
        return object_sprites(world, look, (side, side), where, pose)

    low, high = np.array([side, side]), np.array(SENSOR_HW[::-1]) - side
    behind, front = (
        made(wander(rng, world.times_s, low=low, high=high, speed=speed), spin / 2) for speed in (70.0, 40.0)
    )
    return behind, made(path, spin), front
