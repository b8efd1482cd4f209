"""Result files in the notations of the field: the same boxes whatever the notation, or a line that is named."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from had_snn.data.box_columns import BoxColumns
from had_snn.errors import FormatError
from had_snn.evaluate.box_files import read_boxes
from had_snn.evaluate.folders import evaluate_folder, read_annotations

BOXES = np.array([[40.0 + 3 * k, 30.5 + k, 20.0, 16.25] for k in range(9)])
TRUTH = BOXES + np.array([3, 0, 0, 0])
X, Y, W, H = BOXES.T

#: Columns by the names that tools give them.
FORMS = {
    "x": X,
    "y": Y,
    "w": W,
    "h": H,
    "width": W,
    "height": H,
    "left": X,
    "top": Y,
    "right": X + W,
    "bottom": Y + H,
    "xmin": X,
    "ymin": Y,
    "xmax": X + W,
    "ymax": Y + H,
    "x1": X,
    "y1": Y,
    "x2": X + W,
    "y2": Y + H,
    "cx": X + W / 2,
    "cy": Y + H / 2,
    "x_center": X + W / 2,
    "y_center": Y + H / 2,
    "bbox_x": X,
    "bbox_y": Y,
    "bbox_width": W,
    "bbox_height": H,
    "frame": np.arange(9.0),
    "score": np.full(9, 0.5),
    "t_us": 1000 * np.arange(9.0),
}
HEADERS = [
    "x,y,w,h",
    "x,y,width,height",
    "y,x,h,w",
    "h,w,y,x",
    "left,top,right,bottom",
    "xmin,ymin,xmax,ymax",
    "ymin,xmin,ymax,xmax",
    "x1,y1,x2,y2",
    "x1,x2,y1,y2",
    "cx,cy,w,h",
    "x_center,y_center,width,height",
    "bbox_x,bbox_y,bbox_width,bbox_height",
    "frame,x,y,w,h,score",
    "t_us,score,top,left,width,height",
    "x,y,x2,y2",
    "score,h,frame,cy,w,cx",
]


def table(header: str, *, mark: str = ",", head: str = "{}") -> str:
    names = header.split(",")
    rows = [mark.join(f"{FORMS[name][k]:g}" for name in names) for k in range(len(BOXES))]
    return "\n".join([head.format(mark.join(names)), *rows]) + "\n"


def read(tmp_path, text, frames=None, encoding="utf-8"):
    path = tmp_path / "ball.txt"
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return read_boxes(path, frames)


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize(("mark", "head"), [(",", "{}"), (" ", "# {}"), ("\t", "#{}"), (";", "{}"), (", ", "% {}")])
def test_named_columns_are_understood_in_any_order_and_notation(tmp_path, header, mark, head):
    np.testing.assert_allclose(read(tmp_path, table(header, mark=mark, head=head)), BOXES)


@pytest.mark.parametrize(
    "change", [str.upper, str.title, lambda n: f'"{n}"', lambda n: f" {n} ", lambda n: f"{n} (px)"]
)
def test_names_are_understood_whatever_their_case_quotes_and_units(tmp_path, change):
    lines = table("x1,y1,x2,y2").splitlines()
    lines[0] = ",".join(change(name) for name in lines[0].split(","))
    np.testing.assert_allclose(read(tmp_path, "\n".join(lines)), BOXES)


def test_corners_numbered_from_zero(tmp_path):
    text = table("x1,y1,x2,y2").replace("x1,y1,x2,y2", "x0,y0,x1,y1")
    np.testing.assert_allclose(read(tmp_path, text), BOXES)


@pytest.mark.parametrize(
    "header", ["a,b,c,d", "x,y,z,q", "cx,cy,s,r", "u,v,w,h", "x,y,w,area", "x,x,y,w,h", "boxes", "l,t,r,b", "x,y,x,y"]
)
@pytest.mark.parametrize("head", ["{}", "# {}"])
def test_other_names_are_refused_by_name(tmp_path, header, head):
    names = header.split(",")
    text = head.format(header) + "\n" + "\n".join(",".join("1" for _ in names) for _ in BOXES)
    if head != "{}" and not {"x", "y", "w", "h", "cx", "cy"} & {*names} and len(names) == 4:
        assert len(read(tmp_path, text)) == len(BOXES), "a comment in words, above four plain columns"
        return
    with pytest.raises(FormatError, match=r"line \d (names|holds|is VOT)"):
        read(tmp_path, text)


def rows(*, first: str | None = None, at: dict[int, str] | None = None, mark: str = ",") -> str:
    lines = [mark.join(f"{v:g}" for v in box) for box in BOXES]
    for row, line in {**({0: first} if first is not None else {}), **(at or {})}.items():
        lines[row] = line
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "first",
    [
        "None,None,None,None",
        "-,-,-,-",
        "init",
        "1",
        "nan,nan,nan,nan",
        ",,,",
        "null",
        "N/A",
        "INIT,INIT,INIT,INIT",
        "gt",
    ],
)
def test_a_word_in_the_first_row_is_the_first_frame(tmp_path, first):
    found = read(tmp_path, rows(first=first))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1:], BOXES[1:])


@pytest.mark.parametrize("word", ["None,None,None,None", "-,-,-,-", "nan nan nan nan", "-", "none", "0", "2", ",,,"])
def test_a_word_further_down_is_a_frame_without_a_box(tmp_path, word):
    found = read(tmp_path, rows(at={4: word}))
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [4]
    np.testing.assert_allclose(np.delete(found, 4, axis=0), np.delete(BOXES, 4, axis=0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (rows(at={4: "init"}), "line 5 holds 1 values; expected 4"),
        (rows(at={4: "1"}), "line 5 is VOT's code 1"),
        (rows(at={4: "3"}), "line 5 holds 1 value; expected 4"),
        (rows(at={4: "1,2,None,4"}), "line 5 holds 'None'; expected a number"),
        (rows(at={4: "1,,3,4"}), "line 5 holds ''; expected a number"),
        (rows(at={4: "1,2,inf,4"}), "line 5 holds an infinite number"),
        (rows(at={4: "x,y,w,h"}), "line 5 holds 'x'; expected a number"),
        (rows(at={4: "1,2,3,4,5"}), "line 5 holds 5 values; expected 4"),
        (rows(at={4: ""}), "line 5 is empty; it cannot be told whether it is a frame"),
        (table("frame,x,y,w,h").replace("\n4,", "\n5,"), "line 6 is frame 5 and follows frame 3"),
    ],
)
def test_what_would_shift_boxes_is_refused_by_line(tmp_path, text, says):
    with pytest.raises(FormatError, match=says):
        read(tmp_path, text)


def test_empty_lines_are_frames_or_spacing_as_the_number_of_labels_says(tmp_path):
    spaced = rows().replace("\n", "\n\n")
    one_more = rows(at={4: "\n" + rows().splitlines()[4]})
    for text in (spaced, "\n" + rows(), one_more):
        np.testing.assert_allclose(read(tmp_path, text, frames=9), BOXES)
    assert np.flatnonzero(np.isnan(read(tmp_path, one_more, frames=10))[:, 0]).tolist() == [4]
    assert np.flatnonzero(np.isnan(read(tmp_path, "\n" + rows(), frames=10))[:, 0]).tolist() == [0]
    np.testing.assert_allclose(read(tmp_path, spaced), BOXES)


def test_a_frame_column_that_lacks_the_first_or_last_frame_is_refused(tmp_path):
    lines = table("frame,x,y,w,h").splitlines()
    del lines[1]
    with pytest.raises(FormatError, match="frames 1 to 8 of 9: the first or the last is missing"):
        read(tmp_path, "\n".join(lines), frames=9)
    counted_from_one = "\n".join([lines[0], *(f"{k + 1},{line}" for k, line in enumerate(rows().splitlines()))])
    np.testing.assert_allclose(read(tmp_path, counted_from_one, frames=9), BOXES)


@pytest.mark.parametrize(
    "text",
    [
        rows().replace("\n", "\r\n"),
        "\ufeff" + rows(),
        "\n".join(f"[{', '.join(f'{v:g}' for v in box)}]" for box in BOXES),
        rows().replace("\n", ",  \n"),
        rows().replace("\n", "\n# restarted here\n", 3),
        "# boxes of a tracker\n" + rows(),
        "\n".join(";".join(f"{v:.2f}".replace(".", ",") for v in box) for box in BOXES),
        "\n".join("\t".join(f"{v:.2f}".replace(".", ",") for v in box) for box in BOXES),
        "\n".join(",".join(f'"{v:g}"' for v in box) for box in BOXES),
        "\n".join(" ".join(f"{v:.18e}" for v in box) for box in BOXES),
        ",x,y,w,h\n" + "\n".join(f"{k},{line}" for k, line in enumerate(rows().splitlines())),
    ],
    ids=["crlf", "bom", "brackets", "trailing", "comments", "title", "comma;", "comma-tab", "quotes", "e", "pandas"],
)
def test_line_ends_brackets_comments_and_decimal_commas(tmp_path, text):
    np.testing.assert_allclose(read(tmp_path, text), BOXES)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_text_of_windows(tmp_path, encoding):
    np.testing.assert_allclose(read(tmp_path, table("x1,y1,x2,y2"), encoding=encoding), BOXES)


def test_a_commented_row_is_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="had_snn"):
        found = read(tmp_path, rows(at={4: "# 1,2,3,4"}))
    assert len(found) == 8
    assert "line 5 is a comment and not read: # 1,2,3,4" in caplog.text


@given(st.permutations(["x", "y", "w", "h", "score"]), st.sampled_from([("w", "x2"), ("x", "cx"), ("w", "w")]))
def test_any_order_of_columns_gives_the_same_boxes(order, swap):
    header = [swap[1] if name == swap[0] else name for name in order]
    columns = BoxColumns(header)
    np.testing.assert_allclose(columns.boxes(np.stack([FORMS[header[at]] for at in columns.used], axis=1)), BOXES)


def test_every_notation_scores_alike_and_no_row_is_lost(tmp_path):
    (tmp_path / "anno").mkdir()
    np.savetxt(tmp_path / "anno" / "ball.txt", TRUTH, fmt="%g", delimiter=",")
    np.savetxt(tmp_path / "anno" / "red ball.txt", TRUTH, fmt="%g", delimiter=",")
    texts = [rows(), *map(table, HEADERS), rows(first="init"), rows(first="None,None,None,None"), rows(first="1")]
    scores = []
    for number, (text, protocol) in enumerate(itertools.product(texts, ("pytracking", "toolkit", "visible"))):
        folder = tmp_path / f"tracker{number}"
        folder.mkdir()
        for name in ("ball", "red ball"):
            (folder / f"{name}.txt").write_text(text)
        result = evaluate_folder(folder, tmp_path / "anno", protocol=protocol, resamples=0)
        assert [len(r.boxes_xywh) for r in result.results] == [9, 9]
        scores.append(result.scores["SR"])
    assert len({round(score, 9) for score in scores}) == 1
    assert 50 < scores[0] < 90


def test_lists_times_and_notes_beside_annotations_are_no_sequences(tmp_path, caplog):
    for name in ("ball", "red ball"):
        np.savetxt(tmp_path / f"{name}.txt", TRUTH, fmt="%g")
    (tmp_path / "testing_set.txt").write_text("ball\nred ball\n")
    (tmp_path / "ball_time.txt").write_text("0.01\n" * 9)
    (tmp_path / "readme.txt").write_text("These are the boxes.\n")
    with caplog.at_level(logging.WARNING, logger="had_snn"):
        assert [t.name for t in read_annotations(tmp_path)] == ["ball", "red ball"]
    assert "ball_time.txt, readme.txt, testing_set.txt hold no boxes" in caplog.text
    assert [t.name for t in read_annotations(tmp_path, sequences=tmp_path / "testing_set.txt")] == ["ball", "red ball"]
    (tmp_path / "broken.txt").write_text("1,2,3,4\n1,2,x,4\n")
    with pytest.raises(FormatError, match=r"broken\.txt: line 2 holds 'x'"):
        read_annotations(tmp_path)
