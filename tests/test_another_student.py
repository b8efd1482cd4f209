"""A student with other layers, defined here: every pass over its graph runs it, and no file of the package knows it."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools

import pytest
import torch
from torch import Tensor, nn

from had_snn import OnlineTracker
from had_snn.errors import ExportError, InputError
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.export import DeployedStudent, read_nir, run_graph, search_graph, to_graph, verify, write_nir
from had_snn.models import MicroSteps, SpikingTracker, StudentConfig, Taps
from had_snn.models.frozen import freeze
from had_snn.models.graph import STEM, Graph, GraphBuilder
from had_snn.models.layers import ClockedLayers
from had_snn.models.neurons import LIF, ConvNorm, Sum
from had_snn.models.spike_driven import SpikeDrivenStudent, search_network
from had_snn.profiling import CountedStudent

BOX = torch.tensor([[0.5, 0.5, 0.45, 0.45]])
CONFIG = StudentConfig(stem_channels=6, channels=(8, 12, 10), template_size=40, search_size=64, match_kernel=3)


class SideBranchTracker(SpikingTracker):
    """The first stage goes on beside the second one and joins the features' currents in the head.

    New nodes: two convolutions, a layer of neurons, a sum that two layers read. New edges: out of the first stage, out
    of the features around the matching, into the head.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        stage, deep, head = config.channels
        self.side_conv = ConvNorm(stage, deep, stride=config.strides[1])
        self.side_features = ConvNorm(deep, deep)
        self.side_sum = Sum()
        self.side_lif = LIF(tau_us=13_000.0)
        self.side_head = ConvNorm(deep, head)
        self.side_mix = ConvNorm(deep, head, kernel=1)
        self.late_lif = LIF(tau_us=25_000.0)
        self.late_conv = ConvNorm(deep, head)
        self.join = Sum()

    def head(self, counts: Tensor, kernel: Tensor, layers: ClockedLayers) -> Tensor:
        backbone = self.backbone
        first = layers.fire(backbone.lif1, backbone.conv1(counts))
        current = backbone.conv2(first)
        for block in backbone.blocks:
            current = block.shortcut(current, block.conv(layers.fire(block.lif, current)))
        features = layers.fire(backbone.lif_out, current)
        matched = layers.match(self.matching, features, kernel)
        matched = self.match_norm(matched.flatten(0, 1)).unflatten(0, matched.shape[:2])
        beside = self.side_sum(self.side_conv(first), self.side_features(features))
        side, late = layers.fire(self.side_lif, beside), layers.fire(self.late_lif, beside)
        mixed = self.mix(self.mix_match(matched), self.side_mix(side), self.mix_search(features))
        spikes = layers.fire(self.lif_mix, mixed)
        joined = self.join(self.conv_head(spikes), self.side_head(side), self.late_conv(late))
        return layers.fire(self.lif_head, joined)

    def graph(self) -> Graph:
        build, backbone = GraphBuilder(self), self.backbone
        add = build.add
        first = add(backbone.lif1, add(backbone.conv1, STEM))
        current = add(backbone.conv2, first)
        for block in backbone.blocks:
            current = add(block.shortcut, current, add(block.conv, add(block.lif, current)))
        features = add(backbone.lif_out, current)
        matched = add(self.match_norm, add(self.matching, features))
        beside = add(self.side_sum, add(self.side_conv, first), add(self.side_features, features))
        side, late = add(self.side_lif, beside), add(self.late_lif, beside)
        mixed = add(
            self.mix,
            add(self.mix_match, matched),
            add(self.side_mix, side),
            add(self.mix_search, features),
        )
        spikes = add(self.lif_mix, mixed)
        joined = add(
            self.join,
            add(self.conv_head, spikes),
            add(self.side_head, side),
            add(self.late_conv, late),
        )
        return build.graph(add(self.readout, add(self.lif_head, joined)), outside=(self.stem, self.integrator))


def stream(seed: int, count: int, side: int, *, t0: int = 0, duration: int = 40_000) -> EventStream:
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(t0, t0 + duration, (count,), generator=generator).sort().values
    x, y = torch.randint(side, (2, count), generator=generator)
    p = torch.randint(2, (count,), generator=generator)
    return EventStream.from_arrays(t.numpy(), x.numpy(), y.numpy(), p.numpy(), (side, side))


def windows(seed: int, count: int, side: int, events: int) -> EventBatch:
    return EventBatch.pack([stream(seed + k, events, side) for k in range(count)], [0] * count, [40_000] * count)


@pytest.fixture(scope="module")
def student() -> SideBranchTracker:
    """Random weights, norms fitted to random events so that every layer fires."""
    torch.manual_seed(0)
    student = SideBranchTracker(CONFIG)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.8, 2.0)
            nn.init.uniform_(module.bias, -0.2, 0.3)
    with torch.no_grad():
        for step in range(3):
            student(windows(100 + step, 2, 40, 900), BOX.repeat(2, 1), windows(200 + step, 2, 64, 2500))
    return student.eval()


