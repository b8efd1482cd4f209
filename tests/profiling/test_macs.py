"""Dense networks against torch's FLOP counter and by hand; spiking ones against NeuroBench."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from had_snn.models import RGBETeacher, TeacherConfig, teacher_tiny
from had_snn.profiling import (
    EXACT,
    NEUROBENCH,
    SDTRACK,
    CountMismatchError,
    count_call,
    profile_module,
    profile_teacher,
)

SMALL = TeacherConfig(dim=24, depth=2, heads=2, template_size=40, search_size=56)


@pytest.mark.parametrize("teacher", [RGBETeacher(SMALL), teacher_tiny()], ids=["odd", "tiny"])
def test_the_teacher_s_macs_are_half_of_torch_s_flops(teacher):
    teacher.eval()
    config = teacher.config
    crops = [torch.rand(1, c, s, s) for s in (config.template_size, config.search_size) for c in (3, config.voxel_bins)]
    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            teacher(crops[0], crops[1], box, crops[2], crops[3])
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    profile = profile_teacher(teacher)
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert profile.operations(SDTRACK).macs == counter.get_total_flops() / 2
    spread = profile_teacher(teacher, outputs_per_track=10)
    once = profile.operations(SDTRACK, template="none").macs
    assert spread.operations(SDTRACK, template="none").macs == once
    assert spread.operations(SDTRACK).macs == pytest.approx(once + (profile.operations(SDTRACK).macs - once) / 10)
    assert profile.kind == "ann"
    assert profile.operations(EXACT).macs < profile.operations(SDTRACK).macs


def test_attention_by_hand():
    profile = profile_teacher(RGBETeacher(SMALL))
    tokens, dim = 5 * 5 + 7 * 7, 24
    found = {layer.name: layer.total("textbook") for layer in profile.layers}
    # q, k, v and output projections; q times k and attention times v
    assert found["encoder.layers.0.self_attn"] == 4 * tokens * dim**2 + 2 * tokens**2 * dim
    assert found["encoder.layers.1.linear1"] == tokens * dim * 48
    assert any(item.startswith("LayerNorm") for item in profile.uncounted)


def test_what_is_not_understood_is_said():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(4, 4))
            self.wrapped = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
            self.unused = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.wrapped(x)) + self.table.sum()

    profile = profile_module(Odd(), torch.randn(2, 2, 5, 5))
    said = " ".join(profile.uncounted)
    assert "table" in said
    assert "circular" in said
    assert "unused" in said

    class Sly(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + super().forward(x)

    with pytest.raises(CountMismatchError, match="FLOP counter"):
        profile_module(nn.Sequential(Sly(4, 4)), torch.randn(2, 4))


class SpikingNet(nn.Module):
    """Convolutions and a fully connected layer with plain LIF between them; `[B, T, C, H, W]` in, rates out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
        self.linear = nn.Linear(8 * 5 * 4, 7)
        for layer in (self.conv1, self.conv2, self.linear):
            nn.init.normal_(layer.weight, 0.1, 0.4)
        with torch.no_grad():
            self.conv2.weight[torch.rand(self.conv2.weight.shape) < 0.4] = 0
            self.linear.weight[:, ::3] = 0

    def forward(self, frames: Tensor) -> Tensor:
        total, membranes = torch.zeros(len(frames), 7), [torch.zeros(()), torch.zeros(())]
        for frame in frames.unbind(dim=1):
            spikes = frame
            for index, layer in enumerate((self.conv1, self.conv2)):
                membranes[index] = 0.7 * membranes[index] + layer(spikes)
                spikes = (membranes[index] > 1).float()
                membranes[index] = membranes[index] * (1 - spikes)
            total = total + self.linear(spikes.flatten(1))
        return total


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("graded", [False, True])
def test_spiking_networks_equal_neurobench(graded):
    neurobench_models = pytest.importorskip("neurobench.models", reason="NeuroBench is not installed")
    metrics = pytest.importorskip("neurobench.metrics.workload")
    hooks = pytest.importorskip("neurobench.hooks.layer")
    frames = (torch.rand(3, 5, 2, 9, 8, generator=torch.Generator().manual_seed(1)) < 0.2).float()
    if graded:
        frames[:, 1] *= 3
    net = SpikingNet().eval()
    model = neurobench_models.TorchModel(net)
    model.connection_hooks = [hooks.LayerHook(layer) for layer in (net.conv1, net.conv2, net.linear)]
    metric = metrics.SynapticOperations()
    with torch.no_grad():
        found = metric(model, model(frames), (frames, None))
    for hook in model.connection_hooks:
        hook.close()
    ours = profile_module(net, frames)
    assert ours.outputs == 3
    operations = ours.operations(NEUROBENCH)
    assert operations.acs == pytest.approx(found["Effective_ACs"], abs=1e-9)
    assert operations.macs == pytest.approx(found["Effective_MACs"], abs=1e-9)
    assert (operations.macs > 0) == graded
    # NeuroBench's dense count leaves the padding out, as our `dense` does.
    dense = sum(layer.total("dense") for layer in ours.layers) / 3
    assert dense == pytest.approx(found["Dense"], abs=1e-9)


def test_counting_leaves_the_network_as_it_was():
    net = SpikingNet()
    layers, _, result = count_call(net, lambda: net(torch.zeros(1, 2, 2, 9, 8)))
    assert result.shape == (1, 7)
    assert [layer.name for layer in layers] == ["conv1", "conv2", "linear"]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())
