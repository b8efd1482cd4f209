"""Clocked leaky integrate-and-fire neurons over T micro-steps, differentiable.

    h[t] = alpha * v[t-1] + x[t],  alpha = exp(-dt / tau)
    s[t] = 1 if h[t] > v_threshold else 0                 (strict)
    v[t] = v_reset where s[t] else h[t]                   (hard reset; soft: h[t] - s[t] * v_threshold)

`lif_multi_step` runs the kernels of `kernels/lif.cu`; `lif_multi_step_ref` is the same in plain torch and the judge.

Kept for the backward, in bytes per neuron-step of float32: the input (4, usually alive anyway), and one potential every
16 steps (4 / 16, nothing for T <= 16). Potentials are computed again, not stored.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.ops import build
from had_snn.ops.surrogate import Surrogate, atan, spike

CHUNK = 16  # HAD_CHUNK of kernels/lif.cu
TASK = 16384  # HAD_TASK of kernels/lif.cu
STREAM_BYTES = 16 << 20  # outputs beyond this bypass the caches

_FORWARD = "pppppppp" + "iiiii" + "ff" + "nnn"
_BACKWARD = "pppppppppppp" + "iiiii" + "ff" + "nnn"


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
    spikes, v, membranes, _ = torch.ops.had_snn.lif_forward(
        x,
        None if v0 is None else v0.float(),
        alpha,
        theta,
        channel_dim % x.ndim if alpha.numel() > 1 else 0,
        float(v_reset),
        surrogate.slope,
        surrogate.number,
        reset == "soft",
        detach_reset,
        return_membranes,
        keep,
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
        s = spike(h - theta, surrogate, smooth=smooth)
        r = s.detach() if detach_reset else s
        if reset == "soft":
            v = h - r * theta
        elif smooth or not detach_reset:
            v = h * (1 - r) + v_reset * r
        else:
            v = torch.where(r > 0, v_reset, h)
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
    for name, value in (("v0", v0), ("tau", tau), ("v_threshold", v_threshold)):
        if not torch.is_tensor(value):
            continue
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
        good = torch.isfinite(values) & (values > 0)
        if not bool(good.all()):
            first = int((~good.reshape(-1)).nonzero()[0])
            found = float(values.reshape(-1)[first])
            raise InputError(f"{name} of channel {first} is {found}; expected a positive number")
    if not math.isfinite(v_reset):
        raise InputError(f"v_reset is {v_reset}; expected a finite number")


def _dense_step(x: Tensor) -> Tensor:
    """`x`, or a contiguous copy where one step of it is not a dense block."""
    expected = 1
    for size, stride in sorted(zip(x.shape[1:], x.stride()[1:], strict=True), key=lambda pair: (pair[1], pair[0])):
        if size == 1:
            continue
        if stride != expected:
            return x.contiguous()
        expected *= size
    return x if x.shape[0] == 1 or x.stride(0) >= expected else x.contiguous()


def _in_order(tensor: Tensor | None, strides: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
    """`tensor` in the given memory order and dtype, copied only where it must be."""
    if tensor is None:
        return None
    same = all(a == b or n == 1 for a, b, n in zip(tensor.stride(), strides, tensor.shape, strict=True))
    if same and tensor.dtype == dtype:
        return tensor
    return torch.empty_strided(tensor.shape, strides, dtype=dtype, device=tensor.device).copy_(tensor)


def _strides(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides of one step, and of all steps packed, in the memory order of dense `x`."""
    step = tuple(x.stride()[1:])
    return step, (math.prod(x.shape[1:]), *step)


def _scalars(x: Tensor, alpha: Tensor, channel_dim: int) -> tuple[int, int, int, int, int]:
    """T, N, x_step, channels, inner of the kernels."""
    inner = x.stride(channel_dim) if alpha.numel() > 1 else 1
    return x.shape[0], math.prod(x.shape[1:]), x.stride(0), alpha.numel(), inner


def _kept_shape(x: Tensor, keep: bool) -> tuple[int, int]:
    return ((x.shape[0] - 1) // CHUNK if keep else 0, math.prod(x.shape[1:]))


@torch.library.custom_op("had_snn::lif_forward", mutates_args=())
def _lif_forward(
    x: Tensor,
    v0: Tensor | None,
    alpha: Tensor,
    threshold: Tensor,
    channel_dim: int,
    v_reset: float,
    slope: float,
    surrogate: int,
    soft: bool,
    detach: bool,
    membranes: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = _dense_step(x)
    step, packed = _strides(x)
    v0 = _in_order(v0, step, torch.float32)
    s = torch.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device)
    v = torch.empty_strided(x.shape[1:], step, dtype=torch.float32, device=x.device)
    h = torch.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device) if membranes else x.new_empty(0)
    kept = torch.empty(_kept_shape(x, keep), dtype=torch.float32, device=x.device)
    if math.prod(x.shape) == 0:
        return s, v if v0 is None else v0.clone(), h, kept
    pointers = [build.address(a) for a in (x, v0, alpha, threshold, s, v, h if membranes else None)]
    pointers.append(build.address(kept) if kept.numel() else None)
    scalars = [*_scalars(x, alpha, channel_dim), v_reset, slope, surrogate, int(soft), int(detach)]
    _run("lif_forward", _FORWARD, [*pointers, *scalars], s, alpha, threshold)
    return s, v, h, kept


@_lif_forward.register_fake
def _(x, v0, alpha, threshold, channel_dim, v_reset, slope, surrogate, soft, detach, membranes, keep):
    x = _dense_step(x)
    step, packed = _strides(x)
    s = torch.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device)
    v = torch.empty_strided(x.shape[1:], step, dtype=torch.float32, device=x.device)
    h = torch.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device) if membranes else x.new_empty(0)
    return s, v, h, torch.empty(_kept_shape(x, keep), dtype=torch.float32, device=x.device)


