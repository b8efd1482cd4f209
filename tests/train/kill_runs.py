"""Kills training processes with SIGKILL, again and again, and checks what they leave behind.

    python tests/train/kill_runs.py anywhere 50    # at any moment; the resumed curve must equal the uninterrupted one
    python tests/train/kill_runs.py writing 50     # inside the write of a checkpoint; it must stay readable

Children are forked from this process, so torch is imported once.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from small_task import Clips, Task

from had_snn.train import run as run_module
from had_snn.train.loop import FitConfig, fit

CONFIG = FitConfig(iterations=120, batch_size=4, learning_rate=1e-2, warmup=5, log_every=4, checkpoint_every=3)


def child(work: Callable[[], object]) -> int:
    """Forks a process that does the work; returns its id."""
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (nothing may return into the parent's code)
            print(f"child: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def train(folder: Path) -> None:
    fit(Task(), Clips(), CONFIG, run_dir=folder)


def curve(folder: Path) -> list[list[str]]:
    """Iterations and losses, as text; the rate and the times differ from run to run."""
    lines = [line.split(",") for line in (folder / "losses.csv").read_text().splitlines()]
    kept = [i for i, name in enumerate(lines[0]) if name != "clips_per_second"]
    return [[line[i] for i in kept] for line in lines]


def kill_anywhere(kills: int, folder: Path) -> None:
    """Runs to the end through `kills` kills and compares with a run that nobody kills."""
    began = time.monotonic()
    assert os.waitpid(child(lambda: train(folder / "whole")), 0)[1] == 0
    seconds = time.monotonic() - began
    draw, done, runs = random.Random(0), 0, 0
    while done < kills:
        cut = folder / f"cut{runs}"
        runs += 1
        finished = False
        while not finished:
            pid = child(lambda cut=cut: train(cut))
            if done < kills:
                time.sleep(draw.uniform(0.0, seconds))
                os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            done += os.WIFSIGNALED(status)
            finished = os.WIFEXITED(status)
            assert not finished or os.WEXITSTATUS(status) == 0, f"run {runs} failed after {done} kills"
        assert curve(cut) == curve(folder / "whole"), f"run {runs} has another curve"
        assert not list(cut.glob(".resume.*")), "unfinished checkpoints were left behind"
    print(f"{done} kills in {runs} runs: every curve equals the uninterrupted one")


def kill_while_writing(kills: int, folder: Path) -> None:
    """Kills a child inside `torch.save` or just around it, and loads the checkpoint after each kill."""
    draw, counts = random.Random(0), {"readable": 0, "unfinished": 0}
    save = torch.save
    began = folder / "writing"

    def train_writing(writes: int) -> None:
        left = iter(range(writes - 1, -1, -1))

        def large_save(state: dict, path: Path) -> None:
            if next(left, None) == 0:
                began.touch()
            save({**state, "ballast": torch.zeros(500_000)}, path)

        run_module.torch.save = large_save
        fit(Task(), Clips(), CONFIG, run_dir=folder)

    for _ in range(kills):
        began.unlink(missing_ok=True)
        writes = draw.randint(1, 4)
        pid = child(lambda writes=writes: train_writing(writes))
        while not began.exists() and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        time.sleep(draw.uniform(0.0, 0.004))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        counts["unfinished"] += bool(list(folder.glob(".resume.*")))
        if (folder / "resume.pt").exists():
            state = torch.load(folder / "resume.pt", weights_only=True)
            counts["readable"] += int(state["iteration"] > 0)
            if state["iteration"] == CONFIG.iterations:
                (folder / "resume.pt").unlink()
    assert counts["unfinished"] > 0, "no kill hit a write"
    assert counts["readable"] > 0, "no checkpoint was ever finished"
    print(f"{kills} kills: {counts['unfinished']} inside a write, {counts['readable']} checkpoints found, all readable")


if __name__ == "__main__":
    kind, number = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as place:
        {"anywhere": kill_anywhere, "writing": kill_while_writing}[kind](number, Path(place))
