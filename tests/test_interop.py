"""The student on SpikingJelly's and snnTorch's neurons: same spikes, same boxes, shared weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from had_snn.errors import InputError
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.interop import LIBRARIES, rebuild
from had_snn.models import Taps
from had_snn.models.student import SpikingTracker, StudentConfig


def batch(seed: int, side: int, count: int) -> EventBatch:
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 40_000, count))
    x, y, p = rng.integers(0, side, count), rng.integers(0, side, count), rng.integers(0, 2, count)
    return EventBatch.pack([EventStream.from_arrays(t, x, y, p, (side, side))], [0], [40_000])


@pytest.fixture(scope="module")
def student() -> SpikingTracker:
    torch.manual_seed(3)
    network = SpikingTracker(
        StudentConfig(stem_channels=6, channels=(8, 12, 10), template_size=40, search_size=64, match_kernel=3)
    )
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.uniform_(module.weight, 0.8, 2.0)
    network.train()
    with torch.no_grad():
        network(batch(1, 40, 900), torch.tensor([[0.5, 0.5, 0.45, 0.45]]), batch(2, 64, 2500))
    return network.eval()


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_rival_fires_and_tracks_alike(student, library):
    pytest.importorskip(library)
    rival = rebuild(student, library).eval()
    box = torch.tensor([[0.5, 0.5, 0.45, 0.45]])
    with torch.no_grad():
        kernel = student.encode_template(batch(1, 40, 900), box)
        torch.testing.assert_close(rival.encode_template(batch(1, 40, 900), box), kernel)
        ours = student.read_window(batch(4, 64, 2500), kernel, taps=Taps())
        theirs = rival.read_window(batch(4, 64, 2500), kernel, taps=Taps())
    for name, spikes in ours.taps.spikes.items():
        assert spikes.mean() > 0.01, name
        # `v - v / tau` and `alpha * v` differ in the last bit, which may decide one spike in a hundred thousand.
        assert (spikes != theirs.taps.spikes[name]).float().mean() < 1e-5, name
    for name, membranes in ours.taps.membranes.items():
        torch.testing.assert_close(theirs.taps.membranes[name], membranes, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs.peak_boxes()[0], ours.peak_boxes()[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
def test_weights_are_shared_and_gradients_flow(student, library):
    pytest.importorskip(library)
    rival = rebuild(student, library)
    assert rival.readout.weight is student.readout.weight
    kernel = torch.rand(1, 12, 3, 3)
    rival.zero_grad()
    rival.read_window(batch(4, 64, 2500), kernel).score_logits.sum().backward()
    assert student.backbone.conv1.conv.weight.grad.abs().sum() > 0
    student.zero_grad()


def test_an_unknown_library_is_refused(student):
    with pytest.raises(InputError, match="spikingjelly, snntorch"):
        rebuild(student, "brian2")
