"""Label files as they are found: separators, flags, odd lines; COESOT's public test annotations as a whole."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from had_snn.data.labels import has_area, read_boxes, read_flags, read_rows, share_of_contradictions
from had_snn.data.layout_davis import COESOT, check_range
from had_snn.data.layout_plan import Entry, Plan, Unusable
from had_snn.errors import FormatError


@pytest.mark.parametrize(
    "text", ["1,2,3,4\n5,6,7,8\n", "1 2 3 4\r\n5 6 7 8\r\n", "1\t2\t3\t4\n5;6;7;8\n\n\n", "\ufeff1, 2, 3, 4\n5,6,7,8"]
)
def test_any_separator_and_line_end(tmp_path, text):
    path = tmp_path / "groundtruth.txt"
    path.write_bytes(text.encode())
    assert read_boxes(path).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2,3,4\n\n5,6,7,8\n", "line 2 is ''; expected 4 numbers"),
        ("1,2,3,4\n1,2,3\n", "line 2 is '1,2,3'; expected 4 numbers"),
        ("1,2,3,4,5\n", "line 1"),
        ("x,y,w,h\n1,2,3,4\n", "line 1 is 'x,y,w,h'"),
        ("", "the file is empty"),
        (" \n \n", "the file is empty"),
    ],
)
def test_lines_that_would_shift_all_others_are_refused(tmp_path, text, says):
    path = tmp_path / "groundtruth.txt"
    path.write_text(text)
    with pytest.raises(FormatError, match=says):
        read_boxes(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FormatError, match="no such file"):
        read_rows(tmp_path / "nothing.txt")
    for content in (b"\x80\x81", b"1,2\x00\x00"):
        (tmp_path / "binary.txt").write_bytes(content)
        with pytest.raises(FormatError, match=r"at byte .*: not a text file"):
            read_rows(tmp_path / "binary.txt")


def test_flags_in_a_column_or_a_line(tmp_path):
    path = tmp_path / "absent.txt"
    path.write_text("1\n0\n1\n")
    assert read_flags(path).tolist() == [1, 0, 1]
    path.write_text("1,0,1\n")
    assert read_flags(path).tolist() == [1, 0, 1]
    path.write_text("1\n2\n")
    with pytest.raises(FormatError, match="holds the flag 2"):
        read_flags(path)


def test_boxes_without_area_and_contradictions():
    boxes = np.array([[1, 1, 5, 5], [0, 0, 0, 0], [1, 1, np.nan, 5], [1, 1, -2, 5]])
    assert has_area(boxes).tolist() == [True, False, False, False]
    assert share_of_contradictions(np.array([True, False, False, True]), boxes) == 0.25


@pytest.fixture(scope="module")
def coesot(protocol_data, tmp_path_factory) -> Path:
    """COESOT's test annotations, laid out as in the data set but without recordings."""
    root = tmp_path_factory.mktemp("coesot")
    with zipfile.ZipFile(protocol_data / "coesot_test_annos.zip") as archive:
        for name in archive.namelist():
            if name.startswith("annos/coesot_anno/") and name.endswith(".txt"):
                target = root / "test" / name.split("/", 2)[2]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))
    return root


def test_coesot_annotations_are_read_to_the_published_counts(coesot):
    layout = COESOT(coesot)
    assert len(layout.entries) == 528
    assert len(layout.entries_of("test")) == layout.published["test"] == 527
    rows = absent = hidden = ranges = 0
    for entry in layout.entries:
        plan = Plan(entry)
        plan.boxes_xywh = read_boxes(entry.folder / "groundtruth.txt")
        plan.visible = layout.visible_flags(plan, entry.folder / "absent.txt")
        check_range(plan, entry.folder / "start_end_index.txt")
        assert {p.severity for p in plan.problems} <= {"note"}
        rows += len(plan.boxes_xywh)
        absent += int((~plan.visible).sum())
        hidden += int((~has_area(plan.boxes_xywh) & plan.visible).sum())
        ranges += any(p.code == "range" for p in plan.problems)
    assert (rows, absent, ranges) == (176_589, 16_044, 50)
    assert hidden == 1  # one visible target has a box without an area


def test_coesot_flags_read_the_other_way_round_are_noticed_in_every_sequence(coesot):
    from had_snn.data.layout_plan import LayoutOptions

    layout = COESOT(coesot, LayoutOptions(absent_value=1))
    for entry in layout.entries:
        plan = Plan(Entry(entry.name, ("test",), entry.folder))
        plan.boxes_xywh = read_boxes(entry.folder / "groundtruth.txt")
        with pytest.raises(Unusable):
            layout.visible_flags(plan, entry.folder / "absent.txt")
        assert plan.problems[-1].code == "flags_swapped"


def test_coesot_without_recordings_is_named(coesot):
    report = COESOT(coesot).check()
    assert not report.usable
    assert report.codes("error") == {"missing_recording"}
    assert report.codes("left_out") == {"published_extra"}
    assert "error: missing_recording (527)" in report.to_text()
