"""Batch norm that keeps its output for the backward, where torch's keeps its input.

    out = (x - mean) / sqrt(variance + eps) * weight + bias,   mean and variance over all but the channels

The layer behind keeps that output anyway (`lif.py` its current), so of each map one is kept instead of two: the
normalised input is `(out - bias) / weight` again (In-Place Activated BatchNorm, Rota Bulo et al., arXiv 1712.02616).
Where a weight is so small beside its bias that this would round too much, the input is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: A bias larger than so many weights: the normalised input is not made from the output then.
MOST_BIAS = 16.0


class OutputKept(torch.autograd.Function):
    """`torch.nn.functional.batch_norm` in training, which moves the running statistics, with the output kept."""

    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """Normalises `[B, C, ...]`."""
        numbers = (weight, bias, running_mean, running_var)
        out, mean, over = torch.native_batch_norm(maps, *numbers, training=True, momentum=momentum, eps=eps)
        if bool(((bias.abs() <= MOST_BIAS * weight.abs()) & (weight != 0)).all()):
            # As if the output had been normalised by the bias and the weight, and then scaled as the input was.
            ctx.save_for_backward(out, over * weight * weight, bias, 1 / weight)
        else:
            ctx.save_for_backward(maps, weight, mean, over)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in maps, weight and bias."""
        kept, weight, mean, over = ctx.saved_tensors
        need = list(ctx.needs_input_grad[:3])
        given = (grad_outputs[0], kept, weight, None, None, mean, over, True, ctx.eps, need)
        return (*torch.ops.aten.native_batch_norm_backward(*given), *(None,) * 4)
