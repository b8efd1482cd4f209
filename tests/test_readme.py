"""What the README promises: its Python runs as printed, its commands and options exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from had_snn.commands.names import JOBS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_lines_of_python_run_on_the_packaged_recording(tmp_path, monkeypatch):
    code = re.search(r"## In Python\n\n```python\n(.*?)```", README, re.S)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code[1], names)
    boxes = names["boxes"]
    assert len(boxes) == 98
    assert all(e.box_xywh.shape == (4,) and 0 <= e.score <= 1 for e in boxes)


def test_the_library_face_offers_what_it_lists():
    import had_snn

    for name in had_snn.__all__:
        assert getattr(had_snn, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = had_snn.nonsense


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_job_study_and_benchmark_that_a_page_names_exists(page):
    text = page.read_text()
    jobs = set(re.findall(r"had-snn\s([a-z][a-z-]+)", text))
    modules = set(re.findall(r"-m experiments\.([a-z_]+ [a-z_]+)", text))
    assert jobs or page.name != "README.md"
    assert jobs <= {*JOBS}
    assert all((ROOT / "experiments" / f"{module.replace(' ', '/')}.py").is_file() for module in modules)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_picture_and_file_that_a_page_links_exists(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
