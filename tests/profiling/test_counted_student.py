"""A whole student against a loop that follows its spikes, and the record's own promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from had_snn.errors import InputError
from had_snn.models import SpikingTracker, StudentConfig, Taps
from had_snn.models.frozen import freeze
from had_snn.profiling import EXACT, NEUROBENCH, CountedStudent, TrackWindows, profile_student, track_windows
from had_snn.tracking import OnlineTracker

BOX = torch.tensor([[0.5, 0.5, 0.45, 0.45]])


def follow(spikes: Tensor, conv: nn.Conv2d) -> int:
    """Synapses that the spikes `[T, N, C, H, W]` of a convolution reach, one spike after the other."""
    height, width = spikes.shape[-2:]
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    outputs = [(size + 2 * padding - kernel) // stride + 1 for size in (height, width)]
    total = 0
    for index in spikes.nonzero().tolist():
        y, x = index[-2:]
        reached = 0
        for ky, kx in itertools.product(range(kernel), repeat=2):
            (oy, ry), (ox, rx) = divmod(y + padding - ky, stride), divmod(x + padding - kx, stride)
            reached += ry == 0 and rx == 0 and 0 <= oy < outputs[0] and 0 <= ox < outputs[1]
        total += int(spikes[tuple(index)]) * reached * conv.out_channels // conv.groups
    return total


@pytest.fixture
def counted(lively_student, make_windows):
    """The student after one template and five windows, its taps, and the template's kernel."""
    taken = CountedStudent(lively_student)
    kernel = taken.encode_template(make_windows(1, 40, seed=5), BOX)
    search = make_windows(5, 56, seed=6)
    output = taken.read_window(search, kernel.expand(5, -1, -1, -1), taps=Taps())
    return taken, kernel, search, output


