"""Coverage-guided fuzzing of the files that are no recordings (needs `atheris`; not part of the test run).

    python tests/fuzz/fuzz_files.py KIND [-max_total_time=600] [libFuzzer's options and corpus folders ...]

KIND is one of `targets.TARGETS`: `nir`, `weights`, `state`, `resume`, `boxes`, `labels`, `names`, `results`.
"""

from __future__ import annotations

from pathlib import Path

from engine import chosen, fuzz, instrumented, one_line

with instrumented("had_snn", "nir", "targets"):
    from targets import TARGETS

    from had_snn.errors import HadError

TARGET = TARGETS[chosen(TARGETS)]


def one_input(path: Path) -> None:
    """Reads a file in all ways."""
    try:
        TARGET.read(path)
    except HadError as error:
        one_line(error)


fuzz(one_input, TARGET.seeds())
