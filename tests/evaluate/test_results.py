"""Boxes in text files: what is read, what is refused, what is written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from had_snn.errors import FormatError, InputError
from had_snn.evaluate.box_files import read_boxes, write_boxes
from had_snn.evaluate.one_pass import evaluate_tracker
from had_snn.evaluate.results import results_to_json, write_result_folder

BOXES = [[1.0, 2.5, 30.0, 40.0], [2.0, 3.0, 31.0, 41.0]]


@pytest.mark.parametrize(
    "text",
    [
        "1,2.5,30,40\n2,3,31,41\n",
        "1, 2.5, 30, 40\r\n2, 3, 31, 41",
        "1\t2.5\t30\t40\n\n2\t3\t31\t41\n\n",
        "1 2.5 30 40\n  2   3 31 41",
        "1;2.5;30;40\n2;3;31;41",
        "1.0e0,2.5,3e1,40\n2,3,31,41",
        "x,y,w,h\n1,2.5,30,40\n2,3,31,41\n",
        "left,top,width,height\n1,2.5,30,40\n2,3,31,41\n",
        "\ufeff1,2.5,30,40\n2,3,31,41\n",
        "# x y w h\n1 2.5 30 40\n2 3 31 41\n".replace("# ", "#"),
        "t_us,x,y,w,h,score\n5,1,2.5,30,40,0.9\n6,2,3,31,41,0.8\n",
    ],
)
def test_reads(tmp_path, text):
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    assert read_boxes(path).tolist() == BOXES


def test_reads_nan(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("1,2,3,4\nNaN,NaN,NaN,nan\n")
    assert np.isnan(read_boxes(path)[1]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no boxes"),
        ("x,y,w,h\n", "holds no boxes"),
        ("1,2,3,4\n1,2,3\n", "line 2 holds 3 values; expected 4"),
        ("1,2,3,4,5,6,7,8\n", "line 1 holds 8 values; expected 4"),
        ("1,2,3,4\n\n1,2,x,4\n", "line 3 holds 'x'; expected a number"),
    ],
)
def test_refuses(tmp_path, text, message):
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(FormatError, match=message):
        read_boxes(path)


def test_refuses_what_is_no_text_or_no_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"12\xff\xfe3")
    with pytest.raises(FormatError, match="at byte 2: not a text file"):
        read_boxes(tmp_path / "a.txt")
    with pytest.raises(InputError, match="no such file"):
        read_boxes(tmp_path / "b.txt")


def test_writes_what_it_reads(tmp_path):
    path = write_boxes(tmp_path / "new" / "a.txt", np.array(BOXES))
    assert path.read_text() == "1.0000,2.5000,30.0000,40.0000\n2.0000,3.0000,31.0000,41.0000\n"
    assert read_boxes(path).tolist() == BOXES
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_result_folder_and_json(tmp_path, sequence, oracle):
    evaluation = evaluate_tracker(oracle(sequence), [sequence])
    write_result_folder(tmp_path, evaluation.results)
    np.testing.assert_allclose(read_boxes(tmp_path / "moving.txt"), sequence.boxes_xywh, atol=1e-4)
    record = json.loads(json.dumps(results_to_json([evaluation]), allow_nan=False))
    assert record["oracle"]["SR"] == evaluation.scores["SR"]
