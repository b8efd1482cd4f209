"""How studies and benchmarks start their workers: modules of this folder, each in a process of its own."""

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
