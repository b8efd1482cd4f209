"""The page of an evaluation: scores, curves, attributes, every sequence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from had_snn.commands.run_folder import versions
from had_snn.evaluate.report import Card, Metric, ReportData, Text, write_report
from had_snn.evaluate.report_sections import attributes_section, curves_section, run_section, scores_section
from had_snn.evaluate.report_sequences import sequences_section
from had_snn.evaluate.results import EvaluationResult


def write(
    path: Path,
    evaluations: Sequence[EvaluationResult],
    sequences: Sequence[Any],
    *,
    subtitle: str,
    config: str,
    notes: Sequence[str],
    limit: int,
) -> Path:
    """Writes the page.

    Args:
        path: The file.
        evaluations: One per tracker, under one protocol and on the same sequences.
        sequences: Those sequences.
        subtitle: What was evaluated.
        config: The run's options as text.
        notes: What a reader must know, such as baselines that could not run.
        limit: Sequences that are shown with pictures.

    Returns:
        The path.
    """
    cards = [
        Card(f"{e.tracker} SR", Metric(e.scores["SR"], f"{e.tracker}.SR", 1, e.summary.intervals.get("SR")))
        for e in evaluations[:4]
    ]
    scores = scores_section(evaluations)
    sections = [
        type(scores)(scores.title, [*scores.blocks, *(Text(note) for note in notes)], scores.intro),
        curves_section(evaluations),
        attributes_section(evaluations),
        sequences_section(evaluations, sequences, limit=limit),
        run_section(versions=versions(), config=config),
    ]
    data = ReportData(
        "HAD-SNN evaluation", subtitle=subtitle, protocol=evaluations[0].protocol, cards=cards, sections=sections
    )
    return write_report(path, data)
