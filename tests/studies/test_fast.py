"""The study of fast targets, small: rivals choose windows on validation; what is played faster stays what it was."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.studies import fast
from had_snn.commands.entry import compose
from had_snn.data.synthetic import load_split


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fast")
    splits = ("test", "val_fast", "test_fast")
    small = [f"data.splits.{split}.{name}" for split in splits for name in ("count=2", "seconds=0.4")]
    options = ["rivals=[mean_shift]", "windows_ms=[5,40]", "paced_limit=2", "paces=[1,8]", f"out={folder / 'run'}"]
    fast.run(compose("fast", [f"data.root={folder / 'data'}", "data.workers=1", *small, *options]))
    return folder


def test_every_tracker_is_scored_and_windows_come_from_validation(record):
    found = json.loads((record / "run" / "fast.json").read_text(), parse_constant=pytest.fail)
    assert set(found["scores"]) == {"student", "fixed", "mean_shift"}
    assert set(found["student_ahead"]) == {"fixed", "mean_shift"}
    chosen = found["windows"]["mean_shift"]
    assert set(chosen["validation"]) == {"5", "40"}
    best = max(chosen["validation"], key=chosen["validation"].get)
    assert chosen["best_ms"] == float(best)
    assert "| mean_shift | " in (record / "run" / "fast.md").read_text()


def test_a_test_set_that_is_played_faster_scores_the_same(record):
    rows = json.loads((record / "run" / "fast.json").read_text())["paces"]
    assert [row["pace"] for row in rows] == [1, 8]
    assert rows[0]["played"] == pytest.approx(rows[1]["played"], abs=1)
    assert rows[0]["played"] == rows[0]["simulated"], "pace 1 is the split itself"


def test_fast_splits_are_what_they_say(record):
    sequences = load_split(record / "data", "test_fast")
    for sequence in sequences:
        assert set(np.diff(sequence.label_times_us)) == {1000}
        assert sequence.label_times_us[-1] <= 400_000 / 4
    slow, quick = (load_split(record / "data" / f"pace-{pace}", "test")[0] for pace in (1, 8))
    assert len(slow) == len(quick), "labels follow the pace"
    moved = [np.ptp(s.boxes_xywh[:, 0]) for s in (slow, quick)]
    assert moved[0] == pytest.approx(moved[1], rel=0.5)
