"""Training samples: a template window and K consecutive search windows, cropped as a tracker would crop them.

Windows end at labels and are as long as the network's, or they are as long as a `WindowLengths` says and end at any
time, the box there interpolated between the labels around. The search region of a window is centred on the label
before it, or where the target was part of a window earlier, moved and scaled at random as a tracker's estimate is off.
Events are cropped as coordinates; frames and voxel grids, which only a teacher needs, are made on demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from had_snn.data.clip_batch import Clip, Window, collate, mirrored
from had_snn.data.labels import has_area
from had_snn.data.sequence import TrackingSequence
from had_snn.distill.schedule import EVERY_CLIP, DistillSchedule
from had_snn.errors import InputError
from had_snn.events.representations import crop_image, voxel_grid
from had_snn.geometry import Crop, search_crop

MODALITIES = ("events", "rgb", "voxel")
#: How far back, in windows, a region lies that is searched at a time of its own: the target was looked at there last.
LOOKED_BACK = (0.25, 1.0)


class WindowLengths(Protocol):
    """How long windows are whose length is not the network's own."""

    def search(
        self, sequence: TrackingSequence, t_us: int, box_xywh: np.ndarray, speed: float, rng: np.random.Generator
    ) -> int:
        """Length in whole microseconds of a window that ends at a time.

        Args:
            sequence: The recording.
            t_us: End of the window.
            box_xywh: The target's box then, `[4]`.
            speed: Its speed, sizes per microsecond.
            rng: For what varies.
        """
        ...

    def template(self, sequence: TrackingSequence, t_us: int, box_xywh: np.ndarray, rng: np.random.Generator) -> int:
        """Likewise of a template window."""
        ...


