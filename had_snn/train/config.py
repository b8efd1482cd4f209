"""Plain numbers of a training run, and which clips each process reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FitConfig:
    """Plain numbers of a training run.

    Attributes:
        iterations: Optimiser steps.
        batch_size: Clips per process and backward pass.
        accumulate: Batches whose gradients are added up for a step.
        learning_rate: Peak of the schedule.
        weight_decay: Decoupled decay of matrices and kernels (not of norms, biases and time constants).
        warmup: Iterations of linear warm-up, after which the rate follows a cosine to zero.
        gradient_clip: Largest norm of the gradient.
        ema_decay: Decay of the averaged weights, which are what is returned; the average warms up.
        precision: Fabric's precision, e.g. `32-true`, `bf16-mixed`, `16-mixed`.
        sync_norm: Batch norm over the batches of all processes.
        seed: Seed of initial draws inside the loop.
        log_every: Iterations between lines of `losses.csv`.
        checkpoint_every: Iterations between resumable checkpoints; 0 for none.
        validate_every: Iterations between validations; 0 validates at the end of each epoch of clips.
        patience: Validations without a better score before training stops; 0 never stops.
        loader_threads: Threads that prepare batches ahead.
        loader_processes: Processes that prepare batches ahead, instead of threads: for a GPU that would wait for one
            interpreter to do both. 0 for threads.
    """

    iterations: int
    batch_size: int = 16
    accumulate: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 20
    gradient_clip: float = 1.0
    ema_decay: float = 0.98
    precision: str = "32-true"
    sync_norm: bool = True
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 0
    validate_every: int = 0
    patience: int = 0
    loader_threads: int = 1
    loader_processes: int = 0


def clip_indices(step: int, config: FitConfig, *, rank: int, world: int) -> list[list[int]]:
    """Which clips a process reads at a step: one list per accumulated batch.

    Over all processes and steps each index occurs once, in the order in which a single process with
    `world * batch_size` clips would read them.
    """
    size = config.batch_size
    first = step * config.accumulate * world * size + rank * size
    return [list(range(at, at + size)) for at in range(first, first + config.accumulate * world * size, world * size)]
