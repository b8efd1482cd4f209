"""The graph computes what the student computes, and what it cannot say is refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from had_snn.errors import ExportError
from had_snn.export import run_graph, search_graph, to_graph
from had_snn.export.lowering import template_kernel
from had_snn.models import Taps

from .conftest import make_student, search_batch


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
def test_the_graph_fires_like_the_student(template, fuse, blocks):
    student = make_student(blocks=blocks, seed=blocks)
    graph = to_graph(student, *template, t_us=40_000, rounding=None, fuse_matching=fuse)
    kernel = template_kernel(student, *template, t_us=40_000)
    batch = search_batch(400, 2, student.config.search_size)
    with torch.no_grad():
        expected = student.read_window(batch, kernel.expand(2, -1, -1, -1), taps=Taps())
        trace = run_graph(graph, student.stem(batch, n_steps=4)[0], with_membranes=True)
    for name, tap in graph.taps.items():
        spikes = expected.taps.spikes[tap] > 0
        assert spikes.float().mean() > 0.01, name
        # Folding norms rounds once more; at most a potential in a hundred thousand may cross the threshold by that.
        assert (trace.spikes[name] != spikes).float().mean() < 1e-5, name
    maps = student.integrator(trace.readout, dt_us=graph.dt_us)
    torch.testing.assert_close(maps[:, 1:3], expected.offsets, rtol=1e-4, atol=1e-4)


def test_membranes_are_those_after_the_reset(graph, counts):
    trace = run_graph(graph, counts, with_membranes=True)
    for name, membranes in trace.membranes.items():
        assert (membranes[trace.spikes[name]] == 0).all()
        assert (membranes <= 1).all()


def test_fed_spikes_replace_computed_ones(graph, counts):
    trace = run_graph(graph, counts)
    silent = {name: torch.zeros_like(spikes) for name, spikes in trace.spikes.items()}
    fed = run_graph(graph, counts, feed=silent)
    assert torch.equal(fed.spikes["lif1"], trace.spikes["lif1"])
    bias = graph.convolutions["readout"].bias[None, None, :, None, None]
    assert torch.equal(fed.readout, bias.expand_as(fed.readout))


class Doubled(nn.Conv2d):
    """A layer that the exporter has never heard of."""


def broken(student, change):
    other = copy.deepcopy(student)
    change(other)
    return other


def soften(student):
    student.lif_mix.reset = "soft"


def per_channel(student):
    student.backbone.lif1.log_tau = nn.Parameter(torch.zeros(8))


def foreign(student):
    student.conv_head.conv = Doubled(10, 10, 3, padding=1, bias=False)


def grouped(student):
    student.conv_head.conv = nn.Conv2d(10, 10, 3, padding=1, groups=2, bias=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (soften, ("lif_mix", "soft reset")),
        (per_channel, ("backbone.lif1", "one time constant")),
        (foreign, ("conv_head.conv", "Doubled")),
        (grouped, ("conv_head.conv", "groups=2")),
    ],
)
def test_refusals_name_the_module_and_the_reason(student, template, change, words):
    with pytest.raises(ExportError) as caught:
        to_graph(broken(student, change), *template, t_us=40_000)
    assert all(word in str(caught.value) for word in words)


def test_a_foreign_network_and_a_foreign_kernel_are_refused(student):
    with pytest.raises(ExportError, match="Linear"):
        search_graph(nn.Linear(2, 2), torch.zeros(1, 12, 3, 3))
    with pytest.raises(ExportError, match="shape"):
        search_graph(student, torch.zeros(2, 12, 3, 3))


def test_a_template_without_events_is_refused(student, template):
    with pytest.raises(ExportError, match="hardly any events"):
        to_graph(student, template[0], template[1], t_us=10_000_000)
