"""Splits on disk: the same from every process, whole or absent, reused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from had_snn.data.sequence import TrackingSequence
from had_snn.data.synthetic import MOST_THREADS, load_split, prepare_split, summarise_split
from had_snn.errors import FormatError, InputError

SMALL = {"seconds": 0.16, "sensor_hw": (60, 80)}


def assert_same(a: TrackingSequence, b: TrackingSequence) -> None:
    for name in "txyp":
        np.testing.assert_array_equal(getattr(a.events, name), getattr(b.events, name))
    np.testing.assert_array_equal(a.frames, b.frames)
    np.testing.assert_array_equal(a.boxes_xywh, b.boxes_xywh)
    assert (a.name, a.attributes, a.events.source) == (b.name, b.attributes, b.events.source)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    prepare_split(folder, "train", count=3, **SMALL)
    return folder


def test_a_split_holds_what_a_tracker_needs(root: Path):
    sequences = load_split(root, "train")
    assert [s.name for s in sequences] == ["train-00000", "train-00001", "train-00002"]
    for sequence in sequences:
        assert sequence.label_times_us.tolist() == [40_000, 80_000, 120_000, 160_000]
        np.testing.assert_array_equal(sequence.frame_times_us, sequence.label_times_us)
        assert sequence.sensor_hw == (60, 80)
        assert sequence.frames is not None
        assert sequence.frames.shape == (4, 60, 80, 3)
        assert sequence.events.t[0] >= 0
        assert sequence.events.t[-1] < 160_000
        assert (np.diff(sequence.events.t) >= 0).all()
        assert sequence.events.x.max() < 80
        assert sequence.visible[0]
        assert not sequence.events.t.flags.writeable


def test_more_workers_than_threads_are_processes_that_make_the_same_bits(root: Path, tmp_path: Path):
    again = prepare_split(tmp_path, "train", count=3, workers=MOST_THREADS + 1, **SMALL)
    for a, b in zip(again, load_split(root, "train"), strict=True):
        assert_same(a, b)


def test_workers_processes_and_counts_make_the_same_bits(root: Path, tmp_path: Path):
    seen: list[tuple[int, int]] = []
    again = prepare_split(tmp_path, "train", count=2, workers=2, progress=lambda a, b: seen.append((a, b)), **SMALL)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    for a, b in zip(again, load_split(root, "train", count=2), strict=True):
        assert_same(a, b)


def test_other_processes_with_other_thread_counts_make_the_same_bits(root: Path, tmp_path: Path):
    code = (
        "import sys; from had_snn.data.synthetic import prepare_split; "
        f"prepare_split(sys.argv[1], 'train', count=2, workers=int(sys.argv[2]), **{SMALL})"
    )
    for threads in ("1", "3"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONHASHSEED")
        command = [sys.executable, "-c", code, str(tmp_path / threads), threads]
        subprocess.run(command, env=os.environ | dict.fromkeys(names, threads), check=True)
        for a, b in zip(load_split(tmp_path / threads, "train"), load_split(root, "train", count=2), strict=True):
            assert_same(a, b)


def test_a_summary_counts_what_is_there(root: Path):
    summary = summarise_split(root, "train")
    sequences = load_split(root, "train")
    assert (summary.sequences, summary.labels) == (3, 12)
    assert summary.seconds == pytest.approx(0.48)
    assert summary.events == sum(len(s.events) for s in sequences)
    assert summary.visible == sum(s.visible.sum() for s in sequences)
    assert 0.1 < summary.megabytes < 5
    assert 0 < summary.fastest_px_per_s < 2000
    for name, count in summary.attributes.items():
        assert count == sum(name in s.attributes for s in sequences)


def test_what_is_there_is_kept_and_what_is_missing_is_made(root: Path):
    folder = next(root.glob("train-*"))
    before = (folder / "00000" / "meta.json").stat().st_mtime_ns
    original = load_split(root, "train")[1]
    copied = TrackingSequence(**{**original.__dict__, "frames": np.array(original.frames)})
    shutil.rmtree(folder / "00001")
    assert_same(prepare_split(root, "train", count=3, **SMALL)[1], copied)
    assert (folder / "00000" / "meta.json").stat().st_mtime_ns == before


def test_two_builders_at_once_agree(tmp_path: Path):
    with ThreadPoolExecutor(2) as pool:
        builds = [pool.submit(prepare_split, tmp_path, "val", count=2, **SMALL) for _ in range(2)]
        first, second = (build.result() for build in builds)
    for a, b in zip(first, second, strict=True):
        assert_same(a, b)
    folder = next(tmp_path.glob("val-*"))
    assert sorted(p.name for p in folder.iterdir()) == ["00000", "00001", "parameters.json"]


def test_other_seeds_and_splits_are_other_data(root: Path, tmp_path: Path):
    train = load_split(root, "train", count=1)[0]
    for options in ({"split": "train", "seed": 1}, {"split": "test", "family": "train"}):
        other = prepare_split(tmp_path, count=1, **options, **SMALL)[0]
        assert (other.boxes_xywh != train.boxes_xywh).any()


def test_damage_is_named(tmp_path: Path):
    prepare_split(tmp_path, "test", count=1, **SMALL)
    folder = next(tmp_path.glob("test-*")) / "00000"
    events = (folder / "events_x.npy").read_bytes()
    (folder / "events_x.npy").write_bytes(events[: len(events) // 2])
    with pytest.raises(FormatError, match=r"events_x\.npy.*delete the folder"):
        load_split(tmp_path, "test")
    (folder / "meta.json").unlink()
    with pytest.raises(FormatError, match=r"meta\.json"):
        load_split(tmp_path, "test")
    (tmp_path / "test.json").write_text(json.dumps({"folder": 3}))
    with pytest.raises(FormatError, match="not the index"):
        load_split(tmp_path, "test")
    with pytest.raises(FormatError, match="no synthetic split 'train'"):
        load_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"split": "tset"}, "choose one of"), ({"family": "x"}, "family 'x'"), ({"count": 0}, "at least one")],
)
def test_bad_parameters_are_refused(tmp_path: Path, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        prepare_split(tmp_path, **{"split": "train", "count": 1, **SMALL, **options})
