"""The student: shapes, gradients to every parameter, batching, time steps, silence."""

from __future__ import annotations

import pytest
import torch

from had_snn.errors import InputError
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.models import Taps, student_base, student_tiny, teacher_small

BOX = torch.tensor([[0.5, 0.5, 0.45, 0.45]])


def test_maps_taps_and_gradients_to_every_parameter(random_batch):
    torch.manual_seed(0)
    student = student_tiny()
    output = student(random_batch(2, 72), BOX.repeat(2, 1), random_batch(4, 96, events=4000), taps=Taps())
    assert output.score_logits.shape == (4, 12, 12)
    assert output.taps.membranes["backbone.lif_out"].shape == (4, 4, 48, 12, 12)
    assert output.taps.spikes["stem"].sum() > 0
    (output.score_logits.square().sum() + output.box_maps().square().sum()).backward()
    silent = [name for name, p in student.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_a_window_gives_the_same_maps_alone_and_in_a_batch(random_batch):
    torch.manual_seed(0)
    student = student_tiny().eval()
    search = random_batch(3, 96, events=3000)
    with torch.no_grad():
        kernel = student.encode_template(random_batch(1, 72), BOX)
        together = student.read_window(search, kernel.repeat(3, 1, 1, 1)).score_logits
        for n in range(3):
            one = search.samples(n, n + 1)
            alone = student.read_window(one, kernel).score_logits
            torch.testing.assert_close(together[n], alone[0], rtol=1e-4, atol=1e-4)


def test_silence_gives_finite_maps():
    student = student_tiny().eval()
    empty = EventBatch.pack([EventStream.empty((96, 96))], [0], [40_000])
    nothing = EventBatch.pack([EventStream.empty((72, 72))], [0], [40_000])
    with torch.no_grad():
        output = student.read_window(empty, student.encode_template(nothing, BOX))
    assert torch.isfinite(output.box_maps()).all()


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_runs_at_other_micro_steps(random_batch, steps):
    student = student_tiny().eval()
    with torch.no_grad():
        kernel = student.encode_template(random_batch(1, 72), BOX, n_steps=steps)
        output = student.read_window(random_batch(1, 96), kernel, n_steps=steps, taps=Taps())
    assert output.taps.spikes["stem"].shape[0] == steps


def test_gain_falls_with_the_event_rate(random_batch):
    stem = student_tiny().stem
    gains = [stem.gain(random_batch(1, 96, events=n)).item() for n in (100, 1000, 10_000, 100_000)]
    assert gains == sorted(gains, reverse=True)
    assert max(gains) <= 8.001


def test_windows_of_one_batch_must_be_equally_long():
    student = student_tiny()
    streams = [EventStream.empty((96, 96))] * 2
    with pytest.raises(InputError, match="equally long"):
        student.read_window(EventBatch.pack(streams, [0, 0], [40_000, 20_000]), torch.zeros(2, 48, 5, 5))


def test_sizes_of_the_family():
    assert sum(p.numel() for p in student_tiny().parameters()) < 0.5e6
    assert sum(p.numel() for p in student_base().parameters()) < 5e6


def test_base_ends_at_stride_16_and_looks_where_the_large_teachers_look(random_batch):
    torch.manual_seed(0)
    student = student_base().eval()
    with torch.no_grad():
        kernel = student.encode_template(random_batch(1, 144), BOX)
        output = student.read_window(random_batch(2, 256, events=4000), kernel.repeat(2, 1, 1, 1))
    assert kernel.shape == (1, 192, 5, 5)
    assert output.score_logits.shape == (2, student.grid, student.grid) == (2, 16, 16)
    crops = ("search_size", "search_factor", "template_size", "template_factor", "window_us")
    teacher = teacher_small().config
    assert [getattr(student.config, c) for c in crops] == [getattr(teacher, c) for c in crops]