@torch.library.custom_op("had_snn::lif_backward", mutates_args=())
def _lif_backward(
    x: Tensor,
    v0: Tensor | None,
    alpha: Tensor,
    threshold: Tensor,
    kept: Tensor,
    g_s: Tensor | None,
    g_h: Tensor | None,
    g_v: Tensor | None,
    channel_dim: int,
    v_reset: float,
    slope: float,
    surrogate: int,
    soft: bool,
    detach: bool,
    need: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x = _dense_step(x)
    step, packed = _strides(x)
    v0, g_v = _in_order(v0, step, torch.float32), _in_order(g_v, step, torch.float32)
    g_s, g_h = _in_order(g_s, packed, x.dtype), _in_order(g_h, packed, x.dtype)
    g_x = torch.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device) if need[0] else x.new_empty(0)
    g_v0 = torch.empty_strided(x.shape[1:], step, dtype=torch.float32, device=x.device) if need[1] else x.new_empty(0)
    sizes = _scalars(x, alpha, channel_dim)
    # The CPU adds up in float64, one row a task; the GPU adds atomically in float32.
    rows, kind = (-(-sizes[1] // TASK), torch.float64) if x.device.type == "cpu" else (1, torch.float32)
    sums = [torch.zeros(rows, alpha.numel(), dtype=kind, device=x.device) if n else None for n in need[2:]]
    if math.prod(x.shape) > 0:
        pointers = [build.address(a) for a in (x, v0, alpha, threshold, kept if kept.numel() else None, g_s, g_h, g_v)]
        outputs = [g_x if need[0] else None, g_v0 if need[1] else None, *sums]
        pointers += [build.address(a) for a in outputs]
        scalars = [*sizes, v_reset, slope, surrogate, int(soft), int(detach)]
        _run("lif_backward", _BACKWARD, [*pointers, *scalars], x, alpha, threshold)
    g_alpha, g_threshold = (alpha.new_empty(0) if s is None else s.sum(0).to(alpha.dtype) for s in sums)
    return g_x, g_v0, g_alpha, g_threshold


@_lif_backward.register_fake
def _(x, v0, alpha, threshold, kept, g_s, g_h, g_v, channel_dim, v_reset, slope, surrogate, soft, detach, need):
    x = _dense_step(x)
    step, packed = _strides(x)
    g_x = torch.empty_strided(x.shape, packed, dtype=x.dtype, device=x.device) if need[0] else x.new_empty(0)
    g_v0 = torch.empty_strided(x.shape[1:], step, dtype=torch.float32, device=x.device) if need[1] else x.new_empty(0)
    g_alpha, g_threshold = (torch.empty_like(alpha) if n else alpha.new_empty(0) for n in need[2:])
    return g_x, g_v0, g_alpha, g_threshold


def _run(name: str, signature: str, arguments: list, sized: Tensor, alpha: Tensor, threshold: Tensor) -> None:
    storage = build.STORAGE[sized.dtype]
    if sized.device.type == "cuda":
        neurons = math.prod(sized.shape[1:])
        symbol = f"had_{name}"
        build.launch_cupy("lif.cu", symbol, signature, arguments, threads=neurons, device=sized.device, storage=storage)
        return
    _check_factors(alpha, threshold)
    stream = int(sized.numel() * sized.element_size() >= STREAM_BYTES and _rows_aligned(sized))
    symbol = f"had_{name}_{build.native_width()}_{storage}"
    build.native_function(symbol, signature + "nn")(*arguments, stream, torch.get_num_threads())


def _rows_aligned(sized: Tensor) -> bool:
    """Whether every step of a fresh tensor of this size begins on a 64-byte line, as streaming stores need."""
    return math.prod(sized.shape[1:]) * sized.element_size() % 64 == 0


def _check_factors(alpha: Tensor, threshold: Tensor) -> None:
    """Values are looked at on the CPU only: on a GPU that would make every layer wait for the device."""
    if not bool(((alpha >= 0) & (alpha <= 1)).all()):
        first = int((~((alpha >= 0) & (alpha <= 1))).nonzero()[0])
        raise InputError(f"tau of channel {first} gives a decay of {float(alpha[first])}; expected a positive tau")
    if not bool(((threshold > 0) & torch.isfinite(threshold)).all()):
        first = int((~((threshold > 0) & torch.isfinite(threshold))).nonzero()[0])
        raise InputError(f"v_threshold of channel {first} is {float(threshold[first])}; expected a positive number")


def _setup(ctx, inputs, output) -> None:
    x, v0, alpha, threshold, *options = inputs
    ctx.save_for_backward(x, v0, alpha, threshold, output[3])
    ctx.options, ctx.membranes = options[:6], options[6]
    ctx.mark_non_differentiable(output[3])
    ctx.set_materialize_grads(False)


def _backward(ctx, g_s, g_v, g_h, _):
    need = list(ctx.needs_input_grad[:4])
    if g_s is None and g_v is None and (g_h is None or not ctx.membranes):
        return (None,) * 12
    x, v0, alpha, threshold, kept = ctx.saved_tensors
    grads = torch.ops.had_snn.lif_backward(
        x, v0, alpha, threshold, kept, g_s, g_h if ctx.membranes else None, g_v, *ctx.options, need
    )
    return (*(g if n else None for g, n in zip(grads, need, strict=True)), *(None,) * 8)


_lif_forward.register_autograd(_backward, setup_context=_setup)
