"""Pictures of more than 8 bits: one scale for a whole recording, from the bits that its pictures use.

Cameras of 10 and 12 bits store their pictures in 16. Scaling each by its own maximum would flicker; taking the upper 8
of the 16 bits would leave them black.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from had_snn.recordings.recording import logger

DEPTHS = (8, 10, 12, 14, 16)  # bits of the converters in use


def depth_of(images: Sequence[np.ndarray]) -> int:
    """Bits that the brightest pixel of all pictures needs, of those that converters have."""
    highest = max((int(image.max(initial=0)) for image in images), default=0)
    return next(depth for depth in DEPTHS if highest < 1 << depth)


def to_8_bits(path: Path, images: Sequence[np.ndarray], *, depth: int | None = None) -> list[np.ndarray]:
    """Pictures as uint8; those of 16 bits all with the same scale.

    Args:
        path: The recording, for messages.
        images: Unsigned integers of 8 or 16 bits, any shapes.
        depth: Bits that those of 16 use, if other pictures of the recording must agree.
    """
    wide = [image for image in images if image.dtype.itemsize == 2]
    if not wide:
        return list(images)
    if depth is None:
        depth = depth_of(wide)
        logger.info("%s: 16-bit pictures that use %d bits", path, depth)
    return [image if image.dtype.itemsize == 1 else (image >> (depth - 8)).astype(np.uint8) for image in images]
