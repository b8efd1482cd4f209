"""A clip as windows of one sequence, and a batch of clips as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream


@dataclass(frozen=True, eq=False)
class Window:
    """One cropped window.

    Attributes:
        t0: Start in microseconds, inclusive.
        t1: End in microseconds, exclusive.
        box_cxcywh: float32 `[4]` in units of the crop's side.
        visible: Whether the target is in sight and its centre in the crop.
        events: In crop pixels, or None where not asked for.
        image: float32 `[3, size, size]` in [0, 1], or None.
        voxel: float32 `[bins, size, size]`, or None.
        step_voxels: float32 `[T, bins, size, size]`, of as long windows that end with each micro-step, or None.
        move_cells: Whole output cells, right and down, that the crop lies from that of the window before.
        scale: Network microseconds in a microsecond.
    """

    t0: int
    t1: int
    box_cxcywh: np.ndarray
    visible: bool
    events: EventStream | None
    image: np.ndarray | None
    voxel: np.ndarray | None
    step_voxels: np.ndarray | None = None
    move_cells: tuple[int, int] = (0, 0)
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Clip:
    """A template and `K` consecutive search windows of one sequence.

    Attributes:
        template: The template window.
        search: The search windows.
        labelled: Whether the boxes are labels; if not, they are a teacher's.
        pool_number: Which clip of the distillation's pool it is, or None for one that comes once.
    """

    template: Window
    search: tuple[Window, ...]
    labelled: bool = True
    pool_number: int | None = None


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """`B` clips of `K` windows as tensors. Search windows are k-major: sample `k * B + b` is window `k` of clip `b`.

    Images and voxel grids, which only a teacher needs, may be there for some of the clips, the `G` of `distilled`.

    Attributes:
        template_box: float32 `[B, 4]`, cxcywh in units of the template crop's side.
        boxes: float32 `[K, B, 4]`, cxcywh in units of the search crop's side.
        visible: float32 `[K, B]`, 1 where the box counts.
        template_events: `B` samples, or None.
        search_events: `K * B` samples, or None.
        template_image: float32 `[G, 3, S, S]` in [0, 1], or None.
        search_image: float32 `[K * G, 3, S, S]`, or None.
        template_voxel: float32 `[G, bins, S, S]`, or None.
        search_voxel: float32 `[K * G, bins, S, S]`, or None.
        step_voxels: float32 `[K * G, T, bins, S, S]`, see `Window`, or None.
        move_cells: int64 `[K, B, 2]`, see `Window`, or None.
        distilled: int64 `[G]`, the clips with images or voxel grids in order; None when that is all of them or none.
        labelled: bool `[B]`, clips whose boxes are labels; None when all are.
        pool_numbers: int64 `[G]`, `Clip.pool_number` of the distilled clips; None when each comes once.
        first_window: Which of the clips' windows is the first one here, after a cut.
    """

    template_box: Tensor
    boxes: Tensor
    visible: Tensor
    template_events: EventBatch | None = None
    search_events: EventBatch | None = None
    template_image: Tensor | None = None
    search_image: Tensor | None = None
    template_voxel: Tensor | None = None
    search_voxel: Tensor | None = None
    step_voxels: Tensor | None = None
    move_cells: Tensor | None = None
    distilled: Tensor | None = None
    labelled: Tensor | None = None
    pool_numbers: Tensor | None = None
    first_window: int = 0

    @property
    def distilled_clips(self) -> Tensor | slice:
        """Index of the `G` clips with images or voxel grids among the `B`."""
        return slice(None) if self.distilled is None else self.distilled

    def windows(self, start: int, stop: int) -> ClipBatch:
        """Windows `start` to `stop` (exclusive) of every clip, with the same templates."""
        clips = self.boxes.shape[1]
        cut: dict[str, Any] = {"first_window": self.first_window + start}
        for name in ("boxes", "visible", "move_cells", "search_image", "search_voxel", "step_voxels"):
            value = getattr(self, name)
            if value is not None:
                per_window = len(value) // len(self.boxes)
                cut[name] = value[start * per_window : stop * per_window]
        if self.search_events is not None:
            cut["search_events"] = self.search_events.samples(start * clips, stop * clips)
        return replace(self, **cut)

    def to(self, device: torch.device | str) -> ClipBatch:
        """The same batch on `device`."""
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{n: v.to(device) for n, v in held.items() if isinstance(v, (Tensor, EventBatch))})


def collate(clips: Sequence[Clip]) -> ClipBatch:
    """Joins clips with the same number of windows into a batch."""
    template = [c.template for c in clips]
    count = len(clips[0].search)
    search = [c.search[k] for k in range(count) for c in clips]
    distilled = [i for i, window in enumerate(template) if window.image is not None or window.voxel is not None]
    labelled = [c.labelled for c in clips]
    pool_numbers = [clips[i].pool_number for i in distilled]
    boxes = torch.from_numpy(np.stack([w.box_cxcywh for w in search])).view(count, len(clips), 4)
    visible = torch.tensor([float(w.visible) for w in search]).view(count, len(clips))
    return ClipBatch(
        template_box=torch.from_numpy(np.stack([w.box_cxcywh for w in template])),
        boxes=boxes,
        visible=visible,
        template_events=pack_windows(template),
        search_events=pack_windows(search),
        template_image=_stack([w.image for w in template]),
        search_image=_stack([w.image for w in search]),
        template_voxel=_stack([w.voxel for w in template]),
        search_voxel=_stack([w.voxel for w in search]),
        step_voxels=_stack([w.step_voxels for w in search]),
        move_cells=torch.tensor([w.move_cells for w in search], dtype=torch.int64).view(count, len(clips), 2),
        distilled=torch.tensor(distilled) if 0 < len(distilled) < len(clips) else None,
        labelled=None if all(labelled) else torch.tensor(labelled),
        pool_numbers=None if None in pool_numbers or not pool_numbers else torch.tensor(pool_numbers),
    )


def pack_windows(windows: Sequence[Window]) -> EventBatch | None:
    """The windows' events as one batch; None where one holds none."""
    streams = [w.events for w in windows if w.events is not None]
    if len(streams) < len(windows):
        return None
    begin, end, scale = zip(*((w.t0, w.t1, w.scale) for w in windows), strict=True)
    return EventBatch.pack(streams, begin, end, scale=scale)


def _stack(arrays: Sequence[np.ndarray | None]) -> Tensor | None:
    present = [a for a in arrays if a is not None]
    return torch.from_numpy(np.stack(present)) if present else None


def mirrored(clip: Clip) -> Clip:
    """A clip seen in a mirror, left to right."""
    return replace(clip, template=_mirror(clip.template), search=tuple(_mirror(w) for w in clip.search))


def _mirror(window: Window) -> Window:
    box = window.box_cxcywh.copy()
    box[0] = 1 - box[0]
    events = window.events
    if events is not None:
        events = replace(events, x=np.uint16(events.sensor_hw[1] - 1) - events.x)
    shown = {name: getattr(window, name) for name in ("image", "voxel", "step_voxels")}
    turned = {name: maps[..., ::-1].copy() for name, maps in shown.items() if maps is not None}
    move = (-window.move_cells[0], window.move_cells[1])
    return replace(window, box_cxcywh=box, events=events, move_cells=move, **turned)
