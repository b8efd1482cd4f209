"""Progress on a terminal (rich bars with rate and time left) or, without one, a log line now and then."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger("had_snn")


class Bar:
    """One stage's progress.

    Args:
        title: Name of the stage.
        bars: The shared rich display, or None to log instead.
        unit: What is counted.
    """

    def __init__(self, title: str, bars: Progress | None, *, unit: str) -> None:
        self.title, self.bars, self.unit = title, bars, unit
        self.task = bars.add_task(title, total=None, note="") if bars is not None else None
        self.began = self.said = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Reports `done` of `total`, with a short note such as the loss."""
        now = time.monotonic()
        rate = done / max(1e-9, now - self.began)
        note = f"{rate:.1f} {self.unit}/s  {note}"
        if self.bars is not None and self.task is not None:
            self.bars.update(self.task, completed=done, total=total, note=note)
        elif now - self.said > 10 or done == total:
            left = (total - done) / max(rate, 1e-9)
            log.info("%s: %d/%d, %s, %.0f s left", self.title, done, total, note, left)
            self.said = now


@contextmanager
def progress(title: str, *, unit: str = "it") -> Iterator[Bar]:
    """Shows one bar while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Bar(title, None, unit=unit)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bars:
        yield Bar(title, bars, unit=unit)
