"""Tensors as they come from a file, which may hold anything: what must be so before they are used."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor

from had_snn.errors import CheckpointError


def require_finite(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Refuses numbers that are none.

    Raises:
        CheckpointError: Naming the first tensor with a NaN or an infinity.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite; it was saved from a broken run")


def require_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Compares shapes by name.

    Raises:
        ValueError: Naming those that differ, are missing or are too many.
    """
    differing = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    if differing:
        told = ", ".join(f"{name} is {found.get(name)}, expected {expected.get(name)}" for name in differing[:3])
        raise ValueError(told + (f", and {len(differing) - 3} more" if len(differing) > 3 else ""))
