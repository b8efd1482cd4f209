"""Clips from two sources in a fixed proportion, for a network that learns the new and must not forget the old."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from had_snn.data.clip_batch import Clip
from had_snn.data.clips import ClipSampler
from had_snn.errors import InputError


class MixedClips(Dataset[Clip]):
    """Clip `i` is clip `i` of one source or of the other; both are spread evenly over the indices.

    Args:
        new: Clips of what is to be learnt.
        old: Clips of what is to be kept.
        share: Share of the old ones, in [0, 1).

    Raises:
        InputError: If the share is out of range.
    """

    def __init__(self, new: ClipSampler, old: ClipSampler, *, share: float) -> None:
        if not 0 <= share < 1:
            raise InputError(f"a share of {share:g} old clips: expected a number from 0 to below 1")
        self.new, self.old, self.share = new, old, share
        self.sequences = [*new.sequences, *old.sequences]

    def __len__(self) -> int:
        return len(self.new)

    def __getitem__(self, index: int) -> Clip:
        return self.source(index)[index]

    def source(self, index: int) -> ClipSampler:
        """Where a clip is from."""
        is_old = int((index + 1) * self.share + 1e-9) > int(index * self.share + 1e-9)
        return self.old if is_old else self.new

    def collate(self, clips: list[Clip]) -> Any:
        """Joins clips into a batch."""
        return self.new.collate(clips)
