"""The evaluation protocols, as errors per frame.

Four rules turn predicted and annotated boxes into the three errors that every score is made of. They disagree, by
several points, so each figure that this project prints names its protocol, and no table mixes them.

`toolkit`: the MATLAB toolkits derived from LaSOT's, which EventVOT, COESOT and VisEvent ship.
    A prediction with NaN or without area takes the previous one. Absent frames leave the numerators but stay in the
    divisor: each is a miss in all scores. A present frame whose annotation has any of x, y, w, h <= 0 counts as a miss
    in overlap and as a hit in both precisions. A sequence whose curve is zero everywhere is left out of the mean.
`pytracking`: the analysis file that OSTrack's family ships (HAD, HDETrack, SDTrack, SpikeFET).
    Absent flags are not read. An annotation without area is a miss in overlap and precision and a hit in normalised
    precision. A zero-sized prediction takes the previous one; a short result is continued with zero boxes.
`visible`: what one would expect. Only frames whose target is visible and annotated with an area count, above and below
    the fraction line. An invalid prediction takes the previous one; a frame without prediction is a miss.
`clock`: each label is compared with the newest prediction *finished* by its time (STARE); see `align_to_clock`. The
    aligned boxes are then scored as in `pytracking`.

In all of them the first prediction is replaced by the annotation (it is the given box) and predictions beyond the last
label are cut off. Overlap uses the inclusive-pixel form of the originals, `right = x + w - 1` and `+ 1` in the overlap,
with the same order of operations: a perfect prediction may round to an overlap just above 1 there, and does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from had_snn.errors import InputError

PROTOCOLS = ("toolkit", "pytracking", "visible", "clock")


@dataclass(frozen=True)
class FrameErrors:
    """Errors of the frames that can score in one sequence.

    Attributes:
        overlap: float64 `[F]` intersection over union; -1 where the rule decides for a miss.
        centre: float64 `[F]` centre distance in pixels; -1 is a hit at every threshold, inf a miss.
        norm_centre: float64 `[F]` centre distance in units of the annotated width and height.
        divisor: Number of frames that the counts are divided by; may exceed `F`.
    """

    overlap: np.ndarray
    centre: np.ndarray
    norm_centre: np.ndarray
    divisor: int


def check_protocol(protocol: str) -> str:
    """Returns the name of a protocol or says which there are."""
    if protocol not in PROTOCOLS:
        raise InputError(f"unknown protocol {protocol!r}; expected one of {', '.join(PROTOCOLS)}")
    return protocol


def frame_errors(
    predicted_xywh: np.ndarray,
    truth_xywh: np.ndarray,
    *,
    protocol: str,
    visible: np.ndarray | None = None,
    name: str = "sequence",
) -> FrameErrors:
    """Compares the boxes of one sequence under one protocol.

    Args:
        predicted_xywh: `[M, 4]` predictions, the first for the first label; for `clock` already aligned to the labels.
        truth_xywh: `[L, 4]` annotations.
        protocol: One of `PROTOCOLS`.
        visible: bool `[L]`; all True when None.
        name: The sequence, for messages.

    Returns:
        The errors.

    Raises:
        InputError: If shapes do not fit, or the protocol itself refuses the boxes.
    """
    check_protocol(protocol)
    predicted, truth = _boxes(predicted_xywh, f"{name}: predictions"), _boxes(truth_xywh, f"{name}: annotations")
    length = len(truth)
    if length == 0:
        raise InputError(f"{name}: no annotations")
    if len(predicted) == 0:
        raise InputError(f"{name}: no predictions for {length} labels")
    if visible is None:
        visible = np.ones(length, bool)
    visible = np.asarray(visible, dtype=bool)
    if visible.shape != (length,):
        raise InputError(f"{name}: {length} labels but visibility flags of shape {visible.shape}")
    rule = {"toolkit": _toolkit, "visible": _visible}.get(protocol, _pytracking)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return rule(predicted[:length], truth, visible, name)


def _toolkit(predicted: np.ndarray, truth: np.ndarray, visible: np.ndarray, name: str) -> FrameErrors:
    length = len(truth)
    if len(predicted) < length:
        raise InputError(
            f"{name}: {len(predicted)} predictions for {length} labels; the toolkits stop at short results "
            "(protocol=pytracking continues them with zero boxes)"
        )
    bad = np.isnan(predicted).any(axis=1) | (predicted[:, 2:] <= 0).any(axis=1)
    predicted = _take_previous(predicted, bad & ~np.isnan(truth).any(axis=1))
    predicted[0] = truth[0]
    predicted, truth = predicted[visible], truth[visible]
    valid = (truth > 0).all(axis=1)
    return FrameErrors(
        overlap=np.where(valid, box_overlap(predicted, truth), -1.0),
        centre=np.where(valid, _centre_error(predicted, truth), -1.0),
        norm_centre=np.where(valid, _centre_error(predicted, truth, normalised=True), -1.0),
        divisor=length,
    )


def _pytracking(predicted: np.ndarray, truth: np.ndarray, visible: np.ndarray, name: str) -> FrameErrors:
    del visible  # not read by this protocol
    length = len(truth)
    if np.isnan(truth).any():
        raise InputError(f"{name}: NaN in the annotations; the pytracking rules refuse it")
    faulty = np.isnan(predicted).any(axis=1) | (predicted[:, 2:] < 0).any(axis=1)
    if faulty.any():
        row = int(np.flatnonzero(faulty)[0])
        raise InputError(
            f"{name}: prediction {row} is {_shown(predicted[row])}; the pytracking rules refuse NaN and negative sizes "
            "(protocol=toolkit and protocol=visible take the previous box)"
        )
    predicted = _take_previous(predicted, (predicted[:, 2:] == 0).any(axis=1))
    predicted = np.concatenate([predicted, np.zeros((length - len(predicted), 4))])
    predicted[0] = truth[0]
    valid = (truth[:, 2:] > 0).all(axis=1)
    return FrameErrors(
        overlap=np.where(valid, box_overlap(predicted, truth), -1.0),
        centre=np.where(valid, _centre_error(predicted, truth), np.inf),
        norm_centre=np.where(valid, _centre_error(predicted, truth, normalised=True), -1.0),
        divisor=length,
    )


def _visible(predicted: np.ndarray, truth: np.ndarray, visible: np.ndarray, name: str) -> FrameErrors:
    del name
    length = len(truth)
    bad = ~np.isfinite(predicted).all(axis=1) | (predicted[:, 2:] <= 0).any(axis=1)
    predicted = _take_previous(predicted, bad)
    predicted = np.concatenate([predicted, np.full((length - len(predicted), 4), np.nan)])
    predicted[0] = truth[0]
    counted = visible & np.isfinite(truth).all(axis=1) & (truth[:, 2:] > 0).all(axis=1)
    predicted, truth = predicted[counted], truth[counted]
    # Clipped: rounding must not carry a perfect box over the strict threshold at 1.
    overlap = np.minimum(np.nan_to_num(box_overlap(predicted, truth), nan=-1.0), 1.0)
    centre = np.nan_to_num(_centre_error(predicted, truth), nan=np.inf)
    norm_centre = np.nan_to_num(_centre_error(predicted, truth, normalised=True), nan=np.inf)
    return FrameErrors(overlap, centre, norm_centre, divisor=int(counted.sum()))


def align_to_clock(label_times_us: npt.ArrayLike, finish_times_us: npt.ArrayLike, boxes_xywh: np.ndarray) -> np.ndarray:
    """The newest box that was finished by each label's time.

    Args:
        label_times_us: `[L]` times of the labels.
        finish_times_us: `[M]` times at which the predictions were ready, non-decreasing.
        boxes_xywh: `[M, 4]` predictions.

    Returns:
        `[L, 4]`; the first prediction counts from the beginning of time.

    Raises:
        InputError: If lengths differ, there is no prediction, or finishing times go back.
    """
    boxes = _boxes(boxes_xywh, "predictions")
    finish = np.asarray(finish_times_us, dtype=np.int64)
    if finish.shape != (len(boxes),) or len(boxes) == 0:
        raise InputError(f"{len(boxes)} predictions with finishing times of shape {finish.shape}; expected one each")
    if (np.diff(finish) < 0).any():
        raise InputError("finishing times go back; predictions must be in the order in which they were finished")
    newest = np.searchsorted(finish, np.asarray(label_times_us, dtype=np.int64), side="right") - 1
    return boxes[np.maximum(newest, 0)]


def _boxes(boxes_xywh: np.ndarray, what: str) -> np.ndarray:
    boxes = np.asarray(boxes_xywh, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(f"{what} have the shape {boxes.shape}; expected N x 4 as x,y,w,h")
    return boxes


def _shown(box: np.ndarray) -> str:
    return ",".join(f"{v:g}" for v in box)


def _take_previous(predicted: np.ndarray, bad: npt.ArrayLike) -> np.ndarray:
    """A copy in which each bad row, except the first, is the nearest good row before it (or the first)."""
    index = np.arange(len(predicted))
    return predicted[np.maximum.accumulate(np.where(bad, 0, index))]


def box_overlap(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of paired boxes `[N, 4]`, in the inclusive-pixel form that all protocols share."""
    low = np.maximum(predicted[:, :2], truth[:, :2])
    high = np.minimum(predicted[:, :2] + predicted[:, 2:] - 1.0, truth[:, :2] + truth[:, 2:] - 1.0)
    sides = np.maximum(high - low + 1.0, 0.0)
    intersection = sides[:, 0] * sides[:, 1]
    union = predicted[:, 2] * predicted[:, 3] + truth[:, 2] * truth[:, 3] - intersection
    return intersection / union


def _centre_error(predicted: np.ndarray, truth: np.ndarray, *, normalised: bool = False) -> np.ndarray:
    difference = (predicted[:, :2] + 0.5 * (predicted[:, 2:] - 1.0)) - (truth[:, :2] + 0.5 * (truth[:, 2:] - 1.0))
    if normalised:
        difference = difference / truth[:, 2:]
    return np.sqrt((difference**2).sum(axis=1))
