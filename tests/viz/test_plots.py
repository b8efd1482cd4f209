"""Figures hold what they were given, and their SVG fits into a page."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.viz import plots

pytest.importorskip("matplotlib")


@pytest.fixture
def ax():
    from matplotlib.figure import Figure

    return Figure().subplots()


CURVES = {"student": np.linspace(1, 0, 21), "static": np.linspace(0.5, 0, 21)}


@pytest.mark.parametrize(("kind", "points"), [("success", 21), ("precision", 51), ("norm_precision", 51)])
def test_curves_name_the_protocol_and_the_scores(ax, kind, points):
    curves = {"student": np.linspace(0, 1, points), "static": np.zeros(points)}
    plots.threshold_plot(ax, kind, curves, protocol="toolkit", scores={"student": 61.26})
    assert ax.get_title(loc="left").endswith("protocol toolkit") or ax.get_title().endswith("protocol toolkit")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["student 61.3", "static"]
    line = next(line for line in ax.get_lines() if line.get_label() == "student 61.3")
    np.testing.assert_allclose(line.get_ydata(), 100 * curves["student"])
    with pytest.raises(InputError, match="the curve of student has 3 points"):
        plots.threshold_plot(ax, kind, {"student": np.zeros(3)}, protocol="toolkit")


def test_intervals(ax):
    plots.score_intervals(ax, {"a": 50.0, "b": 20.0}, {"a": (45.0, 55.0)}, title="SR, protocol visible")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_lines()[0].get_xdata().tolist() == [45.0, 55.0]


def test_energy_bars_stack(ax):
    plots.energy_bars(ax, {"student": {"AC": 1.0, "MAC": 0.5}, "teacher": {"MAC": 9.0}})
    ends = sorted(round(p.get_x() + p.get_width(), 3) for p in ax.patches if p.get_width())
    assert ends == [1.0, 1.5, 9.0]
    assert {t.get_text() for t in ax.texts} == {"1.5", "9"}


def test_curves_are_smoothed(ax):
    steps = np.arange(100)
    plots.curves(ax, {"a": (steps, 1 / (1 + steps)), "b": ([5], [0.5])}, title="Loss", smooth=9)
    smoothed = next(line for line in ax.get_lines() if line.get_label() == "a")
    assert smoothed.get_xdata()[0] == 4
    assert len(smoothed.get_ydata()) == 92


def test_curves_over_decades_begin_at_zero(ax):
    plots.curves(ax, {"a": ([1e3, 2e3], [5.0, 6.0])}, title="Energy", x_label="events/s", y_label="uJ", log_x=True)
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_ylim()[0]) == ("log", "linear", 0)


def test_bars(ax):
    plots.bars(ax, {"stem": 0.1, "stage1": 20.0}, title="Rates", label="mJ", marked=["stage1"], log=True)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["stem", "stage1"]
    assert {t.get_text() for t in ax.texts} == {"0.1", "20"}
    assert ax.get_xscale() == "log"
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()


def test_heat_map_holds_its_values(ax):
    plots.heat_map(ax, {"stem": [0.1, 0.2], "lif1": [0.3, 0.0]}, title="Spikes", label="micro-step")
    assert [t.get_text() for t in ax.get_yticklabels()] == ["stem", "lif1"]
    assert [t.get_text() for t in ax.texts] == ["0.100", "0.200", "0.300", "0.000"]
    np.testing.assert_array_equal(ax.collections[0].get_array().ravel(), [0.1, 0.2, 0.3, 0.0])


def test_overlap_strip_leaves_gaps():
    overlaps = {"student": np.array([1.0, np.nan, 0.5, 0.0]), "static": np.full(4, np.nan), "third": np.ones(4)}
    root = ET.fromstring(plots.overlap_strip(np.array([5.0, 6.0, 7.0, 9.0]), overlaps, title='"a" & b'))
    assert root.get("aria-label") == "'a' and b"
    lines = [e for e in root if e.tag == "polyline" and e.get("points")]
    assert [line.get("stroke") for line in lines] == [plots.COLOURS[0], plots.COLOURS[0], plots.COLOURS[2]]
    assert lines[1].get("points") == "434.0,68.0 834.0,128.0"
    assert [e.text for e in root if e.tag == "text"][3:] == [
        "0 s",
        "0.5 s",
        "1 s",
        "1.5 s",
        "2 s",
        "2.5 s",
        "3 s",
        "3.5 s",
        "4 s",
    ]


def test_svg_fits_into_a_page():
    draw = lambda ax: plots.threshold_plot(ax, "success", CURVES, protocol="pytracking")  # noqa: E731
    svg = plots.svg_figure(draw, title='Success of "student" & static')
    root = ET.fromstring(svg)
    assert root.tag.endswith("svg")
    assert (root.get("width"), root.get("height")) == (None, None)
    assert root.get("viewBox")
    assert root.get("aria-label") == "Success of 'student' and static"
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "http://" not in svg.replace("http://www.w3.org/", "")
    words = "".join(root.itertext())
    assert "protocol pytracking" in words
    identifiers = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(identifiers) == len(set(identifiers))
    assert svg == plots.svg_figure(draw, title='Success of "student" & static')


def test_two_figures_on_one_page_share_no_identifier():
    first = ET.fromstring(plots.svg_figure(lambda ax: plots.bars(ax, {"a": 1.0}, title="", label="")))
    second = ET.fromstring(plots.svg_figure(lambda ax: plots.bars(ax, {"a": 2.0}, title="", label="")))
    ids = [{e.get("id") for e in root.iter() if e.get("id")} for root in (first, second)]
    assert not ids[0] & ids[1]
