"""What all data set folders have in common: finding sequences, planning each, opening it lazily, checking the whole.

A layout finds its sequences (`Entry`), and for each makes a `Plan`: boxes, flags, times, pictures and all that is
wrong, without reading any events. Opening a sequence and checking a data set use the same plan, so what is checked is
what is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from had_snn.data.folder_report import CheckReport, Problem, SplitCount, worst_first
from had_snn.data.labels import has_area, read_flags, share_of_contradictions
from had_snn.data.layout_plan import Entry, LayoutOptions, Plan, Unusable
from had_snn.data.lazy import LazyEvents, LazyFrames, LazyList, RecordingPool
from had_snn.data.sequence import FrameSource, TrackingSequence
from had_snn.errors import FormatError, HadError, InputError
from had_snn.geometry import check_box
from had_snn.recordings.cache import open_cached
from had_snn.recordings.recording import Recording

ALL = "all"
Progress = Callable[[int, int], None]


class Layout:
    """The base of all layouts.

    Args:
        root: The data set's folder.
        options: What is stated about it.

    Raises:
        FormatError: If there is no such folder.
    """

    name = ""
    published: ClassVar[dict[str, int]] = {}

    def __init__(self, root: str | os.PathLike[str], options: LayoutOptions | None = None) -> None:
        self.root = Path(root)
        self.options = options or LayoutOptions()
        self.pool = RecordingPool()
        if not self.root.is_dir():
            kind = "not a folder" if self.root.exists() else "no such folder"
            raise FormatError(self.root, kind, remedy="data.root=FOLDER names the data set's folder")

    # What a layout must say.

    def find(self) -> tuple[list[Entry], list[Problem]]:
        """The sequences on disk, and what is wrong with the data set as a whole."""
        raise NotImplementedError

    def fill(self, plan: Plan) -> None:
        """Fills in a plan; may end with `plan.fail`."""
        raise NotImplementedError

    def read_options(self, plan: Plan) -> dict[str, Any]:
        """How the sequence's event file is to be read."""
        return dict(self.options.read)

    def look_deeper(self, plan: Plan, recording: Recording) -> None:
        """Checks that need the events or the recording's pictures."""

    # What all share.

    @cached_property
    def _found(self) -> tuple[list[Entry], list[Problem]]:
        return self.find()

    @property
    def entries(self) -> list[Entry]:
        """The sequences on disk, also those that are left out."""
        return self._found[0]

    @property
    def splits(self) -> list[str]:
        """Names of the splits, `all` included."""
        names = [*self.published, *(s for entry in self.entries for s in entry.splits)]
        return [*dict.fromkeys(names), ALL]

    def entries_of(self, split: str) -> list[Entry]:
        """The sequences of a split that are to be used."""
        return [e for e in self.entries if e.left_out is None and (split == ALL or split in e.splits)]

    def plan(self, entry: Entry) -> Plan:
        """Everything about a sequence but its events."""
        plan = Plan(entry)
        try:
            self.fill(plan)
            self._check_times(plan)
            self._check_boxes(plan)
        except Unusable:
            pass
        except HadError as error:
            plan.note("error", "unreadable", str(error))
        return plan

    def _check_times(self, plan: Plan) -> None:
        times = plan.label_times_us
        if len(plan.boxes_xywh) == 0:
            plan.fail("no_labels", "no label is left")
        if isinstance(times, np.ndarray) and (np.diff(times) <= 0).any():
            at = int(np.flatnonzero(np.diff(times) <= 0)[0])
            span = f"{int(times[at])} us, then {int(times[at + 1])} us"
            plan.fail("times", f"label times do not increase: label {at + 1} comes at {span}")
        if not (plan.visible & has_area(plan.boxes_xywh)).any():
            remedy = "data.skip_damaged=true leaves it out"
            plan.fail("no_target", "no label shows a visible target with an area", remedy=remedy)

    def _check_boxes(self, plan: Plan) -> None:
        """Names visible targets whose box cannot be, by row; a sequence whose first one cannot be is not usable."""
        boxes, visible = plan.boxes_xywh, plan.visible
        senseless = np.flatnonzero(visible & ~np.isfinite(boxes).all(1))
        if len(senseless):
            what = f"{len(senseless)} visible boxes are not finite, the first in row {senseless[0] + 1}"
            plan.note("warning", "box_not_finite", what, remedy="they are left out; mark them absent, or write 0,0,0,0")
        sensor_hw: tuple[int, int] | None = self.read_options(plan).get("sensor_hw") or plan.sensor_hw
        if sensor_hw is None:
            return
        height, width = sensor_hw
        first = int(np.flatnonzero(visible & has_area(boxes))[0])
        try:
            check_box(boxes[first], sensor_hw)
        except InputError as error:
            remedy = "trackers start there: correct it, or mark it absent"
            plan.fail("box_outside", f"row {first + 1} of the labels: {error}", remedy=remedy)
        high = boxes[:, :2] + boxes[:, 2:]
        off = (boxes[:, 0] >= width) | (boxes[:, 1] >= height) | (high <= 0).any(1)
        rows = np.flatnonzero(visible & has_area(boxes) & off)
        if len(rows):
            shown = ",".join(f"{v:g}" for v in boxes[rows[0]])
            what = f"{len(rows)} visible boxes lie outside the {width}x{height} sensor, the first in row {rows[0] + 1}"
            plan.note("warning", "box_outside", f"{what}: {shown}", remedy="used as they are; correct or mark absent")

    def visible_flags(self, plan: Plan, path: Path) -> np.ndarray:
        """Flags `[L]` from a file in which `absent_value` says absent; contradictions with the boxes are noted."""
        boxes, area = plan.boxes_xywh, has_area(plan.boxes_xywh)
        if not path.is_file():
            what = "boxes without an area count as absent"
            plan.note("warning", "missing_flags", f"{path.name} is missing", remedy=what, path=path)
            return area
        visible = read_flags(path) != self.options.absent_value
        difference = len(visible) - len(boxes)
        if abs(difference) > self.options.length_tolerance:
            plan.fail(
                "flags_length",
                f"{path.name} has {len(visible)} rows for {len(boxes)} boxes",
                path=path,
                remedy="get the file again, or data.length_tolerance=N uses the common start",
            )
        if difference:
            what = f"{path.name} has {len(visible)} rows for {len(boxes)} boxes"
            plan.note("warning", "flags_length", what, remedy="boxes decide where flags are missing", path=path)
            visible = np.concatenate([visible, area[len(visible) :]])[: len(boxes)]
        share = share_of_contradictions(visible, boxes)
        if share > 0.5:
            plan.fail(
                "flags_swapped",
                f"{path.name} contradicts {share:.0%} of the boxes: its 0 and 1 are swapped",
                path=path,
                remedy=f"data.absent_value={1 - self.options.absent_value} reads it the other way round",
            )
        if share:
            count = int((visible != area).sum())
            plan.note("note", "flags_and_boxes", f"{count} flags contradict their boxes", remedy="flags are kept")
        if not visible[0]:
            plan.note("note", "starts_absent", "the target is absent at first", remedy="trackers start when it appears")
        return visible

    def recording_of(self, plan: Plan) -> Recording:
        """The opened recording of a sequence."""
        return self.pool.get(*self._opener(plan))

    def _opener(self, plan: Plan) -> tuple[str, Callable[[], Recording]]:
        assert plan.recording is not None
        keep = plan.own_frames is not None
        opener = partial(open_cached, plan.recording, self.options.cache_dir, frames=keep, **self.read_options(plan))
        return str(plan.recording), opener

    def open(self, entry: Entry) -> TrackingSequence:
        """Opens a sequence; its events and pictures are read when they are used.

        Raises:
            FormatError: If it is damaged; the message says what to do.
        """
        plan = self.plan(entry)
        if plan.broken is not None:
            lists = f"had-snn check-data data={self.name} data.root={self.root} lists every fault"
            skips = "data.skip_damaged=true leaves damaged sequences out"
            remedy = "; ".join(text for text in (plan.broken.remedy, lists, skips) if text)
            raise FormatError(plan.broken.path, f"{entry.name}: {plan.broken.message}", remedy=remedy)
        return self.sequence(plan)

    def sequence(self, plan: Plan) -> TrackingSequence:
        """The sequence that a plan without errors describes."""
        key, opener = self._opener(plan)
        times = plan.label_times_us
        if not isinstance(times, np.ndarray):
            times = times(self.recording_of(plan))
        frames: FrameSource | None = plan.pictures
        if frames is None and plan.own_frames is not None:
            frames = LazyFrames(self.pool, key, opener, plan.own_frames)
        return TrackingSequence(
            name=plan.entry.name,
            events=LazyEvents(self.pool, key, opener),
            label_times_us=times,
            boxes_xywh=plan.boxes_xywh,
            visible=plan.visible,
            frames=frames,
            frame_times_us=plan.picture_times_us if frames is not None else None,
        )

    def sequences(self, split: str, *, progress: Progress | None = None) -> Sequence[TrackingSequence]:
        """The sequences of a split, each opened when it is asked for.

        Args:
            split: One of `splits`.
            progress: With `skip_damaged`, called with (sequences looked at, sequences in all).

        Raises:
            InputError: If there is no such split, or it holds no usable sequence.
        """
        if split not in self.splits:
            raise InputError(f"{self.name} in {self.root} has no split {split!r}; it has {', '.join(self.splits)}")
        entries = self.entries_of(split)
        if self.options.skip_damaged:
            kept = []
            for done, entry in enumerate(entries, start=1):
                if self.plan(entry).broken is None:
                    kept.append(entry)
                if progress is not None:
                    progress(done, len(entries))
            entries = kept
        if not entries:
            command = f"had-snn check-data data={self.name} data.root={self.root}"
            raise InputError(f"{self.name} in {self.root}: split {split} holds no usable sequence ({command} says why)")
        return LazyList([partial(self.open, entry) for entry in entries])

    def check(self, *, deep: bool = False, progress: Progress | None = None) -> CheckReport:
        """Looks at every sequence.

        Args:
            deep: Read every event file to its end as well, and compare pictures with the recording's own.
            progress: Called with (sequences done, sequences in all).
        """
        entries, problems = list(self.entries), list(self._found[1])
        good = set()
        for done, entry in enumerate(entries, start=1):
            if entry.left_out is not None:
                problems.append(entry.left_out)
            else:
                plan = self.plan(entry)
                if deep and plan.broken is None:
                    self._check_deep(plan)
                problems += plan.problems
                if plan.broken is None:
                    good.add(entry)
            if progress is not None:
                progress(done, len(entries))
        counts = []
        for split in self.splits:
            members = [e for e in entries if split == ALL or split in e.splits]
            usable = sum(e in good for e in members)
            counts.append(SplitCount(split, self.published.get(split), len(members), usable))
        return CheckReport(self.name, str(self.root), deep, tuple(counts), worst_first(problems))

    def _check_deep(self, plan: Plan) -> None:
        try:
            recording = self.recording_of(plan)
            events, times = recording.events, plan.label_times_us
            for repair in recording.info.get("repairs", ()):
                code = "unsorted" if "back in time" in repair else "repaired"
                plan.note("warning", code, f"events: {repair}", path=plan.recording)
            times = times if isinstance(times, np.ndarray) else times(recording)
            plan.label_times_us = times
            self._check_times(plan)
            seen = len(events.slice_time(int(times[0]), int(times[-1])))
            if seen == 0:
                span = f"labels {int(times[0])} to {int(times[-1])} us, events {events.t_start} to {events.t_end} us"
                plan.fail("no_events", f"no event between the first and the last label ({span})", path=plan.recording)
            self.look_deeper(plan, recording)
        except Unusable:
            pass
        except HadError as error:
            plan.note("error", "unreadable", str(error), path=plan.recording)
