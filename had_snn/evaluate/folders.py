"""Result folders of any tracker against annotation folders: no tracker and no events needed.

Annotations are found as `<name>.txt`, `<name>/groundtruth.txt` or `<name>/groundtruth_rect.txt`, flags as `<name>.txt`,
`<name>/absent.txt` or `<name>/absent_label.txt`, results as `<name>.txt` or `<name>.csv`. What a 1 in a flag file means
differs: COESOT's and EventVOT's `absent.txt` marks visible frames with 1, VisEvent's `absent/<name>.txt` absent ones.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from had_snn.data.labels import has_area, read_flags, read_names, read_rows, read_text
from had_snn.errors import InputError
from had_snn.evaluate.box_files import read_boxes
from had_snn.evaluate.protocols import check_protocol
from had_snn.evaluate.results import EvaluationResult, TrackResult, Truth, score_results

log = logging.getLogger("had_snn")

ONES = ("auto", "visible", "absent")
#: Columns of COESOT's attribute files, in order (COESOT_eval_toolkit, Evaluate_COESOT_benchmark_SP_RR_Only.m).
COESOT_ATTRIBUTES = (
    "camera motion",
    "rotation",
    "deformation",
    "full occlusion",
    "low illumination",
    "out of view",
    "partial occlusion",
    "viewpoint change",
    "scale variation",
    "background clutter",
    "motion blur",
    "aspect ratio change",
    "fast motion",
    "no motion",
    "illumination variation",
    "over exposure",
    "background object motion",
)

_ANNOTATIONS = ("{}.txt", "{}/groundtruth.txt", "{}/groundtruth_rect.txt")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.])|\bnan\b", re.IGNORECASE)

StrPath = str | os.PathLike[str]


def evaluate_folder(
    results_dir: StrPath,
    annotations_dir: StrPath,
    absent_dir: StrPath | None = None,
    sequences: Sequence[str] | StrPath | None = None,
    protocol: str = "pytracking",
    *,
    ones: str = "auto",
    attributes_dir: StrPath | None = None,
    attribute_names: Sequence[str] = COESOT_ATTRIBUTES,
    length_tolerance: int = 1,
    tracker: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> EvaluationResult:
    """Scores a folder of N x 4 result files.

    Args:
        results_dir: One text file per sequence; see `box_files.read_boxes` for what a file may look like.
        annotations_dir: The annotated boxes.
        absent_dir: The flags; the annotation folder is searched when None.
        sequences: Names, or a file with one name a line; every annotated sequence when None.
        protocol: `toolkit`, `pytracking` or `visible` (`clock` needs times, which such files lack).
        ones: What a 1 in a flag file means: `"visible"`, `"absent"`, or `"auto"`: decided from the frames whose
            annotated box is zero, over all sequences at once.
        attributes_dir: Files `<name>.txt` of zeros and ones, one per attribute.
        attribute_names: Names of those columns.
        length_tolerance: By how many rows flags and boxes may differ; the common start is used.
        tracker: Name in tables; the folder's name when None.
        resamples: Bootstrap resamples for the intervals; 0 for none.
        seed: Seed of the resampling.

    Returns:
        Scores, intervals, curves and the boxes.

    Raises:
        InputError: If a folder or file is missing, lengths do not fit, or the flags cannot be told apart.
        FormatError: If a file does not hold boxes.
    """
    _refuse_clock(protocol)
    truths = read_annotations(
        annotations_dir,
        absent_dir,
        sequences,
        ones=ones,
        attributes_dir=attributes_dir,
        attribute_names=attribute_names,
        length_tolerance=length_tolerance,
    )
    return score_folder(results_dir, truths, protocol, tracker=tracker, resamples=resamples, seed=seed)


def score_folder(
    results_dir: StrPath,
    truths: Sequence[Any],
    protocol: str = "pytracking",
    *,
    tracker: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> EvaluationResult:
    """Scores a folder of N x 4 result files, `<name>.txt` or `<name>.csv`, against annotations that are there already:
    `Truth`s or `TrackingSequence`s. All else is as in `evaluate_folder`."""
    _refuse_clock(protocol)
    folder = _folder(results_dir, "results")
    files = {t.name: _first_file(folder, t.name, ("{}.txt", "{}.csv")) for t in truths}
    missing = [name for name, path in files.items() if path is None]
    if missing:
        raise InputError(
            f"{folder}: no results for {len(missing)} of {len(truths)} sequences: {_some(missing)}; expected "
            f"{missing[0]}.txt (choose sequences with sequences=...)"
        )
    results = []
    for truth in truths:
        boxes = read_boxes(files[truth.name] or "", frames=len(truth.boxes_xywh))
        if np.isnan(boxes[0]).all():
            boxes[0] = truth.boxes_xywh[0]  # a word or a code in its place: the given box, which no protocol scores
        if len(boxes) != len(truth.boxes_xywh):
            log.warning("%s: %d results for %d labels", truth.name, len(boxes), len(truth.boxes_xywh))
        results.append(_bare_result(truth.name, boxes))
    name = tracker or folder.resolve().name
    return score_results(name, results, truths, protocol=protocol, resamples=resamples, seed=seed)


def score_first_box(
    truths: Sequence[Any], protocol: str = "pytracking", *, resamples: int = 1000, seed: int = 0
) -> EvaluationResult:
    """The floor of every table, `static`: the first annotated box for ever. It needs no events; arguments are those of
    `score_folder`."""
    _refuse_clock(protocol)
    results = []
    for truth in truths:
        usable = np.asarray(truth.visible, bool) & (np.nan_to_num(truth.boxes_xywh)[:, 2:] > 0).all(axis=1)
        boxes = np.zeros((len(usable), 4))
        if usable.any():
            first = int(np.flatnonzero(usable)[0])
            boxes[first:] = truth.boxes_xywh[first]
        results.append(_bare_result(truth.name, boxes))
    return score_results("static", results, truths, protocol=protocol, resamples=resamples, seed=seed)


def _refuse_clock(protocol: str) -> None:
    if check_protocol(protocol) == "clock":
        raise InputError(
            "protocol=clock needs the times at which boxes were ready, which N x 4 files do not hold; expected "
            "toolkit, pytracking or visible (or run the tracker here: one_pass.run_on_clock)"
        )


def _bare_result(name: str, boxes: np.ndarray) -> TrackResult:
    unknown = np.full(len(boxes), np.nan)
    return TrackResult(name, np.arange(len(boxes)), boxes, unknown, unknown)


def read_annotations(
    annotations_dir: StrPath,
    absent_dir: StrPath | None = None,
    sequences: Sequence[str] | StrPath | None = None,
    *,
    ones: str = "auto",
    attributes_dir: StrPath | None = None,
    attribute_names: Sequence[str] = COESOT_ATTRIBUTES,
    length_tolerance: int = 1,
) -> list[Truth]:
    """Reads boxes, visibility and attributes; arguments and errors as in `evaluate_folder`."""
    if ones not in ONES:
        raise InputError(f"ones={ones!r}; expected one of {', '.join(ONES)}")
    folder = _folder(annotations_dir, "annotations")
    names = _sequence_names(folder, sequences)
    files = {name: _annotation(folder, name) for name in names}
    missing = [name for name, path in files.items() if path is None]
    if missing:
        raise InputError(
            f"{folder}: no annotations for {len(missing)} of {len(names)} sequences: {_some(missing)}; looked for "
            + ", ".join(p.format(missing[0]) for p in _ANNOTATIONS)
        )
    boxes = {name: read_boxes(path or "") for name, path in files.items()}
    place = folder if absent_dir is None else _folder(absent_dir, "flags")
    flags = _read_flags(place, boxes, absent_dir is not None, length_tolerance)
    visible = _visibility(boxes, flags, ones)
    attributes = _read_attributes(attributes_dir, names, attribute_names)
    return [Truth(n, boxes[n], visible[n], attributes=attributes.get(n, ())) for n in names]


def _folder(path: StrPath, what: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected the folder of {what}")
    return folder


def _some(names: Sequence[str], one: str = "", several: str = "") -> str:
    """The first few of the names, and a verb that fits their number."""
    return (", ".join(names[:3]) + f"{', ...' if len(names) > 3 else ''} {one if len(names) == 1 else several}").strip()


def _annotation(folder: Path, name: str) -> Path | None:
    return _first_file(folder, name, _ANNOTATIONS)


def _first_file(folder: Path, name: str, patterns: Sequence[str]) -> Path | None:
    return next((p for p in (folder / pattern.format(name) for pattern in patterns) if p.is_file()), None)


def _sequence_names(folder: Path, sequences: Sequence[str] | StrPath | None) -> list[str]:
    if sequences is None:
        flat, others = [], []
        for path in sorted(folder.glob("*.txt")):
            (flat if _holds_boxes(path) else others).append(path)
        names = {p.stem for p in flat} | {p.parent.name for p in folder.glob("*/groundtruth*.txt")}
        if not names:
            raise InputError(f"{folder}: holds no annotations; expected <name>.txt or <name>/groundtruth.txt")
        if others:
            log.warning("%s: %s no boxes and no annotation", folder, _some([p.name for p in others], "holds", "hold"))
        return sorted(names)
    if isinstance(sequences, (str, os.PathLike)):
        sequences = [name for line in read_names(Path(sequences)) for name in _names_in(line, folder)]
    names = [str(name) for name in sequences]
    if not names:
        raise InputError("the list of sequences is empty")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"the list of sequences names {_some(twice)} more than once")
    return names


def _names_in(line: str, folder: Path) -> list[str]:
    """The names in a line of a list: the line as it stands, blanks and all, or several names that are all there."""
    parts = line.split()
    if len(parts) > 1 and not _annotation(folder, line) and all(_annotation(folder, part) for part in parts):
        return parts
    return [line]


def _holds_boxes(path: Path) -> bool:
    """Whether any line holds four numbers: not so in lists of names, files of times and notes beside annotations."""
    lines = read_text(path, expected="annotated boxes or a list").splitlines()
    return any(len(_NUMBER.findall(line)) == 4 for line in lines)


def _read_flags(folder: Path, boxes: dict[str, np.ndarray], required: bool, tolerance: int) -> dict[str, np.ndarray]:
    """The flags as they stand in the files, a number per frame; empty when there are none and none are required."""
    nested = ("{}/absent.txt", "{}/absent_label.txt")
    patterns = ("{}.txt", *nested) if required else nested
    files = {name: _first_file(folder, name, patterns) for name in boxes}
    missing = [name for name, path in files.items() if path is None]
    if len(missing) == len(files) and not required:
        log.warning("%s: no absent flags; all frames count as present", folder)
        return {}
    if missing:
        raise InputError(
            f"{folder}: no absent flags for {len(missing)} of {len(files)} sequences: {_some(missing)}; looked for "
            + ", ".join(p.format(missing[0]) for p in patterns)
        )
    return {name: _fitting(path, boxes[name], tolerance) for name, path in files.items() if path is not None}


def _fitting(path: Path, boxes: np.ndarray, tolerance: int) -> np.ndarray:
    """The flags of a file, one per box, NaN where they are missing; too many or too few of them are refused."""
    flags = read_flags(path).astype(np.float64)
    difference = len(flags) - len(boxes)
    if difference:
        told = f"{len(flags)} flags for {len(boxes)} labels"
        if abs(difference) > tolerance:
            raise InputError(f"{path}: {told}; get the file again, or length_tolerance=N uses the common start")
        log.warning("%s: %s; the common start is used, and boxes decide where flags are missing", path, told)
    return np.concatenate([flags, np.full(max(0, -difference), np.nan)])[: len(boxes)]


def _visibility(boxes: dict[str, np.ndarray], flags: dict[str, np.ndarray], ones: str) -> dict[str, np.ndarray]:
    """bool per frame, True where the target is visible."""
    if not flags:
        return {name: np.ones(len(b), bool) for name, b in boxes.items()}
    if ones == "auto":
        known = np.concatenate([np.isfinite(flags[name]) for name in boxes])
        flag = np.concatenate([flags[name] == 1 for name in boxes])[known]
        shown = np.concatenate([has_area(b) for b in boxes.values()])[known]
        if shown.all() and flag.any() and not flag.all():
            raise InputError(
                "no annotated box is zero, so it cannot be told whether a 1 marks visible or absent frames; set "
                "ones=visible (COESOT, EventVOT) or ones=absent (VisEvent's absent folder)"
            )
        # Without any zero box and with equal flags throughout, all frames are visible whatever a 1 means.
        ones = "visible" if (flag == shown).mean() >= 0.5 else "absent"
        log.info("absent flags: a 1 marks %s frames", ones)
    says_visible = 1 if ones == "visible" else 0
    return {name: np.where(np.isnan(f), has_area(boxes[name]), f == says_visible) for name, f in flags.items()}


def _read_attributes(
    attributes_dir: StrPath | None, names: Sequence[str], attribute_names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    if attributes_dir is None:
        return {}
    folder, attributes = _folder(attributes_dir, "attributes"), {}
    for name in names:
        path = _first_file(folder, name, ("{}.txt", "{}/attributes.txt"))
        if path is None:
            raise InputError(f"{folder}: no attributes for {name}; expected {name}.txt")
        values = read_rows(path).ravel()
        if len(values) != len(attribute_names):
            raise InputError(f"{path}: {len(values)} attributes; expected {len(attribute_names)}")
        attributes[name] = tuple(a for a, v in zip(attribute_names, values, strict=True) if v > 0)
    return attributes
