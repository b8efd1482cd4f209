"""What making a released network shares, whichever it is: scores for its card, and its place in the package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from had_snn.checkpoint import RELEASED
from had_snn.commands.progress import progress
from had_snn.data.sequence import TrackingSequence
from had_snn.evaluate.one_pass import Tracker, evaluate_tracker
from had_snn.files import atomic_file


def scored(name: str, tracker: Tracker, chosen: Sequence[TrackingSequence], **options: Any) -> dict[str, Any]:
    """Scores of a tracker, SR with its 95 % interval over the sequences.

    Args:
        name: What progress is told of.
        tracker: The tracker.
        chosen: Where it is tested.
        **options: Of `evaluate_tracker`.
    """
    with progress(f"test {name}", unit="sequences") as bar:
        result = evaluate_tracker(tracker, chosen, progress=bar, **options)
    scores: dict[str, Any] = {key: round(float(value), 2) for key, value in result.scores.items()}
    return scores | {"SR_95": [round(value, 2) for value in result.summary.intervals["SR"]]}


def trained_on(weights: Path) -> dict[str, Any]:
    """Where and with which versions weights were trained, by the card beside them."""
    made = json.loads(weights.with_suffix(".json").read_text())
    return {name: made.get(name) for name in ("device", "versions")}


def install(weights: Path) -> None:
    """Puts weights and their card where `load_student` and `load_teacher` know them by name."""
    for file in (weights, weights.with_suffix(".json")):
        with atomic_file(RELEASED / file.name) as temporary:
            shutil.copyfile(file, temporary)


def tell(weights: Path, *, installed: bool) -> None:
    """Prints the scores of a card and where the weights are."""
    for name, scores in json.loads(weights.with_suffix(".json").read_text())["figures"].items():
        if isinstance(scores, dict):
            print(f"{name:<12} SR {scores['SR']:.1f}  PR {scores['PR']:.1f}  NPR {scores['NPR']:.1f}")
    print(f"wrote {weights}" + (f" and {RELEASED / weights.name}" if installed else ""))
