"""A student at other numbers of micro-steps than it was trained with: norms that fit them.

A neuron fires at most once in a micro-step, so what a layer sees of a window depends on how many it is cut into, and
norms that were made for four are wrong for eight. Convolutions, time constants and read-out serve all; of the norms,
some hundred numbers, there is a set for each `T` they were fitted to (`had_snn.train.norm_fitting`). Between two of
these lie the numbers between theirs, by the logarithm of `T`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from had_snn.errors import CheckpointError

#: Numbers of one set of norms, by the norm's path and the part's name.
NormNumbers = dict[str, Tensor]
PARTS = ("weight", "bias", "running_mean", "running_var")


def norm_numbers(network: nn.Module) -> NormNumbers:
    """Copies of the numbers of all batch norms."""
    return {name: part.detach().clone() for name, part in _live(network).items()}


@torch.no_grad()
def set_norms(network: nn.Module, numbers: NormNumbers) -> None:
    """Gives all batch norms the numbers of `norm_numbers`."""
    for name, part in _live(network).items():
        part.copy_(numbers[name])


def _live(network: nn.Module) -> NormNumbers:
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    found = {f"{name}.{part}": getattr(norm, part) for name, norm in norms.items() for part in PARTS}
    return {name: part for name, part in found.items() if part is not None}


def norms_between(fitted: Mapping[int, NormNumbers], count: int) -> NormNumbers:
    """The numbers for `count` micro-steps; those of the nearest `T` beyond the ends.

    Args:
        fitted: Sets of numbers by the `T` that they fit.
        count: Micro-steps of a window.
    """
    low = max((steps for steps in fitted if steps <= count), default=min(fitted))
    high = min((steps for steps in fitted if steps >= count), default=max(fitted))
    if low == high:
        return fitted[low]
    share = math.log(count / low) / math.log(high / low)
    return {name: torch.lerp(fitted[low][name], fitted[high][name], share) for name in fitted[low]}


def pack(fitted: Mapping[int, NormNumbers]) -> dict[str, Tensor]:
    """Sets of numbers as named tensors, for a file."""
    return {f"{PREFIX}{count}.{name}": part for count, numbers in fitted.items() for name, part in numbers.items()}


#: Of the names in a file.
PREFIX = "norms_at."


def unpack(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[int, NormNumbers]:
    """What `pack` made of them, for a network whose norms they must fit.

    Raises:
        CheckpointError: Naming what does not.
    """
    fitted: dict[int, NormNumbers] = {}
    for name, part in tensors.items():
        count, _, path = name.removeprefix(PREFIX).partition(".")
        if not count.isdecimal() or int(count) < 1:
            raise CheckpointError(f"{name}: expected a number of micro-steps behind {PREFIX}")
        fitted.setdefault(int(count), {})[path] = part
    shapes = {name: part.shape for name, part in _live(network).items()}
    for count, numbers in fitted.items():
        if {name: part.shape for name, part in numbers.items()} != shapes:
            raise CheckpointError(f"the norms for {count} micro-steps are those of another network")
    return fitted
