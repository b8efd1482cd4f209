"""Work shared by processes: sums over those of a distributed run, and forks of one for independent pieces.

In a single process every function of the first kind returns what it was given.

With these, `N` processes of `B` samples compute what one process of `N * B` samples would: losses are divided by the
whole batch's normaliser, batch norm sees the whole batch, and results of sharded work come together in order.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from had_snn.errors import HadError
from had_snn.threads import one_for_good

T = TypeVar("T")
R = TypeVar("R")
#: What forked copies of this process call; they find it in the memory that they were copied with.
_FORKED: list[Callable[[int], Any]] = []


class WorkerDiedError(HadError):
    """A process that did part of the work was ended from outside."""


def is_distributed() -> bool:
    """Whether this process is one of several that talk to each other."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a tensor over all processes, without gradient."""
    value = value.detach()
    if not is_distributed():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / world_size()


def shared_mean(value: Tensor) -> Tensor:
    """The mean over all processes as a value, with the gradient of this process's own part.

    For a function `f` of a mean over the whole batch: when gradients are averaged over the processes afterwards, as
    DDP does, `f(shared_mean(local mean))` has the gradient of `f(mean over the whole batch)`.
    """
    return value if not is_distributed() else value + (mean_over_ranks(value) - value).detach()


def shared_count(weight: Tensor, *, at_least: float = 1.0) -> Tensor:
    """The whole batch's sum of weights, limited from below and divided by the number of processes.

    Dividing a local sum by it gives a loss whose average over the processes is the whole batch's weighted mean.
    """
    return mean_over_ranks(weight.sum()).clamp(min=at_least / world_size())


def shard(items: Sequence[T]) -> list[T]:
    """This process's part of a list: every `world_size()`-th item. All parts together hold each item once."""
    return list(items[rank() :: world_size()])


def unshard(part: list[T]) -> list[T]:
    """The whole list, in order, from the parts that `shard` cut; collective."""
    if not is_distributed():
        return part
    parts: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(parts, part)
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(len(p) for p in parts))]


def in_forks(call: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[tuple[int, R]]:
    """Calls a function for each item in copies of this process, for work on a CPU that one thread does.

    Args:
        call: What is called, with all that it holds as it is now; what it changes stays in its copy.
        items: Its arguments.
        workers: Copies. With 1 everything runs here, in order.

    Yields:
        The number of an item and what came of it, as they get ready.

    Raises:
        WorkerDiedError: If a copy was ended from outside.
    """
    if workers <= 1:
        yield from ((number, call(item)) for number, item in enumerate(items))
        return
    if not items:
        return
    _FORKED.append(lambda number: call(items[number]))
    others = {child.pid for child in multiprocessing.active_children()}
    pool = ProcessPoolExecutor(min(workers, len(items)), multiprocessing.get_context("fork"), one_for_good)
    try:
        numbers = {pool.submit(_in_fork, number): number for number in range(len(items))}
        yield from ((numbers[done], done.result()) for done in as_completed(numbers))
    except BrokenProcessPool as error:
        message = f"one of {workers} processes was ended, by the system where memory ran out; workers=1 needs only one"
        raise WorkerDiedError(message) from error
    except BaseException:  # nobody waits for what the others are at
        for child in multiprocessing.active_children():
            if child.pid not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        _FORKED.pop()


def _in_fork(number: int) -> Any:
    return _FORKED[-1](number)


class _MeanOverRanks(torch.autograd.Function):
    """Mean over the processes, forward and backward."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        return mean_over_ranks(value)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        return mean_over_ranks(grads[0].contiguous())


def _mean_with_gradient(value: Tensor) -> Tensor:
    mean = _MeanOverRanks.apply(value)
    assert isinstance(mean, Tensor)
    return mean


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes together, on any device (torch's `SyncBatchNorm` refuses CPUs).

    Every process must hold the same number of samples. Forward and backward each sum over processes; the gradient is
    that of one process with the whole batch.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalises `[N, C, H, W]` (half precision in float32, like autocast does)."""
        if not (self.training and is_distributed()):
            return super().forward(input)
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        mean = _mean_with_gradient(x.mean(dim=(0, 2, 3)))
        centred = x - mean[:, None, None]
        variance = _mean_with_gradient(centred.square().mean(dim=(0, 2, 3)))
        self._follow(mean.detach(), variance.detach(), x.numel() // x.shape[1] * world_size())
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / max(1, count - 1), momentum)


def share_batch_norm(module: nn.Module) -> nn.Module:
    """Turns every `BatchNorm2d` inside into one over all processes; parameters and names in the state stay."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.__class__ = SharedBatchNorm2d
    return module
