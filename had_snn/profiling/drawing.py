"""The pictures of a profile as inline SVG, made of rectangles and lines: no plotting library is needed to read one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from torch import Tensor

_COLOURS = ("#2f6fab", "#c4622d", "#3c8d5a", "#8d4f9e", "#8a7a2f", "#5a6b7a")


def _svg(width: float, height: float, parts: Iterable[str], label: str) -> str:
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">{"".join(parts)}</svg>\n'
    )


def _rect(x: float, y: float, width: float, height: float, colour: str, title: str = "") -> str:
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}">{inside}</rect>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def bars(values: dict[str, float], *, unit: str, marked: Sequence[str] = (), decades: bool = False) -> str:
    """Horizontal bars, one for each name.

    Args:
        values: What to show; positive with `decades`.
        unit: Their unit.
        marked: Names whose bars get another colour.
        decades: A logarithmic axis from the power of ten below the smallest value, with a line at each.
    """
    top = max(values.values(), default=0.0) or 1.0
    left, span, step = 260, 560, 18
    parts, low = [], math.floor(math.log10(min(values.values()))) if decades and values else 0
    high = math.ceil(math.log10(top)) if decades else 0

    def length(value: float) -> float:
        return span * ((math.log10(value) - low) / max(1, high - low) if decades else value / top)

    for power in range(low, high + 1) if decades else ():
        x = left + length(10.0**power)
        parts.append(_rect(x, 0, 1, step * len(values), "#dde3ea"))
        parts.append(_text(x, step * len(values) + 13, f"{10.0**power:g}", "middle"))
    for row, (name, value) in enumerate(values.items()):
        y, colour = row * step, _COLOURS[1 if name in marked else 0]
        parts.append(_text(left - 8, y + 12, name, "end"))
        parts.append(_rect(left, y + 2, max(0.5, length(value)), step - 5, colour, f"{name}: {value:.4g} {unit}"))
        parts.append(_text(left + length(value) + 5, y + 12, f"{value:.3g} {unit}"))
    return _svg(left + span + 120, step * len(values) + (20 if decades else 6), parts, f"bars in {unit}")


def _shade(share: float) -> str:
    """White over blue to dark for 0 to 1."""
    stops = ((255, 255, 255), (107, 174, 214), (8, 48, 107))
    position = min(max(share, 0.0), 1.0) * 2
    low, high, part = stops[int(position > 1)], stops[1 + int(position > 1)], position - int(position > 1)
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(low, high, strict=True))


def heat_map(rows: dict[str, Sequence[float]], *, columns: str) -> str:
    """A shaded cell for each value, rows by name."""
    top = max((max(row) for row in rows.values() if len(row)), default=0.0) or 1.0
    left, side, step = 260, 64, 22
    width = max((len(row) for row in rows.values()), default=0)
    side = min(side, 640 / max(1, width))
    parts = []
    for r, (name, row) in enumerate(rows.items()):
        parts.append(_text(left - 8, r * step + 15, name, "end"))
        for c, value in enumerate(row):
            title = f"{name}, {columns} {c}: {value:.4f}"
            parts.append(_rect(left + c * side, r * step, side - 1, step - 1, _shade(value / top), title))
            if side > 40:
                shade = ' style="fill:#fff"' if value / top > 0.6 else ""
                where = f'x="{left + (c + 0.5) * side:.1f}" y="{r * step + 15}" text-anchor="middle"'
                parts.append(f"<text {where}{shade}>{value:.3f}</text>")
    return _svg(left + side * width + 10, step * len(rows) + 4, parts, f"rates by {columns}")


def raster(spikes: Tensor, *, name: str) -> str:
    """A mark for each spike of `[steps, neurons]`; higher counts are drawn larger."""
    steps, neurons = spikes.shape
    cell_x, cell_y = 5.0, 3.0
    parts = [_rect(0, 0, steps * cell_x, neurons * cell_y, "#f6f8fa")]
    marks = []
    for step, neuron in spikes.nonzero().tolist():
        size = min(1.0, 0.6 + 0.1 * int(spikes[step, neuron]))
        wide, high = f"{cell_x * size:g}", f"{cell_y * size:g}"
        marks.append(f"M{step * cell_x:g} {neuron * cell_y:g}h{wide}v{high}h-{wide}z")
    parts.append(f'<path fill="#1c2530" d="{"".join(marks)}"/>')
    return _svg(steps * cell_x, neurons * cell_y, parts, f"spikes of {name}")


def lines(curves: dict[str, list[tuple[float, float]]], *, x_label: str, y_label: str) -> str:
    """Curves over a logarithmic x axis; the y axis starts at zero."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return ""
    low, high = (f(math.log2(x) for x, _ in points) for f in (min, max))
    top = max(y for _, y in points) * 1.1 or 1.0
    left, width, height = 70, 620, 250
    span = max(high - low, 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + width * (math.log2(x) - low) / span, height - (height - 25) * y / top

    parts = [_rect(left, height, width, 1, "#9aa5b1"), _rect(left, 10, 1, height - 10, "#9aa5b1")]
    parts += [_text(left - 6, place(1.0, top * t / 4)[1] + 4, f"{top * t / 4:.3g}", "end") for t in range(5)]
    parts += [_text(place(x, 0)[0], height + 15, f"{x / 1e3:.3g}k", "middle") for x in sorted({x for x, _ in points})]
    parts.append(_text(left + width / 2, height + 32, x_label, "middle"))
    parts.append(_text(left, 8, y_label))
    for colour, (name, curve) in zip(_COLOURS * 9, curves.items(), strict=False):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = place(*curve[-1])
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{colour}"/>' for px, py in map(lambda p: place(*p), curve)
        ]
        parts.append(_text(x + 8, y + 4, name))
    return _svg(left + width + 150, height + 40, parts, y_label)