def test_every_layer_equals_following_every_spike(counted, lively_student):
    taken, _, search, output = counted
    spikes, student = output.taps.spikes, lively_student
    assert all(float(s.sum()) > 0 for s in spikes.values())
    assert float(spikes["stem"].max()) > 1
    found = {(p.branch, p.name): p for p in taken.profile.layers}
    reads = {
        "backbone.conv1": (student.backbone.conv1.conv, "stem"),
        "backbone.conv2": (student.backbone.conv2.conv, "backbone.lif1"),
        "backbone.blocks.0.conv": (student.backbone.blocks[0].conv.conv, "backbone.blocks.0.lif"),
        "backbone.blocks.1.conv": (student.backbone.blocks[1].conv.conv, "backbone.blocks.1.lif"),
        "mix_search": (student.mix_search.conv, "backbone.lif_out"),
        "conv_head": (student.conv_head.conv, "lif_mix"),
        "readout": (student.readout, "lif_head"),
        "matching": (nn.Conv2d(6, 6, 3, padding=1, groups=6), "backbone.lif_out"),
        "match": (nn.Conv2d(6, 7, 3, padding=1), "backbone.lif_out"),
    }
    for name, (conv, source) in reads.items():
        assert found["search", name].total("synops") == follow(spikes[source], conv), name
        assert found["search", name].total("input_spikes") == int(spikes[source].sum()), name
    pairs = 0
    for x, y in zip(search.x.tolist(), search.y.tolist(), strict=True):
        pairs += (x // 4 < 14) * (y // 4 < 14)
    assert found["search", "stem"].total("synops") == pairs * 3
    counted_layers = {name for branch, name in found if branch == "search"}
    shortcuts = {"backbone.blocks.0.shortcut", "backbone.blocks.1.shortcut"}
    assert counted_layers == {*reads, "stem", "mix_match", *shortcuts}


def test_the_large_student_s_strides_equal_following_every_spike(make_windows):
    torch.manual_seed(0)
    config = StudentConfig(
        stem_channels=3,
        channels=(5, 6, 7),
        blocks=1,
        strides=(2, 2),
        n_steps=2,
        template_size=48,
        search_size=80,
        match_kernel=3,
    )
    student = SpikingTracker(config).eval()
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if parameter.ndim == 4:
                parameter.mul_(4)
            elif name.endswith("norm.bias"):
                parameter.add_(0.3)
    taken = CountedStudent(student)
    kernel = taken.encode_template(make_windows(1, 48, seed=5), BOX)
    search = make_windows(2, 80, seed=6, events=1500)
    spikes = taken.read_window(search, kernel.expand(2, -1, -1, -1), taps=Taps()).taps.spikes
    found = {p.name: p for p in taken.profile.layers if p.branch == "search"}
    reads = {
        "backbone.conv1": (student.backbone.conv1.conv, "stem"),
        "backbone.conv2": (student.backbone.conv2.conv, "backbone.lif1"),
        "conv_head": (student.conv_head.conv, "lif_mix"),
        "match": (nn.Conv2d(6, 7, 3, padding=1), "backbone.lif_out"),
    }
    for name, (conv, source) in reads.items():
        assert float(spikes[source].sum()) > 0, source
        assert found[name].total("synops") == follow(spikes[source], conv), name
        assert found[name].total("dense") == 2 * follow(torch.ones_like(spikes[source][:, :1]), conv), name


def test_effective_counts_of_the_matching_equal_its_own_arithmetic(counted, lively_student):
    taken, kernel, _, output = counted
    features = output.taps.spikes["backbone.lif_out"]
    found = {p.name: p for p in taken.profile.layers if p.branch == "search"}
    assert (kernel == 0).any()
    met = nn.functional.conv2d(
        features.sum(0).reshape(1, -1, 7, 7).double(),
        (kernel != 0).double().repeat(5, 1, 1, 1).reshape(30, 1, 3, 3),
        padding=1,
        groups=30,
    )
    assert found["matching"].total("effective") == int(met.sum())
    weight = torch.einsum("hc,cyx->hcyx", lively_student.mix_match.conv.weight[:, :, 0, 0], kernel[0])
    weight[:, :, 1, 1] += lively_student.mix_search.conv.weight[:, :, 0, 0]
    joined = nn.functional.conv2d(features.flatten(0, 1).double(), (weight != 0).double(), padding=1)
    assert found["match"].total("effective") == int(joined.sum())
    matched = lively_student.matching(features, kernel.expand(5, -1, -1, -1))
    assert found["mix_match"].total("effective") == int((matched != 0).sum()) * 7
    assert found["mix_match"].total("dense") == matched.numel() * 7


def test_a_count_is_repeated_additions_or_one_multiplication(counted):
    taken, _, _, output = counted
    stem = output.taps.spikes["stem"]
    conv1 = next(p for p in taken.profile.layers if p.name == "backbone.conv1" and p.branch == "search")
    conv = nn.Conv2d(3, 5, 3, padding=1)
    assert conv1.total("active") == follow((stem != 0).float(), conv)
    assert conv1.total("active") < conv1.total("synops")
    graded = sum(
        follow((stem[t, n] != 0).float()[None, None], conv)
        for t, n in itertools.product(range(stem.shape[0]), range(stem.shape[1]))
        if stem[t, n].max() > 1
    )
    assert conv1.operations(NEUROBENCH).macs == graded
    assert conv1.operations(NEUROBENCH).acs == conv1.total("active") - graded


def test_counting_changes_no_result(lively_student, make_windows):
    template, search = make_windows(1, 40, seed=1), make_windows(3, 56, seed=2)
    taken = CountedStudent(lively_student)
    with torch.no_grad():
        kernel = lively_student.encode_template(template, BOX)
        plain = lively_student.read_window(search, kernel.expand(3, -1, -1, -1))
    assert torch.equal(taken.encode_template(template, BOX), kernel)
    counted = taken.read_window(search, kernel.expand(3, -1, -1, -1))
    assert torch.equal(counted.score_logits, plain.score_logits)
    assert counted.taps is None
    assert not any(module._forward_hooks for module in lively_student.modules())


def test_batches_add_up_and_memory_stays_constant(lively_student, make_windows):
    tracks = [TrackWindows(make_windows(1, 40, seed=s), BOX, make_windows(7, 56, seed=50 + s)) for s in range(3)]
    one, many = (profile_student(lively_student, tracks, batch_size=size) for size in (1, 4))
    for a, b in zip(one.layers, many.layers, strict=True):
        assert torch.equal(a.counts, b.counts), a.name
    assert one.to_rows() == many.to_rows()
    assert (one.outputs, one.tracks) == (21, 3)
    assert one.seconds == pytest.approx(21 * 0.04)


def test_memory_does_not_grow_with_the_number_of_windows(lively_student, make_windows, monkeypatch):
    monkeypatch.setattr("had_snn.profiling.counted._HOLD", 40_000)
    taken = CountedStudent(lively_student)
    kernel = taken.encode_template(make_windows(1, 40), BOX)
    search, sizes = make_windows(7, 56), []
    for _ in range(24):
        taken.read_window(search, kernel.expand(7, -1, -1, -1))
        assert taken._recorders["search"].held <= 45_000
        held = [t for p in taken._profile.neurons for t in (p.spikes, p.by_step, p.updates, *p.raster) if t is not None]
        sizes.append(sum(t.numel() for t in held) + sum(p.counts.numel() for p in taken._profile.layers))
    assert sizes[12] == sizes[-1]
    assert taken.profile.layers[-1].total("windows") == 24 * 7


def test_neurons_are_told_apart(counted):
    taken, _, _, output = counted
    for population in taken.profile.neurons:
        if population.branch != "search" or population.spikes is None:
            continue
        spikes = output.taps.spikes[population.name]
        figures = population.figures()
        silent = (spikes.sum(dim=(0, 1)) == 0).double().mean()
        assert figures["silent"] == pytest.approx(float(silent))
        assert figures["rate"] == pytest.approx(float(spikes.mean()))
        assert figures["rate_by_step"] == pytest.approx(spikes.mean(dim=(1, 2, 3, 4)).tolist())
        assert figures["saturated"] == pytest.approx(float((spikes.mean(dim=(0, 1)) >= 0.9).double().mean()))
        assert sum(figures["rate_histogram"]) == population.neurons


def test_updates_follow_events_in_the_stem_and_the_clock_elsewhere(counted):
    taken = counted[0]
    found = {p.name: p for p in taken.profile.neurons if p.branch == "search"}
    stem = next(p for p in taken.profile.layers if p.name == "stem" and p.branch == "search")
    assert int(found["stem"].updates.sum()) == stem.total("synops")
    assert int(found["backbone.lif1"].updates.sum()) == 5 * 3 * 5 * 14 * 14
    assert int(found["integrator"].updates.sum()) == 5 * 3 * 5 * 7 * 7
    assert found["stem"].state_bytes == 3 * 14 * 14 * 4 + 14 * 14 * 8


def test_silence_costs_membranes_and_biases_only(lively_student, make_windows):
    taken = CountedStudent(lively_student)
    kernel = taken.encode_template(make_windows(1, 40), BOX)
    taken.read_window(make_windows(1, 56, events=0), kernel)
    stem = next(p for p in taken.profile.layers if p.name == "stem" and p.branch == "search")
    assert stem.operations(EXACT).acs == 0
    assert taken.profile.energy_mj() > 0


def test_energy_of_the_event_rate_bins_adds_up(lively_student, make_windows):
    windows = make_windows(12, 56, events=900, seed=3)
    profile = profile_student(lively_student, [TrackWindows(make_windows(1, 40), BOX, windows)])
    rows = profile.energy_by_event_rate()
    assert len(rows) > 1
    assert sum(row["windows"] for row in rows) == 12
    mean = sum(row["mj"] * row["windows"] for row in rows) / 12
    assert mean == pytest.approx(profile.energy_mj(template="none"))
    assert rows[0]["mj"] < rows[-1]["mj"]


def test_takes_the_student_s_place_in_a_tracker(lively_student, make_windows):
    batch = make_windows(1, 80, events=6000)
    from had_snn.events.stream import EventStream

    columns = [getattr(batch, name).numpy() for name in ("t", "x", "y", "p")]
    events = EventStream.from_arrays(*columns, (80, 80))
    counted = CountedStudent(freeze(lively_student))  # what a tracker runs
    boxes = []
    for student in (lively_student, counted):
        tracker = OnlineTracker(student)
        tracker.init(events.slice_time(0, 20_000), [30, 30, 20, 20], t_us=20_000)
        boxes.append(
            [e.box_xywh.tolist() for e in tracker.update(events.slice_time(20_000, 40_000), at_us=[30_000, 39_000])]
        )
    np.testing.assert_allclose(boxes[0], boxes[1], rtol=0, atol=1e-4)
    assert counted.profile.outputs == tracker.looks >= 1
    later = EventStream.from_arrays(events.t + 40_000, events.x, events.y, events.p, (80, 80))
    tracker.update(later, at_us=[80_000])  # counting goes on after it has been asked
    assert counted.profile.outputs == tracker.looks >= 2


def test_labelled_recordings_are_cut_like_a_tracker_would(lively_student):
    from had_snn.data.sequence import TrackingSequence
    from had_snn.events.stream import EventStream

    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 400_000, 20_000))
    x, y = rng.integers(0, 64, (2, 20_000))
    events = EventStream.from_arrays(t, x, y, rng.integers(0, 2, 20_000), (64, 64))
    times = np.arange(20_000, 400_000, 20_000)
    visible = np.ones(len(times), bool)
    visible[5:8] = False
    sequence = TrackingSequence("s", events, times, np.tile([20.0, 20, 16, 16], (len(times), 1)), visible)
    track = track_windows(sequence, lively_student.config, limit=4)
    assert len(track.search) == 4
    assert bool((track.search.t_end[1:] - track.search.t_end[:-1] >= 36_000).all())
    assert not set(track.search.t_end.tolist()) & set(times[5:8].tolist())
    assert profile_student(lively_student, [track]).outputs == 4
    with pytest.raises(InputError, match="nothing to profile"):
        profile_student(lively_student, [])


