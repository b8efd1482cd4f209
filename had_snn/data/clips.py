"""Training samples: a template window and K consecutive search windows, cropped as a tracker would crop them.

The search region of a window is centred on the label before it, moved and scaled at random as a tracker's estimate is
off, and every crop goes through `geometry.search_crop`. Events are cropped as coordinates; frames and voxel grids,
which only the teacher needs, are made on demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from had_snn.data.clip_batch import Clip, ClipBatch, Window, collate, mirrored
from had_snn.data.sequence import TrackingSequence
from had_snn.distill.schedule import EVERY_CLIP, DistillSchedule
from had_snn.errors import InputError
from had_snn.events.representations import crop_image, voxel_grid
from had_snn.geometry import Crop, search_crop

__all__ = ["MODALITIES", "Clip", "ClipBatch", "ClipSampler", "Window", "collate"]

MODALITIES = ("events", "rgb", "voxel")


class ClipSampler(Dataset[Clip]):
    """Draws clips; clip `i` depends on the seed and `i` alone. An index past the end is of a later epoch.

    Args:
        sequences: Where clips come from; each is drawn in proportion to its number of usable starts, at most 100.
        windows: Consecutive search windows per clip, `K`.
        window_us: Length of every event window in microseconds. Labels that lie closer together are skipped, so that
            consecutive windows are about this far apart.
        template_size: Side of the template crop in crop pixels.
        template_factor: Side of the template crop in units of `sqrt(w * h)`.
        search_size: Side of the search crop in crop pixels.
        search_factor: Side of the search crop in units of `sqrt(w * h)`.
        centre_jitter: The search region is off by up to this share of `sqrt(w * h)` in x and in y.
        scale_jitter: Standard deviation of the log of its size.
        bins: Instants of the voxel grid.
        flip: Probability of mirroring a clip left to right.
        negative_pairs: Probability that a clip's template shows the target of another sequence, so that nothing in its
            windows is to be found: what resembles the target a little must not score.
        seed: Seed of all draws.
        epoch_length: Clips per epoch.
        modalities: Of `MODALITIES`, what to prepare; no `rgb` where no sequence has frames.
        distill: Which clips are distilled: only these hold images and voxel grids.
        unlabelled: Sequences that distilled clips are drawn from as well; their boxes only say where to look.

    Raises:
        InputError: If no sequence holds a clip.
    """

    def __init__(
        self,
        sequences: Sequence[TrackingSequence],
        *,
        windows: int = 2,
        window_us: int = 40_000,
        template_size: int = 72,
        template_factor: float = 2.25,
        search_size: int = 128,
        search_factor: float = 4.0,
        centre_jitter: float = 0.5,
        scale_jitter: float = 0.15,
        bins: int = 5,
        flip: float = 0.0,
        negative_pairs: float = 0.0,
        seed: int = 0,
        epoch_length: int = 1_000_000,
        modalities: Sequence[str] = MODALITIES,
        distill: DistillSchedule = EVERY_CLIP,
        unlabelled: Sequence[TrackingSequence] = (),
    ) -> None:
        unknown = set(modalities) - set(MODALITIES)
        if unknown:
            raise InputError(f"unknown modalities {sorted(unknown)}; choose from {', '.join(MODALITIES)}")
        if windows < 1 or window_us < 1 or epoch_length < 1:
            raise InputError(f"windows {windows}, window_us {window_us}, epoch_length {epoch_length}: must be positive")
        self.sequences, self.labels = [*sequences, *unlabelled], len(sequences)
        self.distill = distill
        self.windows, self.window_us = windows, window_us
        self.template_size, self.template_factor = template_size, template_factor
        self.search_size, self.search_factor = search_size, search_factor
        self.centre_jitter, self.scale_jitter = centre_jitter, scale_jitter
        self.bins, self.flip, self.negative_pairs = bins, flip, negative_pairs
        self.seed, self.epoch_length = seed, epoch_length
        pictured = any(s.frames is not None for s in self.sequences)
        self.modalities = tuple(m for m in modalities if m != "rgb" or pictured)
        self._strides = [_label_stride(s, window_us) for s in self.sequences]
        self._starts = [_starts(s, stride, windows) for s, stride in zip(self.sequences, self._strides, strict=True)]
        weights = np.array([min(len(starts), 100) for starts in self._starts], np.float64)
        if not weights[: self.labels].sum():
            raise InputError(
                f"none of {self.labels} sequences holds a clip: a clip needs a visible target at {windows + 1} "
                f"consecutive labels about {window_us / 1000:g} ms apart"
            )
        self._cumulative = np.cumsum(weights)

    def __len__(self) -> int:
        return self.epoch_length

    def __getitem__(self, index: int) -> Clip:
        epoch, place = divmod(int(index), self.epoch_length)
        distilled = self.distill.includes(index)
        pool_number = self.distill.pool_number(index) if distilled else None
        draw = [self.seed, epoch, place]
        if pool_number is not None:
            # A third number that no clip's place can be keeps the two kinds of draws apart.
            draw = [self.seed, 0, self.epoch_length + pool_number]
        rng = np.random.default_rng(draw)
        which = self._draw(rng, among=len(self.sequences) if distilled else self.labels)
        sequence, stride, starts = self.sequences[which], self._strides[which], self._starts[which]
        start = int(starts[rng.integers(len(starts))])
        # The template comes from any earlier visible label: near or far, as in a long run of a tracker.
        earlier = np.flatnonzero(sequence.usable[: start - stride + 1])
        template = self.template_window(sequence, int(earlier[rng.integers(len(earlier))]), distilled=distilled)
        search = self.search_windows(sequence, start, stride, rng, distilled=distilled)
        if rng.random() < self.negative_pairs and (other := self._draw(rng, among=self.labels)) != which:
            seen = np.flatnonzero(self.sequences[other].usable)
            template = self.template_window(
                self.sequences[other], int(seen[rng.integers(len(seen))]), distilled=distilled
            )
            search = tuple(replace(window, visible=False) for window in search)
        clip = Clip(template, search, labelled=which < self.labels, pool_number=pool_number)
        return mirrored(clip) if self.flip and rng.random() < self.flip else clip

    def _draw(self, rng: np.random.Generator, *, among: int) -> int:
        """One of the first `among` sequences, in proportion to its number of usable starts."""
        shares = self._cumulative[:among]
        return min(int(np.searchsorted(shares, rng.random() * shares[-1], side="right")), among - 1)

    def template_window(self, sequence: TrackingSequence, k: int, *, distilled: bool = True) -> Window:
        """The window that ends at label `k`, cropped around that label's box."""
        crop = search_crop(sequence.boxes_xywh[k], factor=self.template_factor, size=self.template_size)
        return self.crop_window(sequence, k, crop, distilled=distilled)

    def search_windows(
        self, sequence: TrackingSequence, start: int, stride: int, rng: np.random.Generator, *, distilled: bool = True
    ) -> tuple[Window, ...]:
        """The `K` windows of a clip whose first one ends at label `start`, each with a crop of its own."""
        labels = start + stride * np.arange(self.windows)
        return tuple(self.search_window(sequence, int(k), int(k) - stride, rng, distilled=distilled) for k in labels)

    def search_window(
        self, sequence: TrackingSequence, k: int, before: int, rng: np.random.Generator, *, distilled: bool = True
    ) -> Window:
        """The window that ends at label `k`, cropped as `search_region` says."""
        return self.crop_window(sequence, k, self.search_region(sequence, before, rng), distilled=distilled)

    def search_region(self, sequence: TrackingSequence, before: int, rng: np.random.Generator) -> Crop:
        """The region around the last visible box up to label `before`, jittered as a tracker's estimate is off."""
        usable = np.flatnonzero(sequence.usable[: before + 1])
        x, y, w, h = sequence.boxes_xywh[usable[-1] if len(usable) else before]
        side = np.sqrt(w * h)
        dx, dy = rng.uniform(-self.centre_jitter, self.centre_jitter, 2) * side
        grow = np.exp(np.clip(rng.normal(0, self.scale_jitter), -3 * self.scale_jitter, 3 * self.scale_jitter))
        centre = np.array([x + w / 2 + dx, y + h / 2 + dy])
        size = np.array([w, h]) * grow
        box = np.concatenate([centre - size / 2, size])
        return search_crop(box, factor=self.search_factor, size=self.search_size)

    def crop_window(self, sequence: TrackingSequence, k: int, crop: Crop, *, distilled: bool = True) -> Window:
        """Everything that a network sees of the window that ends at label `k` through a given crop."""
        t1, box, visible = int(sequence.label_times_us[k]), sequence.boxes_xywh[k], bool(sequence.usable[k])
        return self.crop_until(sequence, t1, crop, box, visible, distilled=distilled)

    def crop_until(
        self,
        sequence: TrackingSequence,
        t1: int,
        crop: Crop,
        box_xywh: np.ndarray,
        visible: bool,
        *,
        distilled: bool = True,
    ) -> Window:
        """The same for the window that ends at any time, with the box that is true there."""
        t0 = t1 - self.window_us
        box = crop.relative_box(box_xywh).astype(np.float32)
        visible = visible and bool((box[:2] > 0).all() and (box[:2] < 1).all())
        if not np.isfinite(box).all():
            box = np.array([0.5, 0.5, 0.25, 0.25], np.float32)
        events = image = voxel = None
        wanted = self.modalities if distilled else tuple(m for m in self.modalities if m == "events")
        if "events" in wanted or "voxel" in wanted:
            events = sequence.events.slice_time(t0, t1).crop(crop)
        if "voxel" in wanted and events is not None:
            voxel = voxel_grid(events, t0, t1, bins=self.bins)
        if "rgb" in wanted:
            frame = sequence.frame_at(t1)
            image = np.zeros((3, crop.size, crop.size), np.float32) if frame is None else crop_image(frame, crop)
        return Window(t0, t1, box, visible, events if "events" in self.modalities else None, image, voxel)

    def collate(self, clips: Sequence[Clip]) -> ClipBatch:
        """Joins clips into a batch (see the function of the same name)."""
        return collate(clips)


def _label_stride(sequence: TrackingSequence, window_us: int) -> int:
    """How many labels lie between windows that are about `window_us` apart."""
    if len(sequence) < 2:
        return 1
    return max(1, round(window_us / float(np.median(np.diff(sequence.label_times_us)))))


def _starts(sequence: TrackingSequence, stride: int, windows: int) -> np.ndarray:
    """Labels at which a clip's first search window may end: visible there and at the window before."""
    usable = sequence.usable
    last = len(sequence) - stride * (windows - 1)
    starts = np.arange(stride, max(stride, last))
    return starts[usable[starts] & usable[starts - stride]]