@dataclass(frozen=True)
class ClipGeometry:
    """The numbers of a network that fix its windows and crops.

    Attributes:
        window_us: Nominal length of an event window in microseconds.
        template_size: Side of the template crop in crop pixels.
        template_factor: Side of the template crop in units of `sqrt(w * h)`.
        search_size: Side of the search crop in crop pixels.
        search_factor: Side of the search crop in units of `sqrt(w * h)`.
        voxel_bins: Instants of the voxel grid, which only a teacher has.

    Raises:
        InputError: If a number is not positive.
    """

    window_us: int
    template_size: int
    template_factor: float
    search_size: int
    search_factor: float
    voxel_bins: int = 5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise InputError(f"crops and windows of a network: {name}={value} must be positive")

    @classmethod
    def of(cls, config: Any) -> ClipGeometry:
        """That of a student or teacher, from its plain numbers."""
        return cls(**{f.name: getattr(config, f.name) for f in fields(cls) if hasattr(config, f.name)})

    def template_crop(self, box_xywh: np.ndarray) -> Crop:
        """The template's crop around a box `[4]` in sensor pixels."""
        return search_crop(box_xywh, factor=self.template_factor, size=self.template_size)

    def search_crop(self, box_xywh: np.ndarray) -> Crop:
        """The search crop around a box `[4]` in sensor pixels."""
        return search_crop(box_xywh, factor=self.search_factor, size=self.search_size)

    def window(
        self,
        sequence: TrackingSequence,
        t1: int,
        crop: Crop,
        modalities: Sequence[str],
        *,
        length_us: int | None = None,
        micro_steps: int = 0,
    ) -> Window:
        """All that a network sees through a crop of the window that ends at a time.

        Args:
            sequence: The recording.
            t1: End of the window in microseconds.
            crop: The crop.
            modalities: Of `MODALITIES`, what to prepare.
            length_us: Its length; `window_us` when None.
            micro_steps: Beside the voxel grid, one for each of so many micro-steps: of equally long windows that end
                where it ends.
        """
        length_us = length_us or self.window_us
        t0 = t1 - length_us
        box_xywh, visible = sequence.box_at(t1)
        box = crop.relative_box(box_xywh).astype(np.float32)
        visible = visible and bool((box[:2] > 0).all() and (box[:2] < 1).all())
        if not np.isfinite(box).all():
            box = np.array([0.5, 0.5, 0.25, 0.25], np.float32)
        events = image = voxel = step_voxels = None
        if "events" in modalities or "voxel" in modalities:
            events = sequence.events.slice_time(t0, t1).crop(crop)
        if "voxel" in modalities and events is not None:
            voxel = voxel_grid(events, t0, t1, bins=self.voxel_bins)
            if micro_steps:
                ends = [t0 + length_us * (step + 1) // micro_steps for step in range(micro_steps)]
                longer = sequence.events.slice_time(ends[0] - length_us, t1).crop(crop)
                parts = [(longer.slice_time(end - length_us, end), end - length_us, end) for end in ends]
                step_voxels = np.stack([voxel_grid(*part, bins=self.voxel_bins) for part in parts])
        if "rgb" in modalities:
            frame = sequence.frame_at(t1)
            image = np.zeros((3, crop.size, crop.size), np.float32) if frame is None else crop_image(frame, crop)
        shown = events if "events" in modalities else None
        scale = self.window_us / length_us
        return Window(t0, t1, box, visible, shown, image, voxel, step_voxels=step_voxels, scale=scale)


@dataclass(frozen=True)
class Augmentation:
    """How clips are varied.

    Attributes:
        centre_jitter: The search region is off by up to this share of `sqrt(w * h)` in x and in y.
        scale_jitter: Standard deviation of the log of its size.
        flip: Probability of mirroring a clip left to right.
        negative_pairs: Probability that a clip's template shows the target of another sequence, so that nothing in its
            windows is to be found: what resembles the target a little must not score.
    """

    centre_jitter: float = 0.5
    scale_jitter: float = 0.15
    flip: float = 0.0
    negative_pairs: float = 0.0

    def jittered(self, box_xywh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A box `[4]` moved and scaled as a tracker's estimate is off."""
        x, y, w, h = box_xywh
        side = np.sqrt(w * h)
        dx, dy = rng.uniform(-self.centre_jitter, self.centre_jitter, 2) * side
        grow = np.exp(np.clip(rng.normal(0, self.scale_jitter), -3 * self.scale_jitter, 3 * self.scale_jitter))
        centre = np.array([x + w / 2 + dx, y + h / 2 + dy])
        size = np.array([w, h]) * grow
        return np.concatenate([centre - size / 2, size])


class ClipSampler(Dataset[Clip]):
    """Draws clips; clip `i` depends on the seed and `i` alone. An index past the end is of a later epoch.

    Args:
        sequences: Where clips come from; each is drawn in proportion to its number of usable starts, at most 100.
        geometry: Windows and crops. Labels that lie closer together than a window is long are skipped, so that
            consecutive windows are about a window's length apart.
        windows: Consecutive search windows per clip, `K`.
        augmentation: How clips are varied; as `Augmentation()` when None.
        seed: Seed of all draws.
        epoch_length: Clips per epoch.
        modalities: Of `MODALITIES`, what to prepare; no `rgb` where no sequence has frames.
        distill: Which clips are distilled: only these hold images and voxel grids.
        unlabelled: Sequences that distilled clips are drawn from as well; their boxes only say where to look.
        micro_steps: Search windows of distilled clips hold a voxel grid for each of so many micro-steps as well.
        lengths: How long windows are, which then end at any time; when None they are as long as the network's and end
            at labels.

    Raises:
        InputError: If no sequence holds a clip.
    """

    def __init__(
        self,
        sequences: Sequence[TrackingSequence],
        geometry: ClipGeometry,
        *,
        windows: int = 2,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        epoch_length: int = 1_000_000,
        modalities: Sequence[str] = MODALITIES,
        distill: DistillSchedule = EVERY_CLIP,
        unlabelled: Sequence[TrackingSequence] = (),
        micro_steps: int = 0,
        lengths: WindowLengths | None = None,
    ) -> None:
        unknown = set(modalities) - set(MODALITIES)
        if unknown:
            raise InputError(f"unknown modalities {sorted(unknown)}; choose from {', '.join(MODALITIES)}")
        if windows < 1 or epoch_length < 1:
            raise InputError(f"windows {windows}, epoch_length {epoch_length}: must be positive")
        self.sequences, self.labels = [*sequences, *unlabelled], len(sequences)
        self.geometry, self.windows, self.augmentation = geometry, windows, augmentation or Augmentation()
        self.seed, self.epoch_length, self.distill, self.lengths = seed, epoch_length, distill, lengths
        self.micro_steps = micro_steps
        pictured = any(s.frames is not None for s in self.sequences)
        self.modalities = tuple(m for m in modalities if m != "rgb" or pictured)
        self._strides = [_label_stride(s, geometry.window_us) if lengths is None else 1 for s in self.sequences]
        self._starts = [_starts(s, stride, windows) for s, stride in zip(self.sequences, self._strides, strict=True)]
        weights = np.array([min(len(starts), 100) for starts in self._starts], np.float64)
        if not weights[: self.labels].sum():
            raise InputError(
                f"none of {self.labels} sequences holds a clip: a clip needs a visible target at {windows + 1} "
                f"consecutive labels about {geometry.window_us / 1000:g} ms apart"
            )
        self._cumulative = np.cumsum(weights)

    def __len__(self) -> int:
        return self.epoch_length

    def __getitem__(self, index: int) -> Clip:
        epoch, place = divmod(int(index), self.epoch_length)
        distilled = self.distill.includes(index)
        pool_number = self.distill.pool_number(index) if distilled else None
        # A third number that no clip's place can be keeps the two kinds of draws apart.
        draw = (epoch, place) if pool_number is None else (0, self.epoch_length + pool_number)
        rng = np.random.default_rng([self.seed, *draw])
        modalities = self.modalities if distilled else tuple(m for m in self.modalities if m == "events")
        which = self._draw(rng, among=len(self.sequences) if distilled else self.labels)
        sequence, stride, starts = self.sequences[which], self._strides[which], self._starts[which]
        start = int(starts[rng.integers(len(starts))])
        # The template comes from any earlier visible label: near or far, as in a long run of a tracker.
        template = self._template(sequence, start - stride + 1, rng, modalities)
        search = self.search_windows(sequence, start, stride, rng, modalities)
        if rng.random() < self.augmentation.negative_pairs and (other := self._draw(rng, among=self.labels)) != which:
            template = self._template(self.sequences[other], len(self.sequences[other]), rng, modalities)
            search = tuple(replace(window, visible=False) for window in search)
        clip = Clip(template, search, labelled=which < self.labels, pool_number=pool_number)
        return mirrored(clip) if self.augmentation.flip and rng.random() < self.augmentation.flip else clip

    def _draw(self, rng: np.random.Generator, *, among: int) -> int:
        """One of the first `among` sequences, in proportion to its number of usable starts."""
        shares = self._cumulative[:among]
        return min(int(np.searchsorted(shares, rng.random() * shares[-1], side="right")), among - 1)

    def _template(
        self, sequence: TrackingSequence, stop: int, rng: np.random.Generator, modalities: Sequence[str]
    ) -> Window:
        """The window that ends at one of the usable labels before label `stop`, cropped around its box."""
        usable = np.flatnonzero(sequence.usable[:stop])
        k = usable[rng.integers(len(usable))]
        crop, t1 = self.geometry.template_crop(sequence.boxes_xywh[k]), int(sequence.label_times_us[k])
        length_us = None if self.lengths is None else self.lengths.template(sequence, t1, sequence.boxes_xywh[k], rng)
        return self.geometry.window(sequence, t1, crop, modalities, length_us=length_us)

    def search_windows(
        self, sequence: TrackingSequence, start: int, stride: int, rng: np.random.Generator, modalities: Sequence[str]
    ) -> tuple[Window, ...]:
        """The `K` windows of a clip, `stride` labels apart, whose first one ends at label `start`.

        Each has a crop of its own.
        """
        if self.lengths is not None:
            return self._at_any_time(sequence, start, rng, modalities)
        windows = []
        for k in range(start, start + stride * self.windows, stride):
            crop = self.search_region(sequence, k - stride, rng)
            windows.append(self.search_window(sequence, int(sequence.label_times_us[k]), crop, modalities))
        return tuple(windows)

    def _at_any_time(
        self, sequence: TrackingSequence, label: int, rng: np.random.Generator, modalities: Sequence[str]
    ) -> tuple[Window, ...]:
        """Windows of one length, one after another, of which the first ends between a label and the one before."""
        t1, length_us = self._end_and_length(sequence, label, rng)
        windows = []
        for k in range(self.windows):
            end = t1 + k * length_us
            looked_at = sequence.box_at(round(end - rng.uniform(*LOOKED_BACK) * length_us))[0]
            box = looked_at if has_area(looked_at[None])[0] else sequence.boxes_xywh[label]
            crop = self.geometry.search_crop(self.augmentation.jittered(box, rng))
            windows.append(self.search_window(sequence, end, crop, modalities, length_us))
        return tuple(windows)

    def search_window(
        self, sequence: TrackingSequence, t1: int, crop: Crop, modalities: Sequence[str], length_us: int | None = None
    ) -> Window:
        """One search window; arguments as for `ClipGeometry.window`."""
        options: dict[str, Any] = {"length_us": length_us, "micro_steps": self.micro_steps}
        return self.geometry.window(sequence, t1, crop, modalities, **options)

    def _end_and_length(self, sequence: TrackingSequence, label: int, rng: np.random.Generator) -> tuple[int, int]:
        """When a window ends between a label and the one before, and how long it is, in microseconds."""
        assert self.lengths is not None
        times, boxes = sequence.label_times_us[label - 1 : label + 1], sequence.boxes_xywh[label - 1 : label + 1]
        t1 = int(rng.integers(times[0], times[1])) + 1
        box = sequence.box_at(t1)[0]
        moved = np.hypot(*np.diff(boxes[:, :2] + boxes[:, 2:] / 2, axis=0)[0]) / np.sqrt(box[2] * box[3])
        length_us = self.lengths.search(sequence, t1, box, moved / (times[1] - times[0]), rng)
        # The last one ends by the last label: behind it nobody says where the target is.
        room = int(sequence.label_times_us[-1]) - t1
        return t1, min(length_us, max(1, room // (self.windows - 1))) if self.windows > 1 else length_us

    def search_region(self, sequence: TrackingSequence, before: int, rng: np.random.Generator) -> Crop:
        """The region around the last visible box up to label `before`, jittered as a tracker's estimate is off."""
        usable = np.flatnonzero(sequence.usable[: before + 1])
        box = sequence.boxes_xywh[usable[-1] if len(usable) else before]
        return self.geometry.search_crop(self.augmentation.jittered(box, rng))

    #: Joins clips into a batch; what `fit` calls.
    collate = staticmethod(collate)


def _label_stride(sequence: TrackingSequence, window_us: int) -> int:
    """How many labels lie between windows that are about `window_us` apart."""
    if len(sequence) < 2:
        return 1
    return max(1, round(window_us / float(np.median(np.diff(sequence.label_times_us)))))


def _starts(sequence: TrackingSequence, stride: int, windows: int) -> np.ndarray:
    """Labels at which a clip's first search window may end: visible there and at the window before."""
    last = len(sequence) - stride * (windows - 1)
    starts = np.arange(stride, max(stride, last))
    return starts[sequence.usable[starts] & sequence.usable[starts - stride]]
