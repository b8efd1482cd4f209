"""Every command and snippet of README and documentation, run as it is printed, in the order of its page.

A page is run in an empty folder, as a reader would who starts there. What would take long is shrunk by `SHRUNK` and
`SUBSTITUTED`. A comment above a block says what a test does with it: `<!-- not run: reason -->` is skipped, visibly;
`<!-- options only: reason -->` has its options checked as a job checks them. So have the studies and benchmarks that
made the figures, and commands inside a text.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from had_snn.commands.names import JOBS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
BLOCK = re.compile(r"(?:<!-- (not run|options only|setup): (.*?) -->\n)?```(sh|python)\n(.*?)```", re.S)
INLINE = re.compile(r"(?<!`)`((?:had-snn|python -m experiments\.(?:studies|bench))\s[^`]+)`(?!`)")
#: Jobs and what is made smaller; an option that is printed is replaced, another one is added.
SIMULATED = (
    "train",
    "val",
    "test",
    "train_paced",
    "val_fast",
    "test_fast",
    "train_shifted",
    "test_shifted",
    "train_noisy",
    "test_noisy",
)
SPLITS = {f"data.splits.{split}.{key}" for split in SIMULATED for key in ("count", "seconds")}
DATA = {name: "2" if name.endswith("count") else "0.4" for name in sorted(SPLITS)} | {"data.workers": "1"}
STEPS = dict.fromkeys(("iterations", "warmup", "log_every", "checkpoint_every", "validate_every"), "1")
FIT = {f"fit.{name}": value for name, value in STEPS.items()} | {"fit.batch_size": "2"}
SHRUNK: dict[str, dict[str, str]] = {
    "simulate": DATA,
    "train-teacher": DATA | FIT,
    "distill": DATA | FIT,
    "adapt": FIT
    | {"least_iou": "0"}  # a teacher of one step does not find back
    | {"replay.splits.train.count": "2", "replay.splits.train.seconds": "0.4", "replay.workers": "1"},
    "evaluate": DATA | {"limit": "1", "resamples": "0"},
    "profile": DATA | {"limit": "1", "windows": "2", "measure": "false"},
    "export": {"windows": "2"},
}
#: Python: what is printed, and what is run.
SUBSTITUTED = {"count=100, seconds=1.0": "count=1, seconds=0.2"}
#: Minutes long whatever its options; each of its stages is a job that is run here by itself.
LONG = ("demo",)


class Block(NamedTuple):
    """A fenced block: what the comment above says, why, its language and its text."""

    mark: str
    reason: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(m[1] or "", m[2] or "", m[3], m[4]) for m in BLOCK.finditer(page.read_text())]


def commands(text: str) -> list[str]:
    """Lines of a shell, with those that go on joined and comments left out."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"\s+# .*$", "", raw).strip() for raw in lines) if line and line[0] != "#"]


def shrunk(job: str, arguments: list[str]) -> list[str]:
    smaller = dict(SHRUNK.get(job, {}))
    if any(argument.startswith(("data=", "results=")) for argument in arguments):
        smaller = {name: value for name, value in smaller.items() if not name.startswith("data.")}
    kept = [argument for argument in arguments if argument.split("=")[0] not in smaller]
    kept = ["labels=0.5" if argument.startswith("labels=") else argument for argument in kept]  # a tenth of two is none
    return [*kept, *(f"{name}={value}" for name, value in smaller.items())]


def check_options(command: str) -> None:
    """Composes the config that a command asks for; an option that is unknown or of another kind raises."""
    from had_snn.commands.command_line import overrides_of
    from had_snn.commands.entry import compose

    words = shlex.split(command)
    if words[0] == "had-snn":
        job, arguments = JOBS[words[1]], words[2:]
    else:
        kind, name, *arguments = words[2].removeprefix("experiments."), *words[3:]
        assert (ROOT / "experiments" / kind / f"{name}.py").is_file()
        job = f"bench_{name}" if kind == "bench" and name != "gpu_check" else name
    if job != "gpu_check":
        typed = [argument for argument in overrides_of(job, arguments, dict) if not argument.startswith("--")]
        compose(job, typed)


