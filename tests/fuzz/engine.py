"""What all fuzzers share: instrumented modules, a folder in memory, limits on time and memory, the call of libFuzzer.

A finding is any exception but `HadError`, a message of several lines, more than 5 s of processor time or 2 GB for one
input. The input that caused it is left as `crash-*`.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import atheris

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
# atheris instruments what Python's own finder loads; an editable install's finder would come first.
sys.meta_path[:] = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def instrumented(*modules: str) -> AbstractContextManager:
    """Modules that are imported inside, and those below them, report what they run."""
    return atheris.instrument_imports(include=list(modules))


def chosen(names: Iterable[str]) -> str:
    """What the first argument names; the others are libFuzzer's."""
    names, name = list(names), sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in names:
        sys.exit(f"expected one of: {', '.join(names)}")
    return name


def fuzz(one_input: Callable[[Path], None], seeds: Iterable[bytes]) -> None:
    """Feeds a function files that come ever closer to valid ones.

    Args:
        one_input: Reads the file and raises on a finding.
        seeds: Contents of small valid files.
    """
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    path, corpus = FOLDER / "input", FOLDER / "seeds"

    def timed(data: bytes) -> None:
        path.write_bytes(data)
        start = time.process_time()
        one_input(path)
        if time.process_time() - start > 5:
            raise RuntimeError(f"took {time.process_time() - start:.1f} s")

    corpus.mkdir()
    for number, content in enumerate(seeds):
        (corpus / str(number)).write_bytes(content)
        timed(content)
    atheris.Setup([*sys.argv, str(corpus), "-timeout=60", "-rss_limit_mb=2048", "-max_len=16384"], timed)
    atheris.Fuzz()


def one_line(error: Exception) -> None:
    """What a refusal must be."""
    if "\n" in str(error):
        raise RuntimeError(f"a message of several lines: {error}") from error
