"""How often a live tracker may look, so that it keeps up: a budget in time of the recording.

A budget is the least time between two looks (`OnlineTracker(budget_us=...)`). Where the events ask for more, windows
stay as long as they are chosen and looks get fewer; boxes in between are predicted, and nothing queues up.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from had_snn.errors import InputError
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.models import SearchNetwork
from had_snn.threads import limited

#: A look may take so many times as long as its network alone: events near the target are gathered and counted beside it
#: (as long again, measured at one and five million events a second), and machines are shared.
SPARE = 3.0


@torch.no_grad()
def measured_budget_us(
    network: SearchNetwork, *, threads: int | None = None, events: int = 4000, repeats: int = 9
) -> float:
    """Time between looks that this machine keeps up with now.

    Args:
        network: What the tracker runs (`tracker.network`).
        threads: As many as the tracker has (`tracker.threads`).
        events: Events in a measured window, spread over the whole crop.
        repeats: Looks that are timed.

    Returns:
        `SPARE` times the median time of the network for a look, microseconds.
    """
    if events < 1 or repeats < 1:
        raise InputError(f"events={events} and repeats={repeats}: expected at least 1")
    config, device = network.config, network.device

    def window(size: int) -> EventBatch:
        rng = np.random.default_rng(0)
        t = np.sort(rng.integers(0, config.window_us, events))
        columns = rng.integers(0, size, events), rng.integers(0, size, events), rng.integers(0, 2, events)
        seen = EventStream.from_arrays(t, *columns, (size, size))
        return EventBatch.pack([seen], [0], [config.window_us]).to(device)

    box = torch.tensor([[0.5, 0.5, 1 / config.template_factor, 1 / config.template_factor]], device=device)
    kernel, search = network.encode_template(window(config.template_size), box), window(config.search_size)
    seconds = []
    with limited(threads):
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            network.read_window(search, kernel).score_logits.cpu()
            seconds.append(time.perf_counter() - begun)
    return SPARE * float(np.median(seconds[1:])) * 1e6
