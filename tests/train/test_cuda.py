"""Training and tracking on a GPU: what comes out is what a CPU finds. Needs an NVIDIA GPU with CuPy."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from drifting import GEOMETRY, drifting_sequence

from had_snn.data.clips import ClipSampler
from had_snn.distill.hierarchy import MODES, distillation_for
from had_snn.distill.schedule import DistillSchedule
from had_snn.models import student_tiny, teacher_tiny
from had_snn.tracking import OnlineTracker
from had_snn.train.config import FitConfig
from had_snn.train.distillation import Distillation
from had_snn.train.loop import fit
from had_snn.train.tasks import StudentTask, TeacherTask

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 rounds convolutions to ten bits, and a spike more or less would hide what is looked for here."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def clips(**options) -> ClipSampler:
    return ClipSampler([drifting_sequence(seed=seed) for seed in range(3)], GEOMETRY, seed=1, **options)


def student_task(mode: str) -> StudentTask:
    torch.manual_seed(0)
    student = student_tiny()
    if mode == "none":
        return StudentTask(student)
    teacher = teacher_tiny()
    levels = distillation_for(mode, student.config.channels[2], teacher.config.dim)
    assert levels is not None
    return StudentTask(student, distillation=Distillation(levels, teacher))


def gradients(task: torch.nn.Module, batch, device: str) -> tuple[dict[str, float], torch.Tensor]:
    """Losses, and all gradients in one vector."""
    task = copy.deepcopy(task).to(device).train()
    losses = task(batch.to(device))
    losses["total"].backward()
    found = [p.grad.flatten().cpu() for p in task.parameters() if p.grad is not None]
    return {name: float(value.detach()) for name, value in losses.items()}, torch.cat(found)


@pytest.mark.parametrize("mode", ["none", *sorted(set(MODES) - {"none"})])
def test_a_student_step_equals_the_cpus(mode: str) -> None:
    sampler = clips(distill=DistillSchedule(2))
    batch = sampler.collate([sampler[i] for i in range(4)])
    task = student_task(mode)
    (on_cpu, wanted), (on_gpu, found) = (gradients(task, batch, device) for device in ("cpu", "cuda"))
    assert on_gpu.keys() == on_cpu.keys()
    # Convolutions add in another order: a membrane that stands at the threshold may fire on one device only.
    assert on_gpu["total"] == pytest.approx(on_cpu["total"], rel=0.02)
    assert torch.nn.functional.cosine_similarity(wanted, found, dim=0) > 0.98


def test_a_teacher_step_equals_the_cpus() -> None:
    sampler = clips()
    batch = sampler.collate([sampler[i] for i in range(4)])
    torch.manual_seed(0)
    task = TeacherTask(teacher_tiny(), modality_dropout=0.0)
    (on_cpu, wanted), (on_gpu, found) = (gradients(task, batch, device) for device in ("cpu", "cuda"))
    assert on_gpu["total"] == pytest.approx(on_cpu["total"], rel=1e-3)
    assert torch.nn.functional.cosine_similarity(wanted, found, dim=0) > 0.999


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_fit_learns_and_resumes(tmp_path: Path, precision: str) -> None:
    def run(iterations: int) -> StudentTask:
        config = FitConfig(
            iterations=iterations, batch_size=4, log_every=1, checkpoint_every=5, warmup=2, precision=precision
        )
        return fit(
            student_task("full"), clips(distill=DistillSchedule(2)), config, run_dir=tmp_path, accelerator="cuda"
        )

    run(5)
    trained = run(30)
    lines = (tmp_path / "losses.csv").read_text().splitlines()
    totals = [float(line.split(",")[lines[0].split(",").index("total")]) for line in lines[1:]]
    assert len(totals) == 30
    assert sum(totals[-5:]) < sum(totals[:5])
    assert next(trained.parameters()).device.type == "cuda"


@pytest.mark.parametrize("carry", [False, True])
def test_a_tracker_on_the_gpu_gives_the_cpus_boxes(carry: bool) -> None:
    torch.manual_seed(0)
    student, sequence = student_tiny().eval(), drifting_sequence()
    boxes = []
    for device in ("cpu", "cuda"):
        tracker = OnlineTracker(copy.deepcopy(student).to(device), carry=carry, backend="dense")
        start = int(sequence.label_times_us[1])
        tracker.init(sequence.events.slice_time(0, start), sequence.boxes_xywh[1], t_us=start)
        found = [box for t0, t1 in _steps(sequence) for box in tracker.update(sequence.events.slice_time(t0, t1))]
        boxes.append(torch.tensor([[*box.box_xywh] for box in found]))
    assert len(boxes[0]) > 5
    torch.testing.assert_close(boxes[0], boxes[1], rtol=0, atol=1.0)


def _steps(sequence) -> list[tuple[int, int]]:
    times = [int(t) for t in sequence.label_times_us[1:]]
    return list(itertools.pairwise(times))
