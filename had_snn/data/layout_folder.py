"""Recordings of one's own: `[train|val|test/]NAME/` holds one recording of any format and `boxes.csv`.

`boxes.csv` has a header and a row for each label: `t_us` (the recording's own microseconds) or `t_s` (seconds from the
first event), `x`, `y`, `w`, `h`, and `visible` (1 or 0) if it is known; other columns are ignored, so what
`had-snn track` writes can be corrected and used. Without a time, row `i` belongs to the recording's frame `i`.
A column `object` with several names makes a sequence `NAME-OBJECT` of each. Lines that start with `#` are comments.
Pictures come from the recording, or from `frames/` with `frame_times.txt` (end of each exposure, microseconds).
Recordings directly below the root form the split `all` alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from had_snn.data.folder_report import Problem, folder_names, listed
from had_snn.data.labels import has_area, is_time, object_names, read_columns, read_rows
from had_snn.data.layout_base import Layout
from had_snn.data.layout_plan import Entry, Plan
from had_snn.data.pictures import Pictures
from had_snn.recordings.recording import Recording

SPLITS = ("train", "val", "test")
SUFFIXES = (
    ".aedat4",
    ".aedat",
    ".raw",
    ".dat",
    ".es",
    ".bin",
    ".h5",
    ".hdf5",
    ".npz",
    ".npy",
    ".mat",
    ".bag",
    ".db3",
    ".mcap",
    ".csv",
    ".txt",
)
LABELS = "boxes.csv"
_BESIDE = (LABELS, "frame_times.txt", "readme.txt")


class Folder(Layout):
    """One folder for each recording."""

    name = "folder"

    def find(self) -> tuple[list[Entry], list[Problem]]:
        problems: list[Problem] = []
        names = folder_names(self.root)
        below = [s for s in SPLITS if s in names]
        places = [((split,), self.root / split) for split in below] or [((), self.root)]
        if below and set(names) - set(below):
            extra = listed(sorted(set(names) - set(below)))
            message = f"beside {', '.join(below)} there are {extra}"
            problems.append(Problem("extra_folder", "left_out", message, "they are not used", path=str(self.root)))
        entries = []
        for splits, place in places:
            for name in folder_names(place):
                folder, left_out = place / name, None
                if not (folder / LABELS).is_file() and not self._recordings(folder):
                    message = f"{name} holds neither {LABELS} nor a recording"
                    left_out = Problem("extra_folder", "left_out", message, "it is not used", name, str(folder))
                names_in = [] if left_out else object_names(folder / LABELS)
                if len(names_in) > 1:
                    entries += [Entry(f"{name}-{one}", splits, folder, target=one) for one in names_in]
                else:
                    entries.append(Entry(name, () if left_out else splits, folder, left_out))
        if not any(entry.left_out is None for entry in entries):
            message, remedy = "no folder with a recording", f"each needs a folder with it and {LABELS}"
            problems.append(Problem("no_split_folder", "error", message, remedy, path=str(self.root)))
        return entries, problems

    @staticmethod
    def _recordings(folder: Path) -> list[Path]:
        files = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        bags = (p for p in sorted(folder.iterdir()) if p.is_dir() and (p / "metadata.yaml").is_file())
        return [*(p for p in files if p.name.lower() not in _BESIDE), *bags]

    def fill(self, plan: Plan) -> None:
        folder = plan.entry.folder
        found = self._recordings(folder)
        if len(found) != 1:
            code = "several_recordings" if found else "missing_recording"
            names = listed([p.name for p in found]) or "none"
            plan.fail(code, f"expected one recording, found {names}", remedy="keep exactly one in the folder")
        plan.recording = found[0]
        columns = read_columns(plan.need(folder / LABELS, "missing_labels"), plan.entry.target)
        if plan.entry.target is not None and not {"t_us", "t_s"} & {*columns}:
            plan.fail("times", f"{LABELS} has several objects and no times", remedy="give each row its t_us")
        plan.boxes_xywh = np.stack([columns[name] for name in "xywh"], axis=1)
        plan.visible = has_area(plan.boxes_xywh)
        if "visible" in columns:
            plan.visible = columns["visible"] != 0
            empty = plan.visible & ~has_area(plan.boxes_xywh) & np.isfinite(plan.boxes_xywh).all(axis=1)
            if empty.any():
                row = int(np.flatnonzero(empty)[0]) + 1
                what = f"{empty.sum()} visible boxes have no area, the first in row {row}"
                plan.note("note", "flags_and_boxes", what, remedy="flags are kept; mark them absent, or correct them")
        pictures = Pictures.in_folder(folder / "frames")
        if len(pictures):
            times = read_rows(plan.need(folder / "frame_times.txt", "missing_times"), 1).ravel()
            if not is_time(times).all():
                row = int(np.flatnonzero(~is_time(times))[0]) + 1
                plan.fail("times", f"frame_times.txt: row {row} is {times[row - 1]:g}; expected a time")
            if len(times) != len(pictures):
                plan.fail("length", f"{len(pictures)} pictures but {len(times)} frame times")
            plan.pictures, plan.picture_times_us = pictures, times.astype(np.int64)
        else:
            plan.own_frames = np.empty(0, np.int64)  # which ones there are is known when it has been opened
        self._from_recording(plan, columns)

    def _from_recording(self, plan: Plan, columns: dict[str, np.ndarray]) -> None:
        """What only the recording can say: its frames, its sensor, and where its clock begins."""
        recording = self.recording_of(plan)
        if plan.pictures is None and recording.frames is not None and len(recording.frames):
            plan.own_frames, plan.picture_times_us = np.arange(len(recording.frames)), recording.frames.end_us
        elif plan.pictures is None:
            plan.own_frames = None
        if recording.info.get("sensor") != "inferred":  # from the events: a box may lie where there are none
            plan.sensor_hw = recording.events.sensor_hw
        if "t_us" in columns:
            plan.label_times_us = np.rint(columns["t_us"]).astype(np.int64)
        elif "t_s" in columns:
            plan.label_times_us = recording.events.t_start + np.rint(columns["t_s"] * 1e6).astype(np.int64)
        else:
            plan.label_times_us = frame_times(plan)

    def look_deeper(self, plan: Plan, recording: Recording) -> None:
        """Finds labels that lie outside the recording, as with times of another clock."""
        times, events = plan.label_times_us, recording.events
        assert isinstance(times, np.ndarray)
        outside = int(((times < events.t_start) | (times > events.t_end + 1_000_000)).sum())
        if outside:
            span = f"{events.t_start} to {events.t_end} us"
            plan.note("warning", "times", f"{outside} labels lie outside the recording, {span}", path=plan.recording)


def frame_times(plan: Plan) -> np.ndarray:
    """Times of labels without times: those of the frames, one for each."""
    rows, ends = len(plan.boxes_xywh), plan.picture_times_us
    ends = np.empty(0, np.int64) if ends is None else ends
    if len(ends) != rows:
        code = "labels_short" if rows < len(ends) else "labels_long"
        remedy = "give each row its t_us, or one row to each frame"
        plan.fail(code, f"{rows} labels without times for {len(ends)} frames", remedy=remedy)
    return ends
