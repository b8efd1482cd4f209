"""Membranes that are carried from one look to the next, so that each event is read once.

The crop keeps its scale and moves by whole cells of the network's coarsest grid, and the membranes move with it. A
micro-step that is not over yet keeps its stem spikes, and its read-out counts by the share of it that has passed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from had_snn.events.stream import EventStream
from had_snn.geometry import Crop
from had_snn.models import MicroSteps, SearchNetwork, SearchState, TrackerOutput
from had_snn.tracking.buffer import EventBuffer
from had_snn.tracking.window import MIN_EVENTS, count_window, pack_window


@dataclass
class CarriedSearch:
    """Membranes that outlive a window.

    Attributes:
        crop: The crop they belong to.
        t_us: Begin of the micro-step under way.
        read_us: Events before this time have been read.
        search: The network's state.
    """

    crop: Crop
    t_us: int
    read_us: int
    search: SearchState

    def reaches(self, wanted: Crop, t_us: int, *, window_us: int, scale_tolerance: float) -> bool:
        """Whether they can be carried on to a crop and a time: no other scale, no gap longer than a window."""
        ratio = self.crop.scale / wanted.scale
        return t_us - self.t_us <= window_us and max(ratio, 1 / ratio) <= scale_tolerance


def read_on(
    network: SearchNetwork,
    kernel: Tensor,
    carried: CarriedSearch,
    buffer: EventBuffer,
    wanted: Crop,
    t_us: int,
    *,
    most: int | None,
) -> tuple[TrackerOutput, CarriedSearch] | None:
    """Reads only what is new since the last look.

    Args:
        network: The network.
        kernel: The template, `[1, C, k, k]`.
        carried: What the look before left behind.
        buffer: The newest events, at least a window of them.
        wanted: Where to look; the crop comes as near to it as whole cells go.
        t_us: Time of the look: events before it are read.
        most: Largest number of events of a window; of more, every k-th is read.

    Returns:
        The network's output and what to carry on; None when the window holds too few events.
    """
    config, device = network.config, kernel.device
    half = wanted.size / wanted.scale / 2
    crop, cells = carried.crop.moved_by_cells((wanted.x0 + half, wanted.y0 + half), network.grid)
    count, every = count_window(buffer, crop, t_us - config.window_us, t_us, most=most)
    if count < MIN_EVENTS:
        return None
    new = pack_window(buffer.window(carried.read_us, t_us, crop, every=every), carried.read_us, t_us, device)
    # The rate of a whole window sets the gain: that of a millisecond is mostly chance.
    gain = torch.tensor([network.gain_at(-(-count // every) / (config.window_us * 1e-6 * crop.size**2))], device=device)
    search, begin = _ready_for(network, kernel, carried, t_us, gain)
    steps = MicroSteps.passed(t_us - begin, config)
    output = network.step(new, kernel, search.moved(cells), steps=steps, gain=gain)
    assert output.state is not None
    return output, CarriedSearch(crop, t_us if steps.over else begin, t_us, output.state)


def _ready_for(
    network: SearchNetwork, kernel: Tensor, carried: CarriedSearch, t_us: int, gain: Tensor
) -> tuple[SearchState, int]:
    """The state to read the events up to `t_us` with, and the begin of its micro-step.

    Where they would make the micro-step under way much too long, it ends where reading stopped.
    """
    config, search = network.config, carried.search
    if search.counts is None or t_us - carried.t_us < 1.5 * config.step_us:
        return search, carried.t_us
    nothing = EventStream.empty((carried.crop.size, carried.crop.size))
    batch = pack_window(nothing, carried.read_us, carried.read_us + 1, kernel.device)
    steps = MicroSteps(1, carried.read_us - carried.t_us)
    output = network.step(batch, kernel, search, steps=steps, gain=gain)
    assert output.state is not None
    return output.state, carried.read_us
