"""The drill-down of a report: one folded entry per sequence, with pictures of what the trackers did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from had_snn.evaluate.protocols import frame_errors
from had_snn.evaluate.report import Details, Figure, Gallery, Media, Metric, Section
from had_snn.evaluate.report_sections import one_protocol
from had_snn.evaluate.results import EvaluationResult
from had_snn.viz import plots
from had_snn.viz.film import encode_png
from had_snn.viz.render import draw_box, draw_text, event_image, palette


def sequences_section(
    evaluations: Sequence[EvaluationResult],
    sequences: Sequence[Any],
    *,
    limit: int = 24,
    shown: Sequence[str] | None = None,
    title: str = "Per sequence",
) -> Section:
    """One folded entry per sequence, hardest for the first tracker first: scores, thumbnails, overlap over time.

    Args:
        evaluations: Results on these sequences; pictures are drawn for one-pass results only.
        sequences: `TrackingSequence`s in the order of the results.
        limit: Entries at most; evenly spread from hardest to easiest when there are more sequences.
        shown: Names of the trackers drawn into thumbnails; the first three when None.
        title: Heading.
    """
    protocol = one_protocol(evaluations)
    difficulty = np.array([c.score("SR") for c in evaluations[0].curves])
    order = np.argsort(difficulty, kind="stable")
    if len(order) > limit:
        order = order[np.unique(np.linspace(0, len(order) - 1, limit).round().astype(int))]
    names = list(shown) if shown is not None else [e.tracker for e in evaluations[:3]]
    entries = [
        _sequence_entry(evaluations, sequences[i], int(i), names, unfolded=rank == 0) for rank, i in enumerate(order)
    ]
    colours = ", ".join(f"{n} ({_colour_word(evaluations, n)})" for n in names)
    intro = (
        f"{len(entries)} of {len(sequences)} sequences, hardest for {evaluations[0].tracker} first. SR in percent, "
        f"protocol {protocol}. Thumbnails: annotation dashed; {colours}. A click unfolds."
    )
    return Section(title, entries, intro)


def _sequence_entry(
    evaluations: Sequence[EvaluationResult], sequence: Any, index: int, shown: Sequence[str], *, unfolded: bool
) -> Details:
    name = sequence.name
    metrics = {
        e.tracker: Metric(e.curves[index].score("SR"), f"{e.tracker}.per_sequence.{name}.SR" if "." not in name else "")
        for e in evaluations
    }
    boxes = {e.tracker: e.results[index].boxes_xywh for e in evaluations if e.results}
    boxes = {n: b for n, b in boxes.items() if len(b) == len(sequence.boxes_xywh)}  # a run on a clock has others
    drawn = {n: boxes[n] for n in shown if n in boxes}
    colours = {e.tracker: plots.colour_of(i) for i, e in enumerate(evaluations)}
    blocks: list[Any] = []
    if drawn:
        pictures = sequence_thumbnails(sequence, drawn, {n: _rgb(colours[n]) for n in drawn})
        blocks.append(Gallery([Media(encode_png(picture), when) for when, picture in pictures]))
    if boxes:
        times = (np.asarray(sequence.label_times_us) - sequence.label_times_us[0]) / 1e6
        overlaps = {
            n: np.maximum(frame_errors(b, sequence.boxes_xywh, protocol="pytracking", name=n).overlap, 0)
            for n, b in boxes.items()
        }
        strip = plots.overlap_strip(times, overlaps, title=f"overlap with the annotation over time, {name}")
        blocks.append(Figure(strip, "Overlap with the annotation over time.", wide=True))
    return Details(
        name, blocks, metrics, list(colours.values()), [a.replace("_", " ") for a in sequence.attributes], unfolded
    )


def sequence_thumbnails(
    sequence: Any,
    boxes: Mapping[str, np.ndarray],
    colours: Mapping[str, tuple[int, int, int]],
    *,
    count: int = 4,
    window_us: int = 20_000,
    width: int = 320,
) -> list[tuple[str, np.ndarray]]:
    """Event pictures at times spread over a sequence, with the annotation and the trackers' boxes.

    Args:
        sequence: A `TrackingSequence`.
        boxes: `[L, 4]` per tracker.
        colours: RGB per tracker.
        count: Pictures.
        window_us: Events drawn before each time.
        width: Width of a picture in pixels.

    Returns:
        Pairs of a time in words and a uint8 picture `[h, w, 3]`.
    """
    style = palette("dark")
    rows = np.unique(np.linspace(0, len(sequence.label_times_us) - 1, count + 1).round().astype(int))[1:]
    pictures = []
    for row in rows if len(rows) else [0]:
        t_us = int(sequence.label_times_us[row])
        window = sequence.events.slice_time(t_us - window_us, t_us)
        factor = width / sequence.events.sensor_hw[1]
        shape = [max(1, round(side * factor)) for side in sequence.events.sensor_hw]
        image = event_image(window.resample((shape[0], shape[1])), style="dark")
        draw_box(image, np.asarray(sequence.boxes_xywh[row]) * factor, colour=style.truth, dash=4)
        for name, track in boxes.items():
            draw_box(image, track[row] * factor, colour=colours[name], thickness=2)
        when = f"{(t_us - int(sequence.label_times_us[0])) / 1e6:.2f} s"
        if not sequence.visible[row]:
            draw_text(image, "target hidden", (5, 4), colour=style.ink, size=15, ground=style.ground)
        pictures.append((when, image))
    return pictures


def _colour_word(evaluations: Sequence[EvaluationResult], name: str) -> str:
    words = ("blue", "orange", "green", "violet", "ochre", "pink", "grey", "cyan")
    return words[[e.tracker for e in evaluations].index(name) % len(words)]


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)
