"""Starts jobs as forks of a process that has loaded everything, so that one costs a second less than a start of Python.

    python tests/faults/job_server.py

Takes a JSON line for each job on standard input and answers with two: its process, and how that ended. What a job says
goes into files. With `faulty_disk.c` in front of the C library (`LD_PRELOAD`), a job's disk can be full from its n-th
change on, and its clock can go back.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import logging
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch

from had_snn.commands import entry
from had_snn.native import load_library

torch.set_num_threads(1)
#: What the jobs load, once for all of them.
LOADED = (
    *(f"had_snn.commands.{name}" for name in ("distill_student", "evaluate", "export_nir", "prepare_data", "track")),
    *("imageio.v2", "jinja2", "lightning_fabric", "matplotlib.figure", "nir", "PIL.Image", "torch.utils.tensorboard"),
    *("torch._dynamo", "had_snn.evaluate.report_profile"),
)
for name in LOADED:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
load_library()
for name in ("track", "evaluate", "distill_student", "export_nir"):
    entry.compose(name, ["out=run"])


def job(asked: dict[str, Any]) -> None:
    """Is the job, to its end."""
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, asked["out"], 0), (2, asked["err"], 0)):
        handle = os.open(name, flags or os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(asked["folder"])
    sys.argv = asked["arguments"]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if asked.get("largest_file") is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["largest_file"], resource.RLIM_INFINITY))
    faulty = None
    if "fails_at" in asked:
        faulty = ctypes.CDLL(None)
        faulty.faulty_begin.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_long]
        faulty.faulty_begin(
            asked["under"].encode(), asked["fails_at"], asked.get("error", 28), asked.get("clock_back_s", 0)
        )
    code = 0
    try:
        entry.start(sys.argv[0])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 (as the interpreter does)
        traceback.print_exc()
        code = 1
    if faulty is not None:
        faulty.faulty_changes.restype = ctypes.c_long
        changes = faulty.faulty_changes()
        faulty.faulty_begin(b"", -1, 0, 0)
        Path(asked["counted"]).write_text(str(changes))
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        process = os.fork()
        if process == 0:
            job(asked)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


main()
