"""Folding and rounding that inference and export share, and why they round to two different formats.

`frozen` rounds for the tracker, `export.rounding` for NIR. Both put weights on grids of powers of two, so that a sum is
exact in whatever order it is taken; neither can serve for the other:

* The tracker's potentials have no end: membranes are carried from call to call, a micro-step is as long as the events
  of a call say, and the template's kernel is only known when it is read. So `frozen` leaves decays alone (one defined
  line of arithmetic decides every spike alike wherever our own code runs) and only sees to it that each current is
  exact, with as many bits as float32 gives it.
* A simulator runs other arithmetic: another form of the same line (Euler's), another comparison (`>=`). So what goes
  into a file must be exact through all steps: decays become fractions of a few bits, biases odd half steps, and bits
  are shared out over a fixed number of steps from rest, with the template as a constant. A tracker rounded like that
  could not carry membranes, and its boxes would move with the decays.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor]:
    """The single convolution that a convolution and the norm behind it make in evaluation.

    Returns:
        Weight `[C', C, k, k]` and bias `[C']`, float64.
    """
    weight = conv.weight.double()
    bias = weight.new_zeros(len(weight)) if conv.bias is None else conv.bias.double()
    if norm is None:
        return weight, bias
    scale, shift = scale_and_shift(norm)
    return weight * scale[:, None, None, None], shift if conv.bias is None else bias * scale + shift


@torch.no_grad()
def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a norm multiplies its input with in evaluation and then adds, float64 `[C]` each."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def to_grid(values: Tensor, bits: int) -> Tensor:
    """The nearest multiples of `2**-bits`, in the type of `values`."""
    return ((values.double() * 2.0**bits).round() * 2.0**-bits).to(values.dtype)


def connected(links: Iterable[tuple[str, str]]) -> list[set[str]]:
    """Names that hang together through links, directly or through others."""
    found: list[set[str]] = []
    for link in links:
        joined = [group for group in found if group & set(link)]
        found = [group for group in found if not group & set(link)] + [set(link).union(*joined)]
    return found
