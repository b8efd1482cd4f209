"""Data sets whose labels follow the frames of an AEDAT4 recording: FE108, FE240hz, VisEvent, COESOT.

A label belongs to a frame of the DAVIS recording, counted from a first frame that each data set names in its own way.
Its time is the end of that frame's exposure: from then on the picture may be seen, and no later event is needed.
Where there are `r` labels for each picture, those in between are spread evenly over the time to the next frame.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from had_snn.data.folder_report import listed
from had_snn.data.labels import has_area, read_boxes
from had_snn.data.layout_base import Layout
from had_snn.data.layout_plan import Plan
from had_snn.data.pictures import Pictures
from had_snn.errors import FormatError
from had_snn.files import atomic_file
from had_snn.recordings.aedat4_index import Aedat4Index, index_aedat4, read_aedat4_frames
from had_snn.recordings.cache import entry_folder
from had_snn.recordings.recording import Recording

NEIGHBOURS = 30  # frames on either side among which a misplaced picture is looked for


class FrameLayout(Layout):
    """The base of layouts whose labels follow frames."""

    labels_name = "groundtruth.txt"
    flags_name: str | None = None
    rates: tuple[int, ...] = (1,)
    first_number: int | None = 0  # of the picture of label 0; None: of the first picture there is

    def picture_folder(self, plan: Plan) -> Path:
        """Where the sequence's pictures are."""
        raise NotImplementedError

    def find_recording(self, plan: Plan) -> Path:
        """The sequence's AEDAT4 file."""
        raise NotImplementedError

    def first_frame(self, plan: Plan, number: int) -> int:
        """Number, from 0, of the recording's frame that label 0 belongs to, whose picture has the given number."""
        raise NotImplementedError

    def fill(self, plan: Plan) -> None:
        folder = plan.entry.folder
        plan.recording = self.find_recording(plan)
        plan.boxes_xywh = read_boxes(plan.need(folder / self.labels_name, "missing_labels"))
        if self.flags_name is None:
            plan.visible = has_area(plan.boxes_xywh)
        else:
            plan.visible = self.visible_flags(plan, folder / self.flags_name)
        pictures = Pictures.in_folder(self.picture_folder(plan))
        index = cached_index(plan.recording, self.options.cache_dir, repair=bool(self.options.read.get("repair")))
        plan.sensor_hw = index.sensor_hw
        number = self.first_number
        if number is None:
            number = int(pictures.numbers[0]) if len(pictures) else 0
        rate = self._match_pictures(plan, pictures, number)
        plan.first_frame = self.first_frame(plan, number)
        self._set_times(plan, pictures, pictures.numbers - number, index, rate)

    def _match_pictures(self, plan: Plan, pictures: Pictures, number: int) -> int:
        """Labels for each picture, after labels and pictures have been compared."""
        labels, where = len(plan.boxes_xywh), self.picture_folder(plan)
        if len(pictures) == 0 and self.first_number is None:
            remedy = "they say at which of the recording's frames the sequence begins"
            plan.fail("missing_pictures", f"no picture in {where.name}", remedy=remedy, path=where)
        if len(pictures) == 0:
            what = "the recording's own frames are used"
            plan.note("warning", "missing_pictures", f"no picture in {where.name}", remedy=what, path=where)
            return self.rates[0]
        if pictures.numbers[0] < number:
            what = f"the first picture is number {pictures.numbers[0]}, expected {number}"
            plan.fail("picture_numbers", what, path=pictures.paths[0])
        span = int(pictures.numbers[-1]) - number + 1
        if len(pictures) < span:
            gone = np.setdiff1d(np.arange(number, pictures.numbers[-1] + 1), pictures.numbers)
            what = f"{len(gone)} pictures are missing before the last: {listed([str(n) for n in gone])}"
            plan.note("warning", "picture_gap", what, remedy="the picture before is shown instead", path=where)
        rate = min(self.rates, key=lambda r: abs(labels - r * span))
        short = span - -(-labels // rate)
        if abs(short) > self.options.length_tolerance:
            code = "labels_short" if short > 0 else "labels_long"
            plan.fail(
                code,
                f"{labels} labels for {span} pictures",
                path=plan.entry.folder / self.labels_name,
                remedy="get labels and pictures again, or data.length_tolerance=N uses the common start",
            )
        if short:
            what = f"{labels} labels for {span} pictures"
            plan.note("warning", "length", what, remedy="the common start is used", path=where)
            plan.cut(rate * span)
        return rate

    def _set_times(self, plan: Plan, pictures: Pictures, offsets: np.ndarray, index: Aedat4Index, rate: int) -> None:
        first, frames = plan.first_frame, len(index)
        wanted = -(-len(plan.boxes_xywh) // rate)
        beyond = first + wanted - frames
        if first < 0 or beyond > self.options.length_tolerance:
            plan.fail(
                "recording_short",
                f"labels need frames {first} to {first + wanted - 1}; the recording holds {frames}",
                remedy="is this the sequence's own recording, and whole?",
                path=plan.recording,
            )
        if beyond > 0:
            what = f"labels need frame {first + wanted - 1}; the recording holds {frames}"
            plan.note("warning", "length", what, remedy="the common start is used", path=plan.recording)
            wanted -= beyond
            plan.cut(rate * wanted)
        plan.label_times_us = label_times(index.end_us, first, len(plan.boxes_xywh), rate)
        numbers = first + np.arange(wanted)
        if len(pictures):
            kept = int(np.searchsorted(offsets, wanted))
            plan.pictures = Pictures(pictures.paths[:kept], pictures.numbers[:kept].tolist())
            numbers = first + offsets[:kept]
        else:
            plan.own_frames = numbers
        plan.picture_times_us = index.end_us[numbers]
        plan.picture_frames = numbers

    def look_deeper(self, plan: Plan, recording: Recording) -> None:
        """Compares the first and the last picture with the recording's frames around the place they should have."""
        if plan.pictures is None or plan.recording is None or not len(plan.pictures):
            return
        frames = len(cached_index(plan.recording, self.options.cache_dir))
        for position in (0, len(plan.pictures) - 1):
            expected = int(plan.picture_frames[position])
            around = range(max(0, expected - NEIGHBOURS), min(frames, expected + NEIGHBOURS + 1))
            picture, path = plan.pictures[position], plan.pictures.paths[position]
            own = read_aedat4_frames(plan.recording, around)
            if picture.shape != own[0].shape:
                (height, width), (h, w) = picture.shape[:2], own[0].shape[:2]
                message = f"{path.name} is {width}x{height}, the recording's frames are {w}x{h}"
                plan.fail("picture_size", message, path=path)
            off = [float(np.abs(picture.mean(2) - frame.mean(2)).mean()) for frame in own]
            best, here = int(np.argmin(off)), off[expected - around.start]
            if _alike(picture, own[best]) < 0.5:
                message = f"{path.name} is not among the recording's frames {around.start} to {around.stop - 1}"
                remedy = "is this the sequence's own recording?"
                plan.fail("foreign_recording", message, path=plan.recording, remedy=remedy)
            if here > 1.2 * off[best] + 0.1:  # a copy differs from its own frame by JPEG's losses at most
                plan.fail(
                    "misaligned",
                    f"{path.name} is frame {around[best]} of the recording, expected {expected}",
                    path=path,
                    remedy="labels would be at the wrong times; correct the first frame's number",
                )


def label_times(end_us: np.ndarray, first: int, count: int, rate: int) -> np.ndarray:
    """Times of labels, int64 `[count]`: label `j` lies `(j % rate) / rate` of the way from frame `first + j // rate`.

    After the last frame of the recording the last interval goes on.
    """
    frame, part = first + np.arange(count) // rate, np.arange(count) % rate
    period = np.diff(end_us, append=2 * end_us[-1] - end_us[-2] if len(end_us) > 1 else end_us[-1] + 1)
    return end_us[frame] + period[frame] * part // rate


def cached_index(path: Path, cache_dir: str | None, *, repair: bool = False) -> Aedat4Index:
    """The index of a recording, kept beside its cache entry so that a data set opens fast the next time."""
    try:
        stat = path.stat()
    except OSError as error:
        raise FormatError(path, f"cannot be read: {error.strerror or error}") from error
    file = Path(f"{entry_folder(path, cache_dir)}.index.json")
    key = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, repair]
    try:
        kept = json.loads(file.read_text())
        if kept["key"] == key:
            spans = np.array(kept["spans"], np.int64).reshape(-1, 2)
            hw = kept["sensor_hw"]
            return Aedat4Index(spans[:, 0], spans[:, 1], kept["first_event_us"], (hw[0], hw[1]) if hw else None)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # there is none yet, or it is of an older version: it is made again
    index = index_aedat4(path, repair=repair)
    spans = np.stack([index.start_us, index.end_us], axis=1)
    content = {"key": key, "spans": spans.tolist(), "first_event_us": index.first_event_us}
    os.makedirs(file.parent, exist_ok=True)
    with atomic_file(file) as temporary:
        temporary.write_text(json.dumps({**content, "sensor_hw": index.sensor_hw}))
    return index


def _alike(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two pictures' grey values; 1 where one of them is blank, as then nothing can be said."""
    a, b = one.mean(2) - one.mean(), other.mean(2) - other.mean()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / norm if norm > 0 else 1.0
