"""`had-snn adapt`: from a first box to an adapted student, and what it says where it cannot."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drifting import drifting_sequence

from had_snn.checkpoint import load_student
from had_snn.commands.adapt import clips_for, learnt, write_labels
from had_snn.commands.entry import compose
from had_snn.commands.first_box import read_timed_boxes
from had_snn.data.sample import sample_recording
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import InputError

STEP = [f"fit.{name}=1" for name in ("iterations", "warmup", "log_every", "checkpoint_every")] + ["fit.batch_size=4"]
SAMPLE = sample_recording()
SLOW = [f"recording={SAMPLE.path}", f"box={SAMPLE.boxes_path}", "object=slow"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Where simulated data and labels are kept."""
    return tmp_path_factory.mktemp("adapt")


@pytest.fixture
def adapt(made, start):
    replay = [f"replay.root={made / 'data'}", "replay.splits.train.count=2", "replay.splits.train.seconds=0.4"]
    common = [*STEP, *replay, f"tracks={made / 'tracks'}"]
    return lambda *options: start("adapt", *common, *options)


def test_one_recording_and_a_first_box(adapt, tmp_path):
    done = adapt(*SLOW, "least_iou=0", "out=run")
    assert done.returncode == 0, done.stderr
    assert "labels at 100 % of the times of 1 targets" in done.stderr
    shipped, adapted = load_student("tiny"), load_student(tmp_path / "run" / "student.safetensors")
    assert any(not torch.equal(a, b) for a, b in zip(shipped.parameters(), adapted.parameters(), strict=True))
    card = json.loads((tmp_path / "run" / "student.json").read_text())
    assert (card["made_by"], card["targets"], card["share_labelled"]) == ("experiments/adapt.py", 1, 1.0)
    with (tmp_path / "run" / "labels" / "recording.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["t_us", "x", "y", "w", "h", "visible"]
    rows = [[float(value) for value in row] for row in lines]
    assert rows[0] == pytest.approx([SAMPLE.times_us[0], *SAMPLE.boxes["slow"][0], 1], abs=0.01)
    assert np.diff([row[0] for row in rows]).min() >= 20_000
    assert rows[-1][0] > 900_000


def test_what_is_written_lies_between_the_student_that_was_given_and_the_adapted_one(adapt, tmp_path):
    shares = (0.0, 0.5, 1.0)
    for share in shares:
        assert adapt(*SLOW, "least_iou=0", f"adapted_share={share}", f"out=run{share}").returncode == 0
    first, half, last = (
        load_student(tmp_path / f"run{share}" / "student.safetensors").state_dict() for share in shares
    )
    shipped = load_student("tiny").state_dict()
    weights = {name: value for name, value in first.items() if value.dtype.is_floating_point}
    for name, value in weights.items():
        assert torch.equal(value, shipped[name]), name
        torch.testing.assert_close(half[name], (value + last[name]) / 2)
    assert any(not torch.equal(value, last[name]) for name, value in weights.items())


def test_it_goes_on_where_it_was_and_only_with_the_same_options(adapt, tmp_path):
    assert adapt(*SLOW, "least_iou=0", "out=run").returncode == 0
    again = adapt(*SLOW, "least_iou=0", "out=run", "fit.iterations=2")
    assert again.returncode == 0, again.stderr
    assert len((tmp_path / "run" / "losses.csv").read_text().splitlines()) == 3
    other = adapt(*SLOW, "least_iou=0", "out=run", "fit.iterations=2", "replay_share=0.25")
    assert other.returncode == 2
    assert "replay_share=0.5 (now 0.25)" in other.stderr
    assert "labels at" not in other.stderr, "refused before a teacher was asked"


@pytest.mark.parametrize("whose", ["student", "truth"])
def test_the_two_that_it_is_measured_between(adapt, start, tmp_path, whose):
    assert start("sample", "out=recordings/train/one").returncode == 0
    done = adapt("data.root=recordings", f"labels_from={whose}", "least_iou=0", "out=run")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "run" / "labels").iterdir()} == {"one-fast.csv", "one-slow.csv"}


def test_what_it_cannot_do_is_one_line(adapt, start):
    for options, says in (
        (["out=run"], "give a recording and --box x,y,w,h, or data.root=FOLDER"),
        ([*SLOW, "out=run", "teacher_checkpoint=null"], "labels_from=student the student teaches itself"),
        ([*SLOW, "out=run", "least_iou=1"], "both ways agree nowhere for long enough in 1 targets"),
        ([f"recording={SAMPLE.path}", "out=run"], "no first box"),
        ([f"recording={SAMPLE.path}", "box=draw", "out=run"], "box=draw needs had-snn track"),
        ([*SLOW, "out=run", "labels_from=truth"], "labels_from=truth: of one recording only the first box is read"),
        ([*SLOW, "out=run", "validation={split: val}"], "of one recording only the first box is read; give data.root"),
        ([*SLOW, "out=run", "start_us=99000000"], "no box at or after start_us=99000000"),
        (["data.root=nowhere", "out=run", "box=[1,2,3,4]"], "is of one recording; those of data.root have their boxes"),
    ):
        done = adapt(*options)
        assert done.returncode == 2, says
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert says in line
    assert not Path("run").exists()


def sequence(name: str, **changes: Any) -> TrackingSequence:
    return replace(drifting_sequence(labels=6), name=name, **changes)


def test_labels_are_written_with_their_gaps_and_under_names_of_their_own(tmp_path):
    gap = np.array([1, 1, 0, 0, 1, 1], bool)
    write_labels(tmp_path, [sequence("a/b", visible=gap), sequence("a_b"), sequence("a_b")])
    assert {path.name for path in (tmp_path / "labels").iterdir()} == {"a_b.csv", "a_b_2.csv", "a_b_3.csv"}
    known = read_timed_boxes(tmp_path / "labels" / "a_b.csv", None)
    assert known.visible.tolist() == gap.tolist()
    np.testing.assert_array_equal(known.times_us, sequence("a").label_times_us)


def test_targets_that_teach_nothing_are_named(caplog):
    cfg = compose("adapt", [])
    idle = sequence("idle", visible=np.array([1, 1, 0, 1, 1, 0], bool))
    runs = learnt(cfg, [idle, sequence("good"), sequence("good")])
    assert [run.name for run in runs] == ["good 0-6", "good 0-6"], "of two splits"
    assert "1 of 3 targets teach nothing (idle)" in caplog.text
    assert "labels_from=student" in caplog.text
    with pytest.raises(InputError, match="both ways agree nowhere for long enough in 1 targets: a clip needs 4 labels"):
        learnt(cfg, [idle])
    assert learnt(compose("adapt", ["labels_from=truth"]), [idle]) == [idle]


def test_nothing_is_simulated_that_is_not_replayed(tmp_path):
    cfg = compose("adapt", ["replay_share=0", f"replay.root={tmp_path}"])
    clips = clips_for(cfg, load_student("tiny"), [sequence("good")])
    assert len(clips.collate([clips[0], clips[1]]).boxes) == 2
    assert not list(tmp_path.iterdir())
