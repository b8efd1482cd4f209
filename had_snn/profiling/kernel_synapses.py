"""Non-zero synapses of the matching, which change with the template's kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from had_snn.models.graph import Mixing
from had_snn.profiling.synops import alive_taps


class KernelSynapses:
    """How many non-zero synapses each feature neuron has, in the matching and where it is folded with what mixes it.

    Args:
        mixings: What mixes the matched maps.
    """

    def __init__(self, mixings: Sequence[Mixing]) -> None:
        self.mixings = mixings
        self._kept: tuple[Tensor, Tensor] | None = None

    def reached(self, kernel: Tensor, spikes: Tensor) -> Tensor:
        """Synapses that spikes reach.

        Args:
            kernel: Template kernels `[N, C, k, k]`.
            spikes: The features `[T, N, C, H, W]`.

        Returns:
            int64 `[N, 1 + M]`: in the matching, then in each mixing joined with it.
        """
        synapses = self._of(kernel, spikes).flatten(2).expand(spikes.shape[1], -1, -1)
        # Products of whole numbers far below 2**53 are exact.
        return torch.einsum("ni,nmi->nm", spikes.sum(dim=0).double().flatten(1), synapses).round().long()

    def _of(self, kernel: Tensor, spikes: Tensor) -> Tensor:
        """The synapses of each neuron, float64 `[1 or N, 1 + M, C, H, W]`.

        A track's windows share a kernel, so they are counted once for each new kernel.
        """
        kernel = kernel[:1] if kernel.stride(0) == 0 else kernel
        if self._kept is not None:
            before, synapses = self._kept
            if synapses.shape[2:] == spikes.shape[2:] and torch.equal(before, kernel):
                return synapses
        alive = kernel.ne(0).float()
        samples, channels, side = alive.shape[:3]
        middle = side // 2
        grid = spikes.new_ones(1, samples * channels, *spikes.shape[3:], dtype=torch.float32)
        # Position i reaches output i + middle - d through tap d: a correlation of the grid with the turned kernel.
        turned = alive.flip(-1, -2).reshape(-1, 1, side, side)
        met = F.conv2d(grid, turned, padding=middle, groups=samples * channels)[0].unflatten(0, (samples, channels))
        columns = [met]
        for mixing in self.mixings:
            # A kernel value becomes a row of weights; the convolutions beside it join the middle.
            rows = alive_taps(mixing.conv.conv.weight, 1).float()
            if mixing.beside:
                beside = alive_taps(torch.stack([other.conv.weight for other in mixing.beside]).sum(dim=0), 1).float()
                columns.append(rows * (met - alive[:, :, middle, middle, None, None]) + beside)
            else:
                columns.append(rows * met)
        synapses = torch.stack(columns, dim=1).double()
        self._kept = (kernel.clone(), synapses)
        return synapses
