"""The study of adaptation, small: every arm is made and scored on both splits, and what is there is not made again."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.studies import adaptation
from had_snn.commands.entry import compose


@pytest.mark.slow
def test_every_arm_is_scored_on_both_splits(tmp_path):
    splits = ("train_shifted", "test_shifted", "test")
    small = [f"data.splits.{split}.{name}" for split in splits for name in ("count=2", "seconds=0.4")]
    replay = [f"replay.root={tmp_path / 'data'}", "replay.splits.train.count=2", "replay.splits.train.seconds=0.4"]
    step = ["fit.iterations=1", "fit.batch_size=4", "fit.warmup=1", "fit.log_every=1", "least_iou=0"]
    options = [f"data.root={tmp_path / 'data'}", *small]
    options += ["arms=[teacher,truth]", "seeds=[0]", f"out={tmp_path / 'run'}", "workers=1"]
    cfg = compose("adaptation", [*options, f"adapt_options={json.dumps([*replay, *step])}"])
    record = adaptation.run(cfg)
    assert set(record["splits"]) == {"test_shifted", "test"}
    for part in record["splits"].values():
        assert part["sequences"] == 2
        assert list(part["arms"]) == ["none", "teacher", "truth"]
        assert set(part["arms"]["teacher"]) == {"SR", "over_none", "gap_closed"}
    made = (tmp_path / "run" / "truth-0" / "student.safetensors").stat().st_mtime_ns
    assert adaptation.run(cfg) == record
    assert (tmp_path / "run" / "truth-0" / "student.safetensors").stat().st_mtime_ns == made
    assert "| teacher | " in (tmp_path / "run" / "adaptation.md").read_text()


def test_arms_are_compared_by_sequence_and_seed():
    rng = np.random.default_rng(0)
    none = rng.uniform(30, 50, (1, 40))
    table = {"none": none, "teacher": none + np.full((3, 1), 6.0), "student": none + np.full((3, 1), 1.0)}
    table["truth"] = none + np.full((3, 1), 10.0)
    found = adaptation.compared(table)
    assert found["teacher"]["over_none"] == pytest.approx([6, 6, 6])
    assert found["teacher"]["over_student"] == pytest.approx([5, 5, 5])
    assert found["teacher"]["gap_closed"] == pytest.approx([0.6, 0.6, 0.6])
    assert "gap_closed" not in found["truth"]
    assert found["none"]["SR"][0] == pytest.approx(none.mean(), abs=1e-3)
