"""Each kind of damage to each data set is named, with its sequence, and tells usable from unusable."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from had_snn.data.tiny_layouts import TINY
from had_snn.errors import FormatError, InputError

# Where a sequence's files are: set -> (split folder and sequence, event file, boxes, flags, pictures)
PLACES = {
    "fe108": ("test/tower", "events.aedat4", "groundtruth_rect.txt", None, "img"),
    "fe240hz": ("test/dove_severe", "events.aedat4", "groundtruth_rect.txt", None, "img"),
    "visevent": ("test_subset/video_0004", "video_0004.aedat4", "groundtruth.txt", "absent_label.txt", "vis_imgs"),
    "coesot": (
        "test/dvSave-2021_07_30_11_04_57",
        "dvSave-2021_07_30_11_04_57.aedat4",
        "groundtruth.txt",
        "absent.txt",
        "dvSave-2021_07_30_11_04_57_aps",
    ),
    "eventvot": ("test/bird_0003", "bird_0003.csv", "groundtruth.txt", "absent.txt", "img"),
    "esot500": (".", "aedat4/toy_3.aedat4", "anno_t/toy_3.txt", None, None),
    "esot500_h": (".", "aedat4/toy_3.aedat4", "anno_t/toy_3.txt", None, None),
    "folder": ("test/yard", "recording.h5", "boxes.csv", None, None),
}
SETS = list(TINY)


class Damaged:
    """A copy of a tiny data set, and the files of one sequence in it."""

    def __init__(self, tiny, name: str, folder: Path) -> None:
        self.tiny, self.name = tiny(name), name
        self.root = self.tiny.copy(folder)
        where, events, boxes, flags, pictures = PLACES[name]
        self.folder = self.root / where
        self.events, self.boxes = self.folder / events, self.folder / boxes
        self.flags = self.folder / flags if flags else None
        self.pictures = self.folder / pictures if pictures else None
        self.sequence = Path(events).stem if name.startswith("esot") else Path(where).name

    def check(self, *, deep: bool = False, **options):
        return self.tiny.open(self.root, **options).check(deep=deep)

    def named(self, code: str, severity: str = "error", *, deep: bool = False, everywhere: bool = False, **options):
        """The problem `code` of the damaged sequence, found with its severity; nothing else is an error."""
        report = self.check(deep=deep, **options)
        found = [p for p in report.problems if p.code == code and p.severity == severity]
        assert found, report.to_text()
        assert everywhere or {p.sequence for p in found} <= {self.sequence, ""}, report.to_text()
        assert report.codes("error") <= {code}, report.to_text()
        assert report.usable == (severity != "error")
        assert f"{severity.replace('_', ' ')}: {code}" in report.to_text()
        return found[0]


@pytest.fixture
def damaged(tiny, tmp_path):
    return lambda name: Damaged(tiny, name, tmp_path)


@pytest.mark.parametrize("name", SETS)
def test_intact_sets_are_usable(name, tiny):
    report = tiny(name).open().check(deep=True)
    assert report.usable, report.to_text()
    assert not report.codes("error", "warning"), report.to_text()
    wanted = {t.split for t in tiny(name).truths if t.split}
    assert {s.split for s in report.splits if s.usable} >= wanted
    assert report.to_dict()["usable"] is True


@pytest.mark.parametrize("name", SETS)
def test_missing_event_file(name, damaged):
    case = damaged(name)
    case.events.unlink()
    severity = "left_out" if name == "visevent" else "error"
    problem = case.check().problems[0] if name == "visevent" else case.named("missing_recording")
    assert problem.severity == severity
    assert case.sequence in problem.sequence or name == "visevent"
    layout = case.tiny.open(case.root)
    if name == "visevent":  # published so: the sequence is not used, and the split is empty for that
        with pytest.raises(InputError, match="holds no usable sequence"):
            layout.sequences("test")
    else:
        with pytest.raises(FormatError, match=r"(missing|expected one recording).*had-snn check-data"):
            list(layout.sequences("all"))
        kept = case.tiny.open(case.root, skip_damaged=True).sequences("all")
        assert case.sequence not in {s.name for s in kept}


@pytest.mark.parametrize("name", SETS)
def test_missing_label_file(name, damaged):
    case = damaged(name)
    case.boxes.unlink()
    assert "missing" in case.named("missing_labels").message


@pytest.mark.parametrize("name", SETS)
def test_short_label_file(name, damaged):
    case = damaged(name)
    lines = case.boxes.read_text().splitlines()
    case.boxes.write_text("\n".join(lines[: len(lines) // 2]) + "\n")
    if case.flags:
        flags = case.flags.read_text().splitlines()
        case.flags.write_text("\n".join(flags[: len(lines) // 2]) + "\n")
    if name == "folder":  # rows with times may end early: nothing is wrong
        assert case.check(deep=True).usable
    elif name.startswith("esot"):
        case.named("labels_short", "warning", deep=True)
    else:
        problem = case.named("labels_short")
        assert re.search(r"\d+ labels", problem.message)
        assert "get" in problem.remedy


@pytest.mark.parametrize("name", SETS)
def test_unreadable_label_line(name, damaged):
    case = damaged(name)
    lines = case.boxes.read_text().splitlines()
    lines[3] = "12,abc,3,4,5,6"
    case.boxes.write_text("\n".join(lines) + "\n")
    message = case.named("unreadable").message
    assert "abc" in message
    assert name == "folder" or "line 4" in message


@pytest.mark.parametrize("name", ["visevent", "coesot", "eventvot"])
def test_swapped_absent_polarity(name, damaged):
    case = damaged(name)
    flags = case.flags.read_text().split()
    case.flags.write_text("\n".join("10"[int(f)] for f in flags) + "\n")
    problem = case.named("flags_swapped")
    assert "data.absent_value=1" in problem.remedy
    report = case.check(absent_value=1)
    assert case.sequence not in {p.sequence for p in report.problems if p.severity == "error"}
    sequence = next(s for s in case.tiny.open(case.root, absent_value=1).sequences("test"))
    truth = next(t for t in case.tiny.truths if t.name == case.sequence)
    np.testing.assert_array_equal(sequence.visible, truth.visible)


@pytest.mark.parametrize("name", ["visevent", "coesot", "eventvot"])
def test_missing_and_short_flags(name, damaged):
    case = damaged(name)
    flags = case.flags.read_text().splitlines()
    case.flags.write_text("\n".join(flags[:-5]) + "\n")
    assert "rows for" in case.named("flags_length").message
    case.flags.write_text("\n".join(flags[:-1]) + "\n")
    case.named("flags_length", "warning")
    case.flags.unlink()
    case.named("missing_flags", "warning")


@pytest.mark.parametrize("name", SETS)
def test_extra_folder(name, damaged):
    case = damaged(name)
    if name.startswith("esot"):
        shutil.copy(case.events, case.events.with_name("extra.aedat4"))
    else:
        (case.folder.parent / "extra").mkdir()
        (case.folder.parent / "extra" / "notes.md").write_text("x")
    report = case.check()
    extra = [p for p in report.problems if p.code == "extra_folder"]
    assert [p.sequence for p in extra] == ["extra"]
    assert report.usable
    assert "extra" not in {s.name for s in case.tiny.open(case.root).sequences("all")}


@pytest.mark.parametrize("name", ["visevent", "coesot", "eventvot"])
def test_wrong_split_folder(name, damaged):
    case = damaged(name)
    for split in {p.parent for p in case.root.glob("*/*") if p.is_dir()}:
        split.rename(split.with_name(f"my_{split.name}"))
    problem = next(p for p in case.check().problems if p.code == "no_split_folder")
    assert problem.severity == "error"
    assert "my_" in problem.message
    assert not case.check().usable


@pytest.mark.parametrize("name", ["visevent", "coesot", "eventvot"])
def test_a_sequence_in_two_splits(name, damaged):
    case = damaged(name)
    train = next(p for p in case.root.iterdir() if p.name.startswith("train"))
    shutil.copytree(case.folder, train / case.sequence)
    assert "training on test data" in case.named("twice").remedy


def test_fe108_in_the_wrong_split_folder_keeps_its_published_split(damaged):
    case = damaged("fe108")
    case.folder.rename(case.root / "train" / "tower")
    problem = case.named("wrong_split", "warning")
    assert "lies in train, published for test" in problem.message
    assert [s.name for s in case.tiny.open(case.root).sequences("test")] == ["tower"]
    flat = case.root / "flat"
    shutil.copytree(case.root / "train", flat)
    shutil.copy(case.root / "pair.txt", flat)
    assert [s.name for s in case.tiny.open(flat).sequences("test")] == ["tower"]
    empty = case.root / "empty"
    empty.mkdir()
    assert case.tiny.open(empty).check().codes("error") == {"no_split_folder"}


def test_missing_pair_file(damaged):
    case = damaged("fe108")
    (case.root / "pair.txt").unlink()
    problem = case.named("missing_pair", "warning")
    assert "published" in problem.remedy
    truth = next(t for t in case.tiny.truths if t.name == "tower")
    sequence = case.tiny.open(case.root).sequences("test")[0]
    np.testing.assert_array_equal(sequence.label_times_us, truth.label_times_us)
    other = damaged("fe240hz")  # has no published numbers
    (other.root / "pair.txt").unlink()
    report = other.check()
    assert report.codes("error") == {"missing_pair"}
    problem = next(p for p in report.problems if p.code == "missing_pair" and p.sequence == "dove_severe")
    assert "add a line 'dove_severe N'" in problem.remedy
    (other.root / "pair.txt").write_text("dove_severe five\n")
    assert "line 1" in next(p for p in other.check().problems if p.code == "unreadable").message


def test_wrong_pair_number_is_found_by_the_pictures(damaged):
    case = damaged("fe108")
    pairs = (case.root / "pair.txt").read_text().replace("tower 29", "tower 25")
    (case.root / "pair.txt").write_text(pairs)
    case.named("pair_differs", "warning")
    problem = case.named("misaligned", deep=True)
    assert "is frame 29 of the recording, expected 25" in problem.message


def test_another_recording_is_found_by_the_pictures(damaged):
    case = damaged("visevent")
    shutil.copy(case.root / "train_subset" / "traffic_0001" / "traffic_0001.aedat4", case.events)
    report = case.check(deep=True)
    assert {"foreign_recording", "misaligned"} & report.codes("error"), report.to_text()


@pytest.mark.parametrize("name", ["fe108", "fe240hz", "visevent", "coesot"])
def test_recording_cut_short_and_truncated(name, damaged):
    from had_snn.recordings.readers import open_recording
    from had_snn.recordings.recording import Frames
    from had_snn.recordings.writers import write_events

    case = damaged(name)
    whole = open_recording(case.events)
    f = whole.frames
    write_events(whole.events, case.events, frames=Frames(f.images[:14], f.start_us[:14], f.end_us[:14]))
    assert "the recording holds 14" in case.named("recording_short").message
    data = case.events.read_bytes()
    case.events.write_bytes(data[: len(data) - 40_000])
    case.named("unreadable")
    repaired = case.check(read={"repair": True})
    assert repaired.codes("error") == {"recording_short"}


@pytest.mark.parametrize("name", ["fe108", "visevent", "coesot"])
def test_missing_pictures(name, damaged):
    case = damaged(name)
    files = sorted(case.pictures.iterdir())
    files[4].unlink()
    assert "1 pictures are missing" in case.named("picture_gap", "warning").message
    truth = next(t for t in case.tiny.truths if t.name == case.sequence)
    sequence = case.tiny.open(case.root).sequences("test")[0]
    np.testing.assert_array_equal(sequence.label_times_us, truth.label_times_us)
    np.testing.assert_array_equal(sequence.frame_times_us, np.delete(truth.image_times_us, 4))
    shutil.rmtree(case.pictures)
    if name != "visevent":  # whose pictures say where in the recording the sequence begins
        case.named("missing_pictures", "warning")
        own = case.tiny.open(case.root).sequences("test")[0]
        np.testing.assert_array_equal(own.label_times_us, truth.label_times_us)
        np.testing.assert_array_equal(own.frame_at(int(truth.image_times_us[2])), truth.images[2])
    else:
        case.named("missing_pictures")


def test_two_kinds_of_one_picture_and_a_broken_one(damaged):
    case = damaged("coesot")
    first = case.pictures / "frame0000.png"
    shutil.copy(first, case.pictures / "frame0000.bmp")
    assert "two pictures have number 0" in case.named("unreadable").message
    (case.pictures / "frame0000.bmp").unlink()
    first.write_bytes(first.read_bytes()[:60])
    assert "frame0000.png" in case.named("unreadable", deep=True).message


def test_coesot_range_beyond_the_labels_and_against_the_flags(damaged):
    case = damaged("coesot")
    path = case.folder / "start_end_index.txt"
    path.write_text("1,99\n")
    assert "until row 99" in case.named("labels_short").message
    path.write_text("9,20\n")
    assert "outside rows 9 to 20" in case.named("range", "warning").message
    path.write_text("9\n")
    case.named("range")
    path.unlink()
    case.named("missing_range", "note", everywhere=True)


def test_unsorted_csv_is_sorted_and_named(damaged):
    case = damaged("eventvot")
    lines = case.events.read_text().splitlines()
    lines[100:200], lines[4000:4100] = lines[4000:4100], lines[100:200]
    case.events.write_text("\n".join(lines) + "\n")
    assert "back in time: sorted" in case.named("unsorted", "warning", deep=True).message
    truth = next(t for t in case.tiny.truths if t.name == case.sequence)
    sequence = case.tiny.open(case.root).sequences("test")[0]
    np.testing.assert_array_equal(sequence.label_times_us, truth.label_times_us)
    np.testing.assert_array_equal(sequence.events.t, truth.events.t)


def test_eventvot_columns_in_another_order_are_found(damaged):
    case = damaged("eventvot")
    rows = [line.split(",") for line in case.events.read_text().splitlines()]
    case.events.write_text("\n".join(",".join((y, x, p, t)) for x, y, p, t in rows) + "\n")
    sequence = case.tiny.open(case.root, read={"columns": "yxpt"}).sequences("test")[0]
    truth = next(t for t in case.tiny.truths if t.name == case.sequence)
    np.testing.assert_array_equal(sequence.events.x, truth.events.x)


def test_esot500_lists_and_times(damaged):
    case = damaged("esot500")
    (case.root / "train.txt").unlink()
    report = case.check()
    assert report.codes("error") == {"missing_list"}
    (case.root / "train.txt").write_text("bottle_1\nfan_2\ntoy_3\n")
    assert "toy_3" in next(p for p in case.check().problems if p.code == "twice").message
    (case.root / "train.txt").write_text("bottle_1\nfan_2\n")
    rows = [line.split() for line in case.boxes.read_text().splitlines()]
    case.boxes.write_text("\n".join(" ".join([str(float(r[0]) * 1e6), *r[1:]]) for r in rows))
    assert "expected seconds" in case.named("times").message
    shutil.rmtree(case.root / "anno_t")
    assert "no_split_folder" in case.check().codes("error")


def test_a_target_that_is_never_there(damaged):
    case = damaged("fe108")
    case.boxes.write_text("0,0,0,0\n" * 12)
    case.named("no_target")
