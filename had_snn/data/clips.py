"""Training samples: a template window and K consecutive search windows, cropped as a tracker would crop them.

The search region of a window is centred on the label before it, moved and scaled at random as a tracker's estimate is
off. Events are cropped as coordinates; frames and voxel grids, which only a teacher needs, are made on demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch.utils.data import Dataset

from had_snn.data.clip_batch import Clip, ClipBatch, Window, collate, mirrored
from had_snn.data.clip_geometry import MODALITIES, ClipGeometry
from had_snn.data.sequence import TrackingSequence
from had_snn.distill.schedule import EVERY_CLIP, DistillSchedule
from had_snn.errors import InputError
from had_snn.geometry import Crop


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
    ) -> None:
        unknown = set(modalities) - set(MODALITIES)
        if unknown:
            raise InputError(f"unknown modalities {sorted(unknown)}; choose from {', '.join(MODALITIES)}")
        if windows < 1 or epoch_length < 1:
            raise InputError(f"windows {windows}, epoch_length {epoch_length}: must be positive")
        self.sequences, self.labels = [*sequences, *unlabelled], len(sequences)
        self.geometry, self.windows, self.augmentation = geometry, windows, augmentation or Augmentation()
        self.seed, self.epoch_length, self.distill = seed, epoch_length, distill
        pictured = any(s.frames is not None for s in self.sequences)
        self.modalities = tuple(m for m in modalities if m != "rgb" or pictured)
        self._strides = [_label_stride(s, geometry.window_us) for s in self.sequences]
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
        k = int(usable[rng.integers(len(usable))])
        return self._label_window(sequence, k, self.geometry.template_crop(sequence.boxes_xywh[k]), modalities)

    def _label_window(self, sequence: TrackingSequence, k: int, crop: Crop, modalities: Sequence[str]) -> Window:
        """The window that ends at label `k`."""
        t1, visible = int(sequence.label_times_us[k]), bool(sequence.usable[k])
        return self.geometry.window(sequence, t1, crop, sequence.boxes_xywh[k], visible, modalities)

    def search_windows(
        self, sequence: TrackingSequence, start: int, stride: int, rng: np.random.Generator, modalities: Sequence[str]
    ) -> tuple[Window, ...]:
        """The `K` windows of a clip, `stride` labels apart, whose first one ends at label `start`.

        Each has a crop of its own.
        """
        labels = range(start, start + stride * self.windows, stride)
        return tuple(
            self._label_window(sequence, k, self.search_region(sequence, k - stride, rng), modalities) for k in labels
        )

    def search_region(self, sequence: TrackingSequence, before: int, rng: np.random.Generator) -> Crop:
        """The region around the last visible box up to label `before`, jittered as a tracker's estimate is off."""
        usable = np.flatnonzero(sequence.usable[: before + 1])
        box = sequence.boxes_xywh[usable[-1] if len(usable) else before]
        return self.geometry.search_crop(self.augmentation.jittered(box, rng))

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
    last = len(sequence) - stride * (windows - 1)
    starts = np.arange(stride, max(stride, last))
    return starts[sequence.usable[starts] & sequence.usable[starts - stride]]
