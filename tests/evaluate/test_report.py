"""The HTML report: what it holds, what it refuses, and how a browser shows it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.evaluate import report_sections as sections
from had_snn.evaluate.baselines import MeanShiftTracker, StaticTracker
from had_snn.evaluate.one_pass import evaluate_tracker
from had_snn.evaluate.report import (
    Card,
    Details,
    Facts,
    Media,
    Metric,
    ReportData,
    Section,
    Table,
    Text,
    format_number,
    group_blocks,
    render_report,
    write_report,
)
from had_snn.evaluate.report_sequences import sequences_section, thumbnails
from had_snn.evaluate.results import results_to_json
from had_snn.viz.film import encode_gif, encode_png, write_video

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


class Numbers(HTMLParser):
    """Text of every element that names its place in `metrics.json`."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, str | None, str]] = []
        self.pending = None
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.add(tag)
        self.links += [attributes[k] for k in ("src", "href") if attributes.get(k)]
        if "data-metric" in attributes:
            self.pending = (attributes["data-metric"], attributes.get("data-digits"))

    def handle_data(self, data):
        if self.pending:
            self.found.append((*self.pending, data))
            self.pending = None


def look_up(record, key):
    for part in key.split("."):
        record = record[part]
    return record


def check_numbers(html, metrics):
    parser = Numbers()
    parser.feed(html)
    assert len(parser.found) == 39
    for key, digits, text in parser.found:
        assert text == format_number(look_up(metrics, key), digits=int(digits) if digits else None), key
    return parser


@pytest.fixture(scope="module")
def demo(tmp_path_factory, make_sequence, oracle):
    """A report with every kind of section, and the metrics it was made from."""
    folder = tmp_path_factory.mktemp("report")
    sequences = [make_sequence(i, name=f"clip_{i}", attributes=("sway",) if i else ()) for i in range(3)]
    sequences[1].visible[7:9] = False

    class Student:
        name = "student"

        def init(self, events, box_xywh, *, t_us, frame=None):
            mine = next(s for s in sequences if np.array_equal(s.events.slice_time(0, t_us).t[:50], events.t[:50]))
            self.oracle = oracle(mine, shift=(4.0, 1.0))
            self.oracle.init(events, box_xywh, t_us=t_us)

        def update(self, events, *, at_us, frame=None):
            return self.oracle.update(events, at_us=at_us)

    evaluations = [evaluate_tracker(t, sequences) for t in (Student(), MeanShiftTracker(), StaticTracker())]
    energy, stages = {"student": 0.04213, "teacher": 1.9}, {"train_teacher": 61.23, "evaluate": 2.0}
    export = {"norse": {"mismatches": 0, "spikes": 182_733}, "snntorch": {"mismatches": 2, "spikes": 182_733}}
    metrics = {**results_to_json(evaluations), "energy_mj_per_output": energy, "export": export, "seconds": stages}
    steps = np.arange(0, 300, 3)
    history = {"step": steps, "total": np.exp(-steps / 99), "score": np.where(steps % 2, np.nan, 1.0)}
    film_frame = np.full((20, 20, 3), 9, np.uint8)
    film = write_video(folder / "film.mp4", [film_frame] * 3)
    data = ReportData(
        "Demo",
        "synthetic <sequences> & more",
        evaluations[0].protocol,
        cards=[Card("SR", Metric(evaluations[0].scores["SR"], "student.SR", 1, (1.0, 2.0)), "note")],
        sections=[
            sections.scores_section(evaluations),
            sections.curves_section(evaluations),
            sections.attributes_section(evaluations),
            sequences_section(evaluations, sequences),
            Section("Film", [Media(film.read_bytes(), "a film"), Media(encode_gif([film_frame] * 2))]),
            sections.training_section({"student": history}),
            sections.energy_section(
                energy,
                parts_mj={"student": {"AC": 0.03, "MAC": 0.01}, "teacher": {"MAC": 1.9}},
                rates={"stem": 0.1},
                layers=[{"layer": "stem", "synops": 12345678, "rate": 0.0123}],
                facts={"outputs": 12},
                note="45 nm",
            ),
            sections.export_section(export, note="up to the read-out"),
            sections.run_section(seconds=stages, versions={"torch": "2"}, config="seed: 0", facts={"seed": 0}),
        ],
        footer="the end",
    )
    path = write_report(folder / "new" / "report.html", data)
    (folder / "metrics.json").write_text(json.dumps(metrics, allow_nan=False))
    return path, metrics


def test_page_is_self_contained_and_equals_the_metrics(demo):
    path, metrics = demo
    html = path.read_text(encoding="utf-8")
    parser = check_numbers(html, metrics)
    assert "script" not in parser.tags
    assert all(link.startswith(("#", "data:")) for link in parser.links)
    assert not re.search(r"url\((?!#|&#39;#)", html)
    assert "&lt;sequences&gt; &amp; more" in html
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_protocol_is_named_on_every_figure_of_scores(demo):
    html = demo[0].read_text(encoding="utf-8")
    curves = html[html.index('<section id="curves">') : html.index('<section id="per-attribute">')]
    assert curves.count("<svg") == 3
    for figure in curves.split("<svg")[1:]:
        assert "protocol pytracking" in figure
    for caption in ("percent; the best in bold", "SR in percent, protocol pytracking", "Paired differences"):
        assert caption in html


