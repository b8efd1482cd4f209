"""How a trained student bears other event rates, micro-steps and windows than it was trained with.

    python -m experiments.studies robustness checkpoint=tiny limit=50

Nothing is trained again: the student's time constants are physical times, so it only decays in other steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.record import write_record
from had_snn.checkpoint import load_student
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import open_run
from had_snn.commands.sources import sequences
from had_snn.data.sequence import TrackingSequence
from had_snn.evaluate.one_pass import evaluate_tracker
from had_snn.events.rate import scale_rate
from had_snn.files import atomic_file
from had_snn.models import SpikingTracker
from had_snn.tracking import OnlineTracker


def with_rate(chosen: Sequence[TrackingSequence], factor: float) -> list[TrackingSequence]:
    """The sequences at another event rate; the draws depend on the sequence's place alone."""
    return [replace(s, events=scale_rate(s.events, factor, seed=i)) for i, s in enumerate(chosen)]


def with_numbers(student: SpikingTracker, **numbers: Any) -> SpikingTracker:
    """The student run with other numbers; weights are shared."""
    student.config = replace(student.config, **numbers)
    return student


def variants(cfg: DictConfig, chosen: Sequence[TrackingSequence]) -> Iterator[tuple]:
    """Every (axis, value) of the table with the student and the sequences to run it on; the plain run first."""

    def student(**numbers: Any) -> SpikingTracker:
        return with_numbers(load_student(cfg.checkpoint), **numbers)

    yield "as_trained", None, student(), chosen
    for factor in cfg.rates:
        yield "rate", float(factor), student(), with_rate(chosen, float(factor))
    for steps in cfg.steps:
        yield "steps", int(steps), load_student(cfg.checkpoint, n_steps=int(steps)), chosen
    for window_ms in cfg.windows_ms:
        yield "window_ms", float(window_ms), student(window_us=round(1000 * float(window_ms))), chosen


def run(cfg: DictConfig) -> dict[str, Any]:
    """Evaluates every variant and writes `robustness.json` and `robustness.md` into the run folder."""
    chosen = sequences(cfg.data, cfg.split, limit=cfg.limit)
    load_student(cfg.checkpoint)  # a wrong name ends here, before a folder is made
    folder = open_run(cfg)
    rows: list[dict[str, Any]] = []
    for axis, value, student, streams in variants(cfg, chosen):
        tracker = OnlineTracker(student)
        with progress(f"{axis} {value}" if value is not None else axis, unit="sequences") as bar:
            result = evaluate_tracker(tracker, streams, protocol=cfg.protocol, resamples=0, progress=bar)
        rows.append({"axis": axis, "value": value, **{key: result.scores[key] for key in ("SR", "PR", "NPR")}})
        rows[-1]["change"] = rows[-1]["SR"] - rows[0]["SR"]
    record = {"protocol": cfg.protocol, "sequences": len(chosen), "rows": rows}
    write_record(folder / "robustness.json", record)
    with atomic_file(folder / "robustness.md") as temporary:
        temporary.write_text(table(rows))
    return record


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| what | value | SR | PR | NPR | SR change |", "|---|---|---|---|---|---|"]
    for row in rows:
        value = "" if row["value"] is None else f"{row['value']:g}"
        scores = " | ".join(f"{row[key]:.1f}" for key in ("SR", "PR", "NPR"))
        lines.append(f"| {row['axis']} | {value} | {scores} | {row['change']:+.1f} |")
    return "\n".join(lines) + "\n"


def main(cfg: DictConfig) -> None:
    print(table(run(cfg)["rows"]), end="")
    print(f"wrote {Path(cfg.out) / 'robustness.json'}")
