"""Online tracking: events in by the chunk, boxes out at any time asked for.

    tracker = OnlineTracker(student)
    tracker.init(events_before, box_xywh, t_us=t0)
    for chunk in source:
        for estimate in tracker.update(chunk):
            print(estimate.t_us, estimate.box_xywh, estimate.score)

A box at time `t` is read from the events of the window `[t - window, t)`, cropped as coordinates around the last box.
How events are cut into chunks does not matter: the boxes are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.events.representations import crop_image, voxel_grid
from had_snn.events.stream import EventBatch, EventStream, concatenate
from had_snn.geometry import check_box, clip_boxes, search_crop
from had_snn.models import RGBETeacher, SpikingTracker, TrackerOutput
from had_snn.models.head import hann_prior

#: Fewer events than this in a crop say nothing about a target; the box stays and its score decays.
MIN_EVENTS = 8


@dataclass(frozen=True)
class Estimate:
    """One box.

    Attributes:
        t_us: Time of the box in microseconds.
        box_xywh: float64 `[4]`, sensor pixels.
        score: Confidence in [0, 1].
        lost: True while the tracker has given up following and searches.
    """

    t_us: int
    box_xywh: np.ndarray
    score: float
    lost: bool = False


@dataclass(frozen=True)
class TrackingPolicy:
    """How network outputs become boxes.

    Attributes:
        hann_weight: Weight of the Hann window in the peak search, 0 to 1.
        size_rate: Share of the newly read size in the new size, 0 to 1: sizes change slowly.
        hold_score: Below this score the box stays where it is: a target that stopped or is hidden makes no events.
        lost_score: Below this score for `lost_after` outputs in a row the target counts as lost.
        lost_after: Outputs in a row.
        lost_widening: Growth of the search region while lost.
        score_decay: Factor on the score for each output without events to look at.
    """

    hann_weight: float = 0.3
    size_rate: float = 0.5
    hold_score: float = 0.0
    lost_score: float = 0.08
    lost_after: int = 4
    lost_widening: float = 1.5
    score_decay: float = 0.9


class _BoxFollower:
    """The part of a tracker that is the same for every network: search region, reading the peak, lost or not."""

    def __init__(self, *, search_size: int, search_factor: float, grid: int, policy: TrackingPolicy) -> None:
        self.policy = policy
        self.search_size, self.search_factor = search_size, search_factor
        self.prior = hann_prior(grid, weight=policy.hann_weight)
        self.sensor_hw = (0, 0)
        self.box = np.zeros(4)
        self.score, self.low_scores = 1.0, 0

    def start(self, box_xywh: np.ndarray, sensor_hw: tuple[int, int]) -> None:
        self.box, self.sensor_hw = check_box(box_xywh, sensor_hw), sensor_hw
        self.score, self.low_scores = 1.0, 0

    @property
    def lost(self) -> bool:
        return self.low_scores >= self.policy.lost_after

    def region(self):
        factor = self.search_factor * (self.policy.lost_widening if self.lost else 1.0)
        return search_crop(self.box, factor=factor, size=self.search_size)

    def accept(self, output: TrackerOutput, t_us: int) -> Estimate:
        """Moves the box to the peak of an output read in `region()`."""
        crop = self.region()
        boxes, scores = output.peak_boxes(self.prior.to(output.score_logits.device))
        cx, cy, w, h = (boxes[0].double() * crop.size).tolist()
        found = crop.boxes_to_sensor(np.array([cx - w / 2, cy - h / 2, w, h]))
        size = self.box[2:] ** (1 - self.policy.size_rate) * found[2:] ** self.policy.size_rate
        centre = found[:2] + found[2:] / 2
        self.score = float(scores[0])
        self.low_scores = self.low_scores + 1 if self.score < self.policy.lost_score else 0
        if self.score < self.policy.hold_score:
            return Estimate(t_us, self.box.copy(), self.score, self.lost)
        self.box = clip_boxes(np.concatenate([centre - size / 2, size]), self.sensor_hw)
        return Estimate(t_us, self.box.copy(), self.score, self.lost)

    def hold(self, t_us: int) -> Estimate:
        """Nothing to look at: the box stays, the score decays."""
        self.score *= self.policy.score_decay
        return Estimate(t_us, self.box.copy(), self.score, self.lost)


class _EventBuffer:
    """The newest events, as many microseconds as a window needs; chunks are joined only when a window is read."""

    def __init__(self, sensor_hw: tuple[int, int]) -> None:
        self.stream = EventStream.empty(sensor_hw)
        self.pending: list[EventStream] = []
        self.last_t: int | None = None

    def push(self, events: EventStream) -> None:
        if events.sensor_hw != self.stream.sensor_hw:
            raise InputError(f"events of a {events.sensor_hw} sensor after events of a {self.stream.sensor_hw} sensor")
        if len(events) == 0:
            return
        if self.last_t is not None and events.t_start < self.last_t:
            raise InputError(f"chunk starts at {events.t_start} us, before the last event at {self.last_t} us")
        self.pending.append(events)
        self.last_t = int(events.t[-1])

    def window(self, t0: int, t1: int) -> EventStream:
        if self.pending:
            self.stream, self.pending = concatenate([self.stream, *self.pending]), []
        return self.stream.slice_time(t0, t1)

    def forget_before(self, t_us: int) -> None:
        if self.pending:
            self.stream, self.pending = concatenate([self.stream, *self.pending]), []
        self.stream = self.stream.slice_time(t_us, self.stream.t_end)


class OnlineTracker:
    """Follows one target through a stream of events with a spiking student.

    Args:
        student: The network; put into evaluation mode.
        output_period_us: Time between boxes when `update` is not told otherwise; the window's length when None.
        policy: How network outputs become boxes.

    Example:
        >>> from had_snn import OnlineTracker, load_student
        >>> tracker = OnlineTracker(load_student("tiny"), output_period_us=5_000)
    """

    name = "student"

    def __init__(
        self, student: SpikingTracker, *, output_period_us: int | None = None, policy: TrackingPolicy | None = None
    ) -> None:
        config = student.config
        self.student = student.eval()
        self.window_us = config.window_us
        self.output_period_us = int(output_period_us or config.window_us)
        self.follower = _BoxFollower(
            search_size=config.search_size, search_factor=config.search_factor, grid=student.grid,
            policy=policy or TrackingPolicy(),
        )  # fmt: skip
        self.kernel: Tensor | None = None
        self.buffer: _EventBuffer | None = None
        self.next_t_us = 0
        self.t_init_us = 0

    def init(
        self, events: EventStream, box_xywh: Sequence[float] | np.ndarray, *, t_us: int | None = None,
        frame: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Starts at a known box.

        Args:
            events: Events around the time of the box; those of the last window before it show the target. When there
                are hardly any, the template is read from the first window after the box that holds some.
            box_xywh: The target's box at `t_us`, sensor pixels.
            t_us: Time of the box; the end of `events` when None.
            frame: Unused: the student sees events only.

        Raises:
            InputError: If the box has no area or lies outside the sensor.
        """
        self.t_init_us = int(t_us if t_us is not None else events.t_end)
        self.follower.start(np.asarray(box_xywh, dtype=np.float64), events.sensor_hw)
        self.template_box = self.follower.box.copy()
        self.buffer = _EventBuffer(events.sensor_hw)
        self.buffer.push(events)
        self.kernel = self._read_template(self.t_init_us)
        self.next_t_us = self.t_init_us + self.output_period_us

    @torch.no_grad()
    def _read_template(self, t_end: int) -> Tensor | None:
        """The correlation kernel from the window that ends at `t_end`; None when it holds too few events."""
        config = self.student.config
        assert self.buffer is not None
        crop = search_crop(self.template_box, factor=config.template_factor, size=config.template_size)
        cropped = self.buffer.window(t_end - self.window_us, t_end).crop(crop)
        if len(cropped) < MIN_EVENTS:
            return None
        x, y, w, h = crop.boxes_to_crop(self.template_box) / crop.size
        box = torch.tensor([[x + w / 2, y + h / 2, w, h]], dtype=torch.float32)
        batch = EventBatch.pack([cropped], [t_end - self.window_us], [t_end])
        device = next(self.student.parameters()).device
        return self.student.encode_template(batch.to(device), box.to(device))

    def update(
        self, events: EventStream, *, at_us: Sequence[int] | None = None, frame: np.ndarray | None = None
    ) -> list[Estimate]:
        """Takes the next events and returns the boxes that are due.

        Args:
            events: The events since the last call, any number of them.
            at_us: Times to report a box at; all events before them must have been given by now. When None, boxes are
                due every `output_period_us`, each as soon as an event at or after its time has arrived.
            frame: Unused: the student sees events only.

        Returns:
            One estimate per due time, in order.

        Raises:
            InputError: If `init` was not called, or events go back in time or come from another sensor size.
        """
        if self.buffer is None:
            raise InputError("update() before init(): give the first box with init(events, box_xywh)")
        self.buffer.push(events)
        if at_us is None:
            last = self.buffer.last_t
            at_us = range(self.next_t_us, last + 1, self.output_period_us) if last is not None else ()
        estimates = [self._estimate(int(t)) for t in at_us]
        if estimates:
            self.next_t_us = estimates[-1].t_us + self.output_period_us
            self.buffer.forget_before(estimates[-1].t_us - self.window_us)
        return estimates

    @torch.no_grad()
    def _estimate(self, t_us: int) -> Estimate:
        assert self.buffer is not None
        if self.kernel is None and t_us >= self.t_init_us + self.window_us:
            self.kernel = self._read_template(t_us)
        crop = self.follower.region()
        cropped = self.buffer.window(t_us - self.window_us, t_us).crop(crop)
        if self.kernel is None or len(cropped) < MIN_EVENTS:
            return self.follower.hold(t_us)
        batch = EventBatch.pack([cropped], [t_us - self.window_us], [t_us]).to(self.kernel.device)
        output = self.student.forward_search(batch, self.kernel)
        return self.follower.accept(output, t_us)


