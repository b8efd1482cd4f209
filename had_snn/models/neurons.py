"""Clocked spiking layers as modules: thin shells over `had_snn.ops.lif_multi_step`.

The neuron (clocked LIF, hard reset; `docs/maths.md`):

    h[t] = alpha * v[t-1] + x[t],   alpha = exp(-dt / tau)
    s[t] = 1 if h[t] > 1 else 0
    v[t] = h[t] * (1 - s[t])

`tau` is a physical time, so a trained network can be run at another micro-step `dt` and the decay stays right.
State is explicit: `None` is rest, and every layer returns its final state.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.models.micro_steps import MicroSteps
from had_snn.models.student_config import StudentConfig
from had_snn.ops import Surrogate, atan, lif_multi_step
from had_snn.ops.batch_norm import OutputKept
from had_snn.ops.spiking_conv import conv2d_of_spikes


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons with one learnable time constant for the layer.

    Args:
        tau_us: Initial time constant in microseconds.
        surrogate: Derivative used for the step function in the backward pass.

    Shape:
        Input `[T, N, C, H, W]`, output spikes of the same shape, state `[N, C, H, W]`.
    """

    def __init__(self, *, tau_us: float = 20_000.0, surrogate: Surrogate | None = None) -> None:
        super().__init__()
        self.log_tau = nn.Parameter(torch.tensor(math.log(tau_us)))
        self.surrogate = surrogate if surrogate is not None else atan()

    @property
    def tau_us(self) -> Tensor:
        """Time constant in microseconds, scalar tensor; learnt through its logarithm, so it stays positive."""
        return self.log_tau.exp()

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, dt_us: float, return_membranes: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Runs all micro-steps.

        Args:
            x: Input current `[T, N, C, H, W]`.
            state: Membranes `[N, C, H, W]` before the first micro-step, or None for rest.
            dt_us: Micro-step in microseconds.
            return_membranes: Also return the pre-reset potentials `h`.

        Returns:
            Spikes `[T, N, C, H, W]`, final membranes `[N, C, H, W]`, and `h` of the shape of `x` or None.
        """
        return lif_multi_step(
            x, state, tau=self.tau_us, dt=dt_us, surrogate=self.surrogate, return_membranes=return_membranes
        )

    def extra_repr(self) -> str:
        return f"tau_us={float(self.tau_us.detach()):.0f}, surrogate={self.surrogate.name}"


class LeakyReadout(nn.Module):
    """Non-spiking leaky membranes, averaged over the micro-steps of a window.

        u[t] = alpha * u[t-1] + (1 - alpha) * x[t],   out = mean over t of u[t]

    Both steps are linear in `x`, so the whole read-out is one weighted sum over time with the closed form
    `w[t] = (1 - alpha**(T - t)) / T` for `t = 0 .. T-1`, which is what is computed.
    """

    def __init__(self, *, tau_us: float = 20_000.0) -> None:
        super().__init__()
        self.log_tau = nn.Parameter(torch.tensor(math.log(tau_us)))

    @property
    def tau_us(self) -> Tensor:
        """Time constant in microseconds, scalar tensor."""
        return self.log_tau.exp()

    def weights(self, n_steps: int, *, dt_us: float) -> Tensor:
        """Weight of each micro-step in the output, `[T]`."""
        remaining = torch.arange(n_steps, 0, -1, device=self.log_tau.device, dtype=self.log_tau.dtype)
        return (1 - torch.exp(-remaining * dt_us / self.tau_us)) / n_steps

    def forward(self, x: Tensor, *, dt_us: float) -> Tensor:
        """Integrates `x` `[T, ...]` and returns the time-averaged membrane `[...]`."""
        return torch.tensordot(self.weights(x.shape[0], dt_us=dt_us).to(x.dtype), x, dims=1)

    def of_convolution(self, spikes: Tensor, conv: nn.Conv2d, *, dt_us: float) -> Tensor:
        """`forward` of a convolution of spikes `[T, N, C, H, W]`, exchanged: both are linear, so one convolution does
        for all micro-steps. For training, where maps of each micro-step are of no use."""
        weights = self.weights(len(spikes), dt_us=dt_us).to(spikes.dtype)
        bias = None if conv.bias is None else conv.bias * weights.sum()
        averaged = torch.tensordot(weights, spikes, dims=1)
        return F.conv2d(averaged, conv.weight, bias, stride=conv.stride, padding=conv.padding)

    def look_back(self, maps: Tensor, earlier: Tensor | None, steps: MicroSteps, config: StudentConfig) -> Tensor:
        """Integrates read-out maps over one window, however many calls it came in.

        Args:
            maps: Maps of this call `[T, N, 5, G, G]`.
            earlier: Maps of the calls before, oldest first; None when this one began at rest, and is a window itself.
            steps: The call's micro-steps.
            config: Gives the micro-steps of a window.

        Returns:
            `[N, 5, G, G]`. While the newest micro-step is not over, the window that ends with it and the one before
            it are mixed by its share.
        """
        if earlier is None:
            return self(maps, dt_us=steps.dt_us)
        newest = self(torch.cat([earlier, maps])[-config.n_steps :], dt_us=config.step_us)
        if steps.over:
            return newest
        return steps.share * newest + (1 - steps.share) * self(earlier, dt_us=config.step_us)


class Sum(nn.Module):
    """Adds currents that meet; a module so that the place where they meet has a name."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        """The sum of tensors of one shape, from left to right."""
        return sum(others, start=first)


class BatchNorm(nn.BatchNorm2d):
    """Torch's, which in training in float32 on a CPU keeps its output for the backward instead of its input."""

    def forward(self, input: Tensor) -> Tensor:
        """`[B, C, H, W]` to the same."""
        usual = self.momentum is not None and self.affine and input.numel() > input.shape[1]
        plain = input.dtype == torch.float32 and input.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if not (self.training and usual and plain) or torch.compiler.is_compiling():
            return super().forward(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        numbers = (self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps)
        out = OutputKept.apply(input, *numbers)
        assert isinstance(out, Tensor)
        return out


class ConvNorm(nn.Module):
    """Convolution and batch norm over micro-steps and samples; `grids.fold` makes one convolution of it.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel: Side of the square kernel.
        stride: Stride; padding is `kernel // 2`.
        reads: `"spikes"` (0 and 1) or `"counts"` (whole numbers of at least 0), whose zeros cost nothing, or
            `"currents"`, any numbers.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, reads: str = "currents"
    ) -> None:
        super().__init__()
        self.reads = reads
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = BatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[T, N, C, H, W]` to `[T, N, C', H', W']`."""
        maps, conv = x.flatten(0, 1), self.conv
        if self.reads == "currents":
            y = conv(maps)
        else:
            sides = {"stride": conv.stride[0], "padding": conv.kernel_size[0] // 2}
            y = conv2d_of_spikes(maps, conv.weight, **sides, counts=self.reads == "counts")
        y = self.norm(y)
        return y.unflatten(0, x.shape[:2])
