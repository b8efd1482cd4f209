"""Siamese matching: the template's spike rates become the kernel that the search features are correlated with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from had_snn.errors import InputError
from had_snn.ops.spiking_conv import match_maps

#: The box is grown by this factor before its coverage is taken, to keep the edge that events outline.
MARGIN = 1.25


def box_coverage(boxes_cxcywh: Tensor, grid: int) -> Tensor:
    """Share of each cell that a box covers.

    Args:
        boxes_cxcywh: `[B, 4]` relative to the crop's side.
        grid: Cells per side.

    Returns:
        `[B, grid, grid]` in [0, 1].
    """
    edges = torch.arange(grid + 1, device=boxes_cxcywh.device, dtype=boxes_cxcywh.dtype) / grid
    low = boxes_cxcywh[:, :2] - boxes_cxcywh[:, 2:] / 2
    high = boxes_cxcywh[:, :2] + boxes_cxcywh[:, 2:] / 2
    starts = torch.maximum(edges[None, None, :-1], low[:, :, None])
    ends = torch.minimum(edges[None, None, 1:], high[:, :, None])
    cover = (ends - starts).clamp(min=0) * grid
    return cover[:, 1, :, None] * cover[:, 0, None, :]


class DepthwiseMatching(nn.Module):
    """Depth-wise correlation of search spikes with the template's spike rates.

    The template's rates are averaged over time, weighted by how much of each cell the target's box covers, cut to the
    centre `kernel x kernel` cells and scaled to unit root-mean-square per sample, so that a quiet template matches as
    loudly as a busy one. With the template fixed this is an ordinary convolution with constant weights, applied at
    each micro-step: nothing is averaged over time inside the graph that goes to a chip.

    Args:
        kernel: Cells per side of the kernel, odd.
    """

    def __init__(self, *, kernel: int = 5) -> None:
        super().__init__()
        self.kernel = kernel

    def template_kernel(self, rates: Tensor, boxes_cxcywh: Tensor) -> Tensor:
        """Makes the correlation kernel.

        Args:
            rates: Template spike rates `[B, C, G, G]` with the target in the middle, `G` odd.
            boxes_cxcywh: The target's box in the template crop, `[B, 4]`, relative to the crop's side.

        Returns:
            Kernels `[B, C, k, k]`.
        """
        grown = torch.cat([boxes_cxcywh[:, :2], boxes_cxcywh[:, 2:] * MARGIN], dim=1)
        return self.kernel_from(rates * box_coverage(grown, rates.shape[-1])[:, None])

    def kernel_from(self, masked: Tensor) -> Tensor:
        """Cuts the centre of masked template features `[B, C, G, G]` and scales it: kernels `[B, C, k, k]`.

        Raises:
            InputError: If the template has fewer cells than the kernel.
        """
        if masked.shape[-1] < self.kernel:
            raise InputError(
                f"match_kernel={self.kernel} and a template of {masked.shape[-1]} cells a side do not fit together"
            )
        edge = (masked.shape[-1] - self.kernel) // 2
        cut = masked[:, :, edge : edge + self.kernel, edge : edge + self.kernel]
        energy = cut.square().sum(dim=(1, 2, 3), keepdim=True) / cut.shape[1]
        return cut / torch.sqrt(energy + 1e-4)

    def forward(self, search: Tensor, kernel: Tensor) -> Tensor:
        """Correlates every micro-step.

        Args:
            search: Search spikes `[T, N, C, H, W]`.
            kernel: Template kernels `[N, C, k, k]`.

        Returns:
            `[T, N, C, H, W]`.
        """
        return match_maps(search, kernel)
