"""One process of `bench_training.py`: runs a contender and prints seconds by stage and peak memory as JSON."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from had_snn.data.clips import Augmentation, ClipGeometry, ClipSampler
from had_snn.data.streaming import StreamingClips
from had_snn.data.synthetic import prepare_split
from had_snn.models import SpikingTracker, student_base, student_tiny
from had_snn.ops.memory import keep_freed_memory
from had_snn.train.averaging import parameter_groups
from had_snn.train.tasks import StudentTask

RIVALS = ("spikingjelly", "snntorch")
#: Behind a rival's name: with channels last in memory.
LAST = "_channels_last"
CONTENDERS = ("had", *RIVALS, *(name + LAST for name in RIVALS))
CARRIED = ("single_window", "carried_1", "carried_2", "carried_all")


class Stages:
    """Adds up the seconds of each stage of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, stage: str, call: Callable[..., Any], *args: Any) -> Any:
        """Runs a call and books its time."""
        began = time.perf_counter()
        result = call(*args)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began
        return result

    def watch_stem(self, student: SpikingTracker) -> None:
        """Books the stem's forward time apart."""
        forward = student.stem.forward
        student.stem.forward = lambda *args, **options: self.timed("stem", lambda: forward(*args, **options))


def make_task(name: str, size: str, n_steps: int) -> nn.Module:
    """The task of a contender; all start from the same weights."""
    from experiments.bench.training_rivals import RivalTask, rival

    torch.manual_seed(0)
    student = {"tiny": student_tiny, "base": student_base}[size](n_steps=n_steps)
    library = name.removesuffix(LAST)
    if library in RIVALS:
        task: nn.Module = RivalTask(rival(student.config, library, channels_last=name != library))
    else:
        task = StudentTask(student, carry={"carried_1": 1, "carried_2": 2, "carried_all": 10**9}.get(name))
    return task.train()


def one_step(task: nn.Module, clips: Any, optimizer: torch.optim.Optimizer, first: int, size: int) -> dict[str, float]:
    """Seconds by stage of one step, from the clips to the changed weights."""
    stages = Stages()
    student = task.student
    assert isinstance(student, SpikingTracker)
    stages.watch_stem(student)
    batch = stages.timed("data", lambda: clips.collate([clips[i] for i in range(first, first + size)]))
    optimizer.zero_grad(set_to_none=True)
    pieces = task.pieces(batch) if isinstance(task, StudentTask) else [batch]
    for piece in pieces:
        losses = stages.timed("forward", task, piece)
        stages.timed("backward", (losses["total"] * getattr(piece, "share", 1.0)).backward)
    stages.timed("optimizer", optimizer.step)
    del student.stem.forward  # the class's own again
    found = dict(stages.seconds)
    found["backbone"] = found.pop("forward") - found["stem"]
    return found


def run(job: dict[str, Any]) -> dict[str, Any]:
    """A contender's steps; the first one, which makes caches and allocates, is left out."""
    torch.set_num_threads(job["threads"])
    if job["name"].removesuffix(LAST) not in RIVALS:
        keep_freed_memory()  # as `fit` does
    task = make_task(job["name"], job["size"], job["n_steps"])
    student = task.student
    assert isinstance(student, SpikingTracker)
    geometry, varied = ClipGeometry.of(student.config), Augmentation(centre_jitter=0.3, scale_jitter=0.12)
    options = {"windows": job["windows"], "augmentation": varied, "modalities": ("events",)}
    optimizer = torch.optim.AdamW(parameter_groups(task, 1e-4), lr=3e-3)
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sequences = prepare_split(folder, "train", count=job["sequences"], seconds=1.0, workers=job["threads"])
        if job["name"].startswith("carried"):
            clips: Any = StreamingClips(sequences, geometry, grid=student.grid, **options)
        else:
            clips = ClipSampler(sequences, geometry, **options)
        before = resident_mb()
        for number in range(job["rounds"] + 1):
            found = one_step(task, clips, optimizer, number * job["batch_size"], job["batch_size"])
            for stage, value in found.items() if number else ():
                seconds.setdefault(stage, []).append(value)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mb": peak, "above_mb": peak - before}


def resident_mb() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    print(json.dumps(run(json.loads(sys.argv[1]))))
