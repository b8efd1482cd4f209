"""Data set folders: every label, picture, flag and event of a tiny data set is where the simulator put it."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest

from had_snn.data.layouts import LAYOUTS, open_layout
from had_snn.data.tiny_layouts import EPOCH_US, TINY, make_tiny
from had_snn.errors import FormatError, InputError

ROUNDING = {"coesot": 1e-4}  # pixels in the text files; 1e-3 elsewhere


@pytest.mark.parametrize("name", TINY)
def test_labels_pictures_flags_and_events_agree_with_the_truth(name, tiny):
    layout = tiny(name).open()
    found = {s.name: s for s in layout.sequences("all")}
    wanted = {t.name: t for t in tiny(name).truths if t.split}
    assert set(found) == set(wanted)
    for key, truth in wanted.items():
        sequence = found[key]
        np.testing.assert_array_equal(sequence.label_times_us, truth.label_times_us)
        np.testing.assert_array_equal(sequence.visible, truth.visible)
        seen = truth.visible
        np.testing.assert_allclose(sequence.boxes_xywh[seen], truth.boxes_xywh[seen], atol=ROUNDING.get(name, 1e-3))
        assert sequence.sensor_hw == truth.events.sensor_hw
        for column in "txyp":
            np.testing.assert_array_equal(getattr(sequence.events, column), getattr(truth.events, column))
        check_pictures(sequence, truth, exact=not name.startswith("fe"))


def check_pictures(sequence, truth, *, exact: bool) -> None:
    if truth.images is None:
        assert sequence.frames is None
        return
    np.testing.assert_array_equal(sequence.frame_times_us, truth.image_times_us)
    for number in (0, 3, len(truth.images) - 1):
        t_us = int(truth.image_times_us[number])
        picture = sequence.frame_at(t_us)
        assert picture.dtype == np.uint8
        off = np.abs(truth.images.astype(int) - picture).mean((1, 2, 3))
        assert int(np.argmin(off)) == number  # JPEG changes pixels, but not which picture it is
        assert off[number] < (1e-9 if exact else 6)
        before = sequence.frame_at(t_us - 1)
        assert (before is None) == (number == 0)


@pytest.mark.parametrize("name", TINY)
def test_splits_are_the_published_ones(name, tiny):
    layout = tiny(name).open()
    by_split = {split: {s.name for s in layout.sequences(split)} for split in layout.splits}
    for split in {t.split for t in tiny(name).truths if t.split}:
        assert by_split[split] == {t.name for t in tiny(name).truths if t.split == split}
    assert by_split["all"] == {t.name for t in tiny(name).truths if t.split}
    if name == "visevent":
        assert by_split["event_test"] == {"video_0004"}
    with pytest.raises(InputError, match="has no split 'evening'"):
        layout.sequences("evening")


def test_published_counts():
    from had_snn.data.layout_fe108 import published_rows

    fe108, fe240 = published_rows("fe108.txt"), published_rows("fe240hz.txt")
    assert sum(r[-1] == "test" for r in fe108) == LAYOUTS["fe108"].published["test"] == 32
    assert sum(r[-1] == "train" for r in fe108) == LAYOUTS["fe108"].published["train"] == 76
    assert [sum(r[-1] == s for r in fe240) for s in ("train", "test")] == [71, 25]
    assert len({r[0] for r in published_rows("visevent_event_test.txt")}) == 172


def test_nothing_is_decoded_before_it_is_used(tiny, tmp_path):
    layout = open_layout("coesot", tiny("coesot").root, cache_dir=str(tmp_path))
    sequences = layout.sequences("train")
    assert len(sequences) == 2
    assert not list(tmp_path.iterdir())
    first = sequences[:1][0]
    assert first is sequences[0]
    assert first.label_times_us[0] > EPOCH_US
    assert first.frame_at(int(first.label_times_us[3])) is not None
    assert not list(tmp_path.glob("*/t.i8"))
    window = (int(t) for t in first.label_times_us[3:5])
    seen = first.events.slice_time(*window).t
    assert len(seen) > 0
    assert len(list(tmp_path.glob("*/t.i8"))) == 1
    assert not list(tmp_path.glob("*/frames.npy"))  # the pictures lie beside the recording already
    other = pickle.loads(pickle.dumps(first))
    assert other.events.slice_time(int(seen[0]), int(seen[-1])).t.tolist() == seen[seen < seen[-1]].tolist()


def test_few_recordings_stay_open(tiny):
    layout = tiny("visevent").open()
    layout.pool.capacity = 1
    for sequence in layout.sequences("all"):
        assert len(sequence.events) > 0
        assert len(layout.pool) == 1


def test_labels_between_frames_are_spread_evenly_and_go_on_after_the_last_frame():
    from had_snn.data.layout_frames import label_times

    ends = np.array([100, 200, 320])
    assert label_times(ends, 0, 6, 2).tolist() == [100, 150, 200, 260, 320, 380]
    assert label_times(ends, 1, 2, 1).tolist() == [200, 320]


def test_events_and_labels_share_one_clock(tiny):
    sequence = tiny("fe108").open().sequences("test")[0]
    labels = [int(t) for t in sequence.label_times_us]
    assert all(len(sequence.events.slice_time(t0, t1)) > 0 for t0, t1 in itertools.pairwise(labels))


def test_unknown_names_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no data set layout 'otb'"):
        open_layout("otb", tmp_path)
    with pytest.raises(FormatError, match=r"no such folder.*data\.root=FOLDER"):
        open_layout("fe108", tmp_path / "nothing")
    with pytest.raises(InputError, match="unknown options colour"):
        open_layout("fe108", tmp_path, colour=1)
    (tmp_path / "file").touch()
    with pytest.raises(FormatError, match="not a folder"):
        open_layout("fe108", tmp_path / "file")
    with pytest.raises(InputError, match="is in use"):
        make_tiny("fe108", tmp_path)
    with pytest.raises(InputError, match="no tiny data set 'otb'"):
        make_tiny("otb", tmp_path / "new")
