"""Sums over spike trains: the kernel against a loop that follows every spike, and against its torch twin."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.ops import SpikeCount, SpikeCounter, build

SHAPES = [(1, 1, 1, 1, 1), (3, 2, 5, 7, 4), (4, 1, 33, 3, 5), (2, 3, 1, 6, 6), (1, 4, 17, 1, 9)]


def spike_count(
    spikes: Tensor,
    reach: Tensor,
    *,
    kind: str = "spikes",
    running: Tensor | None = None,
    backend: str = "auto",
) -> SpikeCount:
    counter = SpikeCounter([spikes], [reach], kinds=[kind], running=[running], backend=backend)
    return counter.split([counter([spikes])])[0]


def draw(shape: tuple[int, ...], kind: str, *, last: bool, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "real":
        values = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.5)
    else:
        values = torch.randint(0, 2 if kind == "spikes" else 9, shape, generator=generator).float()
    return values.movedim(2, -1).contiguous().movedim(-1, 2) if last else values


def follow(spikes: Tensor, reach: Tensor) -> Tensor:
    """Synapses of every micro-step and sample, spike by spike: `[K, T, N]`."""
    total = torch.zeros(len(reach), *spikes.shape[:2], dtype=torch.int64)
    for t, n, c, y, x in itertools.product(*(range(size) for size in spikes.shape)):
        total[:, t, n] += int(spikes[t, n, c, y, x]) * reach[:, y, x]
    return total


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["spikes", "counts", "real"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_following_every_spike(shape, kind, last):
    spikes = draw(shape, kind, last=last)
    reach = torch.randint(0, 900, (2, *shape[3:]), dtype=torch.int32, generator=torch.Generator().manual_seed(1))
    running = None if kind == "real" else torch.full_like(spikes[0, 0], 3, dtype=torch.int32)
    twin = None if running is None else running.clone()
    found = spike_count(spikes, reach, kind=kind, running=running)
    ones = (spikes != 0).float()
    assert torch.equal(found.active_synapses, follow(ones, reach))
    assert torch.equal(found.active, ones.sum(dim=(2, 3, 4)).long())
    if kind != "real":
        assert torch.equal(found.synapses, follow(spikes, reach))
        assert torch.equal(running, 3 + spikes.sum(dim=(0, 1)).int())
    expected = spike_count(spikes, reach, kind=kind, running=twin, backend="ref")
    for name in ("fired", "active", "synapses", "active_synapses"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("width", build.WIDTHS[: build.WIDTHS.index(build.native_width()) + 1])
@pytest.mark.parametrize("last", [False, True])
def test_every_vector_width_counts_alike(width, last, monkeypatch):
    spikes = draw((3, 2, 37, 5, 11), "counts", last=last)
    reach = torch.randint(0, 900, (3, 5, 11), dtype=torch.int32)
    monkeypatch.setattr(build, "native_width", lambda: width)
    found = spike_count(spikes, reach, kind="counts")
    expected = spike_count(spikes, reach, kind="counts", backend="ref")
    assert torch.equal(found.synapses, expected.synapses)
    assert torch.equal(found.active_synapses, expected.active_synapses)


def test_sums_beyond_float32_stay_exact():
    spikes = torch.full((1, 1, 600, 8, 8), 1.0)
    reach = torch.full((1, 8, 8), 9 * 1024 + 1, dtype=torch.int32)
    assert int(spike_count(spikes, reach).synapses) == 600 * 64 * (9 * 1024 + 1)


def test_other_memory_orders_are_copied():
    spikes = draw((2, 3, 4, 5, 6), "spikes", last=False).transpose(3, 4)
    reach = torch.randint(0, 9, (1, 6, 5), dtype=torch.int32)
    assert torch.equal(spike_count(spikes, reach).synapses, follow(spikes, reach))


def test_what_does_not_fit_is_refused():
    spikes, reach = torch.zeros(2, 1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int32)
    for bad in (
        {"spikes": spikes[0]},
        {"reach": reach.long()},
        {"reach": torch.zeros(1, 4, 5, dtype=torch.int32)},
        {"kind": "bursts"},
        {"running": torch.zeros(3, 4, 4)},
        {"running": torch.zeros(3, 4, 4, dtype=torch.int32).transpose(1, 2)},
        {"backend": "cupy"},
    ):
        with pytest.raises(InputError):
            spike_count(**{"spikes": spikes, "reach": reach, **bad})
