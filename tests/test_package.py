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


def test_links_of_the_readme_work_on_an_index_page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "packaging"))
    from index_readme import dynamic_metadata

    relative = re.compile(r"\]\((?!https?:)")
    assert relative.search((ROOT / "README.md").read_text())
    for home in ("", "https://example.org/had-snn/"):
        text = dynamic_metadata("readme", {"home": home})["text"]
        assert not relative.search(text)
        assert "<!--" not in text
        assert ("https://example.org/had-snn/blob/main/docs/limits.md" in text) == bool(home)
        assert ("![" in text) == bool(home)


def test_the_version_is_the_same_wherever_it_is_told():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M)
    changed = re.search(r"^## (\d.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert cited is not None
    assert changed is not None
    assert cited[1] == changed[1] == had_snn.__version__