class TeacherTracker:
    """One-pass tracking with the RGB+event teacher: the same boxes logic around another network.

    Args:
        teacher: The network; put into evaluation mode.
        policy: How network outputs become boxes.
        modalities: What the teacher may see, a subset of `("rgb", "events")`.
    """

    name = "teacher"

    def __init__(
        self,
        teacher: RGBETeacher,
        *,
        policy: TrackingPolicy | None = None,
        modalities: tuple[str, ...] = ("rgb", "events"),
    ) -> None:
        config = teacher.config
        self.teacher = teacher.eval()
        self.modalities = modalities
        self.follower = _BoxFollower(
            search_size=config.search_size, search_factor=config.search_factor, grid=teacher.grid,
            policy=policy or TrackingPolicy(),
        )  # fmt: skip
        self.template: Tensor | None = None
        self.buffer: _EventBuffer | None = None

    def _inputs(self, t_us: int, crop, frame: np.ndarray | None) -> tuple[Tensor | None, Tensor | None]:
        assert self.buffer is not None
        config = self.teacher.config
        image = voxel = None
        if "rgb" in self.modalities and frame is not None:
            image = torch.from_numpy(crop_image(frame, crop))[None]
        if "events" in self.modalities:
            window = self.buffer.window(t_us - config.window_us, t_us).crop(crop)
            grid = voxel_grid(window, t_us - config.window_us, t_us, bins=config.voxel_bins)
            voxel = torch.from_numpy(grid)[None]
        return image, voxel

    @torch.no_grad()
    def init(
        self, events: EventStream, box_xywh: Sequence[float] | np.ndarray, *, t_us: int | None = None,
        frame: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Starts at a known box; see `OnlineTracker.init`. `frame` is the newest RGB frame, uint8 `[H, W, 3]`."""
        config = self.teacher.config
        start = int(t_us if t_us is not None else events.t_end)
        self.follower.start(np.asarray(box_xywh, dtype=np.float64), events.sensor_hw)
        self.buffer = _EventBuffer(events.sensor_hw)
        self.buffer.push(events)
        crop = search_crop(self.follower.box, factor=config.template_factor, size=config.template_size)
        x, y, w, h = crop.boxes_to_crop(self.follower.box) / crop.size
        box = torch.tensor([[x + w / 2, y + h / 2, w, h]], dtype=torch.float32)
        self.template = self.teacher.encode_template(*self._inputs(start, crop, frame), box)

    @torch.no_grad()
    def update(self, events: EventStream, *, at_us: Sequence[int], frame: np.ndarray | None = None) -> list[Estimate]:
        """One box per asked time from the events so far and the newest frame; see `OnlineTracker.update`."""
        if self.buffer is None or self.template is None:
            raise InputError("update() before init(): give the first box with init(events, box_xywh)")
        self.buffer.push(events)
        estimates = []
        for t_us in at_us:
            image, voxel = self._inputs(int(t_us), self.follower.region(), frame)
            estimates.append(self.follower.accept(self.teacher.forward_search(image, voxel, self.template), int(t_us)))
            self.buffer.forget_before(int(t_us) - self.teacher.config.window_us)
        return estimates
