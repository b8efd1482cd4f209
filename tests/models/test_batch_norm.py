"""The student's batch norm beside torch's: outputs, running statistics, and what leaves it to torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from had_snn.models.neurons import BatchNorm


@pytest.mark.parametrize("momentum", [0.1, None])
def test_it_follows_the_same_statistics_as_torchs(momentum: float | None):
    torch.manual_seed(0)
    ours, torchs = BatchNorm(6, momentum=momentum), nn.BatchNorm2d(6, momentum=momentum)
    for _ in range(3):
        maps = 2 + 3 * torch.randn(4, 6, 5, 5)
        torch.testing.assert_close(ours(maps), torchs(maps))
    for name, value in torchs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    maps = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(ours.eval()(maps), torchs.eval()(maps))


def test_in_float32_it_keeps_its_output_and_leaves_the_rest_to_torch():
    maps, norm = torch.randn(4, 6, 5, 5), BatchNorm(6)
    assert "OutputKept" in type(norm(maps).grad_fn).__name__
    assert "OutputKept" not in type(norm.eval()(maps).grad_fn).__name__
    assert "OutputKept" not in type(norm.train().double()(maps.double()).grad_fn).__name__
    with torch.autocast("cpu", torch.bfloat16):
        assert norm.float()(maps.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(torch.randn(1, 6, 1, 1))
