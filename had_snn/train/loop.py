"""The training loop, on Lightning Fabric: one function, `fit`.

Steps are counted in iterations. Clip `i` of a run depends on the seed and `i` alone and goes to one process, so a run
that is killed and resumed sees the same batches as one that is not; with optimiser, averages, random state and
half-finished log lines restored, the curve is the same to the bit on one device, wherever the run was cut.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, Dataset

from had_snn.files import clear_drafts
from had_snn.ops.memory import keep_freed_memory
from had_snn.processes import WorkerDiedError, rank, world_size
from had_snn.train.config import FitConfig, clip_indices
from had_snn.train.guards import NonFiniteLossError
from had_snn.train.logs import RunLogs
from had_snn.train.run import Run

__all__ = ["FitConfig", "NonFiniteLossError", "fit"]

log = logging.getLogger("had_snn")


class ClipSource(Protocol):
    """Anything that yields clip `i` and joins clips into a batch; indices past the length are of later epochs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def collate(self, clips: list[Any]) -> Any: ...


Progress = Callable[[int, int, dict[str, float]], None]
Validate = Callable[[nn.Module], float]


@dataclass(frozen=True)
class _Batches(Dataset[list[Any]]):
    """The batches of iteration `i` in this process."""

    clips: ClipSource
    config: FitConfig
    rank: int
    world: int

    def __getitem__(self, step: int) -> list[Any]:
        wanted = clip_indices(step, self.config, rank=self.rank, world=self.world)
        return [self.clips.collate([self.clips[i] for i in indices]) for indices in wanted]


def _batches(clips: ClipSource, config: FitConfig, start: int) -> Iterator[list[Any]]:
    """Batches of iteration `start` onwards, the next ones prepared by threads or processes while a step runs."""
    batches = _Batches(clips, config, rank(), world_size())
    if config.loader_processes:
        # Forked, so that recordings stay mapped once; the children never touch a GPU.
        yield from DataLoader(
            batches,
            batch_size=None,
            sampler=range(start, config.iterations),
            collate_fn=list,
            num_workers=config.loader_processes,
            multiprocessing_context="fork",
            generator=torch.Generator(),  # the task's own draws come from the global one
        )
        return
    with ThreadPoolExecutor(max_workers=config.loader_threads) as pool:
        ahead = 2 + config.loader_threads
        waiting = [pool.submit(batches.__getitem__, n) for n in range(start, min(start + ahead, config.iterations))]
        try:
            for step in range(start, config.iterations):
                if step + ahead < config.iterations:
                    waiting.append(pool.submit(batches.__getitem__, step + ahead))
                yield waiting.pop(0).result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def fit(
    task: nn.Module,
    clips: ClipSource,
    config: FitConfig,
    *,
    run_dir: Path | str,
    accelerator: str = "cpu",
    devices: int | str = 1,
    num_nodes: int = 1,
    resume: bool = True,
    progress: Progress | None = None,
    validate: Validate | None = None,
    loggers: dict[str, dict[str, Any]] | None = None,
) -> nn.Module:
    """Trains a task.

    Args:
        task: Module whose `forward(batch)` returns named losses with a `total`. A task with a method `pieces(batch)`
            gets a forward and backward pass for each of them instead, weighted by their `share`.
        clips: Source of clips, deterministic in the index.
        config: Plain numbers.
        run_dir: Folder for `losses.csv`, `layers.csv`, TensorBoard events and the resumable checkpoint.
        accelerator: Fabric's accelerator: `cpu`, `cuda`, `auto`.
        devices: Devices on this machine, `auto` under `torchrun` or Slurm; more than one trains with DDP.
        num_nodes: Machines.
        resume: Go on from the checkpoint in `run_dir` when there is one.
        progress: Called as `progress(iteration, iterations, means)` at every log line, on the first process.
        validate: Scores the averaged task (higher is better; called in every process, must return the same there).
            The weights with the best score are returned.
        loggers: Further logs by name (`wandb`, `mlflow`) with their options.

    Returns:
        The task with averaged weights, in evaluation mode.

    Raises:
        NonFiniteLossError: If the loss is not finite; the batch lies in `run_dir/bad_batch.pt`.
        CheckpointError: If a checkpoint is there but cannot be read.
        WorkerDiedError: If a process that prepares batches was ended.
    """
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    several = devices != 1 or num_nodes > 1
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        precision=config.precision,  # pyright: ignore
        # Alignment modules rest on the steps without distillation, missing modalities leave their stems alone.
        strategy="ddp_find_unused_parameters_true" if several else "auto",
    )
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    run = Run(task, config, folder, fabric)
    if rank() == 0:
        clear_drafts(folder)
    if resume and run.state_path.is_file():
        run.restore()
    logs = RunLogs(folder, loggers or {}, resume_step=run.done) if rank() == 0 else None
    try:
        _train(run, clips, logs, progress, validate)
    except (RuntimeError, ConnectionError, EOFError) as error:  # wherever the run is when a process ends
        cut_off = bool(config.loader_processes) and not isinstance(error, RuntimeError)
        if not cut_off and not str(error).startswith("DataLoader worker (pid"):
            raise
        raise WorkerDiedError(
            f"a process that prepares batches was ended, as a rule by lack of memory ({error}); the same command "
            "goes on from the last checkpoint, and fit.loader_processes=0 prepares them by threads"
        ) from error
    finally:
        if logs is not None:
            _close(logs)
    if run.best:
        run.average.module.load_state_dict(run.best["weights"])
    return run.average.module


def _close(logs: RunLogs) -> None:
    """Closes them without being told of ended processes meanwhile: torch's handler raises wherever the run is."""
    if threading.current_thread() is not threading.main_thread():
        logs.close()
        return
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        logs.close()
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _train(
    run: Run, clips: ClipSource, logs: RunLogs | None, progress: Progress | None, validate: Validate | None
) -> None:
    """The steps that are left, with what belongs between them."""
    config = run.config
    if config.patience and run.stale >= config.patience:
        return
    run.module.train()
    began, begun_at = time.perf_counter(), run.done
    for batches in _batches(clips, config, run.done):
        rate_now = run.learning_rate()
        run.step(batches)
        last = run.done == config.iterations
        if logs is not None and (run.done % config.log_every == 0 or last):
            seconds = time.perf_counter() - began
            seen = (run.done - begun_at) * config.batch_size * config.accumulate * world_size()
            means = run.lines.take() | {"learning_rate": rate_now, "clips_per_second": seen / seconds}
            logs.line(run.done, means)
            if progress is not None:
                progress(run.done, config.iterations, means)
        ends_epoch, stop = run.ends_epoch(len(clips)), False
        if ends_epoch:
            run.report_layers(logs)
        due = run.done % config.validate_every == 0 if config.validate_every else ends_epoch
        if validate is not None and (due or last):
            stop = run.validate(validate, logs)
            run.module.train()
        if config.checkpoint_every and (run.done % config.checkpoint_every == 0 or last or stop):
            run.save()
        if stop:
            log.info("stopped at iteration %d: %d validations without a better score", run.done, run.stale)
            return
