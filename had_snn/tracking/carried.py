"""Membranes that are carried from one look to the next, so that each event is read once.

The crop keeps its scale and moves by whole cells of the network's coarsest grid, and the membranes move with it. They
live in network time: another window only lets it pass faster or slower from then on. A micro-step that is not over yet
keeps its stem spikes, and its read-out counts by the share of it that has passed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from had_snn.events.stream import EventStream
from had_snn.geometry import Crop
from had_snn.models import MicroSteps, SearchNetwork, SearchState, TrackerOutput
from had_snn.tracking.buffer import EventBuffer
from had_snn.tracking.window import MIN_EVENTS, Window, pack_stretch


@dataclass
class CarriedSearch:
    """Membranes that outlive a window.

    Attributes:
        crop: The crop they belong to.
        read_us: Events before this time have been read.
        passed: Network time since the micro-step under way began.
        search: The network's state.
    """

    crop: Crop
    read_us: int
    passed: float
    search: SearchState

    def reaches(self, wanted: Crop, window: Window, *, scale_tolerance: float) -> bool:
        """Whether they can be carried on to a crop and a window: no other scale, no gap longer than a window."""
        ratio = self.crop.scale / wanted.scale
        return window.t_us - self.read_us <= window.length_us and max(ratio, 1 / ratio) <= scale_tolerance


def read_on(
    network: SearchNetwork,
    kernel: Tensor,
    carried: CarriedSearch,
    buffer: EventBuffer,
    wanted: Crop,
    window: Window,
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
        window: The window that ends with the look: events before its end are read.
        most: Largest number of events of a window; of more, every k-th is read.

    Returns:
        The network's output and what to carry on; None when the window holds too few events.
    """
    config = network.config
    half = wanted.size / wanted.scale / 2
    crop, cells = carried.crop.moved_by_cells((wanted.x0 + half, wanted.y0 + half), network.grid)
    count, every = window.count(buffer, crop, most=most)
    if count < MIN_EVENTS:
        return None
    # The rate of a whole window sets the gain: that of a millisecond is mostly chance.
    rate = -(-count // every) / (config.window_us * 1e-6 * crop.size**2)
    gain = torch.tensor([network.gain_at(rate)], device=kernel.device)
    search, passed = _ready_for(network, kernel, carried, window, gain)
    events = buffer.window(carried.read_us, window.t_us, crop, every=every)
    new = pack_stretch(events, carried.read_us, window.t_us, window.scale, kernel.device)
    passed += (window.t_us - carried.read_us) * window.scale
    steps = MicroSteps.passed(passed, config)
    output = network.step(new, kernel, search.moved(cells), steps=steps, gain=gain)
    assert output.state is not None
    return output, CarriedSearch(crop, window.t_us, 0.0 if steps.over else passed, output.state)


def _ready_for(
    network: SearchNetwork, kernel: Tensor, carried: CarriedSearch, window: Window, gain: Tensor
) -> tuple[SearchState, float]:
    """The state to read the next events with, and the network time since its micro-step began.

    Where they would make the micro-step under way much too long, it ends where reading stopped.
    """
    search, ahead = carried.search, (window.t_us - carried.read_us) * window.scale
    if search.counts is None or carried.passed + ahead < 1.5 * network.config.step_us:
        return search, carried.passed
    nothing = EventStream.empty((carried.crop.size, carried.crop.size))
    batch = pack_stretch(nothing, carried.read_us, carried.read_us + 1, window.scale, kernel.device)
    output = network.step(batch, kernel, search, steps=MicroSteps(1, carried.passed), gain=gain)
    assert output.state is not None
    return output.state, 0.0
