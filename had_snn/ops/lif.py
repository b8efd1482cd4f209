"""Clocked leaky integrate-and-fire neurons over T micro-steps, differentiable.

    h[t] = alpha * v[t-1] + x[t],  alpha = exp(-dt / tau)
    s[t] = 1 if h[t] > v_threshold else 0                 (strict)
    v[t] = v_reset where s[t] else h[t]                   (hard reset; soft: h[t] - s[t] * v_threshold)

`lif_multi_step` runs the kernels of `kernels/neuron/lif.cu`; `lif_multi_step_ref` is plain torch, the judge.

Kept for the backward, in bytes per neuron-step of float32: the input (4, usually alive anyway), and one potential every
16 steps (4 / 16, nothing for T <= 16). Potentials are computed again, not stored.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.ops import build
from had_snn.ops.lif_kernels import lif_forward
from had_snn.ops.surrogate import Surrogate, atan, fire


def decay_factor(tau: Tensor, dt: float) -> Tensor:
    """`exp(-dt / tau)`, computed in float64 and rounded once to float32, so that every machine uses the same factor.

    Args:
        tau: Time constants in microseconds, any shape.
        dt: Micro-step in microseconds.

    Returns:
        Factors in (0, 1), float32 (float64 if `tau` is), shape of `tau`; differentiable.
    """
    alpha = torch.exp(-dt / tau.double())
    return alpha if tau.dtype == torch.float64 else alpha.float()


def lif_multi_step(
    x: Tensor,
    v0: Tensor | None = None,
    *,
    tau: Tensor,
    dt: float,
    v_threshold: float | Tensor = 1.0,
    v_reset: float = 0.0,
    surrogate: Surrogate | None = None,
    reset: str = "hard",
    detach_reset: bool = True,
    return_membranes: bool = False,
    channel_dim: int = 2,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Runs LIF neurons over all steps of `x`.

    Any memory order whose steps are dense is used as it is (NCHW and channels-last alike) and passed on to the outputs.

    Args:
        x: Input current `[T, ...]`, in units of the threshold; float32, float16 or bfloat16 (float64: reference only).
        v0: Potentials `[...]` before the first step, or None for rest (0).
        tau: Time constant in microseconds, a scalar tensor or `[C]` for dimension `channel_dim` of `x`.
        dt: Length of a micro-step in microseconds.
        v_threshold: Firing threshold, a number, a scalar tensor or `[C]`; positive.
        v_reset: Potential after a spike (hard reset only).
        surrogate: Derivative that stands in for the step's; default `atan()`.
        reset: `"hard"` or `"soft"`.
        detach_reset: Leave the spike inside the reset out of the gradient.
        return_membranes: Also return the potentials before the reset.
        channel_dim: Dimension of `x` that holds the channels.
        backend: `"auto"`, `"native"` (CPU), `"cupy"` (CUDA) or `"ref"` (plain torch).

    Returns:
        Spikes `[T, ...]` in x's dtype, final potentials `[...]` in float32 (float64 for float64 input), and pre-reset
        potentials `[T, ...]` in x's dtype or None.

    Raises:
        InputError: If shapes, dtypes, devices or values do not fit.
        KernelError: If the chosen backend is not installed.

    Example:
        >>> import torch
        >>> s, v, _ = lif_multi_step(torch.full((3, 1, 1), 0.75), tau=torch.tensor(1443.0), dt=1000.0)
        >>> s.flatten().tolist()
        [0.0, 1.0, 0.0]
    """
    surrogate = atan() if surrogate is None else surrogate
    _check_shapes(x, v0, tau, v_threshold, channel_dim, reset, dt)
    chosen = build.choose_backend(backend, x.device.type, x.dtype)
    if chosen == "ref":
        check_values(tau, v_threshold, v_reset)
        return lif_multi_step_ref(
            x,
            v0,
            tau=tau,
            dt=dt,
            v_threshold=v_threshold,
            v_reset=v_reset,
            surrogate=surrogate,
            reset=reset,
            detach_reset=detach_reset,
            return_membranes=return_membranes,
            channel_dim=channel_dim,
        )
    alpha = decay_factor(tau, dt).reshape(-1)
    theta = torch.as_tensor(v_threshold, dtype=torch.float32, device=x.device).reshape(-1)
    alpha, theta = (a.expand(max(alpha.numel(), theta.numel())).contiguous() for a in (alpha, theta))
    inputs = (x, v0, alpha, theta)
    keep = torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in inputs)
    spikes, v, membranes, _ = lif_forward(
        x,
        None if v0 is None else v0.float(),
        alpha,
        theta,
        channel_dim % x.ndim if alpha.numel() > 1 else 0,
        *(float(v_reset), surrogate.slope, surrogate.number, reset == "soft", detach_reset),
        *(return_membranes, keep),  # by position: names would take torch another 40 us
    )
    return spikes, v, membranes if return_membranes else None