def browser():
    name = next((n for n in ("chromium", "chromium-browser", "google-chrome") if shutil.which(n)), None)
    if name is None:
        pytest.skip("no Chromium here: the page was not opened in a browser")
    return name


def run_browser(folder, *options):
    command = [
        browser(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        f"--user-data-dir={folder / 'profile'}",
        "--hide-scrollbars",
        *options,
    ]
    return subprocess.run(command, capture_output=True, check=True, timeout=120)


def test_browser_shows_the_numbers(demo, tmp_path):
    path, metrics = demo
    dom = run_browser(tmp_path, "--dump-dom", path.as_uri()).stdout.decode()
    check_numbers(dom, metrics)


def test_browser_draws_the_page(demo, tmp_path):
    iio = pytest.importorskip("imageio.v3")
    shot = tmp_path / "shot.png"
    run_browser(tmp_path, "--window-size=1200,3000", f"--screenshot={shot}", demo[0].as_uri())
    picture = iio.imread(shot)[..., :3].astype(int)
    assert picture.shape[:2] == (3000, 1200)
    # Curves and dots of the first three trackers are there, in their colours.
    for colour in ((43, 123, 220), (227, 114, 45), (26, 158, 119)):
        assert (np.abs(picture - colour).max(axis=-1) < 12).sum() > 300
    assert (picture.max(axis=-1) < 110).mean() > 0.005  # ink


def test_hardest_sequence_comes_first(sequence, make_sequence):
    other = make_sequence(5, name="hard")
    other.boxes_xywh[5:] += 60.0
    evaluation = evaluate_tracker(MeanShiftTracker(), [sequence, other])
    section = sequences_section([evaluation], [sequence, other], limit=1)
    assert [d.title for d in section.blocks] == ["hard", "All 2 sequences"]
    assert "1 of 2 sequences" in section.intro
    assert section.blocks[0].open


def test_thumbnails_hold_the_boxes(sequence):
    pictures = thumbnails(sequence, {"a": sequence.boxes_xywh}, {"a": (255, 0, 0)}, count=3, width=160)
    assert [when for when, _ in pictures] == ["0.24 s", "0.52 s", "0.76 s"]
    assert all(p.shape == (120, 160, 3) for _, p in pictures)
    assert all((p == (255, 0, 0)).all(-1).sum() > 150 for _, p in pictures)


def test_protocols_are_not_mixed(sequence):
    mixed = [evaluate_tracker(StaticTracker(), [sequence], protocol=p, resamples=0) for p in ("toolkit", "visible")]
    with pytest.raises(InputError, match="toolkit, visible cannot stand in one table"):
        sections.scores_section(mixed)
    with pytest.raises(InputError, match="at least one"):
        sections.scores_section([])
    # Without intervals there is nothing to say about differences.
    assert len(sections.scores_section(mixed[:1]).blocks) == 1


def test_training_needs_its_steps():
    with pytest.raises(InputError, match="no column 'step'; found epoch, loss"):
        sections.training_section({"student": {"epoch": [1], "loss": [2]}})


def test_sections_need_different_titles():
    with pytest.raises(InputError, match="same title: one"):
        render_report(ReportData("t", sections=[Section("One", []), Section("one!", [])]))


def test_small_report_without_anything():
    html = render_report(ReportData("<Empty>"))
    assert "&lt;Empty&gt;" in html
    assert "<nav" not in html


def test_blocks_are_grouped():
    table, picture = Table(["a"], [["x"]]), Media(encode_png(np.zeros((2, 2, 3), np.uint8)))
    assert [(k, len(g)) for k, g in group_blocks([picture, picture, table, picture])] == [
        ("grid", 2),
        ("block", 1),
        ("grid", 1),
    ]
    html = render_report(
        ReportData("t", sections=[Section("s", [Details("d", [picture, Facts({"k": None}), Text("x")])])])
    )
    assert "data:image/png;base64," in html
    with pytest.raises(InputError, match="PNG, GIF, JPEG or MP4"):
        Media(b"hello").mime  # noqa: B018


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (61.26, 1, "61.3"),
        (None, 1, "–"),
        (float("nan"), 1, "–"),
        (182733, 0, "182\u202f733"),
        (0, None, "0"),
        (0.0, None, "0"),
        (0.04213, None, "0.0421"),
        (1.9, None, "1.90"),
        (123.4, None, "123"),
        (3.2e-7, None, "3.20e-07"),
        (4.2e9, None, "4.20e+09"),
    ],
)
def test_numbers(value, digits, text):
    assert format_number(value, digits=digits) == text


def test_runs_on_a_clock_have_scores_but_no_pictures(sequence):
    evaluation = evaluate_tracker(StaticTracker(), [sequence], protocol="clock")
    section = sequences_section([evaluation], [sequence])
    assert section.blocks[0].blocks == []
    assert section.blocks[0].metrics["static"].value == evaluation.curves[0].score("SR")
