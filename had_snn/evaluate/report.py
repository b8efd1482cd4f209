"""One self-contained HTML file for a run: no network, no script, readable on a phone and in the dark.

A report is a list of sections, a section a list of blocks: tables, figures (inline SVG), pictures and films (inline
bytes), facts, texts and folded details. `report_sections.py` builds the usual sections from results.

    data = ReportData("HAD-SNN demo", sections=[scores_section(evaluations), curves_section(evaluations)])
    write_report("runs/demo/report.html", data)

A `Metric` with a `key` leaves `data-metric="student.SR"` in the page, so that a test (or a reader's script) can compare
the page with `metrics.json` number by number.
"""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from had_snn.errors import InputError, optional_import
from had_snn.files import atomic_file

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Metric:
    """A number, with its interval and its place in `metrics.json`.

    Attributes:
        value: The number; None or NaN shows as a dash.
        key: Dotted path in `metrics.json`, e.g. `"student.SR"`; empty for none.
        digits: Digits after the point; None for three significant digits.
        interval: Low and high end, shown beside the number.
        unit: Written after the number.
        best: Shown in bold.
    """

    value: float | None
    key: str = ""
    digits: int | None = 1
    interval: tuple[float, float] | None = None
    unit: str = ""
    best: bool = False

    @property
    def text(self) -> str:
        """The number as it stands in the page."""
        return format_number(self.value, digits=self.digits)

    @property
    def interval_text(self) -> str:
        """The interval as it stands in the page."""
        if self.interval is None:
            return ""
        return "[" + ", ".join(format_number(v, digits=self.digits) for v in self.interval) + "]"


@dataclass(frozen=True)
class Table:
    """Rows of words and `Metric`s.

    Attributes:
        columns: Headings.
        rows: Cells; the first of each row is its heading.
        caption: Line above the table.
        note: Small print below.
        colours: Row headings get a dot in these colours (`viz.plots.colour_of`), when given.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    note: str = ""
    colours: Sequence[str] = ()
    kind: str = field(default="table", init=False)

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers and are set to the right."""
        cells = [[row[c] for row in self.rows if c < len(row)] for c in range(len(self.columns))]
        return [any(isinstance(v, (Metric, int, float)) for v in column) for column in cells]


@dataclass(frozen=True)
class Figure:
    """An inline SVG from `viz.plots.svg_figure`; `wide` lets it take the whole row."""

    svg: str
    caption: str = ""
    wide: bool = False
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Media:
    """A picture or film, given as the bytes of a PNG, GIF, JPEG or MP4 file."""

    data: bytes
    caption: str = ""
    wide: bool = False
    kind: str = field(default="media", init=False)

    @property
    def mime(self) -> str:
        """Type of the bytes, from their first ones."""
        for start, mime in ((b"\x89PNG", "image/png"), (b"GIF8", "image/gif"), (b"\xff\xd8", "image/jpeg")):
            if self.data.startswith(start):
                return mime
        if self.data[4:8] == b"ftyp":
            return "video/mp4"
        raise InputError("a report takes PNG, GIF, JPEG or MP4 bytes")

    @property
    def uri(self) -> str:
        """The bytes as a `data:` address."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"


@dataclass(frozen=True)
class Gallery:
    """Small pictures side by side."""

    pictures: Sequence[Media]
    caption: str = ""
    kind: str = field(default="gallery", init=False)


@dataclass(frozen=True)
class Facts:
    """Pairs of a name and a value."""

    pairs: Mapping[str, Any]
    caption: str = ""
    kind: str = field(default="facts", init=False)


@dataclass(frozen=True)
class Text:
    """A paragraph, or preformatted lines when `code` is set."""

    text: str
    code: bool = False
    kind: str = field(default="text", init=False)


@dataclass(frozen=True)
class Details:
    """Blocks that unfold on a click.

    Attributes:
        title: Always visible.
        blocks: Visible when unfolded.
        metrics: Small numbers beside the title, by name.
        colours: Dots in front of those numbers, in the same order, when given.
        tags: Words beside the title.
        open: Unfolded at first.
    """

    title: str
    blocks: Sequence[Any]
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    colours: Sequence[str] = ()
    tags: Sequence[str] = ()
    open: bool = False
    kind: str = field(default="details", init=False)


@dataclass(frozen=True)
class Section:
    """A chapter of the report; consecutive figures and pictures share rows."""

    title: str
    blocks: Sequence[Any]
    intro: str = ""

    @property
    def anchor(self) -> str:
        """Name for links inside the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"

    @property
    def groups(self) -> list[tuple[str, list[Any]]]:
        """The blocks, with neighbouring figures and pictures gathered into one grid."""
        return group_blocks(self.blocks)


@dataclass(frozen=True)
class Card:
    """One large number at the top."""

    label: str
    metric: Metric
    note: str = ""


@dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    Attributes:
        title: Heading and name of the page.
        subtitle: One line below it.
        protocol: Named at the top, when there is one protocol for the whole report.
        cards: Large numbers at the top.
        sections: The chapters.
        footer: Last line.
    """

    title: str
    subtitle: str = ""
    protocol: str = ""
    cards: Sequence[Card] = ()
    sections: Sequence[Section] = ()
    footer: str = ""


def group_blocks(blocks: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Neighbouring figures and media as `("grid", [...])`, everything else as `("block", [one])`."""
    groups: list[tuple[str, list[Any]]] = []
    for block in blocks:
        if block.kind in ("figure", "media"):
            if groups and groups[-1][0] == "grid":
                groups[-1][1].append(block)
            else:
                groups.append(("grid", [block]))
        else:
            groups.append(("block", [block]))
    return groups


def format_number(value: float | None, *, digits: int | None = 1) -> str:
    """A number as reports and tables show it; a dash for what is unknown."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", "\u202f")
    if digits is None:
        if value and not 1e-3 <= abs(value) < 1e5:
            return f"{value:.2e}"
        digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{digits}f}"


def render_report(data: ReportData) -> str:
    """The report as one HTML text.

    Raises:
        MissingExtraError: If Jinja2 is not installed.
    """
    jinja2 = optional_import("jinja2", extra="viz")
    anchors = [section.anchor for section in data.sections]
    twice = sorted({a for a in anchors if anchors.count(a) > 1})
    if twice:
        raise InputError(f"two sections of the report have the same title: {', '.join(twice)}")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["metric"] = lambda value: isinstance(value, Metric)
    environment.filters["group_blocks"] = group_blocks
    environment.filters["plain_number"] = lambda value: format_number(value, digits=None)
    environment.tests["plain_number"] = lambda v: isinstance(v, (int, float)) and not isinstance(v, bool)
    return environment.get_template("report.html.j2").render(report=data)


def write_report(path: str | os.PathLike[str], data: ReportData) -> Path:
    """Writes a report in one step.

    Args:
        path: The file; folders are made, an existing file is replaced.
        data: What to show.

    Returns:
        The path.
    """
    path, html = Path(path), render_report(data)
    with atomic_file(path) as partial:
        partial.write_text(html, encoding="utf-8")
    return path