def lif_multi_step_ref(
    x: Tensor,
    v0: Tensor | None = None,
    *,
    tau: Tensor,
    dt: float,
    v_threshold: float | Tensor = 1.0,
    v_reset: float = 0.0,
    surrogate: Surrogate | None = None,
    reset: str = "hard",
    detach_reset: bool = True,
    return_membranes: bool = False,
    channel_dim: int = 2,
    smooth: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`lif_multi_step` in plain torch: the readable definition. `smooth` fires the surrogate's primitive instead."""
    surrogate = atan() if surrogate is None else surrogate
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32

    def per_channel(values: Tensor) -> Tensor:
        if values.numel() == 1:
            return values.reshape(())
        return values.reshape([-1 if d == channel_dim % x.ndim else 1 for d in range(1, x.ndim)])

    alpha = per_channel(decay_factor(tau, dt).to(wide))
    theta = per_channel(torch.as_tensor(v_threshold, dtype=wide, device=x.device))
    v = torch.zeros_like(x[0], dtype=wide) if v0 is None else v0.to(wide)
    spikes, membranes = [], []
    for current in x.to(wide):
        h = alpha * v + current
        s, v = fire(h, theta, surrogate, v_reset=v_reset, reset=reset, detach_reset=detach_reset, smooth=smooth)
        spikes.append(s)
        membranes.append(h)
    stacked = torch.stack(membranes).to(x.dtype) if return_membranes else None
    return torch.stack(spikes).to(x.dtype), v, stacked


def _check_shapes(
    x: Tensor, v0: Tensor | None, tau: Tensor, v_threshold: float | Tensor, channel_dim: int, reset: str, dt: float
) -> None:
    if reset not in ("hard", "soft"):
        raise InputError(f"reset {reset!r} is unknown; expected 'hard' or 'soft'")
    if not x.is_floating_point():
        raise InputError(f"x holds {str(x.dtype).removeprefix('torch.')}; expected a floating-point type")
    if x.ndim < 1 or x.shape[0] < 1:
        raise InputError(f"x has shape {list(x.shape)}; expected [T, ...] with T >= 1")
    if not (math.isfinite(dt) and dt > 0):
        raise InputError(f"dt is {dt}; expected a positive number of microseconds")
    if v0 is not None and v0.shape != x.shape[1:]:
        raise InputError(f"v0 has shape {list(v0.shape)}; expected {list(x.shape[1:])}, that of one step of x")
    named = {"v0": v0, "tau": tau, "v_threshold": v_threshold}
    for name, value in {name: value for name, value in named.items() if torch.is_tensor(value)}.items():
        if not value.is_floating_point():
            raise InputError(f"{name} holds {str(value.dtype).removeprefix('torch.')}; expected a floating-point type")
        if value.device != x.device:
            raise InputError(f"{name} is on {value.device} and x on {x.device}; move them to one device")
        if name != "v0" and value.numel() != 1:
            if not (1 <= channel_dim % x.ndim < x.ndim) or not -x.ndim <= channel_dim < x.ndim:
                raise InputError(f"channel_dim is {channel_dim}, which is no neuron dimension of x {list(x.shape)}")
            if value.shape != (x.shape[channel_dim],):
                expected = f"a scalar or [{x.shape[channel_dim]}], the channels in dimension {channel_dim} of x"
                raise InputError(f"{name} has shape {list(value.shape)}; expected {expected}")


def check_values(tau: Tensor, v_threshold: float | Tensor, v_reset: float) -> None:
    """Refuses time constants and thresholds that are not positive and finite, naming the first bad channel."""
    theta = torch.as_tensor(v_threshold)
    for name, values in (("tau", tau), ("v_threshold", theta)):
        build.refuse_unless(torch.isfinite(values) & (values > 0), values, f"{name} of channel")
    if not math.isfinite(v_reset):
        raise InputError(f"v_reset is {v_reset}; expected a finite number")
