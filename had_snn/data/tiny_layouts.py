"""Tiny data sets in the true formats: what each layout looks like on disk, simulated, with the truth beside it.

    truths = make_tiny("coesot", "coesot_tiny")

A few short sequences each, complete and valid: recordings in the data set's own format, pictures in its own kind, text
files as its authors write them. For trying out the scripts, and for testing that labels, pictures and events meet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from had_snn.data.pictures import write_picture
from had_snn.errors import InputError
from had_snn.events.stream import EventStream
from had_snn.recordings.recording import Frames
from had_snn.recordings.writers import write_events
from had_snn.simulator.scene import FAMILIES, LabelledScene, sample_scene, tight_boxes
from had_snn.simulator.sensor import Simulation, simulate

EPOCH_US = 1_612_573_784_000_000  # DAVIS recordings count from 1970
SECONDS, SENSOR_HW, FRAME_US = 1.84, (96, 128), 40_000
LABELS = 12
LARGE_HW, LARGE_AT_XY = (720, 1280), (500, 300)  # where a small scene lies on a large sensor


@dataclass(frozen=True, eq=False)
class Truth:
    """What a sequence must turn out to be.

    Attributes:
        name: Its name.
        split: Its split, or None if it is not to be used.
        label_times_us: int64 `[L]`, in the recording's time.
        boxes_xywh: float64 `[L, 4]` at those times, also where the target is written as absent.
        visible: bool `[L]`.
        events: All events of the recording.
        images: uint8 `[P, H, W, 3]`, or None.
        image_times_us: int64 `[P]`, or None.
    """

    name: str
    split: str | None
    label_times_us: np.ndarray
    boxes_xywh: np.ndarray
    visible: np.ndarray
    events: EventStream
    images: np.ndarray | None = None
    image_times_us: np.ndarray | None = None


class Take:
    """One simulated recording, and the target's box at any time in it.

    Args:
        seed: Of the scene.
    """

    def __init__(self, seed: int) -> None:
        self.scene: LabelledScene = sample_scene(
            [9, seed], FAMILIES["train"], seconds=SECONDS, sensor_hw=SENSOR_HW, max_speed=200, hardship=0.25
        )
        self.seen: Simulation = simulate(self.scene.scene, self.scene.sensor, seed=seed, source=f"tiny {seed}")
        assert self.seen.frames is not None
        assert self.seen.frame_times_us is not None
        self.images, ends = self.seen.frames, self.seen.frame_times_us
        plan = self.scene.scene.frames
        assert plan is not None
        start = ends - np.rint(plan.exposure_us).astype(np.int64)
        self.frames = Frames(self.images, EPOCH_US + start, EPOCH_US + ends)
        self.events = replace(self.seen.events, t=self.seen.events.t + EPOCH_US)

    def boxes(self, times_us: np.ndarray) -> np.ndarray:
        """Boxes `[L, 4]` at times of the recording."""
        steps = (times_us - EPOCH_US) / self.scene.scene.step_us
        return tight_boxes([self.scene.scene.sprites[i] for i in self.scene.target], steps)

    def truth(self, name: str, split: str | None, times_us: np.ndarray, absent: tuple[int, ...] = (5, 6)) -> Truth:
        """The truth of labels at given times, without pictures; the rows `absent` are written as absent."""
        visible = ~np.isin(np.arange(len(times_us)), absent)
        return Truth(name, split, times_us, self.boxes(times_us), visible, self.events)

    def with_frames(self, truth: Truth, first: int, count: int) -> Truth:
        """A truth with the frames `first` to `first + count - 1` as pictures."""
        cut = slice(first, first + count)
        return replace(truth, images=self.images[cut], image_times_us=self.frames.end_us[cut])

    def enlarged(self) -> Take:
        """The same take on a part of a large sensor."""
        other = object.__new__(Take)
        other.__dict__.update(self.__dict__)
        x, y = (self.events.x + LARGE_AT_XY[0]).astype(np.uint16), (self.events.y + LARGE_AT_XY[1]).astype(np.uint16)
        other.events = EventStream(self.events.t, x, y, self.events.p, LARGE_HW, self.events.source)
        other.boxes = lambda times_us: self.boxes(times_us) + np.array([*LARGE_AT_XY, 0, 0])
        return other


class Takes:
    """Takes by seed, each simulated once."""

    def __init__(self) -> None:
        self._made: dict[int, Take] = {}

    def __getitem__(self, seed: int) -> Take:
        if seed not in self._made:
            self._made[seed] = Take(seed)
        return self._made[seed]


def make_tiny(name: str, root: str | os.PathLike[str], *, takes: Takes | None = None) -> list[Truth]:
    """Writes a tiny data set.

    Args:
        name: A key of `TINY`: a layout's name, or `esot500_h`, the events-only half of ESOT500.
        root: The folder to write to; must not exist or be empty.
        takes: Shared between several data sets, it saves the time to simulate the same scenes again.

    Returns:
        The truth of each sequence.

    Raises:
        InputError: If the name is unknown or the folder is in use.
    """
    root = Path(root)
    if name not in TINY:
        raise InputError(f"no tiny data set {name!r}; there are {', '.join(TINY)}")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f"{root} is in use; give a folder that is empty or does not exist")
    root.mkdir(parents=True, exist_ok=True)
    return TINY[name](root, takes or Takes())


def _framed(root: Path, takes: Takes, *, pairs: dict[str, int], rate: int) -> list[Truth]:
    """`rate` labels for each picture, from a first frame on; the last sequence is the one for testing."""
    truths = []
    for seed, (name, first) in enumerate(pairs.items()):
        take, split, j = takes[seed], "test" if name == [*pairs][-1] else "train", np.arange(rate * LABELS)
        times = take.frames.end_us[first + j // rate] + FRAME_US * (j % rate) // rate
        truth, folder = take.with_frames(take.truth(name, split, times), first, LABELS), _made(root / split / name)
        write_events(take.events, folder / "events.aedat4", frames=take.frames)
        _pictures(folder / "img", "{:04d}.jpg", truth, first=1)
        _boxes(folder / "groundtruth_rect.txt", truth)
        truths.append(truth)
    _lines(root / "pair.txt", [f"{name} {first}" for name, first in pairs.items()])
    return truths


def _visevent(root: Path, takes: Takes) -> list[Truth]:
    shared = "dvSave-2021_02_06_09_09_44"
    # name, split, take, first picture, name of its recording (None: there is none), rows without target
    plan = [
        ("traffic_0001", "train", 0, 0, "traffic_0001", (5, 6)),
        (f"{shared}_person2", "train", 1, 3, f"../{shared}", (5,)),
        (f"{shared}_car1", "train", 1, 19, f"../{shared}", (0, 1)),
        ("video_0010", "train", 2, 0, None, ()),
        ("video_0004", "test", 2, 8, "video_0004", (0, 5)),
    ]
    truths = []
    for name, split, seed, first, recording, absent in plan:
        take, folder = takes[seed], _made(root / f"{split}_subset" / name)
        times = take.frames.end_us[first : first + LABELS]
        truth = take.with_frames(take.truth(name, split if recording else None, times, absent), first, LABELS)
        if recording and not (folder / f"{recording}.aedat4").exists():
            write_events(take.events, folder / f"{recording}.aedat4", frames=take.frames)
        _pictures(folder / "vis_imgs", "frame{:04d}.bmp", truth, first=first)
        _pictures(folder / "event_imgs", "frame{:04d}.bmp", truth, first=first, blank=True)
        _boxes(folder / "groundtruth.txt", truth)
        _lines(folder / "absent_label.txt", [str(int(v)) for v in truth.visible])
        truths.append(truth)
    return truths


def _coesot(root: Path, takes: Takes) -> list[Truth]:
    plan = [
        ("dvSave-2021_07_30_09_12_47", "train", 0, (0, 1, 6, 39)),
        ("dvSave-2021_07_30_11_04_12", "train", 1, ()),
        ("dvSave-2021_07_30_11_04_57", "test", 2, (5, 6)),
        ("dvSave-2022_03_21_11_09_50", None, 1, (0, 1, 2)),
    ]
    truths = []
    for name, split, seed, absent in plan:
        take, folder = takes[seed], _made(root / (split or "test") / name)
        count = 40 if absent == (0, 1, 6, 39) else len(take.frames) - 1  # the authors' script leaves out the last frame
        truth = take.with_frames(take.truth(name, split, take.frames.end_us[:count], absent), 0, count)
        write_events(take.events, folder / f"{name}.aedat4", frames=_first(take.frames, count + 1))
        kind = "bmp" if seed == 1 else "png"
        _pictures(folder / f"{name}_aps", f"frame{{:04d}}.{kind}", truth, first=0)
        _pictures(folder / f"{name}_dvs", f"frame{{:04d}}.{kind}", truth, first=0, blank=True)
        _boxes(folder / "groundtruth.txt", truth, digits=4)
        _lines(folder / "absent.txt", [str(int(v)) for v in truth.visible])
        rows = np.flatnonzero(truth.visible) + 1
        _lines(folder / "start_end_index.txt", [f"{rows[0]},{rows[-1]}"])
        truths.append(truth)
    return truths


def _eventvot(root: Path, takes: Takes) -> list[Truth]:
    names = {"train": "recording_2022-10-10_17-28-38", "val": "airplane_0002", "test": "bird_0003"}
    truths = []
    for seed, (split, name) in enumerate(names.items()):
        take, folder = takes[seed].enlarged(), _made(root / split / name)
        first, last = int(take.events.t[0]), int(take.events.t[-1])
        times = np.array([first + (last - first) * (i + 1) // 500 for i in range(499)], np.int64)
        truth = take.truth(name, split, times, absent=tuple(range(100, 120)))
        e = take.events
        rows = zip(e.x.tolist(), e.y.tolist(), e.p.tolist(), (e.t - EPOCH_US).tolist(), strict=True)
        _lines(folder / f"{name}.csv", ["{},{},{},{}".format(*row) for row in rows])
        truth = replace(truth, label_times_us=times - EPOCH_US, events=replace(e, t=e.t - EPOCH_US))
        _boxes(folder / "groundtruth.txt", truth)
        _lines(folder / "absent.txt", [str(int(v)) for v in truth.visible])
        write_picture(_made(folder / "img") / "0000.png", np.full((*LARGE_HW, 3), 255, np.uint8))
        blank = (folder / "img" / "0000.png").read_bytes()
        for number in range(1, 499):
            (folder / "img" / f"{number:04d}.png").write_bytes(blank)
        truths.append(truth)
    return truths


def _esot500(root: Path, takes: Takes, *, large: bool = False) -> list[Truth]:
    splits = {"bottle_1": "train", "fan_2": "train", "toy_3": "test"}
    _made(root / "anno_t")
    truths = []
    for seed, (name, split) in enumerate(splits.items()):
        take = takes[seed].enlarged() if large else takes[seed]
        count = int((take.events.t[-1] - take.events.t[0]) / 2000)
        times = take.events.t[0] + 2000 * np.arange(count)
        truth = take.truth(name, split, times, absent=tuple(range(200, 230)))
        if not large:
            truth = take.with_frames(truth, 0, len(take.frames))
        frames = None if large else take.frames
        write_events(take.events, _made(root / "aedat4") / f"{name}.aedat4", frames=frames)
        rows = np.where(truth.visible[:, None], truth.boxes_xywh, 0.0)
        lines = [f"{0.002 * k:.6f} {x:.3f} {y:.3f} {w:.3f} {h:.3f}" for k, (x, y, w, h) in enumerate(rows)]
        _lines(root / "anno_t" / f"{name}.txt", lines)
        truths.append(truth)
    for split in ("train", "test"):
        _lines(root / f"{split}.txt", [name for name, s in splits.items() if s == split])
    return truths


def _folder(root: Path, takes: Takes) -> list[Truth]:
    truths = []
    for seed, (name, split) in enumerate({"desk": "train", "street": "train", "yard": "test"}.items()):
        take, folder = takes[seed], _made(root / split / name)
        times = take.frames.end_us[:LABELS] if name == "street" else EPOCH_US + 7_300 + 20_000 * np.arange(2 * LABELS)
        truth = take.truth(name, split, times)
        if name == "yard":
            write_events(take.events, folder / "recording.h5")
        else:
            count = LABELS if name == "street" else len(take.frames)
            write_events(take.events, folder / "recording.aedat4", frames=_first(take.frames, count))
            truth = take.with_frames(truth, 0, count)
        timed = name != "street"  # labels without times belong to the recording's frames
        lines = [("t_us," if timed else "") + "x,y,w,h,visible"]
        for t, box, seen in zip(times, truth.boxes_xywh, truth.visible, strict=True):
            x, y, w, h = box
            lines.append((f"{t}," if timed else "") + f"{x:.3f},{y:.3f},{w:.3f},{h:.3f},{int(seen)}")
        _lines(folder / "boxes.csv", lines)
        truths.append(truth)
    return truths


#: Data sets that `make_tiny` can write.
TINY: dict[str, Callable[[Path, Takes], list[Truth]]] = {
    "fe108": partial(_framed, pairs={"dove": 12, "cow": 17, "tower": 29}, rate=1),
    "fe240hz": partial(_framed, pairs={"cone_illu": 3, "cow_texture": 7, "dove_severe": 5}, rate=6),
    "visevent": _visevent,
    "coesot": _coesot,
    "eventvot": _eventvot,
    "esot500": _esot500,
    "esot500_h": partial(_esot500, large=True),
    "folder": _folder,
}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _first(frames: Frames, count: int) -> Frames:
    return Frames(frames.images[:count], frames.start_us[:count], frames.end_us[:count])


def _lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n")


def _boxes(path: Path, truth: Truth, *, digits: int = 3) -> None:
    rows = np.where(truth.visible[:, None], truth.boxes_xywh, 0.0)
    texts = [
        ",".join(f"{v:.{digits}f}" if seen else "0" for v in row) for row, seen in zip(rows, truth.visible, strict=True)
    ]
    _lines(path, texts)


def _pictures(folder: Path, pattern: str, truth: Truth, *, first: int, blank: bool = False) -> None:
    """Writes a truth's pictures, numbered from `first`; white ones where they are not used."""
    assert truth.images is not None
    _made(folder)
    for number, image in enumerate(truth.images, start=first):
        write_picture(folder / pattern.format(number), np.full_like(image, 255) if blank else image)