def test_each_template_s_own_zeros_are_counted(lively_student, make_windows):
    search = make_windows(4, 56, seed=6)
    boxes = [BOX, torch.tensor([[0.5, 0.5, 0.2, 0.2]])]
    kernels = [
        lively_student.encode_template(make_windows(1, 40, seed=5 + k), box).detach() for k, box in enumerate(boxes)
    ]
    assert not torch.equal(kernels[0] == 0, kernels[1] == 0)
    one_by_one, mixed = CountedStudent(lively_student), CountedStudent(lively_student)
    for index in (0, 1, 1, 0):
        one_by_one.read_window(search, kernels[index].expand(4, -1, -1, -1))
    stacked = torch.cat([kernels[0], kernels[1], kernels[1], kernels[0]])
    for _ in range(4):
        mixed.read_window(search, stacked)
    expected = {}
    for kernel in kernels:
        alone = CountedStudent(lively_student)
        alone.read_window(search, kernel.expand(4, -1, -1, -1))
        for p in alone.profile.layers:
            expected[p.name] = expected.get(p.name, 0) + 2 * p.total("effective")
    for p in one_by_one.profile.layers:
        assert p.total("effective") == expected[p.name], p.name
    matching = next(p for p in mixed.profile.layers if p.name == "matching")
    features = lively_student.read_window(search, stacked, taps=Taps()).taps.spikes["backbone.lif_out"]
    met = nn.functional.conv2d(
        features.sum(0).reshape(1, -1, 7, 7).double(),
        (stacked != 0).double().reshape(24, 1, 3, 3),
        padding=1,
        groups=24,
    )
    assert matching.total("effective") == 4 * int(met.sum())


