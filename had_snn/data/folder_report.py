"""What was found when a data set's folders were looked at: problems with their remedy, and whether it can be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

#: `error`: the sequence cannot be used. `left_out`: it is not meant to be used.
#: `warning`: it is used as the remedy says. `note`: worth knowing.
SEVERITIES = ("error", "left_out", "warning", "note")


@dataclass(frozen=True)
class Problem:
    """One thing that is not as the data set's layout says.

    Attributes:
        code: Kind of the problem, e.g. `missing_recording`; the same word for every data set.
        severity: One of `SEVERITIES`.
        message: What was found and what was expected.
        remedy: What to do, or what the loader does.
        sequence: Name of the sequence; empty for the data set as a whole.
        path: The file or folder.
    """

    code: str
    severity: str
    message: str
    remedy: str = ""
    sequence: str = ""
    path: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


@dataclass(frozen=True)
class SplitCount:
    """Sequences of one split: as published (None if that is not known), found on disk, usable."""

    split: str
    published: int | None
    found: int
    usable: int


@dataclass(frozen=True)
class CheckReport:
    """The outcome of a check.

    Attributes:
        layout: Name of the layout.
        root: The folder that was looked at.
        deep: Whether the event files were read to their end.
        splits: Counts.
        problems: Everything found, worst first.
    """

    layout: str
    root: str
    deep: bool
    splits: tuple[SplitCount, ...]
    problems: tuple[Problem, ...]

    @property
    def usable(self) -> bool:
        """True if there are sequences and none is damaged."""
        return any(s.usable for s in self.splits) and not any(p.severity == "error" for p in self.problems)

    def codes(self, *severities: str) -> set[str]:
        """The kinds of problems found, of all severities or of some."""
        return {p.code for p in self.problems if not severities or p.severity in severities}

    def to_dict(self) -> dict:
        """For JSON."""
        return {"usable": self.usable, **asdict(self)}

    def to_text(self, *, examples: int = 3) -> str:
        """A table of splits, and one paragraph for each kind of problem with its first few sequences."""
        lines = [f"{self.layout} in {self.root}", f"{'split':<14}{'published':>10}{'found':>8}{'usable':>8}"]
        for s in self.splits:
            published = "-" if s.published is None else str(s.published)
            lines.append(f"{s.split:<14}{published:>10}{s.found:>8}{s.usable:>8}")
        kinds = list(dict.fromkeys((p.severity, p.code) for p in self.problems))
        for severity, code in kinds:
            alike = [p for p in self.problems if (p.severity, p.code) == (severity, code)]
            lines.append(f"\n{severity.replace('_', ' ')}: {code} ({len(alike)})")
            for problem in alike[:examples]:
                where = problem.sequence or problem.path
                lines.append(f"  {where + ': ' if where else ''}{problem.message}")
            if len(alike) > examples:
                lines.append(f"  ... and {len(alike) - examples} more")
            if alike[0].remedy:
                lines.append(f"  -> {alike[0].remedy}")
        if not self.deep:
            lines.append("\nEvent files were not read to their end; deep=true does.")
        lines.append("usable" if self.usable else "not usable as it is")
        return "\n".join(lines)


def worst_first(problems: Sequence[Problem]) -> tuple[Problem, ...]:
    """Problems by severity, otherwise in their order."""
    return tuple(sorted(problems, key=lambda p: SEVERITIES.index(p.severity)))


def listed(names: Sequence[str], most: int = 4) -> str:
    """A few of the names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def folder_names(folder: Path) -> list[str]:
    """Names of the visible folders inside a folder."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
