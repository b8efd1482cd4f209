"""Trackers that need no training, in the same harness: what a user would otherwise pick.

`StaticTracker` never moves: the floor that every score must be read against. `MeanShiftTracker` follows the centroid of
the events. `OpenCVTracker` runs OpenCV's CSRT or KCF on pictures of the events or on the camera's frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from had_snn.errors import InputError, MissingExtraError, optional_import
from had_snn.events.stream import EventStream, concatenate
from had_snn.geometry import check_box, clip_box
from had_snn.tracking import Estimate
from had_snn.viz.render import event_image

KCF_DETECT_THRESHOLD = 0.1


class StaticTracker:
    """Answers the given box for ever."""

    name = "static"

    def init(self, events: EventStream, box_xywh: Any, *, t_us: int, frame: np.ndarray | None = None) -> None:
        """Remembers the box."""
        del t_us, frame
        self._box = check_box(box_xywh, events.sensor_hw)

    def update(self, events: EventStream, *, at_us: Sequence[int], frame: np.ndarray | None = None) -> list[Estimate]:
        """The given box, once per asked time."""
        del events, frame
        return [Estimate(int(t), self._box.copy(), 1.0) for t in at_us]


class _Recent:
    """The newest events, back to a fixed age."""

    def __init__(self, events: EventStream, *, age_us: int) -> None:
        self.age_us = age_us
        self.stream = events

    def push(self, events: EventStream) -> None:
        if len(events):
            self.stream = concatenate([self.stream, events])
            self.stream = self.stream.slice_time(self.stream.t_end - self.age_us, self.stream.t_end)


class MeanShiftTracker:
    """Follows the centroid of the newest events under a kernel around the last box; the size stays as given.

    At each output the centre `c` is moved a few times to the weighted mean of the positions `p_i`,

        c <- sum_i w_i p_i / sum_i w_i,   w_i = exp(-|(p_i - c) / (reach * side)|^2 / 2) * exp(-(t - t_i) / recency)

    of the newest event of each pixel, so that flicker and strong texture do not outweigh outlines. The centroid of a
    target's events is rarely the centre of its box (edges across the motion give most of them), so the offset between
    the two at the start is kept. With few events under the kernel (the target stands still) older ones are asked, and
    then the box stays.

    The defaults are the best of a search on simulated training sequences. Steps to convergence, the textbook's way,
    score lower there: on a busy background each box then runs to the densest spot in reach.

    Args:
        window_us: Age of the oldest event in a first try; doubled up to twice when there are too few.
        reach: Standard deviation of the Gaussian kernel along each axis, in units of the box side. Events farther away
            than twice that are not looked at.
        recency_us: Time constant with which older events lose weight: with equal weights the centroid lags behind by
            half a window.
        min_events: Fewer events than this under the kernel leave the box where it is.
        iterations: Steps per output, fewer when the centre stands still.
    """

    name = "mean_shift"

    def __init__(
        self,
        *,
        window_us: int = 40_000,
        reach: float = 0.5,
        recency_us: float = 20_000.0,
        min_events: int = 20,
        iterations: int = 2,
    ) -> None:
        if window_us < 1 or reach <= 0 or recency_us <= 0 or iterations < 1:
            raise InputError("window_us, reach, recency_us and iterations must be positive")
        self.window_us, self.reach, self.recency_us = window_us, reach, recency_us
        self.min_events, self.iterations = min_events, iterations

    def init(self, events: EventStream, box_xywh: Any, *, t_us: int, frame: np.ndarray | None = None) -> None:
        """Starts at a known box; events before it, if any, fix the offset of the centroid."""
        del frame
        self._sensor_hw = events.sensor_hw
        box = check_box(box_xywh, events.sensor_hw)
        self._size = box[2:].copy()
        self._recent = _Recent(events, age_us=4 * self.window_us)
        self._centroid = box[:2] + box[2:] / 2
        centre = self._centroid.copy()
        self._mass_at_start = self._seek(int(t_us))
        self._offset = centre - self._centroid

    def update(self, events: EventStream, *, at_us: Sequence[int], frame: np.ndarray | None = None) -> list[Estimate]:
        """One box per asked time; see the class."""
        del frame
        if not hasattr(self, "_recent"):
            raise InputError("update() before init(): give the first box with init(events, box_xywh)")
        self._recent.push(events)
        estimates = []
        for t_us in at_us:
            mass = self._seek(int(t_us))
            score = mass / (mass + 0.25 * max(self._mass_at_start, 1.0))  # 0.8 at as many events as at the start
            corner = self._centroid + self._offset - self._size / 2
            box = clip_box(np.concatenate([corner, self._size]), self._sensor_hw)
            self._centroid = box[:2] + box[2:] / 2 - self._offset
            estimates.append(Estimate(int(t_us), box, float(score)))
        return estimates

    def _seek(self, t_us: int) -> float:
        """Moves the centroid to where it stands still; returns the weight of the events under the kernel there."""
        for window_us in (self.window_us, 2 * self.window_us, 4 * self.window_us):
            window = self._recent.stream.slice_time(t_us - window_us, t_us)
            near = self._near(window)
            if len(near[0]) >= self.min_events:
                return self._iterate(*near, t_us)
        return 0.0

    def _near(self, window: EventStream) -> tuple[np.ndarray, np.ndarray]:
        """Positions `[n, 2]` and times `[n]` of the newest events of the pixels that the kernel can reach."""
        low = self._centroid - 3 * self.reach * self._size
        high = self._centroid + 3 * self.reach * self._size
        inside = (window.x >= low[0]) & (window.x < high[0]) & (window.y >= low[1]) & (window.y < high[1])
        x, y, t = window.x[inside], window.y[inside], window.t[inside]
        newest = np.full(window.sensor_hw, -1, np.int64)
        newest[y, x] = np.arange(len(t))
        kept = newest[newest >= 0]
        return np.stack([x[kept], y[kept]], axis=1).astype(np.float64) + 0.5, t[kept]

    def _iterate(self, points: np.ndarray, times: np.ndarray, t_us: int) -> float:
        scale = self.reach * self._size
        recency = np.exp((times - t_us) / self.recency_us)
        mass = 0.0
        for _ in range(self.iterations):
            distance = (((points - self._centroid) / scale) ** 2).sum(axis=1)
            weights = np.where(distance < 4.0, np.exp(-0.5 * distance), 0.0) * recency
            mass = float(weights.sum())
            if mass <= 1e-9:
                return 0.0
            moved = (weights[:, None] * points).sum(axis=0) / mass
            step = float(np.abs(moved - self._centroid).max())
            self._centroid = moved
            if step < 0.05:
                break
        return mass


class OpenCVTracker:
    """OpenCV's CSRT or KCF on event pictures or camera frames.

    KCF gives a target up for good when its response falls below a threshold. OpenCV's own, 0.5, ends most event
    sequences within a few outputs (two windows of events are never as alike as two frames) and many frame sequences,
    so it is 0.1 here: the best of a search on simulated training sequences for both sources.

    Args:
        kind: `"csrt"` (adapts the size) or `"kcf"` (fixed size).
        source: `"events"`: each output's picture shows the events of the last `window_us`; `"frames"`: the newest
            camera frame, and between two frames the last box is repeated.
        window_us: Length of the window that is drawn for `source="events"`.

    Raises:
        MissingExtraError: If OpenCV with its contributed modules is not installed (extra `baselines`).
        InputError: If `kind` or `source` is unknown.
    """

    def __init__(self, *, kind: str = "csrt", source: str = "events", window_us: int = 40_000) -> None:
        if kind not in ("csrt", "kcf") or source not in ("events", "frames"):
            raise InputError(f"kind={kind!r}, source={source!r}; expected csrt or kcf, events or frames")
        self.name = f"{kind}_{source}"
        self.source, self.window_us = source, window_us
        cv2 = optional_import("cv2", extra="baselines")
        self._create = _opencv_factory(cv2, kind, detect_threshold=KCF_DETECT_THRESHOLD)

    def init(self, events: EventStream, box_xywh: Any, *, t_us: int, frame: np.ndarray | None = None) -> None:
        """Starts at a known box; with `source="frames"` a frame is needed."""
        self._sensor_hw = events.sensor_hw
        self._box = check_box(box_xywh, events.sensor_hw)
        self._score = 1.0
        self._recent = _Recent(events, age_us=2 * self.window_us)
        self._given = None
        picture = self._picture(int(t_us), frame)
        if picture is None:
            raise InputError(f"{self.name} needs a camera frame at the first box; this sequence holds none by then")
        self._tracker = self._create()
        self._tracker.init(picture, _whole_pixels(self._box, self._sensor_hw))

    def update(self, events: EventStream, *, at_us: Sequence[int], frame: np.ndarray | None = None) -> list[Estimate]:
        """One box per asked time; when OpenCV reports a loss the last box stays with score 0."""
        self._recent.push(events)
        estimates = []
        for t_us in at_us:
            picture = self._picture(int(t_us), frame)
            if picture is not None:
                found, box = self._tracker.update(picture)
                self._score = float(bool(found))
                if found and box[2] > 0 and box[3] > 0:
                    self._box = clip_box(box, self._sensor_hw)
            estimates.append(Estimate(int(t_us), self._box.copy(), self._score))
        return estimates

    def _picture(self, t_us: int, frame: np.ndarray | None) -> np.ndarray | None:
        """The picture to look at, BGR uint8; None when there is no new one."""
        if self.source == "events":
            picture = event_image(self._recent.stream.slice_time(t_us - self.window_us, t_us), style="light")
        elif frame is None or (self._given is not None and np.array_equal(frame, self._given)):
            return None
        else:
            self._given = picture = frame
        return np.ascontiguousarray(picture[..., ::-1])


def baseline(name: str, *, window_us: int = 40_000) -> StaticTracker | MeanShiftTracker | OpenCVTracker:
    """A baseline by its name in result files: `static`, `mean_shift`, or `csrt_events`, `kcf_frames` and the like.

    Args:
        name: The name.
        window_us: Length of the window of events that those look through that have one.
    """
    if name == "static":
        return StaticTracker()
    if name == "mean_shift":
        return MeanShiftTracker(window_us=window_us, recency_us=window_us / 2)
    kind, _, source = name.partition("_")
    return OpenCVTracker(kind=kind, source=source, window_us=window_us)


def _opencv_factory(cv2: Any, kind: str, *, detect_threshold: float) -> Callable[[], Any]:
    """What makes a fresh tracker; OpenCV moved its trackers between modules more than once."""
    name = {"csrt": "TrackerCSRT", "kcf": "TrackerKCF"}[kind]
    for home in (cv2, getattr(cv2, "legacy", None)):
        create = getattr(getattr(home, name, None), "create", None) or getattr(home, f"{name}_create", None)
        parameters = getattr(home, f"{name}_Params", None)
        if create is not None and parameters is not None and kind == "kcf":
            chosen = parameters()
            chosen.detect_thresh = detect_threshold
            return lambda: create(chosen)
        if create is not None:
            return create
    raise MissingExtraError(
        f"this OpenCV {cv2.__version__} was built without {name}; install it with: pip install 'had-snn[baselines]'"
    )


def _whole_pixels(box_xywh: np.ndarray, sensor_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """The box as OpenCV takes it: whole pixels, inside the picture."""
    height, width = sensor_hw
    left, top = max(0, round(box_xywh[0])), max(0, round(box_xywh[1]))
    right = min(width, round(box_xywh[0] + box_xywh[2]))
    bottom = min(height, round(box_xywh[1] + box_xywh[3]))
    return left, top, max(1, right - left), max(1, bottom - top)