@pytest.fixture(scope="module")
def search() -> EventBatch:
    return windows(300, 3, 64, 2500)


@pytest.fixture(scope="module")
def kernel(student) -> Tensor:
    with torch.no_grad():
        return student.encode_template(windows(1, 1, 40, 900), BOX)


def follow(spikes: Tensor, conv: nn.Conv2d) -> int:
    """Synapses that the spikes `[T, N, C, H, W]` of a convolution reach, one spike after the other."""
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    height, width = ((size + 2 * padding - kernel) // stride + 1 for size in spikes.shape[-2:])
    total = 0
    for *_, y, x in spikes.nonzero().tolist():
        for ky, kx in itertools.product(range(kernel), repeat=2):
            (oy, ry), (ox, rx) = divmod(y + padding - ky, stride), divmod(x + padding - kx, stride)
            total += ry == 0 and rx == 0 and 0 <= oy < height and 0 <= ox < width
    return total * conv.out_channels


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [SpikingTracker, SideBranchTracker])
def test_the_graph_is_the_forward(make, training, search):
    torch.manual_seed(0)
    network, kernel = make(CONFIG).train(training), torch.rand(3, 12, 3, 3)
    nn.init.constant_(network.backbone.conv1.norm.bias, 1.0)
    counts, found = network.stem(search, n_steps=4)[0], []
    graph = network.graph()
    for run in (network.head, graph.upto(graph.readout.source).run):
        layers = ClockedLayers(network.layer_names(), 10_000.0, taps=Taps(), membranes={})
        found.append((run(counts, kernel, layers), layers.taps, layers.membranes))
    (spikes, taps, membranes), (same, same_taps, same_membranes) = found
    assert torch.equal(spikes, same)
    assert list(taps.spikes) == list(same_taps.spikes) == list(membranes) == list(same_membranes)
    for name in taps.spikes:
        assert torch.equal(taps.spikes[name], same_taps.spikes[name])
        assert torch.equal(taps.membranes[name], same_taps.membranes[name])
        assert torch.equal(membranes[name], same_membranes[name])
    assert taps.matched.keys() == same_taps.matched.keys() == {"matching"}


@torch.no_grad()
def test_freezing_keeps_it(student, search, kernel):
    frozen = freeze(student)
    kernels, taps = kernel.expand(3, -1, -1, -1), [Taps(), Taps()]
    trained = student.read_window(search, kernels, taps=taps[0])
    rounded = frozen.read_window(search, frozen.round_kernel(kernels), taps=taps[1])
    assert list(taps[0].spikes) == list(taps[1].spikes)
    for name, spikes in taps[0].spikes.items():
        assert spikes.mean() > 0.01, name
        assert (spikes != taps[1].spikes[name]).float().mean() < 0.03, name
    assert (trained.offsets - rounded.offsets).abs().median() < 0.05


@torch.no_grad()
@pytest.mark.parametrize("dense_above", [-1.0, 2.0, None])
def test_from_spike_to_spike_it_has_the_frozen_bits(student, search, kernel, dense_above):
    frozen, driven = freeze(student), SpikeDrivenStudent(student, dense_above=dense_above)
    kernel = frozen.round_kernel(kernel).expand(3, -1, -1, -1)
    plain, spiking = frozen.read_window(search, kernel), driven.read_window(search, kernel)
    assert torch.equal(plain.score_logits, spiking.score_logits)
    assert torch.equal(plain.offsets, spiking.offsets)
    states = [None, None]
    for count in (4, 2, 1):
        steps = MicroSteps(count, 40_000 / count)
        outputs = [
            net.step(search, kernel, state, steps=steps) for net, state in zip((frozen, driven), states, strict=True)
        ]
        states = [output.state.moved((1, 0)) for output in outputs]
        assert torch.equal(outputs[0].score_logits, outputs[1].score_logits)
        ours, theirs = (state.tensors() for state in states)
        assert ours.keys() == theirs.keys() >= {"membranes.side_lif", "membranes.late_lif"}
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        later = {name: getattr(search, name) + 40_000 for name in ("t", "t_begin", "t_end")}
        search = dataclasses.replace(search, **later)


