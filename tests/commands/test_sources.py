"""From a `data` config to sequences: splits that are not there, and no more simulated than is asked for."""

from __future__ import annotations

import pytest

from had_snn.commands.entry import compose
from had_snn.commands.sources import sequences
from had_snn.data.synthetic import load_split
from had_snn.data.tiny_layouts import make_tiny
from had_snn.errors import InputError


def test_a_folder_without_splits_is_used_whole_and_that_is_said(tmp_path, caplog):
    make_tiny("folder", tmp_path / "own")
    divided = compose("evaluate", ["data=folder", f"data.root={tmp_path / 'own'}"]).data
    with pytest.raises(InputError, match="no split 'val'; it has"):
        sequences(divided, "val")
    for split in [path for path in (tmp_path / "own").iterdir() if path.is_dir()]:
        for sequence in split.iterdir():
            sequence.rename(tmp_path / "own" / f"{split.name}_{sequence.name}")
        split.rmdir()
    whole = compose("evaluate", ["data=folder", f"data.root={tmp_path / 'own'}"]).data
    assert not caplog.text
    found = sequences(whole, "test")
    assert len(found) == len(sequences(whole, "all")) > 1
    assert "is not divided into splits: all of it stands for test" in caplog.text
    assert len(sequences(whole, "train", limit=1)) == 1


def test_no_more_is_simulated_than_is_asked_for(tmp_path):
    small = [f"data.root={tmp_path}", "data.splits.test.count=3", "data.splits.test.seconds=0.2", "data.workers=1"]
    data = compose("evaluate", small).data
    assert [s.name for s in sequences(data, "test", limit=1)] == ["test-00000"]
    assert len(load_split(tmp_path, "test")) == 1
    assert len(sequences(data, "test")) == 3
    assert len(sequences(data, "test", limit=2)) == 2
    assert len(load_split(tmp_path, "test")) == 3, "what is there is still known"
    assert len(sequences(data, "test", limit=10)) == 3
