"""A small student that fires in every layer, and event windows for it to look at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.export import to_graph
from had_snn.models.student import SpikingTracker, StudentConfig

SMALL = {"stem_channels": 6, "channels": (8, 12, 10), "template_size": 40, "search_size": 64, "match_kernel": 3}


def random_events(seed: int, count: int, side: int, t0: int = 0, duration: int = 40_000) -> EventStream:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(t0, t0 + duration, count))
    x, y, p = rng.integers(0, side, count), rng.integers(0, side, count), rng.integers(0, 2, count)
    return EventStream.from_arrays(t, x, y, p, (side, side))


def search_batch(seed: int, windows: int, side: int, count: int = 2500) -> EventBatch:
    streams = [random_events(seed + k, count, side) for k in range(windows)]
    return EventBatch.pack(streams, [0] * windows, [40_000] * windows)


def make_student(seed: int = 0, **numbers: object) -> SpikingTracker:
    """Random weights, norms fitted to random events so that every layer fires, tau different in every layer."""
    torch.manual_seed(seed)
    student = SpikingTracker(StudentConfig(**{**SMALL, **numbers}))
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.uniform_(module.weight, 0.8, 2.0)
            torch.nn.init.uniform_(module.bias, -0.2, 0.3)
    for name, parameter in student.named_parameters():
        if name.endswith("lif.log_tau") or ".lif" in name:
            parameter.data += torch.rand(()) * 0.8 - 0.4
    student.train()
    config = student.config
    with torch.no_grad():
        for step in range(3):
            template = search_batch(100 + step, 2, config.template_size, 900)
            search = search_batch(200 + step, 2, config.search_size)
            student(template, torch.tensor([[0.5, 0.5, 0.45, 0.45]]).repeat(2, 1), search)
    return student.eval()


@pytest.fixture(scope="session")
def student() -> SpikingTracker:
    return make_student()


@pytest.fixture(scope="session")
def template() -> tuple[EventStream, list[float]]:
    """Sensor events and the box that the template shows."""
    return random_events(1, 20_000, 120), [40.0, 45.0, 34.0, 28.0]


@pytest.fixture(scope="session")
def graph(student, template):
    return to_graph(student, *template, t_us=40_000)


@pytest.fixture(scope="session")
def counts(student) -> torch.Tensor:
    """Stem counts of three windows, `[T, 3, C, H, W]`."""
    with torch.no_grad():
        return student.stem(search_batch(300, 3, student.config.search_size), n_steps=student.config.n_steps)[0]
