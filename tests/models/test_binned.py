"""The controls of the event-driven stem: counted frames are exact, quantised times are, and both train."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from had_snn.errors import InputError
from had_snn.models import student_tiny
from had_snn.models.binned import BinnedStem, QuantisedStem, count_frames, quantised
from had_snn.models.frozen import freeze
from had_snn.models.spike_driven import search_network
from had_snn.models.stem import EventLIFStem
from had_snn.tracking import OnlineTracker

BOX = torch.tensor([[0.5, 0.5, 0.45, 0.45]])


def test_frames_count_every_event_once(random_batch):
    events = random_batch(3, 24, events=500)
    frames = count_frames(events, 5)
    wanted = np.zeros((5, 3, 2, 24, 24), np.float32)
    for b in range(3):
        for i in range(int(events.offsets[b]), int(events.offsets[b + 1])):
            step = int(events.t[i] - events.t_begin[b]) * 5 // 40_000
            wanted[step, b, int(events.p[i]), int(events.y[i]), int(events.x[i])] += 1
    np.testing.assert_array_equal(frames.numpy(), wanted)


def test_quantised_times_are_multiples_and_keep_their_window(random_batch):
    events = random_batch(2, 24)
    coarse = quantised(events, 10_000)
    assert set(coarse.t.tolist()) == {0, 10_000, 20_000, 30_000}
    assert bool((coarse.t <= events.t).all())
    assert bool((events.t - coarse.t < 10_000).all())
    stem = QuantisedStem(4)
    exact = EventLIFStem(4)
    exact.load_state_dict(stem.state_dict())
    counts = stem(events, n_steps=4)[0]
    assert torch.equal(counts, exact(coarse, n_steps=4)[0])
    assert not torch.equal(counts, exact(events, n_steps=4)[0])


@pytest.mark.parametrize("stem", ["binned", "quantised"])
def test_controls_have_the_students_size_and_train(stem, random_batch):
    control, plain = student_tiny(stem=stem), student_tiny()
    sizes = [sum(p.numel() for p in network.parameters()) for network in (control, plain)]
    # One time constant for the layer instead of one per channel.
    assert sizes[1] - sizes[0] == (15 if stem == "binned" else 0)
    output = control(random_batch(1, 72), BOX, random_batch(2, 96))
    output.score_logits.sum().backward()
    assert control.stem.weight.grad.abs().sum() > 0


def test_binned_stem_carries_its_state(random_batch):
    torch.manual_seed(0)
    stem, events = BinnedStem(4), random_batch(1, 24)
    counts, membranes, state = stem(events, n_steps=4)
    assert counts.shape == membranes.shape == (4, 1, 4, 6, 6)
    again = stem(events, state, n_steps=4)[0]
    assert not torch.equal(counts, again)


def test_an_unknown_stem_is_refused():
    with pytest.raises(InputError, match="events, binned, quantised"):
        student_tiny(stem="frames")


@pytest.mark.parametrize("stem", ["binned", "quantised"])
def test_a_tracker_runs_a_control_with_its_own_stem(stem):
    """The frozen and the spike-driven network have exact timestamps: a control must not become them."""
    control = student_tiny(stem=stem).eval()
    assert search_network(control) is control
    assert OnlineTracker(control).network.stem is control.stem
    with pytest.raises(InputError, match=rf"stem={stem} .*does not run from spike to spike"):
        search_network(control, "spikes")
    with pytest.raises(InputError, match=rf"stem={stem} .*has no frozen form"):
        freeze(control)
