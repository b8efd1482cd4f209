"""Jobs that are made to fail: forks of a server, a small one of each kind, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Ended:
    """How a job ended: the exit code (minus the signal that killed it), what it said, how often it changed the disk."""

    code: int
    out: str
    err: str
    changes: int | None = None

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


@dataclass
class Jobs:
    """Starts jobs in forks of one process."""

    server: subprocess.Popen
    notes: Path
    seconds: float = field(default=0.0, init=False)

    def __call__(self, folder: Path, *arguments: object, kill: tuple[float, int] | None = None, **faults: Any) -> Ended:
        """Runs a job in a folder; `kill` is (seconds, signal), `faults` are those of `job_server.py`."""
        counted = self.notes / "counted"
        counted.unlink(missing_ok=True)
        asked = {
            "folder": str(folder),
            "arguments": [str(a) for a in arguments],
            "out": str(self.notes / "out"),
            "err": str(self.notes / "err"),
            "counted": str(counted),
            **faults,
        }
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        began = time.monotonic()
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        process = int(self.server.stdout.readline())
        if kill is not None:
            time.sleep(kill[0])
            # The job is no child of this process: one that has ended is gone, and the server waits for no other.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, kill[1])
        code = int(self.server.stdout.readline())
        self.seconds = time.monotonic() - began
        said = [(self.notes / name).read_text() for name in ("out", "err")]
        return Ended(code, *said, int(counted.read_text()) if counted.exists() else None)


@dataclass(frozen=True)
class Finished:
    """A run of a kind in a folder, and one with other options over it: contents, changes to the disk, seconds."""

    folder: Path
    before: dict[str, bytes]
    after: dict[str, bytes]
    changes: tuple[int, int]
    seconds: float


def small(folder: Path) -> list[str]:
    """Options of a data set of two short sequences."""
    return [
        f"data.root={folder / 'data'}",
        "data.workers=1",
        *(f"data.splits.{split}.{option}" for split in ("train", "test") for option in ("count=1", "seconds=0.3")),
    ]


def job(kind: str, material: Path) -> list[object]:
    """A small job of a kind, without its `out`."""
    if kind == "track":
        return ["track", f"recording={material / 'blob.npz'}", "box=[100,75,40,30]", "video=track.gif"]
    if kind == "evaluate":
        return ["evaluate", *small(material), "baselines=[static]", "resamples=10"]
    if kind == "distill":
        fit = ("iterations=4", "batch_size=2", "checkpoint_every=2", "log_every=1", "warmup=1")
        return ["distill_student", *small(material), "distill=none", *(f"fit.{option}" for option in fit)]
    assert kind == "export"
    return [
        "export_nir",
        f"recording={material / 'blob.npz'}",
        "box=[100,75,40,30]",
        "windows=2",
        "verify=[event_by_event]",
        "track_in=[]",
    ]


def other(kind: str) -> list[object]:
    """Options with which the job of a kind gives other results; a training goes on."""
    return {
        "track": ["box=[98,75,40,30]"],
        "evaluate": ["skip_us=100000"],
        "distill": ["fit.iterations=6"],
        "export": ["box=[98,75,40,30]"],
    }[kind]


THOROUGH = "HAD_SNN_FAULTS" in os.environ


def times(few: int) -> int:
    """How often a fault is tried: few times in a test run, HAD_SNN_FAULTS times where it is set (`make faults`)."""
    return int(os.environ.get("HAD_SNN_FAULTS", few))


def chosen(every: Sequence[Any], few: Sequence[Any]) -> Sequence[Any]:
    """All cases of a fault where HAD_SNN_FAULTS is set; in a test run the few that show each kind of job or fault."""
    return every if THOROUGH else few


KINDS = ("track", "evaluate", "distill", "export")
#: The file that says that a run is whole, and those whose content follows from the options alone.
SEAL = {
    "track": ("summary.json", ("boxes.csv", "track.gif")),
    "evaluate": ("metrics.json", ("results/student/test-00000.txt", "results/static/test-00000.txt")),
    "distill": ("student.safetensors", ()),
    "export": ("verify.json", ("student.nir", "graph.png")),
}


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, without those that only say how a run went."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("log.txt", ".lock") and "tfevents" not in path.name
    }


def losses(run: dict[str, bytes]) -> list[list[str]]:
    """The curve of a training, without its rate, which no two runs share."""
    rows = [line.split(",") for line in run["losses.csv"].decode().splitlines()]
    return [[cell for name, cell in zip(rows[0], row, strict=True) if name != "clips_per_second"] for row in rows]


def check_whole(kind: str, folder: Path, *possible: dict[str, bytes]) -> None:
    """What stands in a folder can be read, and is one whole run where it says so.

    Args:
        kind: Of the job.
        folder: Its run folder; need not be there.
        *possible: Contents of the runs that it may be.
    """
    check_readable(folder)
    seal, files = SEAL[kind]
    if not (folder / seal).exists() or not files:
        return
    found = {name: (folder / name).read_bytes() for name in files if (folder / name).exists()}
    if kind == "track":  # its boxes come one by one, and it sums up what it has when it is ended
        rows = found.pop("boxes.csv")
        assert json.loads((folder / seal).read_text())["boxes"] == rows.count(b"\n") - 1
        possible = tuple(run for run in possible if run["boxes.csv"].startswith(rows))
    else:
        assert len(found) == len(files)
    assert found in [{name: run[name] for name in found} for run in possible], f"{folder} mixes runs"


def check_readable(folder: Path) -> None:
    """Every file that is there can be read to its end by what reads such files; no drafts are left."""
    import torch
    from PIL import Image

    from had_snn.checkpoint import load_student
    from had_snn.evaluate.box_files import read_boxes
    from had_snn.export.nir import read_nir

    readers: dict[str, Callable[[Path], Any]] = {
        ".json": lambda path: json.loads(path.read_text()),
        ".safetensors": load_student,
        ".nir": read_nir,
        ".csv": _check_table,
        ".pt": lambda path: torch.load(path, weights_only=True),
        ".txt": lambda path: path.name == "log.txt" or read_boxes(path),
        ".png": lambda path: Image.open(path).load(),
        ".gif": _check_film,
        ".html": lambda path: _require(path.read_text().rstrip().endswith("</html>"), path),
        ".yaml": lambda path: _require(path.read_text().endswith("\n"), path),
        ".md": lambda path: _require(path.read_text().endswith("\n"), path),
    }
    for path in folder.rglob("*"):
        told = not any(part.startswith(".") for part in path.relative_to(folder).parts)  # neither lock nor drafts
        if path.is_file() and told and "tfevents" not in path.name:
            readers[path.suffix](path)


def drafts(folder: Path) -> list[str]:
    """Files and folders that were begun and not finished."""
    return [p.name for p in folder.rglob(".*") if p.name != ".lock"]


def _require(holds: bool, path: Path) -> None:
    assert holds, f"{path} is cut off"


def _check_table(path: Path) -> None:
    text = path.read_text()
    _require(text.endswith("\n"), path)
    rows = list(csv.reader(text.splitlines()))
    _require(len({len(row) for row in rows}) == 1, path)


def _check_film(path: Path) -> None:
    from PIL import Image, ImageSequence

    with Image.open(path) as film:
        for frame in ImageSequence.Iterator(film):
            frame.load()
