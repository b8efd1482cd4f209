"""Recordings of one's own: faults are named, and a label file of several objects makes a sequence of each."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from had_snn.errors import FormatError

TARGETS = {"near car": [10.0, 20.0, 30.0, 15.0], "bus": [50.0, 25.0, 20.0, 12.0]}


class Yard:
    """A copy of the tiny folder data set, and the folder of one of its recordings."""

    def __init__(self, tiny_set, root):
        self.root, self.folder, self._set = root, root / "test" / "yard", tiny_set

    def open(self):
        return self._set.open(self.root)

    def faults(self) -> dict[str, str]:
        return {p.code: p.message for p in self.open().check().problems if p.severity == "error"}


@pytest.fixture
def yard(tiny, tmp_path):
    return Yard(tiny("folder"), tiny("folder").copy(tmp_path / "set"))


def several(folder, *, times: bool = True) -> dict[str, np.ndarray]:
    """Rewrites `boxes.csv` with two objects in turn; returns their boxes."""
    found = np.loadtxt(folder / "boxes.csv", delimiter=",", skiprows=1)
    lines, boxes = ["# drawn by hand", ("t_us," if times else "") + "object,x,y,w,h"], {}
    for k, t in enumerate(found[:, 0].astype(int)):
        for name, (x, y, w, h) in TARGETS.items():
            boxes.setdefault(name, []).append([x + k, y, w, h])
            lines.append((f"{t}," if times else "") + f"{name},{x + k},{y},{w},{h}")
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    return {name: np.array(rows) for name, rows in boxes.items()}


def test_each_object_of_a_label_file_is_a_sequence(yard):
    folder = yard.folder
    times = np.loadtxt(folder / "boxes.csv", delimiter=",", skiprows=1)[:, 0]
    boxes = several(folder)
    layout = yard.open()
    assert layout.check(deep=True).usable
    sequences = list(layout.sequences("test"))
    assert [s.name for s in sequences] == ["yard-near car", "yard-bus"]
    for sequence, expected in zip(sequences, boxes.values(), strict=True):
        np.testing.assert_array_equal(sequence.boxes_xywh, expected)
        np.testing.assert_array_equal(sequence.label_times_us, times)
        assert sequence.visible.all()
    assert len(sequences[0].events) == len(sequences[1].events) > 0


def test_one_object_keeps_the_name_of_its_folder(yard):
    folder = yard.folder
    several(folder)
    rows = (folder / "boxes.csv").read_text().splitlines()
    (folder / "boxes.csv").write_text("\n".join(row for row in rows if "bus" not in row) + "\n")
    assert [s.name for s in yard.open().sequences("test")] == ["yard"]


def test_objects_need_times_and_plain_names(yard):
    folder = yard.folder
    several(folder, times=False)
    assert yard.faults() == {"times": "boxes.csv has several objects and no times"}
    (folder / "boxes.csv").write_text("t_us,x,y,w,h,object\n1,2,3,4,5,a/b\n1,2,3,4,5,c\n")
    assert "object 'a/b' cannot name a sequence" in yard.faults()["unreadable"]
    (folder / "boxes.csv").write_text("t_us,x,y,w,h,object\n1,2,3,4,5,a\n1,2,3,4,5,c\n9,2,3,4,5\n")
    assert "the row '9,2,3,4,5' names no object" in yard.faults()["unreadable"]


def test_faults_of_a_recording_and_its_labels(yard):
    folder = yard.folder
    shutil.copy(folder / "recording.h5", folder / "second.h5")
    assert "recording.h5, second.h5" in yard.faults()["several_recordings"]
    (folder / "second.h5").unlink()
    (folder / "boxes.csv").write_text("1,2,3,4\n")
    assert "expected a header t_us,x,y,w,h" in yard.faults()["unreadable"]
    street = yard.root / "train" / "street" / "boxes.csv"
    street.write_text("\n".join(street.read_text().splitlines()[:-3]) + "\n")
    with pytest.raises(FormatError, match="9 labels without times for 12 frames"):
        list(yard.open().sequences("train"))
    shutil.rmtree(yard.root)
    yard.root.mkdir()
    assert set(yard.faults()) == {"no_split_folder"}
