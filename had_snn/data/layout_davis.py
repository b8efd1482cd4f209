"""VisEvent and COESOT: DAVIS346 recordings cut into sequences, with pictures, boxes and flags.

A picture's number is the number (from 0) of the recording's frame that it is a copy of; the authors' scripts wrote
them so. Events between the recording's frames belong to the label at the end of the later exposure.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from had_snn.data.folder_report import Problem
from had_snn.data.labels import read_rows
from had_snn.data.layout_fe108 import PUBLISHED
from had_snn.data.layout_frames import FrameLayout
from had_snn.data.layout_plan import Entry, Plan, split_entries


class _DavisLayout(FrameLayout):
    folders: ClassVar[dict[str, tuple[str, ...]]] = {}

    def find(self) -> tuple[list[Entry], list[Problem]]:
        entries, problems = split_entries(self.root, self.folders, self._left_out)
        return [replace(e, splits=self.splits_of(e.name, e.splits[0])) if e.splits else e for e in entries], problems

    def _left_out(self, name: str, folder: Path) -> Problem | None:
        if not any(_holds(folder, kind) for kind in ("*.txt", "*.aedat4", "*/*")):
            return Problem("extra_folder", "left_out", f"{name} is no sequence", "it is not used", name, str(folder))
        return None

    def splits_of(self, name: str, split: str) -> tuple[str, ...]:
        """Splits of a sequence that lies in the folder of `split`."""
        return (split,)

    def first_frame(self, plan: Plan, number: int) -> int:
        return number


class COESOT(_DavisLayout):
    """COESOT: `train|test/NAME/{NAME_aps/frame0000.png, NAME.aedat4, groundtruth.txt, absent.txt,
    start_end_index.txt}`.

    Labels cover the whole recording, one for each picture. `start_end_index.txt` gives the first and the last row
    (from 1) with a target: in 516 of the 528 public test sequences exactly those that the flags say, in 12 a wider
    range. In the 50 whose range is not as long as the labels, the rows outside it are absent.
    """

    name = "coesot"
    published: ClassVar[dict[str, int]] = {"train": 827, "test": 527}
    folders: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": ("train", "training_subset", "train_subset"),
        "test": ("test", "testing_subset", "test_subset"),
    }
    flags_name = "absent.txt"
    extra = "dvSave-2022_03_21_11_09_50"

    def _left_out(self, name: str, folder: Path) -> Problem | None:
        if name == self.extra:
            message, remedy = "the 528th test sequence", "the authors say to leave it out; results are over 527"
            return Problem("published_extra", "left_out", message, remedy, name, str(folder))
        return super()._left_out(name, folder)

    def picture_folder(self, plan: Plan) -> Path:
        return plan.entry.folder / f"{plan.entry.name}_aps"

    def find_recording(self, plan: Plan) -> Path:
        return plan.need(plan.entry.folder / f"{plan.entry.name}.aedat4", "missing_recording")

    def fill(self, plan: Plan) -> None:
        super().fill(plan)
        path = plan.entry.folder / "start_end_index.txt"
        if not path.is_file():
            plan.note("note", "missing_range", f"{path.name} is missing", remedy="flags decide", path=path)
            return
        check_range(plan, path)


def check_range(plan: Plan, path: Path) -> None:
    """Compares the labels with the first and last row that hold a target, counted from 1."""
    rows = read_rows(path).ravel()
    labels = len(plan.boxes_xywh)
    if len(rows) != 2 or not 1 <= rows[0] <= rows[1]:
        plan.fail("range", f"{path.name} holds {rows.tolist()}; expected the first and the last row", path=path)
    first, last = int(rows[0]), int(rows[1])
    if last > labels:
        plan.fail(
            "labels_short",
            f"the target is there until row {last}, but there are {labels} labels",
            path=path,
            remedy="get groundtruth.txt again",
        )
    outside = int(plan.visible[: first - 1].sum() + plan.visible[last:].sum())
    if outside:
        message = f"{outside} labels outside rows {first} to {last} are flagged visible"
        plan.note("warning", "range", message, remedy="flags are kept", path=path)
    elif last - first + 1 < labels:
        message = f"target in rows {first} to {last} of {labels}"
        plan.note("note", "range", message, remedy="rows outside are absent; all rows count", path=path)


class VisEvent(_DavisLayout):
    """VisEvent: `train_subset|test_subset/NAME/{vis_imgs/frame0000.bmp, groundtruth.txt, absent_label.txt}`, and an
    AEDAT4 file in some of the sequences, sometimes one for several. Pictures need not begin at number 0.

    `event_test` is the published list of 172 test sequences that event-only papers use.
    """

    name = "visevent"
    published: ClassVar[dict[str, int]] = {"train": 500, "test": 320, "event_test": 172}
    folders: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": ("train_subset", "train", "training_subset"),
        "test": ("test_subset", "test", "testing_subset"),
    }
    flags_name = "absent_label.txt"
    first_number = None

    def splits_of(self, name: str, split: str) -> tuple[str, ...]:
        lines = (PUBLISHED / "visevent_event_test.txt").read_text().splitlines()
        return (split, "event_test") if split == "test" and name in lines else (split,)

    def _left_out(self, name: str, folder: Path) -> Problem | None:
        extra = super()._left_out(name, folder)
        if extra is None and not self._recordings(name, folder):
            message, remedy = "no AEDAT4 file, here or shared", "published so for part of the sequences; not used"
            return Problem("missing_recording", "left_out", message, remedy, name, str(folder))
        return extra

    def _recordings(self, name: str, folder: Path) -> list[Path]:
        """The recordings that may be the sequence's: in its folder, or beside it under the name it was cut from."""
        own = sorted(folder.glob("*.aedat4"))
        if own:
            exact = [p for p in own if p.stem == name]
            return exact or own
        beside = [p for place in (folder.parent, self.root) for p in place.glob("*.aedat4")]
        shared = [p for p in beside if re.match(rf"{re.escape(p.stem)}(_|$)", name)]
        return sorted(shared, key=lambda p: -len(p.stem))[:1]

    def picture_folder(self, plan: Plan) -> Path:
        return plan.entry.folder / "vis_imgs"

    def find_recording(self, plan: Plan) -> Path:
        found = self._recordings(plan.entry.name, plan.entry.folder)
        if not found:
            plan.fail("missing_recording", "no AEDAT4 file")
        if len(found) > 1:
            names = ", ".join(p.name for p in found)
            plan.fail(
                "several_recordings",
                f"several AEDAT4 files, none of the sequence's name: {names}",
                remedy=f"name the right one {plan.entry.name}.aedat4",
            )
        return found[0]


def _holds(folder: Path, pattern: str) -> bool:
    return next(folder.glob(pattern), None) is not None
