"""`had-snn evaluate`: result folders against annotation folders, and trackers with baselines on a data set."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hydra")
pytest.importorskip("jinja2")

ROOT = Path(__file__).resolve().parents[2]
TRUTH = np.array([[10.0, 10, 20, 10], [12, 10, 20, 10], [0, 0, 0, 0], [16, 10, 20, 10]])


@pytest.fixture
def layout(tmp_path):
    """Two sequences in COESOT's layout, and two trackers' results with other separators, number forms and headers."""
    for name in ("one", "two"):
        folder = tmp_path / "anno" / name
        folder.mkdir(parents=True)
        np.savetxt(folder / "groundtruth.txt", TRUTH, delimiter=",", fmt="%g")
        np.savetxt(folder / "absent.txt", [1, 1, 0, 1], fmt="%d")
    for tracker, delimiter, form, header in (("ours", "\t", "%.3f", ""), ("theirs", " ", "%d", "x y w h")):
        (tmp_path / tracker).mkdir()
        for name in ("one", "two"):
            shift = [0 if tracker == "ours" else 3, 0, 0, 0]
            np.savetxt(
                tmp_path / tracker / f"{name}.txt",
                TRUTH + shift,
                delimiter=delimiter,
                fmt=form,
                header=header,
                comments="",
            )
    return tmp_path


def test_labels_before_the_first_events_can_be_left_out(monkeypatch):
    from had_snn.commands.evaluate import without_first
    from had_snn.data.sequence import TrackingSequence
    from had_snn.errors import InputError
    from had_snn.events.stream import EventStream

    events = EventStream(
        t=np.array([5_000, 90_000]), x=np.array([1, 2]), y=np.array([1, 2]), p=np.array([0, 1]), sensor_hw=(8, 8)
    )
    times = np.array([10_000, 44_999, 45_000, 80_000])
    sequence = TrackingSequence("a", events, times, np.arange(16.0).reshape(4, 4), np.array([1, 1, 0, 1], bool))
    (cut,) = without_first([sequence], 40_000)
    assert cut.label_times_us.tolist() == [45_000, 80_000]
    assert cut.boxes_xywh[0].tolist() == [8, 9, 10, 11]
    assert cut.visible.tolist() == [False, True]
    with pytest.raises(InputError, match="a is over before skip_us=90000"):
        without_first([sequence], 90_000)


def test_folders_of_two_trackers(start, layout):
    done = start("evaluate", "results=[ours,theirs]", "annotations=anno", "protocol=visible", "out=run")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((layout / "run" / "metrics.json").read_text())
    assert list(metrics) == ["ours", "theirs", "static"]
    assert metrics["ours"]["SR"] == pytest.approx(95.24, abs=0.01)
    # 3 px beside a box of 20 x 10 in two of three frames (the first is given): 17 / 23 of the area.
    assert metrics["theirs"]["SR"] == pytest.approx((20 + 2 * 15) / 3 / 21 * 100, abs=0.01)
    assert metrics["theirs"]["PR"] == 100
    page = (layout / "run" / "report.html").read_text()
    for words in ("protocol visible", "theirs", "Baselines that need events", "frame 3"):
        assert words in page
    for tracker, record in metrics.items():
        assert f'data-metric="{tracker}.SR"' in page
        assert f">{record['SR']:.1f}<" in page
    assert set(p.name for p in (layout / "run").iterdir()) >= {"metrics.json", "report.html", "config.yaml"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["annotations=anno"], "give results=DIR"),
        (["results=ours", "annotations=anno", "protocol=clock"], "protocol=clock needs"),
        (["results=[ours,ours]", "annotations=anno"], "two trackers are called ours"),
        (["carry=perhaps"], "carry expects true or false, or both"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(start, layout, arguments, says):
    done = start("evaluate", *arguments, "out=run")
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert not (layout / "run").exists()


@pytest.mark.parametrize(("protocol", "scores"), [("toolkit", [86.5, 93.0, 93.0]), ("pytracking", [89.9, 93.0, 100.0])])
def test_perfect_tracker_on_published_annotations(start, protocol_data, tmp_path, protocol, scores):
    with zipfile.ZipFile(protocol_data / "coesot_test_annos.zip") as archive:
        archive.extractall(tmp_path)
    annotations, results = tmp_path / "annos" / "coesot_anno", tmp_path / "perfect"
    results.mkdir()
    for path in annotations.glob("*/groundtruth.txt"):
        # One annotation has a negative width, which the pytracking rules refuse in a result.
        lines = [
            ",".join("0" if k > 1 and float(v) < 0 else v for k, v in enumerate(line.split(",")))
            for line in path.read_text().split()
        ]
        (results / f"{path.parent.name}.txt").write_text("\n".join(lines))
    listed = tmp_path / "sequence_evaluation_config" / "COESOT_testing_subset.txt"
    done = start(
        "evaluate",
        f"results={results}",
        f"annotations={annotations}",
        f"absent={annotations}",
        f"sequences={listed}",
        f"protocol={protocol}",
        "resamples=0",
        "report=null",
        "out=run",
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert [round(metrics["perfect"][name], 1) for name in ("SR", "PR", "NPR")] == scores
    assert len(metrics["perfect"]["per_sequence"]) == 527


def test_trackers_and_baselines_on_a_data_set(start, tmp_path):
    pytest.importorskip("cv2")
    data = [
        "~data.splits.train",
        "~data.splits.val",
        "data.splits.test.count=2",
        "data.splits.test.seconds=0.3",
        "data.root=cache",
        "data.sensor_hw=[90,120]",
        "data.workers=1",
    ]
    done = start("evaluate", *data, "out=run", "resamples=50", "carry=both")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    ours, opencv = ["student", "student_carried"], ["csrt_events", "csrt_frames", "kcf_events", "kcf_frames"]
    assert list(metrics) == [*ours, "static", "mean_shift", *opencv]
    assert (tmp_path / "run" / "report.html").stat().st_size > 50_000
    # What was written is read back as another tracker's folder, beside the data set's own annotations.
    (tmp_path / "run" / "results" / "mean_shift").rename(tmp_path / "again")
    done = start(
        "evaluate",
        *data,
        "checkpoint=null",
        "baselines=[static]",
        "results=again",
        "out=second",
        "report=null",
        "resamples=0",
    )
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "second" / "metrics.json").read_text())
    assert list(again) == ["again", "static"]
    # Another evaluation into the folder of the first leaves none of its boxes.
    few = ["checkpoint=null", "baselines=[static]", "limit=1", "report=null", "resamples=0"]
    done = start("evaluate", *data, *few, "out=run")
    assert done.returncode == 0, done.stderr
    left = [path.relative_to(tmp_path / "run") for path in (tmp_path / "run" / "results").rglob("*") if path.is_file()]
    assert [str(path) for path in left] == ["results/static/test-00000.txt"]
    # A name that two would have is told before any of them has run.
    (tmp_path / "again").rename(tmp_path / "static")
    done = start("evaluate", *data, *few, "results=static", "out=third")
    assert done.returncode == 2
    assert "two trackers are called static" in done.stderr
    assert "evaluate static" not in done.stderr
    assert again["again"]["SR"] == pytest.approx(metrics["mean_shift"]["SR"], abs=0.5)
    assert again["static"]["SR"] == metrics["static"]["SR"]
