"""Figures. Each function draws into the `ax` it is given and returns it; `svg_figure` makes an inline SVG of one.

figure = plt.figure()
threshold_plot(figure.gca(), "success", {"student": curve}, protocol="pytracking", scores={"student": 61.2})
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

import numpy as np

from had_snn.errors import InputError, optional_import

#: Distinct for readers with colour blindness and on light and dark ground alike.
COLOURS = ("#2b7bdc", "#e3722d", "#1a9e77", "#9a5fd0", "#cf9a10", "#c8458f", "#6f8792", "#12a3b8")
_DASHES: tuple[Any, ...] = ("-", "-", "-", "-", (0, (6, 2)), (0, (2, 2)), (0, (6, 2, 2, 2)), (0, (1, 1)))
_INK = "#010203"  # replaced by the page's text colour in `svg_figure`
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "had_snn",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.color": "#8a8f98",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def colour_of(index: int) -> str:
    """The colour of the `index`-th tracker or network, the same in every figure of a report."""
    return COLOURS[index % len(COLOURS)]


def svg_figure(draw: Callable[[Any], Any], *, size: tuple[float, float] = (4.6, 3.2), title: str = "") -> str:
    """Runs `draw(ax)` and returns the figure as SVG for use inside an HTML page.

    Lines and letters that are black on paper take the colour of the surrounding text, so the figure fits light and dark
    pages; its width follows the page.

    Args:
        draw: Draws into the axes that it gets.
        size: Width and height in inches, which sets the proportions and the relative size of letters.
        title: Words for readers who cannot see the figure.

    Returns:
        An `<svg>` element.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    matplotlib = optional_import("matplotlib", extra="viz")
    figures = optional_import("matplotlib.figure", extra="viz")
    buffer = StringIO()
    with matplotlib.rc_context(_STYLE):
        figure = figures.Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor")
    prefix = "f" + hashlib.sha256(svg.encode()).hexdigest()[:8] + "-"  # several figures share one page
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
    head, body = svg.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)  # the page decides; the view box keeps the proportions
    return f'{head} role="img" aria-label="{_plain(title)}">{body}'


def _plain(text: str) -> str:
    """Text that may stand in an attribute."""
    return text.replace("&", "and").replace('"', "'").replace("<", "")


#: Kinds of curves: thresholds, title, and what stands at the axes; the line is where the score is read.
_CURVES: dict[str, tuple[np.ndarray, str, str, str, float | None]] = {
    "success": (np.arange(21) / 20, "Success", "overlap threshold", "frames above (%)", None),
    "precision": (np.arange(51), "Precision", "centre distance threshold (px)", "frames within (%)", 20),
    "norm_precision": (
        np.arange(51) / 100,
        "Normalised precision",
        "normalised centre distance threshold",
        "frames within (%)",
        0.2,
    ),
}


def threshold_plot(
    ax: Any, kind: str, curves: Mapping[str, np.ndarray], *, protocol: str, scores: Mapping[str, float] | None = None
) -> Any:
    """Share of the frames above each overlap (`success`), or within each centre distance, in pixels (`precision`) or in
    units of the annotated box (`norm_precision`).

    Args:
        ax: Where to draw.
        kind: One of these.
        curves: Fractions per tracker, `[21]` for `success` and `[51]` for the others.
        protocol: Named in the title.
        scores: Percent per tracker, for the legend: SR, PR at 20 px, NPR at 0.2.
    """
    thresholds, title, x_label, y_label, read_at = _CURVES[kind]
    if read_at is not None:
        ax.axvline(read_at, color="#8a8f98", linewidth=0.8, linestyle=":")
    for index, (name, curve) in enumerate(curves.items()):
        if len(curve) != len(thresholds):
            raise InputError(f"{title}: the curve of {name} has {len(curve)} points; expected {len(thresholds)}")
        label = f"{name} {scores[name]:.1f}" if scores and name in scores else name
        style = _DASHES[index % len(_DASHES)]
        ax.plot(thresholds, 100 * np.asarray(curve), label=label, color=colour_of(index), linestyle=style)
    ax.set(title=f"{title}, protocol {protocol}", xlabel=x_label, ylabel=y_label)
    ax.set(xlim=(0, thresholds[-1]), ylim=(0, 102))
    _legend_below(ax)
    return ax


def _legend_below(ax: Any) -> None:
    """A legend under the axis label, where it hides no line; the distance is in points, whatever the axes' height."""
    transforms = optional_import("matplotlib.transforms", extra="viz")
    shift = transforms.ScaledTranslation(0, -30 / 72, ax.figure.dpi_scale_trans)
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        bbox_transform=ax.transAxes + shift,
        ncols=2,
        borderaxespad=0.0,
        columnspacing=1.4,
        handlelength=1.6,
    )


