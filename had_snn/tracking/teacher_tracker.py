"""One-pass tracking with the RGB+event teacher: the same rules around another network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.events.representations import crop_image, voxel_grid
from had_snn.events.stream import EventStream
from had_snn.geometry import Crop, search_crop
from had_snn.models import RGBETeacher
from had_snn.tracking.buffer import EventBuffer
from had_snn.tracking.follower import BoxFollower, Estimate, FollowerState
from had_snn.tracking.policy import TrackingPolicy


class TeacherTracker:
    """Follows one target with the teacher.

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
        self.follower = BoxFollower(
            search_size=config.search_size,
            search_factor=config.search_factor,
            grid=teacher.grid,
            policy=policy or TrackingPolicy(),
        )
        self.following: FollowerState | None = None
        self.template: Tensor | None = None
        self.buffer: EventBuffer | None = None

    def _inputs(self, t_us: int, crop: Crop, frame: np.ndarray | None) -> tuple[Tensor | None, Tensor | None]:
        assert self.buffer is not None
        config = self.teacher.config
        image = voxel = None
        if "rgb" in self.modalities and frame is not None:
            image = torch.from_numpy(crop_image(frame, crop))[None]
        if "events" in self.modalities:
            window = self.buffer.window(t_us - config.window_us, t_us, crop)
            grid = voxel_grid(window, t_us - config.window_us, t_us, bins=config.voxel_bins)
            voxel = torch.from_numpy(grid)[None]
        return image, voxel

    @torch.no_grad()
    def init(
        self,
        events: EventStream,
        box_xywh: Sequence[float] | np.ndarray,
        *,
        t_us: int | None = None,
        frame: np.ndarray | None = None,
    ) -> None:
        """Starts at a known box; see `OnlineTracker.init`. `frame` is the newest RGB frame, uint8 `[H, W, 3]`."""
        config = self.teacher.config
        start = int(t_us if t_us is not None else events.t_end)
        self.following = self.follower.start(
            np.asarray(box_xywh, dtype=np.float64), events.sensor_hw, start, config.window_us
        )
        self.buffer = EventBuffer(events)
        crop = search_crop(self.following.first_box, factor=config.template_factor, size=config.template_size)
        box = torch.from_numpy(crop.relative_box(self.following.first_box)[None]).float()
        self.template = self.teacher.encode_template(*self._inputs(start, crop, frame), box)

    @torch.no_grad()
    def update(self, events: EventStream, *, at_us: Sequence[int], frame: np.ndarray | None = None) -> list[Estimate]:
        """One box per asked time from the events so far and the newest frame; see `OnlineTracker.update`."""
        if self.buffer is None or self.template is None or self.following is None:
            raise InputError("update() before init(): give the first box with init(events, box_xywh)")
        self.buffer.push(events)
        estimates = []
        window_us = self.teacher.config.window_us
        for t_us in map(int, at_us):
            looks = []
            for crop in self.follower.regions(self.following):
                image, voxel = self._inputs(t_us, crop, frame)
                looks.append((crop, self.teacher.forward_search(image, voxel, self.template)))
            self.follower.accept(self.following, looks, t_us, window_us)
            estimates.append(self.follower.estimate(self.following, t_us))
            self.buffer.forget_before(t_us - window_us)
        return estimates
