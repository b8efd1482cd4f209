"""Random event batches for the networks' tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream


@pytest.fixture
def random_batch() -> Callable[..., EventBatch]:
    """Factory: `count` windows of `events` random events each on a `size x size` crop."""

    def make(count: int, size: int, *, events: int = 2000, seed: int = 0, window_us: int = 40_000) -> EventBatch:
        rng = np.random.default_rng(seed)
        streams = []
        for _ in range(count):
            t = np.sort(rng.integers(0, window_us, events))
            x, y = rng.integers(0, size, (2, events))
            streams.append(EventStream.from_arrays(t, x, y, rng.integers(0, 2, events), (size, size)))
        return EventBatch.pack(streams, [0] * count, [window_us] * count)

    return make