def test_its_operations_are_counted(student, search, kernel):
    counted, taps = CountedStudent(student), Taps()
    counted.encode_template(windows(1, 1, 40, 900), BOX)
    counted.read_window(search, kernel.expand(3, -1, -1, -1), taps=taps)
    layers = {(layer.branch, layer.name): layer for layer in counted.profile.layers}
    reads = {
        "side_conv": (student.side_conv.conv, "backbone.lif1"),
        "side_features": (student.side_features.conv, "backbone.lif_out"),
        "side_head": (student.side_head.conv, "side_lif"),
        "side_mix": (student.side_mix.conv, "side_lif"),
        "late_conv": (student.late_conv.conv, "late_lif"),
        "backbone.conv2": (student.backbone.conv2.conv, "backbone.lif1"),
        "match": (nn.Conv2d(12, 10, 3, padding=1), "backbone.lif_out"),
    }
    for name, (conv, source) in reads.items():
        assert layers["search", name].total("synops") == follow(taps.spikes[source], conv) > 0, name
    assert layers["search", "side_mix"].form == ""
    assert layers["search", "mix_search"].form == layers["search", "mix_match"].form == "staged"
    # The sum that two layers read is made of currents that nothing else reads: no copy is added.
    assert ("search", "side_sum") not in layers
    assert layers["search", "backbone.blocks.0.shortcut"].total("additions") == 3 * 4 * 12 * 8 * 8
    assert not [name for branch, name in layers if branch == "template" and "side" in name]
    populations = {(p.branch, p.name): p for p in counted.profile.neurons}
    assert int(populations["search", "side_lif"].spikes.sum()) == int(taps.spikes["side_lif"].sum())
    assert sum(layer.parameters for layer in layers.values() if layer.name.startswith("side")) == sum(
        p.numel() for name, p in student.named_parameters() if name.startswith("side") and "lif" not in name
    )


@torch.no_grad()
@pytest.mark.parametrize("fuse", [True, False])
def test_its_export_fires_alike(student, search, kernel, fuse):
    graph, taps = search_graph(student, kernel, fuse_matching=fuse), Taps()
    student.read_window(search, kernel.expand(3, -1, -1, -1), taps=taps)
    trace = run_graph(graph, taps.spikes["stem"])
    assert graph.taps["side_lif"] == "side_lif"
    assert graph.sources("lif_mix") == (["match", "side_mix"] if fuse else ["mix_match", "side_mix", "mix_search"])
    assert graph.sources("side_lif") == graph.sources("late_lif") == ["side_conv", "side_features"]
    for name, tap in graph.taps.items():
        # Sums in another order flip single spikes at the threshold, and those flip others behind them.
        assert (trace.spikes[name] != (taps.spikes[tap] > 0)).float().mean() < 3e-3, name


def test_simulators_agree_with_its_file(student, search, tmp_path):
    events, box = stream(1, 20_000, 120), [40.0, 45.0, 34.0, 28.0]
    graph = to_graph(student, events, box, t_us=40_000)
    write_nir(tmp_path / "a.nir", graph)
    assert torch.equal(
        read_nir(tmp_path / "a.nir").convolutions["side_conv"].weight, graph.convolutions["side_conv"].weight
    )
    with torch.no_grad():
        counts = student.stem(search, n_steps=4)[0]
    installed = [name for name in ("norse", "snntorch", "sinabs") if importlib.util.find_spec(name)]
    report = verify(tmp_path / "a.nir", counts, simulators=[*installed, "event_by_event"])
    for name, entry in report.items():
        assert (entry["status"], entry["mismatches"]) == ("exact", 0), (name, entry)
        assert entry["layers"]["side_lif"]["spikes"] > 50
        assert entry["layers"]["late_lif"]["spikes"] > 50


@pytest.mark.parametrize("carry", [False, True])
def test_it_tracks(student, carry):
    events, box = stream(1, 60_000, 120, duration=120_000), [40.0, 45.0, 34.0, 28.0]
    found = []
    for backend in ("dense", "spikes"):
        tracker = OnlineTracker(student, backend=backend, carry=carry, output_period_us=10_000)
        tracker.init(events.slice_time(0, 40_000), box, t_us=40_000)
        found.append([(*e.box_xywh, e.score) for e in tracker.update(events.slice_time(40_000, 120_000))])
    assert found[0] == found[1]
    assert len(found[0]) == 7
    tracker = OnlineTracker(DeployedStudent(student, to_graph(student, events, box, t_us=40_000)))
    tracker.init(events.slice_time(0, 40_000), box, t_us=40_000)
    assert tracker.update(events.slice_time(40_000, 120_000))


class Averaged(nn.Conv2d):
    """A layer that no pass knows."""


def test_what_no_pass_knows_is_refused_by_name(kernel):
    network = SideBranchTracker(CONFIG).eval()
    network.side_head.conv = Averaged(12, 10, 3, padding=1, bias=False)
    with pytest.raises(InputError, match=r"side_head\.conv: Averaged"):
        freeze(network)
    with pytest.raises(ExportError, match=r"side_head\.conv: Averaged"):
        search_graph(network, kernel)
    with pytest.raises(InputError, match=r"side_head\.conv: Averaged.*spike to spike"):
        search_network(network, "spikes")
    assert search_network(network) is network


def test_a_graph_that_leaves_something_out_is_refused():
    class Forgotten(SideBranchTracker):
        def __init__(self, config: StudentConfig) -> None:
            super().__init__(config)
            self.forgotten = ConvNorm(2, 2)

    with pytest.raises(InputError, match=r"forgotten\.conv: the network has it, its graph\(\) does not"):
        Forgotten(CONFIG).graph()
    with pytest.raises(TypeError, match=r"must override graph\(\)"):

        class Silent(SideBranchTracker):
            def head(self, counts: Tensor, kernel: Tensor, layers: ClockedLayers) -> Tensor:
                return counts
