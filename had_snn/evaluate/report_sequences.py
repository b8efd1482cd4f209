"""The drill-down of a report: one folded entry per sequence, with pictures of what the trackers did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from had_snn.evaluate.protocols import box_overlap
from had_snn.evaluate.report import Details, Figure, Gallery, Media, Metric, Section, Table
from had_snn.evaluate.report_sections import one_protocol
from had_snn.evaluate.results import EvaluationResult
from had_snn.viz import plots
from had_snn.viz.film import encode_png
from had_snn.viz.render import draw_box, draw_text, event_image, palette

WINDOW_US = 20_000  # events drawn before each time of a thumbnail


def sequences_section(
    evaluations: Sequence[EvaluationResult],
    sequences: Sequence[Any],
    *,
    limit: int = 24,
) -> Section:
    """One folded entry per sequence, hardest for the first tracker first: scores, thumbnails, overlap over time.

    The first three trackers are drawn into thumbnails.

    Args:
        evaluations: Results on these sequences; pictures are drawn for one-pass results only.
        sequences: In the order of the results: `TrackingSequence`s, whose pictures show events, or bare `Truth`s, whose
            pictures show the boxes and the target's path.
        limit: Entries at most; evenly spread from hardest to easiest when there are more sequences.
    """
    protocol = one_protocol(evaluations)
    difficulty = np.array([c.score("SR") for c in evaluations[0].curves])
    order = np.argsort(difficulty, kind="stable")
    if len(order) > limit:
        order = order[np.unique(np.linspace(0, len(order) - 1, limit).round().astype(int))]
    names = [e.tracker for e in evaluations[:3]]
    entries = [
        _sequence_entry(evaluations, sequences[i], int(i), names, unfolded=rank == 0) for rank, i in enumerate(order)
    ]
    colours = ", ".join(f"{n} ({_colour_word(evaluations, n)})" for n in names)
    intro = (
        f"{len(entries)} of {len(sequences)} sequences, hardest for {evaluations[0].tracker} first. SR in percent, "
        f"protocol {protocol}. Thumbnails: annotation dashed; {colours}. A click unfolds."
    )
    blocks: list[Any] = list(entries)
    if len(entries) < len(sequences):
        blocks.append(Details(f"All {len(sequences)} sequences", [_table_of_all(evaluations)]))
    return Section("Per sequence", blocks, intro)


def _table_of_all(evaluations: Sequence[EvaluationResult]) -> Table:
    rows = []
    for curves in zip(*(e.curves for e in evaluations), strict=True):
        cells = [Metric(c.score("SR"), _key(e.tracker, c.name)) for e, c in zip(evaluations, curves, strict=True)]
        rows.append([curves[0].name, curves[0].frames, *cells])
    return Table(
        ["sequence", "frames", *(e.tracker for e in evaluations)],
        rows,
        caption=f"SR in percent, protocol {one_protocol(evaluations)}",
    )


def _key(tracker: str, sequence: str) -> str:
    """Place of a sequence's SR in `metrics.json`; none for names that a dotted path cannot hold."""
    return f"{tracker}.per_sequence.{sequence}.SR" if "." not in tracker + sequence else ""


def _sequence_entry(
    evaluations: Sequence[EvaluationResult], sequence: Any, index: int, shown: Sequence[str], *, unfolded: bool
) -> Details:
    name = sequence.name
    metrics = {e.tracker: Metric(e.curves[index].score("SR"), _key(e.tracker, name)) for e in evaluations}
    truth = np.asarray(sequence.boxes_xywh, float)
    boxes = {e.tracker: e.results[index].boxes_xywh for e in evaluations if e.results}
    if any(e.results and e.results[index].finish_us is not None for e in evaluations):
        boxes = {}  # a run on a clock has boxes at other times than the labels
    boxes = {n: _to_length(b, len(truth)) for n, b in boxes.items()}
    drawn = {n: boxes[n] for n in shown if n in boxes}
    colours = {e.tracker: plots.colour_of(i) for i, e in enumerate(evaluations)}
    blocks: list[Any] = []
    if drawn:
        pictures = thumbnails(sequence, drawn, {n: _rgb(colours[n]) for n in drawn})
        blocks.append(Gallery([Media(encode_png(picture), when) for when, picture in pictures]))
    if boxes:
        times, unit = _label_times(sequence)
        with np.errstate(divide="ignore", invalid="ignore"):
            overlaps = {n: np.nan_to_num(np.clip(box_overlap(b, truth), 0, 1)) for n, b in boxes.items()}
        title = f"overlap with the annotation over time, {name}, protocol {evaluations[0].protocol}"
        strip = plots.overlap_strip(times, overlaps, title=title, unit=unit)
        blocks.append(
            Figure(strip, f"Overlap with the annotation over time, protocol {evaluations[0].protocol}.", wide=True)
        )
    return Details(
        name, blocks, metrics, list(colours.values()), [a.replace("_", " ") for a in sequence.attributes], unfolded
    )


