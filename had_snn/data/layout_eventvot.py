"""EventVOT: `train|val|test/NAME/{NAME.csv, groundtruth.txt, absent.txt, img/0000.png}`, 1280x720, events only.

Each recording is cut into 500 equal slices of time, whatever its length; label `i` belongs to slice `i` and its time is
the slice's end. Labels usually are 499: the last slice has none. The pictures in `img` show events, not light, so they
are counted but not used. Some CSV files are not sorted by time; their events are sorted, and the slices are those of
the sorted recording.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from had_snn.data.folder_report import Problem
from had_snn.data.labels import read_boxes
from had_snn.data.layout_base import Layout
from had_snn.data.layout_plan import Entry, Plan, split_entries
from had_snn.data.pictures import Pictures
from had_snn.errors import FormatError
from had_snn.recordings.recording import Recording

SLICES = 500
SENSOR_HW = (720, 1280)


class EventVOT(Layout):
    """EventVOT: 841 sequences for training, 18 for validation, 282 for testing."""

    name = "eventvot"
    published: ClassVar[dict[str, int]] = {"train": 841, "val": 18, "test": 282}
    folders: ClassVar[dict[str, tuple[str, ...]]] = {
        "train": ("train", "train_subset", "training_subset"),
        "val": ("val", "validating_subset", "validation"),
        "test": ("test", "test_subset", "testing_subset"),
    }

    def find(self) -> tuple[list[Entry], list[Problem]]:
        def left_out(name: str, folder: Path) -> Problem | None:
            if any((folder / part).exists() for part in (f"{name}.csv", "groundtruth.txt", "img")):
                return None
            return Problem("extra_folder", "left_out", f"{name} is no sequence", "it is not used", name, str(folder))

        return split_entries(self.root, self.folders, left_out)

    def fill(self, plan: Plan) -> None:
        folder, name = plan.entry.folder, plan.entry.name
        plan.recording = folder / f"{name}.csv"
        if not plan.recording.is_file():
            remedy = "the download with event images alone does not do; get the one with raw events"
            plan.fail("missing_recording", f"{name}.csv is missing", remedy=remedy, path=plan.recording)
        plan.boxes_xywh = read_boxes(plan.need(folder / "groundtruth.txt", "missing_labels"))
        plan.visible = self.visible_flags(plan, folder / "absent.txt")
        pictures = len(Pictures.in_folder(folder / "img"))
        labels, tolerance = len(plan.boxes_xywh), self.options.length_tolerance
        most = min(SLICES, pictures + tolerance) if pictures else SLICES
        if labels > most:
            plan.fail(
                "labels_long", f"{labels} labels for {pictures or SLICES} slices", path=folder / "groundtruth.txt"
            )
        if labels < (pictures or SLICES - 1) - tolerance:
            plan.fail(
                "labels_short",
                f"{labels} labels for {pictures or SLICES - 1} slices",
                path=folder / "groundtruth.txt",
                remedy="get groundtruth.txt again, or data.length_tolerance=N uses the labels there are",
            )
        plan.label_times_us = partial(slice_ends, labels)

    def read_options(self, plan: Plan) -> dict[str, Any]:
        return {"sensor_hw": SENSOR_HW, "repair": True, **self.options.read}

    def look_deeper(self, plan: Plan, recording: Recording) -> None:
        """Says where the columns of a file were read in another order than the data set's."""
        columns = recording.info.get("columns")
        if columns and columns != "xypt":
            message = f"columns are {columns}; EventVOT's are xypt"
            plan.note("warning", "columns", message, remedy="data.read.columns=xypt forces them", path=plan.recording)


def slice_ends(count: int, recording: Recording) -> np.ndarray:
    """Ends of the first `count` of 500 equal slices between the first and the last event, int64 `[count]`.

    Raises:
        FormatError: If the recording is too short to be cut.
    """
    t = recording.events.t
    if len(t) == 0 or int(t[-1]) - int(t[0]) < SLICES:
        raise FormatError(recording.events.source, f"too short to be cut into {SLICES} slices")
    first, last = int(t[0]), int(t[-1])
    return first + (last - first) * (np.arange(count, dtype=np.int64) + 1) // SLICES
