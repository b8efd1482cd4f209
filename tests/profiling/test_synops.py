"""Counts against a loop that follows every spike through the weights."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
from torch import Tensor, nn

from had_snn.errors import InputError
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.profiling.synops import (
    ConvShape,
    axis_outputs,
    effective_synops,
    event_synops,
    reached,
)


def follow(spikes: Tensor, weight: Tensor, conv: nn.Conv2d) -> dict[str, int]:
    """Follows each spike of `[C, H, W]` through each weight: the definition, slowly."""
    channels, height, width = spikes.shape
    out_per_group = conv.out_channels // conv.groups
    in_per_group = channels // conv.groups
    (sy, sx), (dy, dx), (kh, kw) = conv.stride, conv.dilation, conv.kernel_size
    if conv.padding == "same":
        py, px = dy * (kh - 1) // 2, dx * (kw - 1) // 2
        ho, wo = height, width
    else:
        py, px = conv.padding
        ho = (height + 2 * py - dy * (kh - 1) - 1) // sy + 1
        wo = (width + 2 * px - dx * (kw - 1) - 1) // sx + 1
    totals = {"synops": 0, "active": 0, "effective": 0, "dense": 0}
    for c, y, x in itertools.product(range(channels), range(height), range(width)):
        n = int(spikes[c, y, x])
        group = c // in_per_group
        for oy, ox, ky, kx in itertools.product(range(ho), range(wo), range(kh), range(kw)):
            if oy * sy - py + ky * dy != y or ox * sx - px + kx * dx != x:
                continue
            totals["dense"] += out_per_group
            totals["synops"] += n * out_per_group
            if n:
                totals["active"] += out_per_group
                first = group * out_per_group
                taps = weight[first : first + out_per_group, c % in_per_group, ky, kx]
                totals["effective"] += int((taps != 0).sum())
    return totals


CASES = [
    (nn.Conv2d(3, 5, 3, padding=1), (7, 5)),
    (nn.Conv2d(2, 3, 3, stride=2, padding=1), (7, 10)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(0, 1), dilation=(2, 1), groups=2), (9, 8)),
    (nn.Conv2d(4, 4, 5, padding=2, groups=4), (6, 7)),
    (nn.Conv2d(2, 2, 4, stride=4), (11, 9)),
    (nn.Conv2d(3, 2, 1), (4, 5)),
    (nn.Conv2d(2, 3, 4, padding="same", dilation=2), (8, 9)),
    (nn.Conv2d(2, 3, 3, stride=3, padding=1, dilation=2), (10, 5)),
]


@pytest.mark.parametrize(("conv", "size"), CASES, ids=lambda v: None if isinstance(v, tuple) else str(v))
def test_counts_equal_following_every_spike(conv: nn.Conv2d, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    counts = torch.randint(0, 4, (conv.in_channels, *size), generator=generator).clamp(max=3) - 1
    counts = counts.clamp(min=0).float()
    weight = conv.weight.detach().clone()
    weight[torch.rand(weight.shape, generator=generator) < 0.3] = 0
    want = follow(counts, weight, conv)
    shape = ConvShape.of(conv)
    assert int(reached(counts.sum(0), shape)) == want["synops"]
    assert int(reached((counts != 0).float().sum(0), shape)) == want["active"]
    assert shape.dense(size) == want["dense"] == int(reached(torch.ones_like(counts).sum(0), shape))
    active = (counts != 0).float()[None]
    assert int(effective_synops(active, weight, shape)) == want["effective"]
    assert shape.outputs(size) == conv(counts[None]).shape[2:]
    assert shape.textbook(size) == conv.weight.numel() * conv(counts[None])[0, 0].numel()


def test_dense_counts_equal_a_convolution_of_ones_in_every_dimension() -> None:
    for conv, size in [
        (nn.Conv1d(4, 6, 5, stride=2, padding=1, groups=2), (17,)),
        (nn.Conv3d(2, 3, (3, 2, 1), stride=(1, 2, 2), padding=(1, 0, 0)), (5, 6, 7)),
    ]:
        nn.init.ones_(conv.weight)
        nn.init.zeros_(conv.bias)
        ones = torch.ones(1, conv.in_channels, *size)
        assert ConvShape.of(conv).dense(size) == int(conv(ones).sum())


def test_each_sample_may_have_its_own_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    spikes = (torch.rand(3, 4, 6, 5, generator=generator) < 0.4).float()
    kernels = torch.rand(3, 4, 3, 3, generator=generator)
    kernels[kernels < 0.5] = 0
    shape = ConvShape.square(4, 4, 3, padding=1, groups=4)
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    want = [follow(spikes[n], kernels[n][:, None], conv)["effective"] for n in range(3)]
    assert effective_synops(spikes, kernels[:, :, None], shape).tolist() == want


STEMS = [(4, 4, (16, 12)), (6, 4, (15, 13)), (3, 2, (9, 9)), (8, 4, (16, 16))]


@pytest.mark.parametrize(("kernel", "stride", "size"), STEMS)
def test_the_stem_is_counted_by_its_events(kernel: int, stride: int, size: tuple[int, int]) -> None:
    padding = (kernel - stride) // 2
    generator = torch.Generator().manual_seed(1)
    streams = []
    for count in (0, 1, 57):
        t = torch.randint(0, 1000, (count,), generator=generator).sort().values.numpy()
        y = torch.randint(0, size[0], (count,), generator=generator).numpy()
        x = torch.randint(0, size[1], (count,), generator=generator).numpy()
        p = torch.randint(0, 2, (count,), generator=generator).numpy()
        streams.append(EventStream.from_arrays(t, x, y, p, sensor_hw=size))
    batch = EventBatch.pack(streams, [0] * 3, [1000] * 3)
    height, width = ((s + 2 * padding - kernel) // stride + 1 for s in size)
    want = []
    for stream in streams:
        pairs = 0
        for ex, ey in zip(stream.x.tolist(), stream.y.tolist(), strict=True):
            for oy, ox in itertools.product(range(height), range(width)):
                inside_y = 0 <= ey - oy * stride + padding < kernel
                pairs += inside_y and 0 <= ex - ox * stride + padding < kernel
        want.append(pairs * 7)
    shape = ConvShape.square(2, 7, kernel, stride=stride, padding=padding)
    assert event_synops(batch, shape).tolist() == want


def test_what_cannot_be_counted_is_refused() -> None:
    with pytest.raises(InputError, match="circular"):
        ConvShape.of(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"))
    with pytest.raises(InputError, match="ConvTranspose2d"):
        ConvShape.of(nn.ConvTranspose2d(1, 1, 3))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_named_padding_is_counted_position_by_position(padding):
    """Each input alone, through a convolution of ones: as many outputs as change are its synapses. An even kernel with
    `same` pads one side more than the other."""
    conv = nn.Conv2d(1, 3, (4, 2), padding=padding, bias=False)
    nn.init.ones_(conv.weight)
    found = ConvShape.of(conv).fan_out((6, 5))
    for row, column in itertools.product(range(6), range(5)):
        alone = torch.zeros(1, 1, 6, 5)
        alone[..., row, column] = 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that it copies the input where sides differ
            assert found[row, column] == conv(alone).sum()


def test_a_kernel_that_does_not_fit_has_no_outputs() -> None:
    assert axis_outputs(2, 5, 1, (0, 0), 1) == 0
    assert axis_outputs(5, 5, 1, (0, 0), 1) == 1
    assert ConvShape.square(2, 3, 5).outputs((2, 7)) == (0, 3)


def test_a_square_convolution_has_the_defaults_of_torch() -> None:
    assert ConvShape.square(2, 3, 5) == ConvShape.of(nn.Conv2d(2, 3, 5))
