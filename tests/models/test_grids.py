"""Folding of norms, grids, and names that hang together."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from had_snn.models.grids import connected, fold, to_grid


@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_block_is_one_convolution(bias):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 7, 3, stride=2, padding=1, bias=bias), nn.BatchNorm2d(7)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.uniform_(norm.bias, -1.0, 1.0)
    for _ in range(3):
        norm(conv(torch.randn(8, 3, 9, 9) * 2 + 1))
    norm.eval()
    x = torch.randn(8, 3, 9, 9)
    weight, shift = fold(conv, norm)
    folded = nn.functional.conv2d(x.double(), weight, shift, stride=2, padding=1)
    torch.testing.assert_close(norm(conv(x)), folded.float(), rtol=1e-4, atol=1e-5)
    assert torch.equal(fold(conv, None)[0].float(), conv.weight)


def test_a_grid_holds_the_nearest_multiples():
    values = torch.randn(1000)
    rounded = to_grid(values, 6)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded * 64, (rounded * 64).round())
    assert (rounded - values).abs().max() <= 1 / 128


def test_names_hang_together_through_others():
    links = [("a", "b"), ("c", "c"), ("d", "e"), ("e", "a")]
    assert sorted(map(sorted, connected(links))) == [["a", "b", "d", "e"], ["c"]]
