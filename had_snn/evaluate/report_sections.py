"""The usual chapters of a report, built from results. Each function returns a `report.Section`.

Keys of numbers follow `metrics.json`: a tracker's scores stand under its name (`student.SR`), energy under
`energy_mj_per_output.<network>`, export under `export.<simulator>`, stages under `seconds.<stage>`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from had_snn.errors import InputError
from had_snn.evaluate.metrics import SCORES, paired_difference
from had_snn.evaluate.report import Details, Facts, Figure, Metric, Section, Table, Text
from had_snn.evaluate.results import EvaluationResult
from had_snn.viz import plots

PROTOCOL_NOTES = {
    "toolkit": "the MATLAB toolkits of EventVOT, COESOT and VisEvent: absent frames count as misses, visible frames "
    "annotated with a coordinate at or below zero as misses in SR and hits in PR and NPR, and sequences whose curve is "
    "zero everywhere are left out",
    "pytracking": "the analysis file of OSTrack's family: every frame counts, annotations without area are misses in "
    "SR and PR and hits in NPR",
    "visible": "only frames whose target is visible and annotated count, above and below the fraction line",
    "clock": "each label is compared with the newest box that was ready by its time, then scored as in pytracking",
}
_HEADLINE = ("SR", "PR", "NPR")


def one_protocol(evaluations: Sequence[EvaluationResult]) -> str:
    """The protocol that all evaluations share, or an error: no table mixes protocols."""
    if not evaluations:
        raise InputError("a report needs at least one evaluated tracker")
    protocols = {e.protocol for e in evaluations}
    if len(protocols) > 1:
        raise InputError(f"protocols {', '.join(sorted(protocols))} cannot stand in one table; score all under one")
    return protocols.pop()


def scores_section(evaluations: Sequence[EvaluationResult], *, reference: str | None = None) -> Section:
    """Trackers against scores with intervals, and how far the others are behind one of them.

    Args:
        evaluations: At least one, all under the same protocol and on the same sequences.
        reference: Name of the tracker that the others are compared with; the first when None.
    """
    protocol = one_protocol(evaluations)
    best = {s: max(e.scores[s] for e in evaluations) for s in SCORES}
    timed = any(np.isfinite(e.ms_per_output) for e in evaluations)
    rows = []
    for e in evaluations:
        cells: list[Any] = [e.tracker]
        for score in SCORES:
            interval = e.summary.intervals.get(score) if score in _HEADLINE else None
            cells.append(
                Metric(e.scores[score], f"{e.tracker}.{score}", 1, interval, best=e.scores[score] == best[score])
            )
        if timed:
            cells.append(Metric(e.ms_per_output, f"{e.tracker}.ms_per_output", None))
        rows.append(cells)
    sequences = evaluations[0].summary.sequences
    intervals = bool(evaluations[0].summary.intervals)
    table = Table(
        ["tracker", *SCORES, *(["ms per box"] if timed else [])],
        rows,
        caption=f"Protocol {protocol}, {sequences} sequences, percent; the best in bold",
        note=("Small numbers: 95 % bootstrap intervals over sequences. " if intervals else "")
        + "SR: mean of the success curve (a perfect box reaches 95.2). PR: centre within 20 px. NPR: within 0.2 of the "
        "box. OP50, OP75: overlap above one half, three quarters.",
        colours=[plots.colour_of(i) for i in range(len(evaluations))],
    )
    blocks: list[Any] = [table]
    if intervals and len(evaluations) > 1:
        blocks.append(_difference_table(evaluations, reference, protocol))
        scores = {e.tracker: e.scores["SR"] for e in evaluations}
        bounds = {e.tracker: e.summary.intervals["SR"] for e in evaluations}
        figure_title = f"SR with 95 % intervals, protocol {protocol}"
        height = 0.9 + 0.42 * len(evaluations)
        svg = plots.svg_figure(
            lambda ax: plots.score_intervals(ax, scores, bounds, title=figure_title, label="SR (%)"),
            size=(6.4, height),
            title=figure_title,
        )
        blocks.append(Figure(svg))
    return Section("Scores", blocks, f"Protocol {protocol}: {PROTOCOL_NOTES[protocol]}.")


def _difference_table(evaluations: Sequence[EvaluationResult], reference: str | None, protocol: str) -> Table:
    base = next((e for e in evaluations if e.tracker == reference), evaluations[0])
    rows = []
    for e in evaluations:
        if e is base:
            continue
        cells: list[Any] = [f"{base.tracker} − {e.tracker}"]
        for score in _HEADLINE:
            gain = paired_difference(base.curves, e.curves, score=score, protocol=protocol)
            decided = gain.low > 0 or gain.high < 0
            cells.append(Metric(gain.difference, "", 1, (gain.low, gain.high), best=decided))
        rows.append(cells)
    return Table(
        ["difference", *_HEADLINE],
        rows,
        caption=f"Paired differences in percentage points, protocol {protocol}",
        note="Both trackers on the same resampled sequences; bold where the 95 % interval leaves out zero. The "
        "intervals do not hold the variance between training runs.",
    )


def curves_section(evaluations: Sequence[EvaluationResult]) -> Section:
    """Success, precision and normalised precision plots."""
    protocol = one_protocol(evaluations)
    figures = []
    for kind, score in (("success", "SR"), ("precision", "PR"), ("norm_precision", "NPR")):
        curves = {e.tracker: e.summary.curves[kind] for e in evaluations}
        scores = {e.tracker: e.scores[score] for e in evaluations}
        svg = plots.svg_figure(
            lambda ax, kind=kind, curves=curves, scores=scores: plots.threshold_plot(
                ax, kind, curves, protocol=protocol, scores=scores
            ),
            size=(4.2, 4.0),
            title=f"{kind.replace('_', ' ')} curves, protocol {protocol}",
        )
        figures.append(Figure(svg, f"Legend: {score} in percent."))
    return Section("Curves", figures)


def attributes_section(evaluations: Sequence[EvaluationResult]) -> Section:
    """SR of each tracker on the sequences that carry each attribute."""
    protocol = one_protocol(evaluations)
    rows = []
    for attribute, summary in evaluations[0].by_attribute.items():
        values = [e.by_attribute[attribute].scores["SR"] for e in evaluations]
        cells: list[Any] = [attribute.replace("_", " "), summary.sequences]
        for e, value in zip(evaluations, values, strict=True):
            key = f"{e.tracker}.per_attribute.{attribute}.SR" if "." not in attribute else ""
            cells.append(Metric(value, key, 1, best=value == max(values)))
        rows.append(cells)
    table = Table(
        ["attribute", "sequences", *(e.tracker for e in evaluations)],
        rows,
        caption=f"SR in percent, protocol {protocol}; a sequence may carry several attributes",
        note="With few sequences a row says little: see the intervals above for how much scores move.",
    )
    return Section("Per attribute", [table] if rows else [Text("No sequence carries an attribute.")])


def training_section(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Section:
    """Loss curves.

    Args:
        histories: Columns by name per network (as a CSV log holds them): `step`, the others values. NaN marks steps at
            which a value was not written.
    """
    figures = []
    for network, columns in histories.items():
        if "step" not in columns:
            raise InputError(f"training history of {network} has no column 'step'; found {', '.join(columns)}")
        steps = np.asarray(columns["step"], float)
        series = {}
        for name, values in columns.items():
            known = np.isfinite(np.asarray(values, float))
            if name != "step" and known.any():
                series[name] = (steps[known], np.asarray(values, float)[known])
        smooth = max(1, len(steps) // 40)
        svg = plots.svg_figure(
            lambda ax, network=network, series=series, smooth=smooth: plots.curves(
                ax, series, title=network, smooth=smooth
            ),
            size=(4.4, 3.0),
            title=f"training of {network}",
        )
        figures.append(Figure(svg, f"Running mean over {smooth} points." if smooth > 1 else ""))
    return Section("Training", figures)


def energy_section(
    energy_mj_per_output: Mapping[str, float],
    *,
    parts_mj: Mapping[str, Mapping[str, float]] | None = None,
    layers: Sequence[Mapping[str, Any]] = (),
    rates: Mapping[str, float] | None = None,
    facts: Mapping[str, Any] | None = None,
    note: str = "",
) -> Section:
    """Estimated energy per output, its parts, and the table of layers.

    Args:
        energy_mj_per_output: Millijoules per network.
        parts_mj: Millijoules per network and part (MAC, AC, ...), for the bars; the totals when None.
        layers: Rows of the table of layers, all with the same columns.
        rates: Firing rate per layer, for the bars.
        facts: Anything else worth a line.
        note: The cost table and its source, and what is not counted.
    """
    base = max(energy_mj_per_output.values(), default=0.0)
    rows = [
        [
            name,
            Metric(mj, f"energy_mj_per_output.{name}", None, unit="mJ"),
            Metric(base / mj if mj else None, "", 1, unit="×"),
        ]
        for name, mj in energy_mj_per_output.items()
    ]
    blocks: list[Any] = [
        Table(
            ["network", "energy per output", "below the largest by"], rows, caption="Estimated, not measured", note=note
        )
    ]
    parts = parts_mj or {name: {"total": mj} for name, mj in energy_mj_per_output.items()}
    height = 1.4 + 0.45 * len(parts)
    blocks.append(Figure(plots.svg_figure(lambda ax: plots.energy_bars(ax, parts), size=(4.8, height), title="energy")))
    if rates:
        blocks.append(bars_figure(rates, title="Firing rate", label="per step"))
    if facts:
        blocks.append(Facts(facts))
    if layers:
        columns = list(layers[0])
        table = Table([c.replace("_", " ") for c in columns], [[row.get(c) for c in columns] for row in layers])
        blocks.append(Details(f"All {len(layers)} layers", [table]))
    return Section("Spikes and energy", blocks)


def bars_figure(values: Mapping[str, float], **options: Any) -> Figure:
    """`plots.bars` as a block of a report, as high as it has bars."""
    height = 0.9 + 0.26 * len(values)
    svg = plots.svg_figure(lambda ax: plots.bars(ax, values, **options), size=(4.8, height), title=options["title"])
    return Figure(svg)


def export_section(verification: Mapping[str, Mapping[str, Any]], *, note: str = "") -> Section:
    """Agreement of the exported network with the simulators that ran it.

    Args:
        verification: Per simulator at least `mismatches` and `spikes`; other numbers become columns.
        note: What was exported and what runs on the host.
    """
    extra = list(
        dict.fromkeys(k for entry in verification.values() for k in entry if k not in ("mismatches", "spikes"))
    )
    rows = []
    for simulator, entry in verification.items():
        count = {k: Metric(entry.get(k), f"export.{simulator}.{k}", 0) for k in ("spikes", "mismatches")}
        verdict = "identical" if entry.get("mismatches") == 0 else "differs"
        rows.append([simulator, count["spikes"], count["mismatches"], verdict, *(entry.get(k) for k in extra)])
    heads = ["simulator", "spikes compared", "mismatches", "verdict", *(k.replace("_", " ") for k in extra)]
    return Section("Export", [Table(heads, rows, note=note)])


def run_section(
    *,
    seconds: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    config: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Section:
    """How the numbers came about: stage timings, versions, configuration."""
    blocks: list[Any] = []
    if facts:
        blocks.append(Facts(facts))
    if seconds:
        total = sum(seconds.values())
        rows = [
            [
                stage.replace("_", " "),
                Metric(value, f"seconds.{stage}", 1, unit="s"),
                Metric(100 * value / total if total else None, "", 0, unit="%"),
            ]
            for stage, value in seconds.items()
        ]
        blocks.append(Table(["stage", "time", "share"], rows, caption=f"Stages, {total:.1f} s in all"))
    if versions:
        blocks.append(Facts(versions, "Versions"))
    if config:
        blocks.append(Details("Configuration", [Text(config, code=True)]))
    return Section("Run", blocks)
