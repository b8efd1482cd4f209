"""The records that layouts work with: options, sequences found on disk, and what is known about each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from had_snn.data.folder_report import Problem, folder_names, listed
from had_snn.data.pictures import Pictures
from had_snn.recordings.recording import Recording


@dataclass(frozen=True)
class LayoutOptions:
    """What a user may state about a data set.

    Attributes:
        cache_dir: Where decoded recordings are kept; `$HAD_SNN_CACHE`, else `~/.cache/had_snn`, if None.
        skip_damaged: Leave damaged sequences out instead of refusing the split.
        absent_value: The value in the file of flags that says the target is absent.
        length_tolerance: By how many rows labels, pictures and frames may differ; the common start is used.
        read: Options for the event files, as `read_events`.
    """

    cache_dir: str | None = None
    skip_damaged: bool = False
    absent_value: int = 0
    length_tolerance: int = 1
    read: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A sequence on disk.

    Attributes:
        name: Its name.
        splits: Those that it belongs to.
        folder: Its folder.
        left_out: Why it is not used, if so.
        target: Which of several objects in its label file it follows; None where there is one.
    """

    name: str
    splits: tuple[str, ...]
    folder: Path
    left_out: Problem | None = None
    target: str | None = None


class Unusable(Exception):
    """Ends the planning of a sequence whose error has been noted."""


@dataclass
class Plan:
    """Everything about a sequence but its events.

    Attributes:
        entry: The sequence.
        recording: Its event file.
        boxes_xywh: float64 `[L, 4]`.
        visible: bool `[L]`.
        sensor_hw: Height and width, where they are stated or the recording says them.
        label_times_us: int64 `[L]`, or a function that finds them from the opened recording.
        pictures: Picture files, or None if there are none.
        own_frames: Numbers of the recording's frames that are used instead, or None.
        picture_times_us: int64, end of each picture's exposure.
        picture_frames: int64, number of the recording's frame that each picture is a copy of.
        first_frame: Number of the recording's frame that label 0 belongs to, where labels follow frames.
        problems: What is wrong.
    """

    entry: Entry
    recording: Path | None = None
    boxes_xywh: np.ndarray = field(default_factory=lambda: np.empty((0, 4)))
    visible: np.ndarray = field(default_factory=lambda: np.empty(0, bool))
    sensor_hw: tuple[int, int] | None = None
    label_times_us: np.ndarray | Callable[[Recording], np.ndarray] = field(default_factory=lambda: np.empty(0, int))
    pictures: Pictures | None = None
    own_frames: np.ndarray | None = None
    picture_times_us: np.ndarray | None = None
    picture_frames: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    first_frame: int = 0
    problems: list[Problem] = field(default_factory=list)

    def note(self, severity: str, code: str, message: str, *, remedy: str = "", path: Path | None = None) -> None:
        """Adds a problem."""
        where = str(path or self.entry.folder)
        self.problems.append(Problem(code, severity, message, remedy, self.entry.name, where))

    def fail(self, code: str, message: str, *, remedy: str = "", path: Path | None = None) -> NoReturn:
        """Adds an error and ends the planning."""
        self.note("error", code, message, remedy=remedy, path=path)
        raise Unusable

    def need(self, path: Path, code: str) -> Path:
        """The path, or the end of the planning if there is no such file."""
        if not path.is_file():
            self.fail(code, f"{path.name} is missing", remedy="get the file again", path=path)
        return path

    def cut(self, rows: int) -> None:
        """Keeps the first so many labels."""
        self.boxes_xywh, self.visible = self.boxes_xywh[:rows], self.visible[:rows]

    @property
    def broken(self) -> Problem | None:
        """The first error."""
        return next((p for p in self.problems if p.severity == "error"), None)


def split_entries(
    root: Path, names: dict[str, tuple[str, ...]], left_out: Callable[[str, Path], Problem | None]
) -> tuple[list[Entry], list[Problem]]:
    """The sequences of a data set with a folder for each split, and what is wrong with it as a whole.

    Args:
        root: The data set's folder.
        names: For each split, the names that its folder goes by.
        left_out: Why the sequence of a name and a folder is not used, if so.
    """
    places, problems = split_folders(root, names)
    entries: list[Entry] = []
    seen: dict[str, str] = {}
    for split, place in places.items():
        for name in folder_names(place):
            folder = place / name
            if name in seen:
                message, remedy = f"in {seen[name]} and in {split}", "training on test data; remove one"
                problems.append(Problem("twice", "error", message, remedy, name, str(folder)))
            seen[name] = split
            extra = left_out(name, folder)
            entries.append(Entry(name, () if extra else (split,), folder, extra))
    return entries, problems


def split_folders(root: Path, names: dict[str, tuple[str, ...]]) -> tuple[dict[str, Path], list[Problem]]:
    """Where the splits are.

    Args:
        root: The data set's folder.
        names: For each split, the names that its folder goes by.

    Returns:
        The folders found, and a problem if there is none.
    """
    found = {
        split: root / name for split, known in names.items() for name in known if (root / name).is_dir()
    }  # the first known name that exists would do; public copies have one of them
    if found:
        return found, []
    expected = ", ".join(known[0] for known in names.values())
    there = listed(folder_names(root)) or "nothing"
    problem = Problem(
        "no_split_folder",
        "error",
        f"none of the folders {expected}; found {there}",
        "rename the folders, or give the folder above as data.root",
        path=str(root),
    )
    return {}, [problem]
