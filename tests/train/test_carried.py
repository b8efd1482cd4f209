"""Training with carried state: the windows see what came before, and the gradient stops where it was told to."""

from __future__ import annotations

import pytest
import torch
from drifting import GEOMETRY, drifting_sequence

from had_snn.checkpoint import load_student
from had_snn.data.clips import ClipSampler
from had_snn.data.streaming import StreamingClips
from had_snn.errors import InputError
from had_snn.models import student_tiny
from had_snn.train.loop import FitConfig, fit
from had_snn.train.losses import tracking_losses
from had_snn.train.tasks import StudentTask

OPTIONS = {"geometry": GEOMETRY, "windows": 4, "modalities": ("events",)}


@pytest.fixture
def clips():
    return StreamingClips([drifting_sequence(seed=i) for i in range(2)], grid=12, **OPTIONS)


@pytest.fixture
def batch(clips):
    return clips.collate([clips[i] for i in range(2)])


def busy_student():
    """Untrained, with loud weights, so that every layer spikes and membranes matter."""
    torch.manual_seed(0)
    student = student_tiny()
    with torch.no_grad():
        student.stem.weight.mul_(3)
    return student


def test_pieces_cover_the_windows_once(batch):
    pieces = list(StudentTask(busy_student(), carry=3).pieces(batch))
    assert [len(piece.batch.boxes) for piece in pieces] == [3, 1]
    assert sum(piece.share for piece in pieces) == pytest.approx(1)
    assert pieces[0].carried is pieces[1].carried


def test_carried_windows_are_the_students_own_run_with_state(batch):
    student = load_student("tiny")  # a trained one: fresh weights hardly spike in the deeper layers
    task = StudentTask(student, carry=2).eval()
    with torch.no_grad():
        losses = [task(piece) for piece in task.pieces(batch)]
        kernel, state, totals = student.encode_template(batch.template_events, batch.template_box), None, []
        for k in range(4):
            state = None if state is None else state.moved(batch.move_cells[k])
            out = student.step(batch.search_events.samples(2 * k, 2 * k + 2), kernel, state)
            state = out.state
            totals.append(tracking_losses(out, batch.boxes[k], batch.visible[k])["focal"])
        fresh = StudentTask(student).eval()(batch)
    got = [float(x["focal"]) for x in losses]
    assert got == pytest.approx([float(sum(totals[:2]) / 2), float(sum(totals[2:]) / 2)], rel=1e-5)
    assert float(fresh["focal"]) != pytest.approx(sum(got) / 2, rel=1e-3), "the state makes a difference"


def test_the_gradient_stops_at_the_cut(batch):
    def gradient(carry: int) -> torch.Tensor:
        student = busy_student()
        task = StudentTask(student, carry=carry)
        # In evaluation, batch norm does not tie the windows of a piece together: only state does.
        for module in student.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        for piece in task.pieces(batch):
            (task(piece)["total"] * piece.share).backward()
        return student.backbone.conv1.conv.weight.grad

    cut, through, again = gradient(1), gradient(4), gradient(4)
    assert torch.equal(through, again)
    assert (cut - through).norm() > 1e-3 * through.norm()


def test_a_run_learns_with_carried_state(clips, tmp_path):
    config = FitConfig(iterations=3, batch_size=2, log_every=1)
    fit(StudentTask(busy_student(), carry=2), clips, config, run_dir=tmp_path)
    header, *lines = (tmp_path / "losses.csv").read_text().splitlines()
    assert len(lines) == 3
    assert "rate/backbone.lif_out" in header


def test_carry_refuses_clips_that_jump_and_no_windows():
    with pytest.raises(InputError, match="at least one window"):
        StudentTask(busy_student(), carry=0)
    jumping = ClipSampler([drifting_sequence(period_us=30_000)], **OPTIONS)
    batch = jumping.collate([jumping[0]])
    with pytest.raises(InputError, match="touch"):
        list(StudentTask(busy_student(), carry=2).pieces(batch))


def test_mixed_precision_trains_without_touching_the_events(clips, tmp_path):
    config = FitConfig(iterations=2, batch_size=2, log_every=1, precision="bf16-mixed")
    trained = fit(StudentTask(busy_student()), clips, config, run_dir=tmp_path)
    assert all(torch.isfinite(value).all() for value in trained.state_dict().values() if value.is_floating_point())
