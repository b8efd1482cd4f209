"""The command `had-snn`."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches

from had_snn import __version__
from had_snn.commands.names import JOBS, SCREEN


def main() -> None:
    """Runs the job that the first argument names, with the others."""
    try:
        run()
        if not sys.stdout.closed:
            sys.stdout.flush()
    except BrokenPipeError:  # as of `had-snn track --help | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> None:
    """What `main` does while somebody listens."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if word in ("--help", "-h", "help"):
        print(SCREEN, end="")
        return
    if word == "--version":
        print(f"had-snn {__version__}")
        return
    # Names of modules are understood too: those of `experiments/` and of the configs.
    job = JOBS.get(word.replace("_", "-"), word if word in JOBS.values() else None)
    if job is None:
        near = get_close_matches(word, [*JOBS, *JOBS.values()], 1)
        meant = f"; did you mean {near[0]}" if near else ""
        print(f"error: {word}: no such job{meant} (all of them: had-snn --help)", file=sys.stderr)
        sys.exit(2)
    from had_snn.commands.entry import start

    del sys.argv[1]
    start(job)
