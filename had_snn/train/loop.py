"""The training loop, on Lightning Fabric: one function, `fit`.

Steps are counted in iterations. Clip `i` of a run depends on the seed and `i` alone, so a run that is killed and
resumed sees the same batches as one that is not; with optimiser, averages and random state restored, the losses are
the same to the bit on one device.
"""

from __future__ import annotations

import copy
import csv
import logging
import math
import time
from collections.abc import Callable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from had_snn.atomic import atomic_file
from had_snn.errors import CheckpointError, HadError

log = logging.getLogger("had_snn")


class NonFiniteLossError(HadError):
    """The loss became infinite or NaN; the batch was saved for inspection."""


class ClipSource(Sized, Protocol):
    """Anything that yields clip `i` and joins clips into a batch."""

    def __getitem__(self, index: int) -> Any: ...

    def collate(self, clips: list[Any]) -> Any: ...


@dataclass(frozen=True)
class FitConfig:
    """Plain numbers of a training run.

    Attributes:
        iterations: Optimiser steps.
        batch_size: Clips per step.
        learning_rate: Peak of the schedule.
        weight_decay: Decoupled decay of matrices and kernels (not of norms, biases and time constants).
        warmup: Iterations of linear warm-up, after which the rate follows a cosine to zero.
        gradient_clip: Largest norm of the gradient.
        ema_decay: Decay of the averaged weights, which are what is returned; the average warms up.
        precision: Fabric's precision, e.g. `32-true`, `bf16-mixed`.
        seed: Seed of initial draws inside the loop.
        log_every: Iterations between lines of `losses.csv`.
        checkpoint_every: Iterations between resumable checkpoints; 0 for none.
    """

    iterations: int
    batch_size: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 20
    gradient_clip: float = 1.0
    ema_decay: float = 0.98
    precision: str = "32-true"
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 0


Progress = Callable[[int, int, dict[str, float]], None]


