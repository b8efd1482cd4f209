"""The centre head's maps and its training target, shared by student and teacher.

Score, offset and size maps as in the OSTrack family (Ye et al., ECCV 2022), which took them from CenterNet. The score
target is a Gaussian around the box's centre whose spread follows the box (CornerNet's radius rule is replaced by its
linear form, `sigma = spread * sqrt(w * h)`, in cells).
"""

from __future__ import annotations

import torch
from torch import Tensor

from had_snn.models.outputs import TrackerOutput

#: Channels of the read-out: score, offset x, offset y, width, height.
READOUT_CHANNELS = 5
#: A crop of factor 4 shows a target of a quarter of its side: the sizes start there.
INITIAL_SIZE_LOGIT = -1.1
#: Focal losses start best when every cell says "almost certainly not here" (Lin et al., ICCV 2017).
INITIAL_SCORE_LOGIT = -2.2


def split_readout(maps: Tensor) -> TrackerOutput:
    """Turns read-out maps `[N, 5, G, G]` into named maps."""
    return TrackerOutput(
        score_logits=maps[:, 0] + INITIAL_SCORE_LOGIT,
        offsets=maps[:, 1:3],
        sizes=(maps[:, 3:5] + INITIAL_SIZE_LOGIT).sigmoid().clamp(1e-4, 1 - 1e-4),
    )


def score_target(boxes_cxcywh: Tensor, grid: int, *, spread: float = 0.18) -> Tensor:
    """Gaussian score maps for boxes.

    Args:
        boxes_cxcywh: `[N, 4]` relative to the crop's side.
        grid: Cells per side.
        spread: Standard deviation in units of `sqrt(w * h)`.

    Returns:
        `[N, grid, grid]` in [0, 1], exactly 1 at the cell that holds the centre.
    """
    cells = torch.arange(grid, device=boxes_cxcywh.device, dtype=boxes_cxcywh.dtype)
    centre = (boxes_cxcywh[:, :2] * grid).floor().clamp(0, grid - 1)
    sigma = (spread * grid * boxes_cxcywh[:, 2:].prod(dim=1).clamp(min=1e-6).sqrt()).clamp(min=0.5)
    dx = (cells[None, :] - centre[:, :1]) / sigma[:, None]
    dy = (cells[None, :] - centre[:, 1:]) / sigma[:, None]
    return torch.exp(-0.5 * (dy[:, :, None] ** 2 + dx[:, None, :] ** 2))


def hann_prior(grid: int, *, weight: float, device: torch.device | None = None) -> Tensor:
    """Prior for the peak search: `(1 - weight) + weight * hann2d`, `[grid, grid]`, 1 in the middle.

    A target rarely jumps: cells far from the last place must score higher to win.
    """
    line = torch.hann_window(grid + 2, periodic=False, device=device)[1:-1]
    window = line[:, None] * line[None, :]
    return (1 - weight) + weight * window / window.max()
