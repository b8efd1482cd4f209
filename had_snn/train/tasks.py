"""What is optimised: a task owns a network's forward pass on a clip and returns named losses.

A task is one `nn.Module` whose parameters are everything that is trained: for distillation the student together with
the alignment modules, while the frozen teacher stays outside. `forward` returns the losses by name; `total` is what is
minimised, the others are what it is made of.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from had_snn.data.clip_batch import ClipBatch
from had_snn.errors import InputError
from had_snn.models import RGBETeacher, SpikingTracker, TrackerOutput
from had_snn.train.distillation import Distillation
from had_snn.train.guards import RateGuard, RateTaps
from had_snn.train.losses import tracking_losses
from had_snn.train.truncated import Piece, cut, run_carried

#: Channels are searched for silent ones at every so many steps: it costs a pass over all spikes.
SILENCE_EVERY = 10


class TeacherTask(nn.Module):
    """Supervised training of the teacher.

    Args:
        teacher: The network.
        modality_dropout: Probability that a batch is shown one modality only, so that either may be missing later.
            All processes of a distributed run draw alike, as they share the seed.
    """

    def __init__(self, teacher: RGBETeacher, *, modality_dropout: float = 0.1) -> None:
        super().__init__()
        self.teacher = teacher
        self.modality_dropout = modality_dropout

    def forward(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Named losses of a batch of clips; a modality that the clips lack stays missing."""
        images = (batch.template_image, batch.search_image)
        voxels = (batch.template_voxel, batch.search_voxel)
        if images[1] is not None and voxels[1] is not None:
            draw = torch.rand(()).item()
            if draw < self.modality_dropout / 2:
                images = (None, None)
            elif draw < self.modality_dropout:
                voxels = (None, None)
        output = self.teacher(images[0], voxels[0], batch.template_box, images[1], voxels[1])
        return tracking_losses(output, batch.boxes.flatten(0, 1), batch.visible.flatten())


class StudentTask(nn.Module):
    """Training of the student, with or without a teacher.

    Args:
        student: The network.
        distillation: The losses against a teacher, or None to train on labels alone.
        rate_guard: The penalty on layers that are silent or never rest; as `RateGuard()` when None.
        carry: Windows that the gradient flows through with carried state (`had_snn.train.truncated`; the clips must
            come from `StreamingClips`), or None for windows that each start from rest.
    """

    def __init__(
        self,
        student: SpikingTracker,
        *,
        distillation: Distillation | None = None,
        rate_guard: RateGuard | None = None,
        carry: int | None = None,
    ) -> None:
        super().__init__()
        if carry is not None and carry < 1:
            raise InputError(f"carry={carry}: the gradient must flow through at least one window")
        self.student, self.distillation = student, distillation
        student.norms_at = {}  # they fit the weights that training begins with
        self.rate_guard, self.carry = rate_guard or RateGuard(), carry
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def pieces(self, batch: ClipBatch) -> Iterator[Piece]:
        """The parts of a batch that get a backward pass each, in order."""
        return iter([Piece(batch)]) if self.carry is None else cut(batch, self.carry)

    def forward(self, piece: Piece | ClipBatch) -> dict[str, Tensor]:
        """Named losses of clips; spike rates by layer as `rate/LAYER`, their silent channels as `silent/LAYER`."""
        batch, carried = (piece.batch, piece.carried) if isinstance(piece, Piece) else (piece, None)
        if carried is None:
            output = self.student(batch.template_events, batch.template_box, batch.search_events, taps=self._taps())
        else:
            output = run_carried(self.student, batch, carried, self._taps)
        losses = _supervised(batch, output)
        taps = output.taps
        assert isinstance(taps, RateTaps)
        losses["rate_guard"] = self.rate_guard.penalty(taps.rates)
        losses["total"] = losses["total"] + self.rate_guard.weight * losses["rate_guard"]
        step = int(self.steps)
        self.steps += 1
        if self.distillation is not None:
            taught = self.distillation(batch, output, step)
            if taught:
                losses["total"] = losses["total"] + taught.pop("weighted")
            losses |= {f"distill/{name}": value for name, value in taught.items()}
        losses |= {f"rate/{name}": rate.detach() for name, rate in taps.rates.items()}
        losses |= {f"silent/{name}": share for name, share in taps.silent_channels().items()}
        return losses

    def _taps(self) -> RateTaps:
        taps = RateTaps(traces=False) if self.distillation is None else self.distillation.taps()
        taps.silence = int(self.steps) % SILENCE_EVERY == 0
        return taps


def _supervised(batch: ClipBatch, output: TrackerOutput) -> dict[str, Tensor]:
    """Losses against the labels, on the clips that have some."""
    boxes, visible = batch.boxes, batch.visible
    if batch.labelled is not None:
        chosen, windows = batch.labelled.nonzero()[:, 0], len(boxes)
        maps = (output.score_logits, output.offsets, output.sizes)
        output = TrackerOutput(*(m.unflatten(0, (windows, -1))[:, chosen].flatten(0, 1) for m in maps))
        boxes, visible = boxes[:, chosen], visible[:, chosen]
    return tracking_losses(output, boxes.flatten(0, 1), visible.flatten())