def test_a_kernel_changed_in_place_is_counted_anew(lively_student, make_windows):
    search, kernel = make_windows(1, 56, seed=6), torch.ones(1, 6, 3, 3)
    taken, found = CountedStudent(lively_student), []
    for _ in range(2):
        taken.read_window(search, kernel)
        found.append(next(p for p in taken.profile.layers if p.name == "matching").total("effective"))
        kernel.zero_()
    assert found[0] > 0
    assert found[1] == found[0]


def test_carried_membranes_are_counted_as_they_run(lively_student, make_windows):
    taken = CountedStudent(lively_student)
    kernel = taken.encode_template(make_windows(1, 40, seed=5), BOX)
    search, state, fired = make_windows(3, 56, seed=6), None, 0
    for k in range(3):
        window = search.samples(k, k + 1)
        output = taken.step(window, kernel, state, taps=Taps())
        state = output.state
        fired += int(output.taps.spikes["backbone.lif1"].sum())
    found = next(p for p in taken.profile.neurons if p.name == "backbone.lif1" and p.branch == "search")
    assert int(found.spikes.sum()) == fired
    assert found.windows == 3


def test_another_memory_order_changes_no_count(lively_student, make_windows):
    search = make_windows(3, 56, seed=6)
    profiles = []
    for order in (torch.contiguous_format, torch.channels_last):
        student = lively_student.to(memory_format=order)
        taken = CountedStudent(student)
        kernel = taken.encode_template(make_windows(1, 40, seed=5), BOX)
        taken.read_window(search, kernel.expand(3, -1, -1, -1))
        profiles.append(taken.profile)
    for a, b in zip(profiles[0].layers, profiles[1].layers, strict=True):
        assert torch.equal(a.counts, b.counts), a.name
