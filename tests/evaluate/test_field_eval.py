"""One tracker's results in the notations of public bug reports, from the data folder beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from had_snn.errors import HadError, InputError
from had_snn.evaluate.folders import evaluate_folder

OTHER_BOXES = {"short", "long", "nan_rows"}
NO_RESULTS = {"anno", "anno_blank", "anno_with_list", "flags_long"}


@pytest.fixture(scope="module")
def field(real_data) -> Path:
    folder = real_data.parent / "field" / "eval"
    if not folder.is_dir():
        pytest.skip(f"result files of the field not found at {folder}")
    return folder


def score(results: Path, annotations: Path, protocol: str = "pytracking", **options) -> float:
    return round(evaluate_folder(results, annotations, protocol=protocol, resamples=0, **options).scores["SR"], 1)


def test_every_notation_of_the_same_boxes_scores_the_same(field):
    found = {}
    for folder in sorted(p for p in field.iterdir() if p.is_dir() and p.name not in NO_RESULTS | OTHER_BOXES):
        found[folder.name] = score(folder, field / ("anno_blank" if folder.name == "blank" else "anno"))
    assert len(found) >= 17
    assert set(found.values()) == {73.4}, found


def test_lists_and_names_with_blanks(field):
    assert score(field / "plain", field / "anno_with_list") == 73.4
    assert score(field / "plain", field / "anno", sequences=field / "anno_with_list" / "testing_set.txt") == 73.4
    assert score(field / "blank", field / "anno_blank", sequences=field / "list_blank.txt") == 73.4


def test_flags_that_are_too_many_are_refused_or_cut_as_stated(field):
    with pytest.raises(InputError, match=r"14 flags for 12 labels.*length_tolerance=N"):
        score(field / "plain", field / "anno", absent_dir=field / "flags_long")
    assert score(field / "plain", field / "anno", absent_dir=field / "flags_long", length_tolerance=2) == 73.4


def test_other_numbers_of_boxes_follow_the_protocols_rules(field):
    refused = {("short", "toolkit"): "the toolkits stop at short results", ("nan_rows", "pytracking"): "refuse NaN"}
    # Boxes that lie 3 px ahead of the target: the previous one, which stands in for the NaN, lies 1 px ahead.
    values = {"long": 73.4, "short": 61.5, "nan_rows": 74.2}
    for name in OTHER_BOXES:
        for protocol in ("pytracking", "toolkit", "visible"):
            if (name, protocol) not in refused:
                assert score(field / name, field / "anno", protocol) == values[name]
                continue
            with pytest.raises(HadError, match=refused[name, protocol]):
                score(field / name, field / "anno", protocol)
