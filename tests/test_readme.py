"""What the README promises: its Python runs as printed, its commands and options exist."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from had_snn.commands.names import JOBS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_five_lines_run_on_a_real_recording(real_data, tmp_path, monkeypatch):
    code = re.search(r"## Five lines of Python\n\n```python\n(.*?)```", README, re.S)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line.strip()]) == 5
    shutil.copy(real_data / "event-vision-library/artifacts/sample_data/sample.aedat4", tmp_path / "recording.aedat4")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code[1], names)
    boxes = names["boxes"]
    assert len(boxes) == 12
    assert all(e.box_xywh.shape == (4,) and 0 <= e.score <= 1 for e in boxes)


def test_the_library_face_offers_what_it_lists():
    import had_snn

    for name in had_snn.__all__:
        assert getattr(had_snn, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = had_snn.nonsense


def test_every_job_study_and_benchmark_it_names_exists():
    jobs = set(re.findall(r"had-snn ([a-z][a-z-]+)", README))
    modules = set(re.findall(r"-m experiments\.(\w+ \w+)", README))
    assert jobs
    assert jobs <= {*JOBS}
    assert all((ROOT / "experiments" / f"{module.replace(' ', '/')}.py").is_file() for module in modules)


def test_every_picture_and_file_it_links_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert all((ROOT / link).exists() for link in links), links
