"""Surrogate gradients: the forward step stays hard, the backward sees a smooth derivative.

With `u = slope * (h - v_threshold)`, the kernels (`kernels/neuron/surrogate.cuh`) and functions below share a table:

| name | derivative in h | primitive it belongs to | source |
|---|---|---|---|
| `atan` | `slope / 2 / (1 + (pi/2 u)^2)` | `atan(pi/2 u) / pi + 1/2` | Fang et al. 2021, arXiv 2007.05785 |
| `sigmoid` | `slope sg(u) (1 - sg(u))` | `sg(u)` | Zenke & Ganguli 2018, doi 10.1162/neco_a_01086 |
| `triangle` | `slope max(0, 1 - abs(u))` | piecewise quadratic | Bellec et al. 2018, arXiv 1803.09574 |
| `rect` | `slope` where `abs(u) < 1/2` | ramp | Wu et al. 2018, doi 10.3389/fnins.2018.00331 |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.native import FLOAT32, INT32, Parameters, fields

NAMES = ("atan", "sigmoid", "triangle", "rect")  # the index is the kernels' number of the surrogate


class Neuron(Parameters):
    """`Neuron` of `kernels/neuron/surrogate.cuh`: how a neuron resets and learns."""

    _fields_ = (*fields(FLOAT32, "v_reset", "slope"), *fields(INT32, "surrogate", "soft", "detach"))


@dataclass(frozen=True)
class Surrogate:
    """One surrogate derivative.

    Attributes:
        name: One of `NAMES`.
        slope: Steepness at the threshold, in 1 / potential; the derivative's width is about `1 / slope`.
    """

    name: str = "atan"
    slope: float = 2.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise InputError(f"surrogate {self.name!r} is unknown; expected one of {', '.join(NAMES)}")
        if not (math.isfinite(self.slope) and self.slope > 0):
            raise InputError(f"surrogate slope is {self.slope}; expected a positive number")

    @property
    def number(self) -> int:
        """The kernels' number of this surrogate."""
        return NAMES.index(self.name)

    def derivative(self, distance: Tensor) -> Tensor:
        """Derivative of the smooth step at `distance = h - v_threshold`, any shape."""
        u = self.slope * distance
        if self.name == "atan":
            return 0.5 * self.slope / (1 + (math.pi / 2 * u) ** 2)
        if self.name == "sigmoid":
            e = torch.exp(-u.abs())
            return self.slope * e / (1 + e) ** 2
        if self.name == "triangle":
            return self.slope * (1 - u.abs()).clamp(min=0)
        return torch.where(u.abs() < 0.5, self.slope, 0.0).to(distance.dtype)

    def primitive(self, distance: Tensor) -> Tensor:
        """The smooth step whose derivative `derivative` is: 0 far below the threshold, 1 far above, 1/2 at it."""
        u = self.slope * distance
        if self.name == "atan":
            return torch.atan(math.pi / 2 * u) / math.pi + 0.5
        if self.name == "sigmoid":
            return torch.sigmoid(u)
        if self.name == "triangle":
            c = u.clamp(-1, 1)
            return 0.5 + c - c * c.abs() / 2
        return u.clamp(-0.5, 0.5) + 0.5


def atan(slope: float = 2.0) -> Surrogate:
    """Arc tangent, the default; `slope = 2` is SpikingJelly's and snnTorch's `alpha`."""
    return Surrogate("atan", slope)


def sigmoid(slope: float = 4.0) -> Surrogate:
    """Logistic function."""
    return Surrogate("sigmoid", slope)


def triangle(slope: float = 1.0) -> Surrogate:
    """Triangle, compact support of width `2 / slope`."""
    return Surrogate("triangle", slope)


def rect(slope: float = 1.0) -> Surrogate:
    """Rectangle, compact support of width `1 / slope`."""
    return Surrogate("rect", slope)


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, distance: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(distance)
        ctx.surrogate = surrogate
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (distance,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.surrogate.derivative(distance), None


def fire(
    h: Tensor, theta: Tensor, surrogate: Surrogate, *, v_reset: float, reset: str, detach_reset: bool, smooth: bool
) -> tuple[Tensor, Tensor]:
    """Spikes of neurons at potentials `h`, and their potentials after the reset; see `lif_multi_step`."""
    s = spike(h - theta, surrogate, smooth=smooth)
    r = s.detach() if detach_reset else s
    if reset == "soft":
        return s, h - r * theta
    if smooth or not detach_reset:
        return s, h * (1 - r) + v_reset * r
    return s, torch.where(r > 0, v_reset, h)


def spike(distance: Tensor, surrogate: Surrogate, *, smooth: bool = False) -> Tensor:
    """Hard step with the surrogate's gradient; the reference twins fire with it.

    Args:
        distance: `h - v_threshold`, any shape.
        surrogate: The derivative.
        smooth: Return the smooth primitive instead of the hard step, for finite differences.

    Returns:
        Spikes in {0, 1} (in (0, 1) if smooth), shape and dtype of `distance`.
    """
    if smooth:
        return surrogate.primitive(distance)
    out = _Spike.apply(distance, surrogate)
    assert isinstance(out, Tensor)
    return out
