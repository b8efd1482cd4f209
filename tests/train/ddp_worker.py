"""One process of a distributed run, for `test_distributed.py`:

torchrun --nproc-per-node=2 tests/train/ddp_worker.py BATCH_SIZE OUT
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch
from drifting import GEOMETRY, drifting_sequence

from had_snn.data.clips import ClipSampler
from had_snn.data.streaming import StreamingClips
from had_snn.distill.hierarchy import distillation_for
from had_snn.evaluate.one_pass import evaluate_tracker
from had_snn.models import student_tiny, teacher_tiny
from had_snn.processes import rank
from had_snn.tracking import OnlineTracker
from had_snn.train.distillation import Distillation
from had_snn.train.loop import FitConfig, fit
from had_snn.train.tasks import StudentTask, TeacherTask

KINDS = ("student", "teacher", "carried")


def clocked_in_double(student):
    """In float32 the order of a sum can flip a spike whose potential lies next to the threshold; in float64 it cannot
    be seen. The event-driven stem does not look at other samples and stays as it is."""
    student.double().stem.float()
    student.stem.register_forward_hook(lambda module, given, out: (out[0].double(), out[1], out[2]))
    return student


def task_and_clips(kind: str):
    """What is trained and from what; the same in every process."""
    torch.manual_seed(1)
    sequences = [drifting_sequence(seed=i, hidden=i == 1) for i in range(3)]
    if kind == "teacher":
        teacher = teacher_tiny().double()
        for stem in (teacher.rgb_stem, teacher.event_stem):
            stem.register_forward_pre_hook(lambda module, given: tuple(image.double() for image in given))
        clips = ClipSampler(sequences, GEOMETRY, seed=4, modalities=("rgb", "voxel"))
        return TeacherTask(teacher, modality_dropout=0.0), clips
    student, teacher = clocked_in_double(student_tiny()), teacher_tiny()
    if kind == "carried":
        clips = StreamingClips(sequences, GEOMETRY, grid=12, windows=4, seed=4, modalities=("events",))
        return StudentTask(student, carry=2), clips
    levels = distillation_for("full", student.config.channels[2], teacher.config.dim)
    return StudentTask(student, distillation=Distillation(levels, teacher)), ClipSampler(sequences, GEOMETRY, seed=4)


def measure(kind: str, size: int, out: Path, world: int) -> None:
    """One training step; the first process writes gradients, weights and, for the student, what it tracks."""
    task, clips = task_and_clips(kind)
    config = FitConfig(iterations=1, batch_size=size, gradient_clip=1e9, warmup=0)
    trained = fit(task, clips, config, run_dir=out / f"{kind}-run{world}", devices=world)
    gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    scores: dict[str, float] = {}
    if kind == "student":
        sequences = [drifting_sequence(seed=i) for i in range(5)]
        result = evaluate_tracker(OnlineTracker(student_tiny()), sequences, resamples=100)
        boxes = torch.from_numpy(np.concatenate([r.boxes_xywh for r in result.results]))
        scores, state = dict(result.scores), {**state, "boxes": boxes}
    if rank() == 0:
        torch.save({"gradients": gradients, "state": state, "scores": scores}, out / f"{kind}{world}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in KINDS:
        measure(kind, int(sys.argv[1]), Path(sys.argv[2]), int(os.environ.get("WORLD_SIZE", "1")))
