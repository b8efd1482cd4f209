"""ESOT500, low (-L, 346x260 with RGB) and high resolution (-H, 1280x720, events only).

`aedat4/NAME.aedat4`, `anno_t/NAME.txt` (time in seconds from the first event, x, y, w, h, 500 a second) and lists of
names: `train.txt`, `test.txt` and others, each a split of its own. A box without an area is an absent target.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from had_snn.data.folder_report import Problem, listed
from had_snn.data.labels import has_area, is_time, read_names, read_rows
from had_snn.data.layout_base import Layout
from had_snn.data.layout_frames import cached_index
from had_snn.data.layout_plan import Entry, Plan


class ESOT500(Layout):
    """ESOT500-L or -H, wherever `root` points to."""

    name = "esot500"

    def find(self) -> tuple[list[Entry], list[Problem]]:
        problems: list[Problem] = []
        lists = {p.stem: read_names(p) for p in sorted(self.root.glob("*.txt"))}
        names = sorted(
            {
                p.stem
                for place, kind in (("aedat4", "*.aedat4"), ("anno_t", "*.txt"))
                for p in (self.root / place).glob(kind)
            }
        )
        if not (self.root / "anno_t").is_dir() or not (self.root / "aedat4").is_dir():
            there = listed(sorted(p.name for p in self.root.iterdir())) or "nothing"
            message, remedy = f"no folders aedat4 and anno_t; found {there}", "data.root names the folder above them"
            problems.append(Problem("no_split_folder", "error", message, remedy, path=str(self.root)))
        for wanted in ("train", "test"):
            if wanted not in lists:
                message, remedy = f"{wanted}.txt is missing", "get the list again; split=all uses every sequence"
                problems.append(
                    Problem("missing_list", "error", message, remedy, path=str(self.root / f"{wanted}.txt"))
                )
        both = sorted(set(lists.get("train", [])) & set(lists.get("test", [])))
        if both:
            message = f"in train.txt and in test.txt: {listed(both)}"
            problems.append(Problem("twice", "error", message, "training on test data; get the lists again"))
        entries = []
        for name in sorted({*names, *(n for listed_names in lists.values() for n in listed_names)}):
            splits = tuple(split for split, members in lists.items() if name in members)
            extra = None
            if not splits and lists:
                message = f"{name} is in no list"
                extra = Problem("extra_folder", "left_out", message, "it is not used", name, str(self.root))
            entries.append(Entry(name, splits, self.root, extra))
        return entries, problems

    def fill(self, plan: Plan) -> None:
        name = plan.entry.name
        plan.recording = plan.need(self.root / "aedat4" / f"{name}.aedat4", "missing_recording")
        labels = self._labels(plan, plan.need(self.root / "anno_t" / f"{name}.txt", "missing_labels"))
        index = cached_index(plan.recording, self.options.cache_dir, repair=bool(self.options.read.get("repair")))
        if index.first_event_us is None:
            plan.fail("no_events", "the recording holds no events", path=plan.recording)
        plan.sensor_hw = index.sensor_hw
        plan.label_times_us = index.first_event_us + np.rint(labels[:, 0] * 1e6).astype(np.int64)
        plan.boxes_xywh = labels[:, 1:]
        plan.visible = has_area(plan.boxes_xywh)
        if len(index):
            plan.own_frames, plan.picture_times_us = np.arange(len(index)), index.end_us

    def _labels(self, plan: Plan, path: Path) -> np.ndarray:
        labels = read_rows(path, 5)
        wrong = np.flatnonzero(~is_time(labels[:, 0], tick_us=1e6))
        if len(wrong):
            plan.fail("times", f"row {wrong[0] + 1} is at {labels[wrong[0], 0]:g} s; expected a time", path=path)
        steps = np.diff(labels[:, 0])
        if len(steps) and np.median(steps) > 1:
            plan.fail("times", f"labels are {np.median(steps):g} s apart; expected seconds", path=path)
        period = float(np.median(steps)) if len(steps) else 0.0
        holes = int((steps > 1.5 * period).sum())
        if holes:
            plan.note("warning", "label_gap", f"{holes} gaps between label times", remedy="labels keep their times")
        return labels

    def look_deeper(self, plan: Plan, recording) -> None:
        """Compares the span of the labels with the recording's."""
        assert isinstance(plan.label_times_us, np.ndarray)
        first, last, end = int(plan.label_times_us[0]), int(plan.label_times_us[-1]), recording.events.t_end
        if last - end > 100_000:
            message = f"labels go on for {(last - end) / 1e6:.2f} s after the last event"
            plan.fail("recording_short", message, path=plan.recording)
        if end - last > max(100_000, (end - first) // 10):
            message = f"labels end {(end - last) / 1e6:.2f} s before the recording"
            path = self.root / "anno_t" / f"{plan.entry.name}.txt"
            plan.note("warning", "labels_short", message, remedy="the labels there are are used", path=path)
