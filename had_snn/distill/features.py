"""Fixed views of features that the levels share: a common grid, its positions, and a target that cannot be moved.

A target that is trained together with what is matched to it can satisfy the loss by becoming constant. Teacher features
are therefore only standardised, channel by channel, with running statistics: no parameter, no gradient. Standardising
also makes the cosine honest: raw transformer tokens share one large common component, so that the cosine of any two is
near 1 and a constant prediction would already look good; around their mean, a constant prediction scores 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.processes import mean_over_ranks, shared_count

#: Slowest update of the running statistics: the mean of about the last 100 batches.
SLOWEST_UPDATE = 0.01
#: Added to variances.
VARIANCE_FLOOR = 1e-5


def to_grid(maps: Tensor, grid: int) -> Tensor:
    """Resamples maps `[..., H, W]` to `[..., grid, grid]`: means over cells when shrinking, bilinear when growing."""
    height, width = maps.shape[-2:]
    if (height, width) == (grid, grid):
        return maps
    flat = maps.reshape(-1, 1, height, width)
    if height % grid == 0 and width % grid == 0:
        # The same as adaptive pooling, by a kernel that is faster on a CPU.
        flat = F.avg_pool2d(flat, (height // grid, width // grid))
    elif min(height, width) >= grid:
        flat = F.adaptive_avg_pool2d(flat, grid)
    else:
        flat = F.interpolate(flat, size=(grid, grid), mode="bilinear", align_corners=False)
    return flat.reshape(*maps.shape[:-2], grid, grid)


def to_points(maps: Tensor, grid: int) -> Tensor:
    """Maps `[N, C, H, W]` as points of the common grid, `[N, grid * grid, C]`."""
    return to_grid(maps, grid).flatten(2).mT


def cell_centres(grid: int, *, device: torch.device | None = None) -> Tensor:
    """Positions of the common grid's points, `[grid * grid, 2]` as y, x in units of the crop's side."""
    line = (torch.arange(grid, device=device, dtype=torch.float32) + 0.5) / grid
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of `values` over the samples that count; 0, with a gradient of 0, when none does."""
    return (values * weight).sum() / shared_count(weight)


class FixedTarget(nn.Module):
    """Standardises the last axis with running statistics; has no parameters and passes no gradient.

    Args:
        channels: Length of the last axis.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """Features `[..., D]` standardised; in training mode the statistics follow them first."""
        features = features.detach().float()
        if self.training:
            self._follow(features.reshape(-1, features.shape[-1]))
        return (features - self.mean) / (self.variance + VARIANCE_FLOOR).sqrt()

    def _follow(self, rows: Tensor) -> None:
        self.batches += 1
        step = (1 / self.batches).clamp(min=SLOWEST_UPDATE)
        variance, mean = torch.var_mean(rows, dim=0, correction=0)
        whole = mean_over_ranks(mean)
        # Of the processes' batches together; the second term is 0 in a single one.
        variance, mean = mean_over_ranks(variance + (mean - whole).square()), whole
        # Spread between the batch's mean and the running mean is part of the variance.
        self.variance += step * (variance - self.variance + (1 - step) * (mean - self.mean).square())
        self.mean += step * (mean - self.mean)
