"""The template: which window before the given box is read, and how. Trackers and exports read the same."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from had_snn.geometry import search_crop
from had_snn.models import SearchNetwork
from had_snn.tracking.buffer import EventBuffer
from had_snn.tracking.window import Window
from had_snn.tracking.window_rule import NearEvents, WindowRule

#: Sides of the region whose events count as near the target, and of that with its surroundings, in sizes.
NEAR, AROUND = 2.0, 4.0
#: The second in pixels, the first one's pixels in it, and the first of these.
_SIDE = 64
_NEAR_SIDE = round(_SIDE * NEAR / AROUND)
_NEAR_FIRST = np.uint16((_SIDE - _NEAR_SIDE) // 2)


def near_events(
    buffer: EventBuffer, box_xywh: np.ndarray, t_us: int, rule: WindowRule, *, longest: int | None = None
) -> NearEvents:
    """Events near a box and around it.

    Args:
        buffer: The newest events.
        box_xywh: The box, sensor pixels.
        t_us: Events before this time count.
        rule: Says how long windows are.
        longest: As far back as the window of this `n` goes; the longest of all when None.
    """
    longest = rule.longest if longest is None else min(longest, rule.longest)
    zone, wide = (search_crop(box_xywh, factor=factor, size=_SIDE) for factor in (NEAR, AROUND))
    events = buffer.window(rule.window(t_us, longest).first_us, t_us, wide)
    # Places before the first wrap around to large ones, so that one comparison does for both ends.
    inner = (events.x - _NEAR_FIRST < _NEAR_SIDE) & (events.y - _NEAR_FIRST < _NEAR_SIDE)
    near, both = (crop.area_on(buffer.sensor_hw) for crop in (zone, wide))
    full = rule.full(float(box_xywh[2] * box_xywh[3]))
    return NearEvents(events.t[inner], events.t[~inner], t_us, full, near / max(both - near, 1.0))


def template_window(buffer: EventBuffer, box_xywh: np.ndarray, t_us: int, rule: WindowRule) -> tuple[int, bool]:
    """The window that shows a target at a given box.

    Args:
        buffer: Events before the box.
        box_xywh: The box, sensor pixels.
        t_us: Its time.
        rule: Says how long windows are.

    Returns:
        Its `n`, and whether it holds as many events as it should.
    """
    near = near_events(buffer, box_xywh, t_us, rule)
    begin = buffer.first_time(np.iinfo(np.int64).min, t_us)
    n = rule.at_a_box(near, recorded_us=0 if begin is None else t_us - begin)
    return n, near.within(rule.length(n)) >= near.full or n == rule.longest


@torch.no_grad()
def read_template(
    network: SearchNetwork,
    buffer: EventBuffer,
    box_xywh: np.ndarray,
    window: Window,
    *,
    most: int | None = None,
    n_steps: int | None = None,
) -> Tensor | None:
    """Reads the correlation kernel.

    Args:
        network: The network.
        buffer: Events before the end of the window.
        box_xywh: The target's box, sensor pixels.
        window: The window, as `template_window` chose it.
        most: Largest number of events to read; of more, every k-th is read.
        n_steps: Micro-steps per window; the configured number when None.

    Returns:
        Kernel `[1, C, k, k]`; None when the window holds too few events.
    """
    config = network.config
    crop = search_crop(box_xywh, factor=config.template_factor, size=config.template_size)
    batch = window.read(buffer, crop, most=most, device=network.device)
    if batch is None:
        return None
    box = torch.from_numpy(crop.relative_box(box_xywh)[None]).float().to(network.device)
    return network.encode_template(batch, box, n_steps=n_steps)