def parameter_groups(task: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits parameters into decayed ones (two or more dimensions) and the rest."""
    decayed = [p for p in task.parameters() if p.requires_grad and p.ndim >= 2]
    plain = [p for p in task.parameters() if p.requires_grad and p.ndim < 2]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def learning_rate_at(step: int, config: FitConfig) -> float:
    """Linear warm-up, then a half cosine to zero."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.iterations - config.warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


class WeightAverage:
    """Exponential moving average of everything in a module's state, running statistics included.

    Args:
        module: The module that is trained.
        decay: Decay once warmed up; at step `n` it is `min(decay, (1 + n) / (10 + n))`.
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Moves the average towards the module's present state."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mean, value in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value.to(mean.dtype), 1 - decay)
            else:
                mean.copy_(value)


def _batches(clips: ClipSource, config: FitConfig, start: int) -> Iterator[Any]:
    """Batches of iteration `start` onwards, the next ones prepared by a thread while a step runs."""

    def load(step: int) -> Any:
        first = step * config.batch_size
        return clips.collate([clips[i % len(clips)] for i in range(first, first + config.batch_size)])

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = 3
        waiting = [pool.submit(load, step) for step in range(start, min(start + ahead, config.iterations))]
        for step in range(start, config.iterations):
            if step + ahead < config.iterations:
                waiting.append(pool.submit(load, step + ahead))
            yield waiting.pop(0).result()


def _save_state(path: Path, state: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        torch.save(state, temporary)


def _load_state(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:
        raise CheckpointError(f"{path}: cannot resume from it ({error})") from error


class _Sealed:
    """A batch that Fabric passes on as it is: it would walk through dataclasses to convert their tensors, and events
    are integers that no precision may touch."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class _Unsealing(nn.Module):
    """The task, called with a sealed batch."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task = task

    def forward(self, sealed: _Sealed) -> dict[str, Tensor]:
        return self.task(sealed.batch)


class _LossLog:
    """`losses.csv` and TensorBoard events: means since the last line, appended as the run goes."""

    def __init__(self, folder: Path, *, resume_step: int) -> None:
        self.path = folder / "losses.csv"
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.columns: list[str] | None = None
        if resume_step and self.path.exists():
            with self.path.open(newline="") as file:
                rows = list(csv.DictReader(file))
            kept = [row for row in rows if int(row["iteration"]) <= resume_step]
            self.columns = list(rows[0]) if rows else None
            self._rewrite(kept)
        elif self.path.exists():
            self.path.unlink()
        from torch.utils.tensorboard import SummaryWriter  # needs the extra `train`, like this whole file

        self.board = SummaryWriter(str(folder / "tensorboard"))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        if self.columns is None:
            return
        with atomic_file(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def write(self, iteration: int, extra: dict[str, float]) -> dict[str, float]:
        means = {name: value / self.counts[name] for name, value in self.sums.items()} | extra
        self.sums, self.counts = {}, {}
        row = {"iteration": iteration, **means}
        new = self.columns is None
        self.columns = self.columns or list(row)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.columns, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerow({key: f"{value:.9g}" if isinstance(value, float) else value for key, value in row.items()})
        for name, value in means.items():
            self.board.add_scalar(name, value, iteration)
        return means


def fit(
    task: nn.Module,
    clips: ClipSource,
    config: FitConfig,
    *,
    run_dir: Path | str,
    accelerator: str = "cpu",
    devices: int = 1,
    resume: bool = True,
    progress: Progress | None = None,
) -> nn.Module:
    """Trains a task.

    Args:
        task: Module whose `forward(batch)` returns named losses with a `total`.
        clips: Source of clips, deterministic in the index.
        config: Plain numbers.
        run_dir: Folder for `losses.csv`, TensorBoard events and the resumable checkpoint.
        accelerator: Fabric's accelerator.
        devices: Devices; more than one under `torchrun`.
        resume: Go on from the checkpoint in `run_dir` when there is one.
        progress: Called as `progress(iteration, iterations, means)` at every log line.

    Returns:
        The task with averaged weights, in evaluation mode.

    Raises:
        NonFiniteLossError: If the loss is not finite; the batch lies in `run_dir/bad_batch.pt`.
        CheckpointError: If a checkpoint is there but cannot be read.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    fabric = Fabric(accelerator=accelerator, devices=devices, precision=config.precision)  # pyright: ignore
    fabric.launch()
    torch.manual_seed(config.seed)
    optimizer = torch.optim.AdamW(parameter_groups(task, config.weight_decay), lr=config.learning_rate)
    average = WeightAverage(task, decay=config.ema_decay)
    module, optimizer = fabric.setup(_Unsealing(task), optimizer)
    state_path = run_dir / "resume.pt"
    start = 0
    if resume and state_path.is_file():
        state = _load_state(state_path)
        start = int(state["iteration"])
        task.load_state_dict(state["task"])
        optimizer.load_state_dict(state["optimizer"])
        average.module.load_state_dict(state["average"])
        average.updates = int(state["updates"])
        torch.set_rng_state(state["rng"])
        log.info("resuming at iteration %d from %s", start, state_path)
    losses_log = _LossLog(run_dir, resume_step=start)
    module.train()
    began, begun_at = time.perf_counter(), start
    for step, batch in enumerate(_batches(clips, config, start), start=start):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, config)
        losses = module(_Sealed(batch.to(fabric.device)))
        _require_finite(losses["total"], batch, run_dir, step)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(losses["total"])
        fabric.clip_gradients(module, optimizer, max_norm=config.gradient_clip)
        optimizer.step()
        average.update(task)
        losses_log.add({name: float(value.detach()) for name, value in losses.items()})
        done = step + 1
        if done % config.log_every == 0 or done == config.iterations:
            rate = (done - begun_at) * config.batch_size / (time.perf_counter() - began)
            extra = {"learning_rate": learning_rate_at(step, config), "clips_per_second": rate}
            means = losses_log.write(done, extra)
            if progress is not None:
                progress(done, config.iterations, means)
        if config.checkpoint_every and (done % config.checkpoint_every == 0 or done == config.iterations):
            _save_state(
                state_path,
                {
                    "iteration": done,
                    "task": task.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.module.state_dict(),
                    "updates": average.updates,
                    "rng": torch.get_rng_state(),
                },
            )
    losses_log.board.close()
    return average.module


def _require_finite(total: Tensor, batch: Any, run_dir: Path, step: int) -> None:
    if torch.isfinite(total).item():
        return
    path = run_dir / "bad_batch.pt"
    with atomic_file(path) as temporary:
        torch.save(batch, temporary)
    raise NonFiniteLossError(
        f"loss is {float(total.detach())} at iteration {step + 1}; the batch was saved to {path}; "
        "lower the learning rate (fit.learning_rate) or the gradient clip (fit.gradient_clip)"
    )
