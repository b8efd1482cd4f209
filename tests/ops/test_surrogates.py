"""Surrogate derivatives against finite differences of their primitives, and the kernels' against both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from had_snn.errors import InputError
from had_snn.ops import Surrogate, atan, lif_multi_step, rect, sigmoid, spike, triangle

ALL = [atan(), atan(5.0), sigmoid(), triangle(), triangle(0.3), rect(), rect(2.0)]


def name_of(surrogate: Surrogate) -> str:
    return f"{surrogate.name}-{surrogate.slope:g}"


@pytest.mark.parametrize("surrogate", ALL, ids=name_of)
def test_derivative_is_that_of_the_primitive(surrogate: Surrogate) -> None:
    x = torch.linspace(-3, 3, 1201, dtype=torch.float64) + 1.234e-4  # off the corners of triangle and rectangle
    step = 1e-7
    difference = (surrogate.primitive(x + step) - surrogate.primitive(x - step)) / (2 * step)
    torch.testing.assert_close(surrogate.derivative(x), difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("surrogate", ALL, ids=name_of)
def test_primitive_is_a_step_from_zero_to_one_through_one_half(surrogate: Surrogate) -> None:
    ends = surrogate.primitive(torch.tensor([-1e6, 0.0, 1e6], dtype=torch.float64))
    np.testing.assert_allclose(ends.numpy(), [0, 0.5, 1], atol=1e-5)


@pytest.mark.parametrize("surrogate", ALL, ids=name_of)
def test_kernel_uses_the_same_derivative(surrogate: Surrogate) -> None:
    x = torch.linspace(-4, 6, 2000).reshape(1, 1, 2000).requires_grad_()
    spikes, _, _ = lif_multi_step(x, tau=torch.tensor(1000.0), dt=1000.0, surrogate=surrogate, backend="native")
    (gradient,) = torch.autograd.grad(spikes.sum(), x)
    expected = surrogate.derivative(x.detach().double() - 1.0).float()
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_step_is_strict_and_hard() -> None:
    distance = torch.tensor([-1e-45, 0.0, 1e-45, 3.0], requires_grad=True)
    fired = spike(distance, atan())
    assert fired.tolist() == [0.0, 0.0, 1.0, 1.0]
    fired.sum().backward()
    assert distance.grad is not None
    assert distance.grad[1] == 1.0  # slope / 2 at the threshold


def test_unknown_surrogate_and_bad_slope_are_refused() -> None:
    with pytest.raises(InputError, match="'gauss' is unknown"):
        Surrogate("gauss", 1.0)
    for slope in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="slope"):
            Surrogate("atan", slope)
