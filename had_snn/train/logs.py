"""Where the numbers of a run go: `losses.csv` and TensorBoard always, Weights & Biases and MLflow when asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from had_snn.errors import InputError, optional_import
from had_snn.files import append_whole, atomic_file


class Sink(Protocol):
    """Takes named numbers of an iteration."""

    def write(self, iteration: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class CsvSink:
    """A CSV file that grows line by line; lines after the iteration that a run resumes from are dropped, torn ones too.

    Args:
        path: The file.
        resume_step: Iteration that the run goes on from; 0 starts a new file.
    """

    def __init__(self, path: Path, *, resume_step: int) -> None:
        self.path = path
        self.columns: list[str] = []
        if resume_step and path.exists():
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                rows = [row for row in reader if None not in row.values() and (row["iteration"] or "").isdigit()]
                self.columns = list(reader.fieldnames or [])
            self._rewrite([row for row in rows if int(row["iteration"]) <= resume_step])
        else:
            path.unlink(missing_ok=True)

    def _rewrite(self, rows: Sequence[dict[str, Any]]) -> None:
        with atomic_file(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, restval="")
            writer.writeheader()
            writer.writerows(rows)

    def write(self, iteration: int, values: dict[str, Any]) -> None:
        """Appends a line; a name that was not there before becomes a column of the whole file."""
        row = {"iteration": iteration, **{k: f"{v:.9g}" if isinstance(v, float) else v for k, v in values.items()}}
        new = [name for name in row if name not in self.columns]
        if new:
            rows: list[dict[str, Any]] = []
            if self.path.exists():
                with self.path.open(newline="") as file:
                    rows = list(csv.DictReader(file))
            self.columns += new
            self._rewrite([*rows, row])
            return
        text = io.StringIO(newline="")
        csv.DictWriter(text, self.columns, restval="").writerow(row)
        append_whole(self.path, text.getvalue())


class TensorBoardSink:
    """TensorBoard events in `folder`."""

    def __init__(self, folder: Path, *, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # needs the extra `train`, like the loop

        # Steps after the purged one that an interrupted run had written are hidden by TensorBoard.
        self.board = SummaryWriter(str(folder), purge_step=resume_step + 1 if resume_step else None)

    def write(self, iteration: int, values: dict[str, float]) -> None:
        """One scalar per name."""
        for name, value in values.items():
            self.board.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Writes out what is still in memory."""
        self.board.close()


class WandbSink:
    """Weights & Biases; the environment chooses account and mode (`WANDB_MODE=offline` needs neither)."""

    def __init__(self, folder: Path, **options: Any) -> None:
        wandb = optional_import("wandb", extra="loggers")
        # The folder's name as the id: a resumed run goes on in the same record.
        self.run = wandb.init(dir=str(folder), id=folder.resolve().name, resume="allow", **options)

    def write(self, iteration: int, values: dict[str, float]) -> None:
        """Logs at the iteration."""
        self.run.log(values, step=iteration)

    def close(self) -> None:
        """Ends the record."""
        self.run.finish()


class MlflowSink:
    """MLflow; `tracking_uri` chooses the server, a file below the run folder when not given."""

    def __init__(self, folder: Path, *, tracking_uri: str | None = None, experiment: str = "had-snn", **options: Any):
        mlflow = optional_import("mlflow", extra="loggers")
        self.client = mlflow.MlflowClient(tracking_uri or f"sqlite:///{folder.resolve() / 'mlflow.db'}")
        found = self.client.get_experiment_by_name(experiment)
        number = found.experiment_id if found is not None else self.client.create_experiment(experiment)
        runs = self.client.search_runs([number], f"tags.folder = '{folder.resolve().name}'")
        if runs:
            self.run_id = runs[0].info.run_id
        else:
            tags = {"folder": folder.resolve().name}
            self.run_id = self.client.create_run(number, tags=tags, **options).info.run_id

    def write(self, iteration: int, values: dict[str, float]) -> None:
        """Logs each name as a metric."""
        for name, value in values.items():
            self.client.log_metric(self.run_id, name, value, step=iteration)

    def close(self) -> None:
        """Marks the run as finished."""
        self.client.set_terminated(self.run_id)


_MORE = {"wandb": WandbSink, "mlflow": MlflowSink}


class RunLogs:
    """All logs of a run, on its first process.

    Args:
        folder: The run folder: `losses.csv`, `validation.csv`, `layers.csv` and `tensorboard/` go there.
        loggers: Further sinks by name (`wandb`, `mlflow`) with their options.
        resume_step: Iteration that the run goes on from.

    Raises:
        InputError: If there is no such logger.
        MissingExtraError: If its package is not installed.
    """

    def __init__(self, folder: Path, loggers: dict[str, dict[str, Any]], *, resume_step: int) -> None:
        unknown = sorted(set(loggers) - set(_MORE))
        if unknown:
            raise InputError(f"no logger {', '.join(unknown)}; there are {', '.join(_MORE)}")
        more: list[Sink] = [_MORE[name](folder, **(options or {})) for name, options in loggers.items()]
        self.losses, self.scores, self.rates = (
            CsvSink(folder / f"{name}.csv", resume_step=resume_step) for name in ("losses", "validation", "layers")
        )
        self.shown: list[Sink] = [TensorBoardSink(folder / "tensorboard", resume_step=resume_step), *more]

    def line(self, iteration: int, means: dict[str, float]) -> None:
        """Means since the last line."""
        self.losses.write(iteration, means)
        self._show(iteration, means)

    def validation(self, iteration: int, score: float) -> None:
        """A score of the averaged weights."""
        self.scores.write(iteration, {"score": score})
        self._show(iteration, {"validation": score})

    def layers(self, iteration: int, report: dict[str, dict[str, Any]]) -> None:
        """Rates of an epoch, one line per layer; see `guards.layer_report`."""
        for layer, entry in report.items():
            self.rates.write(iteration, {"layer": layer, **entry})
        self._show(iteration, {f"epoch_rate/{layer}": entry["rate"] for layer, entry in report.items()})

    def _show(self, iteration: int, values: dict[str, float]) -> None:
        for sink in self.shown:
            sink.write(iteration, values)

    def close(self) -> None:
        """Writes out what is still in memory."""
        for sink in self.shown:
            sink.close()


@dataclass
class Means:
    """Means of named numbers since they were last taken."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, values: dict[str, float], *, weight: float = 1.0) -> None:
        """Adds one observation of each name."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + weight * value
            self.counts[name] = self.counts.get(name, 0.0) + weight

    def take(self) -> dict[str, float]:
        """The means, and starts anew."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means
