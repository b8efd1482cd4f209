"""Random windows and small students whose layers all fire."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.models import SpikingTracker, StudentConfig

#: Odd numbers everywhere: 7 x 7 search cells, 5 x 5 template cells, channels that divide nothing.
ODD = StudentConfig(
    stem_channels=3, channels=(5, 6, 7), blocks=2, n_steps=3, template_size=40, search_size=56, match_kernel=3
)


@pytest.fixture(scope="session")
def make_windows() -> Callable[..., EventBatch]:
    """Factory: `count` consecutive windows of about `events` random events each on a `size x size` crop."""

    def make(count: int, size: int, *, events: int = 400, seed: int = 0, window_us: int = 40_000) -> EventBatch:
        rng = np.random.default_rng(seed)
        streams = []
        for k in range(count):
            number = int(events * rng.uniform(0.3, 1.7)) if events else 0
            t = np.sort(rng.integers(k * window_us, (k + 1) * window_us, number))
            x, y = rng.integers(0, size, (2, number))
            streams.append(EventStream.from_arrays(t, x, y, rng.integers(0, 2, number), (size, size)))
        return EventBatch.pack(
            streams, [k * window_us for k in range(count)], [(k + 1) * window_us for k in range(count)]
        )

    return make


@pytest.fixture
def lively_student() -> SpikingTracker:
    """A small student of odd sizes whose weights are large enough for every layer to fire."""
    torch.manual_seed(0)
    student = SpikingTracker(ODD).eval()
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if parameter.ndim == 4:
                parameter.mul_(3)
            if name.endswith("norm.bias"):
                parameter.add_(0.3)
    return student
