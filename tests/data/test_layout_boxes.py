"""Labels that cannot be: a box outside the sensor, a NaN, no time; named with sequence and row before anything runs."""

from __future__ import annotations

import numpy as np
import pytest

from had_snn.data.labels import read_columns
from had_snn.errors import FormatError

# Set -> the label file of a sequence in it, and that sequence's name.
LABELS = {
    "fe108": ("test/tower/groundtruth_rect.txt", "tower"),
    "visevent": ("test_subset/video_0004/groundtruth.txt", "video_0004"),
    "coesot": ("test/dvSave-2021_07_30_11_04_57/groundtruth.txt", "dvSave-2021_07_30_11_04_57"),
    "eventvot": ("test/bird_0003/groundtruth.txt", "bird_0003"),
    "esot500": ("anno_t/toy_3.txt", "toy_3"),
    "folder": ("test/yard/boxes.csv", "yard"),
}


class Labels:
    """A copy of a tiny data set whose label rows can be rewritten."""

    def __init__(self, tiny_set, folder):
        self.set, self.root = tiny_set, tiny_set.copy(folder)
        where, self.sequence = LABELS[tiny_set.name]
        self.path = self.root / where
        self.lines = self.path.read_text().splitlines()
        self.head = 1 if tiny_set.name == "folder" else 0
        self.first = next(t for t in tiny_set.truths if t.name == self.sequence)

    def with_row(self, row: int, change) -> dict[tuple[str, str], str]:
        """Severity and code of the sequence's problems after row `row`, from 1, was changed."""
        lines = list(self.lines)
        mark = "," if "," in lines[-1] else None
        cells = lines[self.head + row - 1].split(mark)
        lines[self.head + row - 1] = (mark or " ").join(change(cells))
        self.path.write_text("\n".join(lines) + "\n")
        problems = self.set.open(self.root).check().problems
        return {(p.severity, p.code): str(p) for p in problems if p.sequence == self.sequence}

    def boxed(self, cells: list[str], box: str) -> list[str]:
        """The row with another box: it stands before the flag, behind the time, or alone."""
        at = 1 if len(cells) > 4 else 0
        return [*cells[:at], *box.split(), *cells[at + 4 :]]


@pytest.fixture(params=list(LABELS))
def labels(request, tiny, tmp_path):
    return Labels(tiny(request.param), tmp_path)


def visible_rows(labels: Labels) -> tuple[int, int]:
    """The first and a later row whose target is visible, from 1."""
    rows = np.flatnonzero(labels.first.visible & (labels.first.boxes_xywh[:, 2:] > 0).all(1)) + 1
    return int(rows[0]), int(rows[3])


def test_a_box_outside_the_sensor_is_named_with_its_row(labels):
    first, later = visible_rows(labels)
    found = labels.with_row(later, lambda cells: labels.boxed(cells, "5000 10 20 20"))
    assert f"the first in row {later}: 5000,10,20,20" in found["warning", "box_outside"]
    found = labels.with_row(first, lambda cells: labels.boxed(cells, "5000 10 20 20"))
    assert f"row {first} of the labels: box 5000,10,20,20 has its centre at" in found["error", "box_outside"]
    with pytest.raises(FormatError, match=f"{labels.sequence}: row {first} of the labels"):
        list(labels.set.open(labels.root).sequences("test"))


def test_a_box_partly_outside_is_fine(labels):
    _, later = visible_rows(labels)
    found = labels.with_row(later, lambda cells: labels.boxed(cells, "-5 -5 20 20"))
    assert not any(code == "box_outside" for _, code in found)


@pytest.mark.parametrize("name", ["visevent", "coesot", "eventvot"])
def test_a_visible_nan_box_is_named_with_its_row(name, tiny, tmp_path):
    labels = Labels(tiny(name), tmp_path)
    _, later = visible_rows(labels)
    found = labels.with_row(later, lambda cells: labels.boxed(cells, "nan nan nan nan"))
    assert f"1 visible boxes are not finite, the first in row {later}" in found["warning", "box_not_finite"]


def test_a_visible_box_without_area_is_named_with_its_row(tiny, tmp_path):
    labels = Labels(tiny("folder"), tmp_path)
    found = labels.with_row(3, lambda cells: [*cells[:-2], "-5", "1"])
    assert "1 visible boxes have no area, the first in row 3" in found["note", "flags_and_boxes"]
    assert not labels.with_row(3, lambda cells: [*cells[:-2], "-5", "0"])


@pytest.mark.parametrize("name", ["esot500", "folder"])
@pytest.mark.parametrize("time", ["nan", "inf", "-1e30"])
def test_a_time_that_is_none_is_named_with_its_row(name, time, tiny, tmp_path):
    found = Labels(tiny(name), tmp_path).with_row(3, lambda cells: [time, *cells[1:]])
    (message,) = found.values()
    assert "row 3" in message
    assert f"{float(time):g}" in message
    assert "expected a time" in message


def test_seconds_and_frame_times_that_are_none_are_named(tiny, tmp_path):
    labels = Labels(tiny("folder"), tmp_path)
    rows = [line.split(",") for line in labels.lines]
    text = "\n".join(",".join([str(float(cells[0]) * 1e-6), *cells[1:]]) for cells in rows[1:])
    labels.path.write_text("t_s," + ",".join(rows[0][1:]) + "\n" + text + "\n")
    labels.lines = labels.path.read_text().splitlines()
    assert not labels.with_row(3, lambda cells: cells)
    assert "row 3" in next(iter(labels.with_row(3, lambda cells: ["nan", *cells[1:]]).values()))


@pytest.mark.parametrize(
    "header",
    [
        "t_us,x,y,w,h,visible",
        "t_us,left,top,width,height,visible",
        "t_us,x1,y1,x2,y2,visible",
        "# t_us,cx,cy,w,h,visible",
    ],
)
def test_label_tables_with_corners_or_centres(tmp_path, header):
    x, y, w, h = 10.0, 20.0, 30.0, 16.0
    box = (x, y, x + w, y + h) if "x2" in header else (x + w / 2, y + h / 2, w, h) if "cx" in header else (x, y, w, h)
    path = tmp_path / "boxes.csv"
    path.write_text(f"{header}\n5,{','.join(map(str, box))},1\n9,{','.join(map(str, box))},0\n")
    columns = read_columns(path)
    assert np.stack([columns[name] for name in "xywh"], axis=1).tolist() == [[x, y, w, h]] * 2
    assert columns["t_us"].tolist() == [5, 9]
    path.write_text(f"{header}\n5,{','.join(map(str, box))},nan\n")
    with pytest.raises(FormatError, match=r"row 1 \(5,.*visible is nan; expected 0 or 1"):
        read_columns(path)
