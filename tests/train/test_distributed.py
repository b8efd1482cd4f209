"""Two processes under torchrun compute what one process with twice the batch computes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = str(Path(__file__).with_name("ddp_worker.py"))


def run_worker(processes: int, batch_size: int, out: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *(launcher if processes > 1 else []), WORKER, str(batch_size), str(out)]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Folder with the records of one process with four clips and of two processes with two each."""
    out = tmp_path_factory.mktemp("ddp")
    run_worker(1, 4, out)
    run_worker(2, 2, out)
    return out


def relative_difference(a: dict, b: dict, *, start: str) -> float:
    """Norm of the difference of all gradients whose names begin so, over their norm."""
    names = [name for name in a if name.startswith(start)]
    assert names
    one, two = (torch.cat([g[name].flatten().double() for name in names]) for g in (a, b))
    return float((one - two).norm() / one.norm())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["student", "teacher", "carried"])
def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(kind, runs):
    """Some windows are invisible, so the processes' own normalisers differ; batch norm sees the whole batch."""
    one, two = (torch.load(runs / f"{kind}{n}.pt", weights_only=True) for n in (1, 2))
    assert one["gradients"].keys() == two["gradients"].keys()
    network = "teacher." if kind == "teacher" else "student."
    assert relative_difference(one["gradients"], two["gradients"], start=network) < 1e-6
    if kind == "student":
        # Alignment runs in float32, and Sinkhorn stops by the worst sample of a process's own batch.
        assert relative_difference(one["gradients"], two["gradients"], start="distillation.") < 1e-4
    for name, value in one["state"].items():
        if "running" in name:
            torch.testing.assert_close(value, two["state"][name], rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_sharded_evaluation_gives_the_same_boxes_and_scores(runs):
    one, two = (torch.load(runs / f"student{n}.pt", weights_only=True) for n in (1, 2))
    assert len(one["state"]["boxes"]) == 5 * 12
    assert torch.equal(one["state"]["boxes"], two["state"]["boxes"])
    assert one["scores"] == two["scores"]
