"""Folders of foreign result files against annotations."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from had_snn.errors import InputError
from had_snn.evaluate.folders import COESOT_ATTRIBUTES, evaluate_folder, read_annotations

TRUTH = np.array([[10.0, 10, 20, 10], [12, 10, 20, 10], [0, 0, 0, 0], [16, 10, 20, 10]])


def write(path, boxes, *, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, boxes, delimiter=delimiter, fmt="%g")


@pytest.fixture
def layout(tmp_path):
    """Two sequences in COESOT's layout (a 1 marks visible frames) and results of two kinds of separators."""
    for name, delimiter in (("one", "\t"), ("two", " ")):
        write(tmp_path / "anno" / name / "groundtruth.txt", TRUTH)
        write(tmp_path / "anno" / name / "absent.txt", np.array([1, 1, 0, 1]))
        write(tmp_path / "ours" / f"{name}.txt", TRUTH + [[0, 0, 0, 0]] * 4, delimiter=delimiter)
    return tmp_path


@pytest.mark.parametrize(
    ("protocol", "scores"),
    [("toolkit", [71.4, 75, 75]), ("pytracking", [71.4, 75, 100]), ("visible", [95.2, 100, 100])],
)
def test_scores(layout, protocol, scores):
    result = evaluate_folder(layout / "ours", layout / "anno", protocol=protocol)
    assert [round(result.scores[n], 1) for n in ("SR", "PR", "NPR")] == scores
    assert result.tracker == "ours"
    assert [c.name for c in result.curves] == ["one", "two"]


@pytest.mark.parametrize("ones", ["auto", "absent"])
def test_flags_of_the_other_polarity(layout, ones):
    for name in ("one", "two"):
        write(layout / "flags" / f"{name}.txt", np.array([0, 0, 1, 0]))
    truths = read_annotations(layout / "anno", layout / "flags", ones=ones)
    assert [t.visible.tolist() for t in truths] == [[True, True, False, True]] * 2


def test_flags_that_cannot_be_told_apart(layout):
    for name in ("one", "two"):
        write(layout / "anno" / name / "groundtruth.txt", np.maximum(TRUTH, 5))
    with pytest.raises(InputError, match="ones=visible"):
        read_annotations(layout / "anno")
    assert read_annotations(layout / "anno", ones="visible")[0].visible.sum() == 3


def test_without_flags_all_frames_count(layout, caplog):
    for name in ("one", "two"):
        (layout / "anno" / name / "absent.txt").unlink()
    assert all(t.visible.all() for t in read_annotations(layout / "anno"))
    assert "no absent flags" in caplog.text


def test_lists_and_flat_annotations(layout):
    write(layout / "flat" / "two.txt", TRUTH)
    (layout / "list.txt").write_text("two\n")
    for chosen in (["two"], layout / "list.txt", None):
        result = evaluate_folder(layout / "ours", layout / "flat", None, chosen, "pytracking", tracker="mine")
        assert [c.name for c in result.curves] == ["two"]
        assert result.tracker == "mine"


def test_attributes(layout):
    flags = {"one": np.eye(17)[1], "two": np.eye(17)[1] + np.eye(17)[16]}
    for name, values in flags.items():
        write(layout / "att" / f"{name}.txt", values)
    result = evaluate_folder(layout / "ours", layout / "anno", attributes_dir=layout / "att")
    assert {a: s.sequences for a, s in result.by_attribute.items()} == {"background object motion": 1, "rotation": 2}
    with pytest.raises(InputError, match="17 attributes; expected 2"):
        read_annotations(layout / "anno", attributes_dir=layout / "att", attribute_names=("fast", "dark"))


def remove(*parts):
    return lambda root: root.joinpath(*parts).unlink()


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (None, {"results_dir": "nowhere"}, "nowhere: no such folder; expected the folder of results"),
        (None, {"annotations_dir": "nowhere"}, "expected the folder of annotations"),
        (None, {"annotations_dir": "ours/.."}, "holds no annotations"),
        (None, {"absent_dir": "ours"}, "holds the flag 10; expected 0 or 1"),
        (None, {"sequences": "no_list.txt"}, "expected a list with one sequence name a line"),
        (None, {"sequences": ["one", "three"]}, "no annotations for 1 of 2 sequences: three; looked for three.txt"),
        (None, {"sequences": ["one", "one"]}, "names one more than once"),
        (None, {"sequences": []}, "list of sequences is empty"),
        (None, {"protocol": "clock"}, "protocol=clock needs the times"),
        (None, {"protocol": "lasot"}, "unknown protocol"),
        (None, {"ones": "maybe"}, "expected one of auto, visible, absent"),
        (remove("ours", "two.txt"), {}, "no results for 1 of 2 sequences: two; expected two.txt"),
        (remove("anno", "two", "absent.txt"), {}, "no absent flags for 1 of 2 sequences: two"),
    ],
)
def test_says_what_is_wrong(layout, monkeypatch, spoil, options, message):
    monkeypatch.chdir(layout)
    if spoil is not None:
        spoil(layout)
    with pytest.raises(InputError, match=message):
        evaluate_folder(**{"results_dir": "ours", "annotations_dir": "anno", **options})


def test_wrong_number_of_flags(layout):
    write(layout / "anno" / "two" / "absent.txt", np.ones(2))
    with pytest.raises(InputError, match=r"2 flags for 4 labels.*length_tolerance=N"):
        evaluate_folder(layout / "ours", layout / "anno")
    truths = read_annotations(layout / "anno", length_tolerance=2)
    assert truths[1].visible.tolist() == [True, True, False, True], "boxes decide where flags are missing"
    write(layout / "anno" / "two" / "absent.txt", np.array([1, 1, 0, 1, 1]))
    assert read_annotations(layout / "anno")[1].visible.tolist() == [True, True, False, True]


def test_published_annotations_as_results(protocol_data, tmp_path):
    """A folder that holds the annotations themselves scores as the perfect tracker does."""
    with zipfile.ZipFile(protocol_data / "coesot_test_annos.zip") as archive:
        archive.extractall(tmp_path)
    annotations, listed = tmp_path / "annos" / "coesot_anno", tmp_path / "sequence_evaluation_config"
    results = tmp_path / "perfect"
    results.mkdir()
    for path in annotations.glob("*/groundtruth.txt"):
        (results / f"{path.parent.name}.txt").write_bytes(path.read_bytes())
    evaluation = evaluate_folder(
        results,
        annotations,
        sequences=listed / "COESOT_testing_subset.txt",
        protocol="toolkit",
        attributes_dir=tmp_path / "annos" / "att",
    )
    assert len(evaluation.curves) == 527
    assert [round(evaluation.scores[n], 1) for n in ("SR", "PR", "NPR")] == [86.5, 93.0, 93.0]
    assert set(evaluation.by_attribute) == set(COESOT_ATTRIBUTES)