def thumbnails(
    sequence: Any,
    boxes: Mapping[str, np.ndarray],
    colours: Mapping[str, tuple[int, int, int]],
    *,
    count: int = 4,
    width: int = 320,
) -> list[tuple[str, np.ndarray]]:
    """Pictures at times spread over a sequence, with the annotation and the trackers' boxes: on the events before each
    time, or, where there are none, on the target's path so far.

    Args:
        sequence: A `TrackingSequence`, or a `Truth`.
        boxes: `[L, 4]` per tracker.
        colours: RGB per tracker.
        count: Pictures.
        width: Width of a picture in pixels.

    Returns:
        Pairs of a time in words and a uint8 picture `[h, w, 3]`.
    """
    style, (times, unit) = palette("dark"), _label_times(sequence)
    ground, place = (_on_events if hasattr(sequence, "events") else _on_path)(sequence, width)
    pictures = []
    for row in _spread(len(times), count):
        image = ground(row)
        draw_box(image, place(np.asarray(sequence.boxes_xywh[row])), colour=style.truth, dash=4)
        for name, track in boxes.items():
            draw_box(image, place(track[row]), colour=colours[name], thickness=2)
        if not sequence.visible[row]:
            draw_text(image, "target hidden", (5, 4), colour=style.ink, size=15, ground=style.ground)
        pictures.append((f"{times[row]:.2f} s" if unit == "s" else f"frame {row}", image))
    return pictures


def _on_events(sequence: Any, width: int) -> tuple[Callable[[int], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Makes the picture of a label's events, and moves boxes into it."""
    factor = width / sequence.events.sensor_hw[1]
    height, width = (max(1, round(side * factor)) for side in sequence.events.sensor_hw)

    def ground(row: int) -> np.ndarray:
        t_us = int(sequence.label_times_us[row])
        window = sequence.events.slice_time(t_us - WINDOW_US, t_us)
        return event_image(window.resample((height, width)), style="dark")

    return ground, lambda box: box * factor


def _on_path(sequence: Any, width: int) -> tuple[Callable[[int], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Makes a picture of the target's path up to a label, and moves boxes into it."""
    style, truth = palette("dark"), np.nan_to_num(np.asarray(sequence.boxes_xywh, float))
    known = np.asarray((truth[:, 2:] > 0).all(axis=1))
    within = truth[known] if known.any() else np.array([[0.0, 0, 1, 1]])
    low, high = within[:, :2].min(axis=0), (within[:, :2] + within[:, 2:]).max(axis=0)
    margin = 0.1 * (high - low).max()
    low, high = low - margin, high + margin
    factor = width / (high[0] - low[0])
    height = int(np.clip(round(factor * (high[1] - low[1])), width // 4, 2 * width))
    factor = min(factor, height / (high[1] - low[1]))

    def place(box: np.ndarray) -> np.ndarray:
        return (box - [low[0], low[1], 0, 0]) * factor

    def ground(row: int) -> np.ndarray:
        image = np.full((height, width, 3), style.ground, np.uint8)
        for box in place(truth[: row + 1][known[: row + 1]]):
            draw_box(image, [*(box[:2] + box[2:] / 2 - 1), 2, 2], colour=style.truth)
        return image

    return ground, place


def _spread(length: int, count: int) -> list[int]:
    """`count` rows spread over a sequence, the last one among them."""
    rows = np.unique(np.linspace(0, length - 1, count + 1).round().astype(int))[1:]
    return rows.tolist() or [0]


def _to_length(boxes: np.ndarray, length: int) -> np.ndarray:
    """Results cut to the labels' number, or filled up with boxes that are nowhere."""
    boxes = np.asarray(boxes, float)[:length]
    return np.concatenate([boxes, np.full((length - len(boxes), 4), np.nan)])


def _label_times(sequence: Any) -> tuple[np.ndarray, str]:
    """Times of the labels in seconds from the first, or their numbers, and the unit."""
    if sequence.label_times_us is None:
        return np.arange(len(sequence.boxes_xywh), dtype=float), "frames"
    times = np.asarray(sequence.label_times_us)
    return (times - times[0]) / 1e6, "s"


def _colour_word(evaluations: Sequence[EvaluationResult], name: str) -> str:
    words = ("blue", "orange", "green", "violet", "ochre", "pink", "grey", "cyan")
    return words[[e.tracker for e in evaluations].index(name) % len(words)]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
