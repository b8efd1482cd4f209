"""The teacher: shapes, either modality missing, template order, gradients everywhere."""

from __future__ import annotations

import pytest
import torch

from had_snn.errors import InputError
from had_snn.models import teacher_small, teacher_tiny


def inputs(batch: int, windows: int):
    torch.manual_seed(0)
    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]]).repeat(batch, 1)
    n = batch * windows
    return (
        torch.rand(batch, 3, 72, 72),
        torch.rand(batch, 5, 72, 72),
        box,
        torch.rand(n, 3, 96, 96),
        torch.rand(n, 5, 96, 96),
    )


def test_maps_features_and_gradients():
    teacher = teacher_tiny()
    output = teacher(*inputs(2, 2), with_taps=True)
    assert output.score_logits.shape == (4, 12, 12)
    assert output.taps.features.shape == (4, teacher.config.dim, 12, 12)
    loss = output.score_logits.square().sum() + output.box_maps().square().sum()
    loss.backward()
    unused = {name for name, p in teacher.named_parameters() if p.grad is None}
    assert unused == {"missing_rgb", "missing_events"}


@pytest.mark.parametrize("missing", ["rgb", "events"])
def test_one_modality_may_be_missing_but_not_both(missing):
    teacher = teacher_tiny()
    zi, zv, box, xi, xv = inputs(1, 1)
    if missing == "rgb":
        zi = xi = None
    else:
        zv = xv = None
    teacher(zi, zv, box, xi, xv).score_logits.sum().backward()
    assert getattr(teacher, f"missing_{missing}").grad.abs().sum() > 0
    with pytest.raises(InputError, match="RGB, events or both"):
        teacher(None, None, box, None, None)


def test_windows_of_a_clip_meet_their_own_template():
    teacher = teacher_tiny().eval()
    zi, zv, box, xi, xv = inputs(2, 2)
    with torch.no_grad():
        together = teacher(zi, zv, box, xi, xv).score_logits
        for k in range(2):
            for b in range(2):
                alone = teacher(zi[b : b + 1], zv[b : b + 1], box[:1], xi[k * 2 + b][None], xv[k * 2 + b][None])
                torch.testing.assert_close(together[k * 2 + b], alone.score_logits[0], rtol=1e-3, atol=1e-4)


def test_sizes_of_the_family():
    assert sum(p.numel() for p in teacher_tiny().parameters()) < 1e6
    assert 20e6 < sum(p.numel() for p in teacher_small().parameters()) < 40e6
