"""FE108 and FE240hz: `[train|test/]NAME/{img/0001.jpg, events.aedat4, groundtruth_rect.txt}` and `pair.txt`.

`pair.txt` gives, for each sequence, the number (from 0) of the recording's frame that is `img/0001`. Splits are the
published lists, wherever a sequence lies. There are no flags: a box without an area is an absent target. FE108 has a
label for each picture; FE240hz has 240 labels a second, 6 for each picture (12, 16 or 24 where pictures are rarer).
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from had_snn.data.folder_report import Problem, folder_names, listed
from had_snn.data.layout_frames import FrameLayout
from had_snn.data.layout_plan import Entry, Plan
from had_snn.errors import FormatError

PUBLISHED = Path(__file__).parent / "published"


def published_rows(name: str) -> list[list[str]]:
    """Rows of a published list."""
    lines = (PUBLISHED / name).read_text().splitlines()
    return [line.split(",") for line in lines if not line.startswith("#")]


class FE108(FrameLayout):
    """FE108: 76 sequences for training, 32 for testing."""

    name = "fe108"
    published: ClassVar[dict[str, int]] = {"train": 76, "test": 32}
    labels_name = "groundtruth_rect.txt"
    rates = (1,)
    first_number = 1

    @cached_property
    def split_of(self) -> dict[str, str]:
        """Published split of each sequence."""
        return {row[0]: row[-1] for row in published_rows("fe108.txt")}

    @cached_property
    def published_starts(self) -> dict[str, int]:
        """Published number of the frame that is `img/0001`."""
        return {row[0]: int(row[1]) for row in published_rows("fe108.txt")}

    @cached_property
    def pair_file(self) -> Path | None:
        """`pair.txt`, beside the sequences or above them."""
        places = [self.root / "pair.txt", *(self.root / s / "pair.txt" for s in ("train", "test"))]
        return next((p for p in places if p.is_file()), None)

    @cached_property
    def pairs(self) -> dict[str, int]:
        """What `pair.txt` says."""
        if self.pair_file is None:
            return {}
        found = {}
        for number, line in enumerate(self.pair_file.read_text().splitlines(), start=1):
            words = re.split(r"[,\s]+", line.strip())
            if words == [""]:
                continue
            if len(words) != 2 or not words[1].isdigit():
                raise FormatError(self.pair_file, f"line {number} is {line[:60]!r}; expected a name and a frame number")
            found[words[0]] = int(words[1])
        return found

    def find(self) -> tuple[list[Entry], list[Problem]]:
        entries, problems, seen = [], [], {}
        if self.pair_file is None:
            message, remedy = "pair.txt is missing", "published frame numbers are used for FE108's own sequences"
            problems.append(Problem("missing_pair", "warning", message, remedy, path=str(self.root / "pair.txt")))
        below = {s: self.root / s for s in ("train", "test") if (self.root / s).is_dir()}
        for place, folder in [*below.items()] or [("", self.root)]:
            for name in folder_names(folder):
                path = folder / name
                split = self.split_of.get(name) or self.split_of.get(re.sub(r"_\d+$", "", name))
                if split is None:
                    message = f"{name} is not in the published list of {self.name}"
                    extra = Problem("extra_folder", "left_out", message, "it is not used", name, str(path))
                    entries.append(Entry(name, (), path, extra))
                    continue
                if name in seen:
                    message = f"also in {seen[name]}"
                    twice = Problem("twice", "left_out", message, "remove one of the copies", name, str(path))
                    entries.append(Entry(name, (), path, twice))
                    continue
                seen[name] = path
                if place and place != split:
                    message, remedy = f"lies in {place}, published for {split}", "the published split is used"
                    problems.append(Problem("wrong_split", "warning", message, remedy, name, str(path)))
                entries.append(Entry(name, (split,), path))
        missing = sorted(n for n in self.split_of if n not in seen)
        if missing and seen:
            message = f"{len(missing)} published sequences are not here: {listed(missing)}"
            problems.append(Problem("incomplete", "note", message, path=str(self.root)))
        if not seen:
            there = listed(folder_names(self.root)) or "nothing"
            message = f"no sequence of {self.name} here or in train, test; found {there}"
            remedy = "data.root names the folder that holds train and test, or the sequences"
            problems.append(Problem("no_split_folder", "error", message, remedy, path=str(self.root)))
        return entries, problems

    def picture_folder(self, plan: Plan) -> Path:
        return plan.entry.folder / "img"

    def find_recording(self, plan: Plan) -> Path:
        return plan.need(plan.entry.folder / "events.aedat4", "missing_recording")

    def first_frame(self, plan: Plan, number: int) -> int:
        name = plan.entry.name
        stated, published = self.pairs.get(name), self.published_starts.get(name)
        if stated is None and published is None:
            remedy = f"add a line '{name} N', N the number from 0 of the recording's frame that is img/0001"
            path = self.pair_file or self.root / "pair.txt"
            plan.fail("missing_pair", "no frame number for it in pair.txt", path=path, remedy=remedy)
        if stated is not None and published is not None and stated != published:
            message = f"pair.txt says frame {stated}, published is {published}"
            plan.note("warning", "pair_differs", message, remedy="pair.txt is used", path=self.pair_file)
        first = stated if stated is not None else published
        assert first is not None
        return first


class FE240hz(FE108):
    """FE240hz: 71 sequences for training, 25 for testing, 240 labels a second."""

    name = "fe240hz"
    published: ClassVar[dict[str, int]] = {"train": 71, "test": 25}
    rates = (6, 12, 16, 24)

    @cached_property
    def split_of(self) -> dict[str, str]:
        return {row[0]: row[-1] for row in published_rows("fe240hz.txt")}

    @cached_property
    def published_starts(self) -> dict[str, int]:
        return {}
