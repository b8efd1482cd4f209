"""Fixtures of the jobs that are made to fail: see `faulty_jobs.py`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from faulty_jobs import Finished, Jobs, contents, job, other, small

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def faulty_disk(tmp_path_factory) -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a C compiler is needed to build the faulty disk; CC=... names it")
    target = tmp_path_factory.mktemp("faulty") / "faulty_disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", HERE / "faulty_disk.c", "-o", target, "-ldl"], check=True)
    return target


@pytest.fixture(scope="session")
def jobs(faulty_disk, tmp_path_factory) -> Iterator[Jobs]:
    pytest.importorskip("hydra")
    notes = tmp_path_factory.mktemp("notes")
    environment = {**os.environ, "LD_PRELOAD": str(faulty_disk), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with (
        (notes / "server").open("w") as said,
        subprocess.Popen(
            [sys.executable, HERE / "job_server.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=environment,
        ) as server,
    ):
        assert server.stdout is not None
        assert server.stdin is not None
        assert server.stdout.readline() == "ready\n", (notes / "server").read_text()
        yield Jobs(server, notes)
        server.stdin.close()
        server.send_signal(signal.SIGTERM)


@pytest.fixture(scope="session")
def material(tmp_path_factory, jobs) -> Path:
    """A recording of a drifting blob, and two simulated splits of one short sequence."""
    from had_snn.events.stream import EventStream
    from had_snn.recordings.writers import write_events

    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 150_000, 6000))
    x = np.clip(rng.normal(120 + t * 1e-4, 10), 0, 239).astype(int)
    y = np.clip(rng.normal(90, 8, len(t)), 0, 179).astype(int)
    write_events(EventStream.from_arrays(t, x, y, rng.integers(0, 2, len(t)), (180, 240)), folder / "blob.npz")
    done = jobs(folder, "prepare_data", "splits=[train,test]", *small(folder))
    assert done.code == 0, done.err
    return folder


@pytest.fixture(scope="session")
def finished(jobs: Jobs, material, tmp_path_factory) -> Callable[[str], Finished]:
    """By kind: a finished run, and one with other options that was made over it."""
    made: dict[str, Finished] = {}

    def make(kind: str) -> Finished:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            first = jobs(folder, *job(kind, material), "out=run", under=str(folder), fails_at=0)
            shutil.copytree(folder / "run", folder / "over")
            second = jobs(folder, *job(kind, material), *other(kind), "out=over", under=str(folder), fails_at=0)
            assert (first.code, second.code) == (0, 0), first.err + second.err
            contained = contents(folder / "run"), contents(folder / "over")
            made[kind] = Finished(folder / "run", *contained, (first.changes, second.changes), jobs.seconds)
        return made[kind]

    return make
