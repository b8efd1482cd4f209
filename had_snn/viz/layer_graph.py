"""A network's graph as a picture: layers from top to bottom, edges between them, host and chip told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from had_snn.errors import InputError
from had_snn.files import atomic_file

_COLOURS = {"host": "#e8e4da", "synapses": "#cfe0f0", "neurons": "#f3d3b8"}
_WIDTH, _HEIGHT = 3.6, 0.62


@dataclass(frozen=True)
class Box:
    """One node of the picture.

    Attributes:
        name: Its name.
        lines: Further lines of text.
        kind: `"host"`, `"synapses"` or `"neurons"`; decides the colour.
    """

    name: str
    lines: tuple[str, ...]
    kind: str


def ranks(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Row of each node: one below the lowest of its sources. `names` must be in an order of computation."""
    found: dict[str, int] = {}
    for name in names:
        sources = [source for source, target in edges if target == name]
        if any(source not in found for source in sources):
            raise InputError(f"{name} stands before one of its sources {', '.join(sources)}")
        found[name] = 1 + max((found[source] for source in sources), default=-1)
    return found


def draw_graph(path: str | Path, boxes: Sequence[Box], edges: Sequence[tuple[str, str]], *, title: str = "") -> None:
    """Draws boxes in rows and arrows between them; arrows that skip rows go around at the side.

    Args:
        path: Picture to write; the suffix names the format (png, svg, pdf).
        boxes: Nodes in an order in which they can be computed.
        edges: Pairs of names.
        title: Text above.
    """
    row = ranks([box.name for box in boxes], edges)
    columns = {level: [b.name for b in boxes if row[b.name] == level] for level in set(row.values())}
    place = {}
    for level, names in columns.items():
        for index, name in enumerate(names):
            place[name] = ((index - (len(names) - 1) / 2) * (_WIDTH + 0.5), -float(level))
    wide = max(len(names) for names in columns.values())
    figure = Figure(figsize=(1.2 * (wide * (_WIDTH + 0.5) + 1.6), 0.95 * (len(columns) + 0.6)), layout="constrained")
    axes = figure.add_subplot()
    for box in boxes:
        x, y = place[box.name]
        corner = (x - _WIDTH / 2, y - _HEIGHT / 2)
        shape = "round,pad=0.02,rounding_size=0.25" if box.kind == "neurons" else "round,pad=0.02,rounding_size=0.03"
        axes.add_patch(
            FancyBboxPatch(corner, _WIDTH, _HEIGHT, boxstyle=shape, facecolor=_COLOURS[box.kind], edgecolor="#444444")
        )
        axes.text(x, y + 0.12 * bool(box.lines), box.name, ha="center", va="center", fontsize=10, weight="bold")
        axes.text(x, y - 0.14, "\n".join(box.lines), ha="center", va="center", fontsize=8)
    for source, target in edges:
        _arrow(axes, place[source], place[target])
    half = wide * (_WIDTH + 0.5) / 2 + 0.8
    axes.set_xlim(-half, half)
    axes.set_ylim(-len(columns) + 0.4, 0.6)
    axes.set_axis_off()
    axes.set_title(title, fontsize=11)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format=Path(path).suffix[1:])


def _arrow(axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    (x0, y0), (x1, y1) = start, end
    style = {"arrowstyle": "-|>", "mutation_scale": 12, "color": "#444444"}
    if y0 - y1 > 1:  # around the rows in between, from side to side
        side = _WIDTH / 2 + 0.02
        bend = f"arc3,rad={-0.5 / (y0 - y1):.3f}"
        axes.add_patch(FancyArrowPatch((x0 + side, y0), (x1 + side, y1), connectionstyle=bend, **style))
    else:
        axes.add_patch(FancyArrowPatch((x0, y0 - _HEIGHT / 2), (x1, y1 + _HEIGHT / 2), **style))
