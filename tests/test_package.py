"""The face of the library."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import had_snn

ROOT = Path(__file__).resolve().parents[1]


def test_the_face_offers_what_it_lists():
    for name in had_snn.__all__:
        assert getattr(had_snn, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = had_snn.nonsense


def test_the_version_is_the_same_wherever_it_is_told():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
    changed = re.search(r"^## (\d.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert cited is not None
    assert changed is not None
    assert cited[1] == changed[1] == had_snn.__version__
