"""How studies and benchmarks start, and their workers: modules of this folder, each in a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def worker(module: str, *arguments: str) -> list[str]:
    """The command of a worker.

    Args:
        module: Below `experiments`, such as `bench.kernels_worker`.
        *arguments: Its own.
    """
    return [sys.executable, "-m", f"experiments.{module}", *arguments]


def environment(**changed: object) -> dict[str, str]:
    """This process's environment for a worker, which finds the checkout from any folder."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **{name: str(value) for name, value in changed.items()}}


def start_one_of(folder: str) -> None:
    """Runs the study or benchmark that the first argument names, with the others: those that have a config."""
    from had_snn.commands.entry import CONFIGS, start

    prefix = "bench_" if folder == "bench" else ""
    modules = (path.stem for path in (ROOT / "experiments" / folder).glob("*.py"))
    names = sorted(name for name in modules if Path(CONFIGS, f"{prefix}{name}.yaml").is_file())
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in names:
        sys.exit(f"{name or 'no name'}: expected one of {', '.join(names)}")
    start(prefix + name)
