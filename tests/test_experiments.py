"""The scripts: each composes and explains itself, and bad input is one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(p.stem for p in (ROOT / "experiments").glob("*.py") if (ROOT / "configs" / f"{p.stem}.yaml").exists())


def call(script: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "experiments" / f"{script}.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def failed_with_one_line(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_the_script(script):
    done = call(script, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python experiments/{script}.py" in done.stdout
    assert "Now in force" in done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_option_is_named(script, tmp_path):
    line = failed_with_one_line(call(script, "no_such_option=1", cwd=tmp_path))
    assert "no_such_option" in line
    assert list(tmp_path.iterdir()) == []