def score_intervals(
    ax: Any,
    scores: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]],
    *,
    title: str,
    label: str = "percent",
) -> Any:
    """One dot per tracker with its interval as a line; the first tracker on top."""
    for index, (name, score) in enumerate(scores.items()):
        low, high = intervals.get(name, (score, score))
        ax.plot([low, high], [index, index], color=colour_of(index), linewidth=3, solid_capstyle="round", alpha=0.55)
        ax.plot([score], [index], marker="o", color=colour_of(index), markersize=6)
        ax.annotate(f"{score:.1f}", (score, index), xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
    ax.set_yticks(range(len(scores)), list(scores))
    ax.set_ylim(len(scores) - 0.5, -0.7)
    ax.set(title=title, xlabel=label, xlim=(0, 100))
    ax.grid(axis="y", visible=False)
    return ax


def overlap_strip(times_s: np.ndarray, overlaps: Mapping[str, np.ndarray], *, title: str, unit: str = "s") -> str:
    """Overlap with the annotation over time as an inline SVG, written by hand: a report holds one per sequence, and
    matplotlib takes half a second for each.

    Args:
        times_s: `[L]` times of the labels in seconds, or in another unit.
        overlaps: `[L]` per tracker, in [0, 1]; NaN leaves a gap.
        title: Words for readers who cannot see the figure.
        unit: Written after the times.

    Returns:
        An `<svg>` element.
    """
    left, top, width, height = 34, 8, 800, 120
    span = max(float(times_s[-1] - times_s[0]), 1e-9)
    x = left + width * (np.asarray(times_s) - times_s[0]) / span
    parts = []
    for level in (0.0, 0.5, 1.0):
        y = top + height * (1 - level)
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}" stroke="#8a8f98" stroke-opacity=".3"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{level:g}</text>')
    step = next(s for s in (m * 10.0**e for e in range(-6, 9) for m in (1, 2, 5)) if span / s <= 8)
    for tick in np.arange(0, span + 1e-9, step):
        at = left + width * tick / span
        parts.append(f'<text x="{at:.1f}" y="{top + height + 16}" text-anchor="middle">{tick:g} {unit}</text>')
    for index, overlap in enumerate(overlaps.values()):
        y = top + height * (1 - np.clip(np.asarray(overlap, float), 0, 1))
        known = np.flatnonzero(np.isfinite(y))
        for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
            points = " ".join(f"{x[i]:.1f},{y[i]:.1f}" for i in run)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour_of(index)}" stroke-width="1.6"/>')
    return (
        f'<svg viewBox="0 0 {left + width + 16} {top + height + 22}" role="img" aria-label="{_plain(title)}" '
        f'font-size="11" fill="currentColor">{"".join(parts)}</svg>'
    )


def curves(
    ax: Any,
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str = "step",
    y_label: str = "loss",
    log_x: bool = False,
    smooth: int = 1,
) -> Any:
    """Values over steps; `series` holds `(steps, values)` per name, `smooth` averages so many neighbours."""
    for index, (name, (steps, values)) in enumerate(series.items()):
        steps, values = np.asarray(steps, float), np.asarray(values, float)
        if smooth > 1 and len(values) > 2 * smooth:
            ax.plot(steps, values, color=colour_of(index), linewidth=0.6, alpha=0.25)
            values = np.convolve(values, np.full(smooth, 1 / smooth), mode="valid")
            steps = steps[smooth // 2 : smooth // 2 + len(values)]
        marker = "o" if log_x or len(values) == 1 else None
        ax.plot(steps, values, label=name, color=colour_of(index), linewidth=1.5, marker=marker)
    ax.set(title=title, xlabel=x_label, ylabel=y_label)
    if log_x:
        ax.set_xscale("log")
        ax.set_ylim(bottom=0)
    if len(series) > 1:
        ax.legend()
    return ax


def energy_bars(ax: Any, parts_mj: Mapping[str, Mapping[str, float]]) -> Any:
    """Stacked bars: one bar per network, one colour per part (MAC, AC, memory ...)."""
    names = list(parts_mj)
    parts = list(dict.fromkeys(part for entry in parts_mj.values() for part in entry))
    left = np.zeros(len(names))
    for index, part in enumerate(parts):
        width = np.array([parts_mj[name].get(part, 0.0) for name in names])
        ax.barh(range(len(names)), width, left=left, color=colour_of(index), label=part, height=0.55)
        left += width
    _name_rows(ax, names, left)
    ax.set(title="Energy per output", xlabel="mJ", xlim=(0, max(float(left.max(initial=0.0)), 1e-12) * 1.18))
    if len(parts) > 1:
        _legend_below(ax)
    return ax


def bars(
    ax: Any, values: Mapping[str, float], *, title: str, label: str, marked: Sequence[str] = (), log: bool = False
) -> Any:
    """One bar per name, from the first at the top; those in `marked` have another colour, `log` has decades."""
    colours = [colour_of(int(name in marked)) for name in values]
    ax.barh(range(len(values)), list(values.values()), color=colours, height=0.6)
    if log:
        ax.set_xscale("log")
    ax.margins(x=0.12)
    _name_rows(ax, list(values), list(values.values()))
    ax.set(title=title, xlabel=label)
    return ax


def _name_rows(ax: Any, names: Sequence[str], ends: Sequence[float] | np.ndarray) -> None:
    """Names of horizontal bars, from the top, and the number that each ends at."""
    for row, end in enumerate(ends):
        ax.annotate(f"{end:.3g}", (end, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)


def heat_map(ax: Any, rows: Mapping[str, Sequence[float]], *, title: str, label: str) -> Any:
    """A shaded cell for each value, rows by name; with few columns the values stand in their cells."""
    values = np.array(list(rows.values()), float)
    ax.pcolormesh(values, cmap="Blues", vmin=0, edgecolors="none")
    if values.shape[1] <= 8:
        for row, column in np.ndindex(values.shape):
            shade = "white" if values[row, column] > 0.6 * values.max() else "black"
            at = (column + 0.5, row + 0.5)
            ax.annotate(f"{values[row, column]:.3f}", at, ha="center", va="center", fontsize=7.5, color=shade)
    ax.set_yticks(np.arange(len(rows)) + 0.5, list(rows))
    ax.invert_yaxis()
    ax.set(title=title, xlabel=label)
    ax.grid(visible=False)
    return ax