def run_line(line: str, start) -> None:
    words = shlex.split(line)
    if words[0] == "had-snn" and "|" not in words:
        if words[1] in LONG:
            check_options(line)
        elif words[1:] not in (["--help"], ["--version"]):
            done = start(words[1], *shrunk(words[1], words[2:]))
            assert done.returncode == 0, f"{line}: {done.stderr}"
    elif words[0] == "python" and "experiments" in words[2]:
        check_options(line)
    else:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, env={**os.environ, "PATH": path}
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.fixture
def start_job(start):
    """`start` of conftest, for jobs by the names that are typed."""
    return lambda job, *arguments: start(JOBS[job], *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: page.stem)
def test_what_a_page_prints_runs(page, start_job, tmp_path, monkeypatch):
    pytest.importorskip("lightning_fabric")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(page):
        if block.mark == "not run":
            continue
        if block.language == "python":
            text = block.text
            for printed, run in SUBSTITUTED.items():
                text = text.replace(printed, run)
            exec(compile(text, str(page), "exec"), names)
            continue
        for line in commands(block.text):
            check_options(line) if block.mark == "options only" else run_line(line, start_job)


@pytest.mark.parametrize(
    ("page", "block"),
    [pytest.param(p, b, id=f"{p.stem}-{k}") for p in PAGES for k, b in enumerate(blocks(p)) if b.mark == "not run"],
)
def test_what_is_not_run(page, block):
    pytest.skip(f"{page.name}: {block.reason}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_inside_a_text_name_jobs_and_options_that_there_are(page):
    for found in INLINE.findall(BLOCK.sub("", page.read_text())):
        command = " ".join(found.split())
        words = command.split()
        if words[0] == "had-snn" and words[1].startswith("-"):
            continue
        if len(words) > 2 and (words[1] == "JOB" or words[2] == "JOB" or words[-1] == "NAME"):
            continue
        if words[0] == "had-snn" and "--help" in words:
            assert words[1] in JOBS or words[1] == "JOB"
            continue
        check_options(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_picture_and_file_that_a_page_links_exists(page):
    links = re.findall(r"\]\((?!http)([^)#]+)", BLOCK.sub("", page.read_text()))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("book", BOOKS, ids=lambda book: book.stem)
def test_a_notebook_runs_and_is_stored_with_its_outputs(book, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    assert book.stat().st_size < 150_000
    notebook = nbformat.read(book, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    stored = ["".join(o.get("text", "") for o in cell.outputs) for cell in code]
    assert all(cell.execution_count for cell in code)
    # A process of its own: a notebook's kernel and the warnings of its libraries are no part of this one.
    copy = tmp_path / book.name
    nbformat.write(notebook, copy)
    script = (
        "import nbformat, nbclient, sys\n"
        "book = nbformat.read(sys.argv[1], as_version=4)\n"
        "nbclient.NotebookClient(book, timeout=300, kernel_name='python3').execute(cwd=sys.argv[2])\n"
        "nbformat.write(book, sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, copy, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    again = [cell for cell in nbformat.read(copy, as_version=4).cells if cell.cell_type == "code"]
    assert len(stored) == len(again)
    assert nbclient is not None


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs_jupyter")
    pytest.importorskip("latex2mathml")
    pytest.importorskip("mkdocstrings_handlers.python")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        build, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    maths = (tmp_path / "site" / "maths.html").read_text()
    assert maths.count("<math") > 30
    assert "arithmatex" not in maths
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(PAGES) - 2
    fetched = re.compile(r"<(?:script|img|link rel=.?stylesheet)[^>]+(?:src|href)=.?https?://", re.I)
    assert [page.name for page in pages if fetched.search(page.read_text())] == []
