"""One training run: everything that changes while it goes, a step of it, and how it is saved and restored."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from had_snn.errors import CheckpointError, first_line
from had_snn.files import atomic_file
from had_snn.processes import rank, share_batch_norm, unshard, world_size
from had_snn.train.averaging import WeightAverage, learning_rate_at, parameter_groups
from had_snn.train.config import FitConfig
from had_snn.train.guards import layer_report, require_finite, warning_of
from had_snn.train.logs import Means, RunLogs

log = logging.getLogger("had_snn")

#: Numbers that may change when a run is gone on with: more steps, and when what is written and prepared.
FREE_NUMBERS = frozenset(("iterations", "log_every", "checkpoint_every", "loader_threads", "loader_processes"))


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


class Run:
    """One call of `fit`: everything that changes while it goes, and how it is saved."""

    def __init__(self, task: nn.Module, config: FitConfig, folder: Path, fabric: Any) -> None:
        self.task, self.config, self.folder, self.fabric = task, config, folder, fabric
        self.optimizer = torch.optim.AdamW(parameter_groups(task, config.weight_decay), lr=config.learning_rate)
        self.average = WeightAverage(task, decay=config.ema_decay)
        if config.sync_norm and world_size() > 1:
            share_batch_norm(task)
        self.module, self.optimizer = fabric.setup(_Unsealing(task), self.optimizer)
        self.average.module.to(fabric.device)
        self.done, self.stale = 0, 0
        self.lines, self.epoch = Means(), Means()
        self.best: dict[str, Any] = {}
        self.state_path = folder / "resume.pt"

    def state(self) -> dict[str, Any]:
        """What `restore` needs; collective, as every process has random numbers and half a log line of its own."""
        own = [torch.get_rng_state(), dataclasses.asdict(self.lines), dataclasses.asdict(self.epoch)]
        if self.fabric.device.type == "cuda":
            own.append(torch.cuda.get_rng_state(self.fabric.device))
        return {
            "iteration": self.done,
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.module.state_dict(),
            "updates": self.average.updates,
            "processes": unshard([own]),
            "stale": self.stale,
            "best": self.best,
            "config": dataclasses.asdict(self.config),
            "scaler": self.fabric.strategy.precision.state_dict(),
        }

    def save(self) -> None:
        """Writes a checkpoint that appears whole or not at all."""
        state = self.state()
        if rank() == 0:
            try:
                with atomic_file(self.state_path) as temporary:
                    torch.save(state, temporary)
            except (OSError, RuntimeError) as error:
                free = shutil.disk_usage(self.folder).free >> 20
                raise CheckpointError(
                    f"{self.state_path}: cannot be written at iteration {self.done}, {free} MB are free ({error}); the "
                    "checkpoint before is whole, the same command goes on from it"
                ) from error

    def restore(self) -> None:
        """Goes on from the checkpoint in the run folder."""
        try:
            state = torch.load(self.state_path, weights_only=True, map_location="cpu")
            self._require_same_numbers(state["config"], int(state["iteration"]))
            self.task.load_state_dict(state["task"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.module.load_state_dict(state["average"])
            self.average.updates = int(state["updates"])
            self.done, self.stale, self.best = int(state["iteration"]), int(state["stale"]), state["best"]
            processes, scaler = state["processes"], state["scaler"]
            if len(processes) != world_size():
                raise CheckpointError(
                    f"{self.state_path}: was made by {len(processes)} processes and this run has {world_size()}; "
                    "resume with as many, or start anew in another folder"
                )
            own = processes[rank()]
            torch.set_rng_state(own[0])
            self.lines, self.epoch = Means(**own[1]), Means(**own[2])
            if len(own) > 3:
                torch.cuda.set_rng_state(own[3], self.fabric.device)
            if scaler:
                self.fabric.strategy.precision.load_state_dict(scaler)
        except CheckpointError:
            raise
        except pickle.UnpicklingError as error:  # which advises to load whatever is in it, and run it
            raise CheckpointError(
                f"{self.state_path}: damaged, or with more in it than tensors and plain numbers, which is never loaded"
            ) from error
        except Exception as error:
            raise CheckpointError(f"{self.state_path}: cannot resume from it ({first_line(error)})") from error
        log.info("resuming at iteration %d from %s", self.done, self.state_path)

    def _require_same_numbers(self, before: dict[str, Any], done: int) -> None:
        """Refuses to go on with numbers that make another run; says which others have changed."""
        now = dataclasses.asdict(self.config)
        changed = {name: (before[name], value) for name, value in now.items() if before.get(name, value) != value}
        shaping = {name: pair for name, pair in changed.items() if name not in FREE_NUMBERS}
        if now["iterations"] < max(done, before.get("iterations", 0)):
            shaping["iterations"] = changed["iterations"]
        if shaping:
            told = ", ".join(f"{name}={old} (now {new})" for name, (old, new) in shaping.items())
            raise CheckpointError(
                f"{self.state_path}: was made with {told}; go on with the same numbers, or start anew in another folder"
            )
        for name, (old, new) in changed.items():
            log.warning("resuming with %s=%s, the checkpoint was made with %s", name, new, old)

    def step(self, batches: list[Any]) -> None:
        """One optimiser step."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        pieces = [(piece, batch) for batch in batches for piece in _pieces(self.task, batch.to(self.fabric.device))]
        for number, (piece, batch) in enumerate(pieces):
            rng = torch.get_rng_state()
            share = getattr(piece, "share", 1.0) / config.accumulate
            with self.fabric.no_backward_sync(self.module, enabled=number + 1 < len(pieces)):  # pyright: ignore
                losses = self.module(_Sealed(piece))
                path = self.folder / (f"bad_batch.{rank()}.pt" if world_size() > 1 else "bad_batch.pt")
                require_finite(losses, batch, self.task, path, iteration=self.done + 1, rng=rng)
                self.fabric.backward(losses["total"] * share if share != 1.0 else losses["total"])
            # In one piece: on a GPU each number read alone would wait for all work before it.
            read = torch.stack([value.detach().float() for value in losses.values()]).tolist()
            values = dict(zip(losses, read, strict=True))
            self.lines.add(values, weight=share)
            self.epoch.add(values, weight=share)
        # With float16 the first steps overflow until the scaler has found its scale; it leaves them out by itself.
        strict = getattr(self.fabric.strategy.precision, "scaler", None) is None
        self.fabric.clip_gradients(
            self.module, self.optimizer, max_norm=config.gradient_clip, error_if_nonfinite=strict
        )
        self.optimizer.step()
        self.average.update(self.task)
        self.done += 1

    def learning_rate(self) -> float:
        """Of the next step."""
        return learning_rate_at(self.done, self.config)

    def ends_epoch(self, clips: int) -> bool:
        """Whether the last step was the last one of an epoch of so many clips, or of the run."""
        per_step = self.config.batch_size * self.config.accumulate * world_size()
        epochs = [done * per_step // clips for done in (self.done - 1, self.done)]
        return epochs[0] != epochs[1] or self.done == self.config.iterations

    def report_layers(self, logs: RunLogs | None) -> None:
        """Says at the end of an epoch which layers are dead or saturated, and keeps all their rates."""
        means = self.epoch.take()
        report = layer_report(means)
        if not report or logs is None:
            return
        logs.layers(self.done, report)
        warning = warning_of(means)
        if warning:
            log.warning("iteration %d: spike rates over the last epoch: %s", self.done, warning)

    def validate(self, validate: Callable[[nn.Module], float], logs: RunLogs | None) -> bool:
        """Scores the averaged weights and keeps the best; whether training should stop."""
        score = float(validate(self.average.module))
        if logs is not None:
            logs.validation(self.done, score)
        if not self.best or score > self.best["score"]:
            weights = {name: value.detach().clone() for name, value in self.average.module.state_dict().items()}
            self.best = {"score": score, "iteration": self.done, "weights": weights}
            self.stale = 0
        else:
            self.stale += 1
        log.info("iteration %d: validation %.2f (best %.2f)", self.done, score, self.best["score"])
        return 0 < self.config.patience <= self.stale


def _pieces(task: nn.Module, batch: Any) -> list[Any]:
    """The parts of a batch with a backward pass each; most tasks have one."""
    cut = getattr(task, "pieces", None)
    return [batch] if cut is None else list(cut(batch))
