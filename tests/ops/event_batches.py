"""Batches of random events, and what the event-driven neuron makes of them; helpers of several test files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from had_snn.ops import (
    EventLIFState,
    build,
)

WIDTHS = build.WIDTHS[: build.WIDTHS.index(build.native_width()) + 1]


@dataclass
class Batch:
    """The fields that `event_lif` reads."""

    t: Tensor
    x: Tensor
    y: Tensor
    p: Tensor
    offsets: Tensor
    t_begin: Tensor
    t_end: Tensor
    length_us: Tensor = None  # type: ignore[assignment]  # whole windows when None
    scale: Tensor = None  # type: ignore[assignment]  # 1 when None

    def __post_init__(self) -> None:
        self.length_us = (self.t_end - self.t_begin).double() if self.length_us is None else self.length_us
        self.scale = torch.ones(len(self.t_begin), dtype=torch.float64) if self.scale is None else self.scale


def pack(samples: list[np.ndarray], t_begin: list[int], t_end: list[int]) -> Batch:
    """Packs arrays `[n, 4]` of t, x, y, p."""
    rows = np.concatenate([np.asarray(s, dtype=np.int64).reshape(-1, 4) for s in samples])
    t, x, y, p = torch.from_numpy(rows).unbind(1)
    offsets = torch.tensor([0, *np.cumsum([len(np.asarray(s).reshape(-1, 4)) for s in samples])])
    limits = torch.tensor(t_begin), torch.tensor(t_end)
    return Batch(t.contiguous(), x.short(), y.short(), p.to(torch.uint8), offsets, *limits)


def draw(counts: list[int], hw: tuple[int, int], *, span: int = 1000, start: int = 1 << 33, seed: int = 0) -> Batch:
    """Random events, many of them at equal times."""
    rng = np.random.default_rng(seed)
    samples = []
    for count in counts:
        t = start + np.sort(rng.integers(0, span, count))
        samples.append(
            np.stack([t, rng.integers(0, hw[1], count), rng.integers(0, hw[0], count), rng.integers(0, 2, count)], 1)
        )
    return pack(samples, [start] * len(counts), [start + span] * len(counts))


def parameters(channels: int, kernel: int, samples: int, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "weight": torch.randn(channels, 2, kernel, kernel, generator=generator).requires_grad_(),
        "tau": (torch.rand(channels, generator=generator) * 500 + 50).requires_grad_(),
        "v_threshold": (torch.rand(channels, generator=generator) + 0.5).requires_grad_(),
        "gain": (torch.rand(samples, generator=generator) + 0.5).requires_grad_(),
    }


def outputs_and_gradients(
    function, events: Batch, inputs: dict, state: EventLIFState | None = None, **options
) -> tuple:
    options = {"n_steps": 3, "v_reset": 0.1} | options
    counts, membranes, new = function(events, **inputs, state=state, **options)
    generator = torch.Generator().manual_seed(7)
    terms = [counts, new.v] if membranes is None else [counts, membranes, new.v]
    loss = sum((o * torch.randn(o.shape, generator=generator)).sum() for o in terms)
    leaves = [*inputs.values(), *([] if state is None else [state.v])]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [*terms, new.t_last], [torch.zeros(()) if g is None else g for g in gradients]
