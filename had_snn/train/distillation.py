"""Distillation as a training step sees it: what the teacher says of the distilled clips, and the losses against it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from had_snn.data.clip_batch import ClipBatch
from had_snn.distill.schedule import EVERY_CLIP, DistillSchedule
from had_snn.distill.signals import StudentSignals, TeacherSignals
from had_snn.models import TrackerOutput
from had_snn.train.guards import RateTaps

#: The layer whose membranes and spike rates are distilled: the first behind the matching. The teacher's features know
#: the template, and what lies before the matching cannot.
DISTILLED_LAYER = "lif_mix"


class TeacherAnswers:
    """What a frozen teacher says of clips; of clips of a pool, what it said the first time.

    No `nn.Module`: whoever holds this neither trains the teacher nor writes it into checkpoints, and copies (a running
    average of the weights) share it.

    Args:
        teacher: The network; it follows the clips to their device.
    """

    def __init__(self, teacher: nn.Module) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        #: By the clip's number in the pool and the first of its windows that was asked about.
        self._kept: dict[tuple[int, int], TeacherSignals] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> TeacherAnswers:
        return self

    @torch.no_grad()
    def about(self, batch: ClipBatch) -> TeacherSignals:
        """The teacher's signals on the `G` distilled clips of a batch."""
        if batch.pool_numbers is None:
            return self._ask(batch, slice(None))
        wanted = [(number, batch.first_window) for number in batch.pool_numbers.tolist()]
        for i, key in enumerate(wanted):
            if key not in self._kept:
                # By itself, as answers differ in their last bits with what else is in a batch: a run that is gone on
                # with asks in other batches. Copies: a view would keep the whole batch alive.
                said = self._ask(batch, slice(i, i + 1))
                self._kept[key] = said.map(lambda part: part[:, 0].clone())
        return TeacherSignals.stack([self._kept[key] for key in wanted])

    def _ask(self, batch: ClipBatch, which: slice) -> TeacherSignals:
        """Runs the teacher on some of the distilled clips; `which` are their places among them."""
        windows = len(batch.boxes)

        def search(maps: Tensor | None) -> Tensor | None:
            return None if maps is None else maps.unflatten(0, (windows, -1))[:, which].flatten(0, 1)

        template = [None if maps is None else maps[which] for maps in (batch.template_image, batch.template_voxel)]
        box, image = batch.template_box[batch.distilled_clips][which], search(batch.search_image)
        teacher, voxels = self.teacher.to(batch.boxes.device), search(batch.step_voxels)

        def look(voxel: Tensor | None) -> tuple[TrackerOutput, Tensor]:
            said = teacher(*template, box, image, voxel, with_taps=True)
            return said, said.taps.features

        output, features = look(search(batch.search_voxel))
        parts = [features, output.score_logits, output.peak_boxes()[0]]
        if voxels is not None:
            # The last micro-step ends with the window.
            earlier = [look(voxel)[1] for voxel in voxels.unbind(1)[:-1]]
            parts.append(torch.stack([*earlier, features], dim=1))
        return TeacherSignals(*(part.unflatten(0, (windows, -1)) for part in parts))


class Distillation(nn.Module):
    """The losses against a teacher, weighted by a schedule.

    Args:
        levels: A module of `had_snn.distill` that is called with the signals of both networks; trained with the
            student.
        teacher: The frozen teacher.
        schedule: The weight over the steps; the teacher is not asked where it is 0.
    """

    def __init__(self, levels: nn.Module, teacher: nn.Module, schedule: DistillSchedule = EVERY_CLIP) -> None:
        super().__init__()
        self.levels, self.answers, self.schedule = levels, TeacherAnswers(teacher), schedule

    def taps(self) -> RateTaps:
        """Collects rates, the distilled layer's spikes, and its membranes where a level wants them."""
        return RateTaps(traces=bool(self.levels.needs_membranes), only=DISTILLED_LAYER, kept=DISTILLED_LAYER)

    def forward(self, batch: ClipBatch, output: TrackerOutput, step: int) -> dict[str, Tensor]:
        """Named losses of the distilled clips.

        Args:
            batch: The clips.
            output: What the student said of them, with `taps`.
            step: Of the training.

        Returns:
            The levels' losses, and as `weighted` what to add to the total; nothing where no clip is distilled.
        """
        weight, (windows, clips) = self.schedule.weight(step), batch.boxes.shape[:2]
        if weight == 0 or (batch.search_image is None and batch.search_voxel is None):
            return {}
        chosen, taps = batch.distilled_clips, output.taps
        assert taps is not None

        def distilled(maps: Tensor) -> Tensor:
            return maps.unflatten(0, (windows, clips))[:, chosen]

        membranes = taps.membranes.get(DISTILLED_LAYER)
        if membranes is not None:
            membranes = membranes.unflatten(1, (windows, clips))[:, :, chosen].transpose(0, 1)
        boxes, visible = batch.boxes[:, chosen], batch.visible[:, chosen]
        named = self.levels(
            student=StudentSignals(
                membranes=membranes,
                rates=distilled(taps.spikes[DISTILLED_LAYER].mean(dim=0)),
                score_logits=distilled(output.score_logits),
                boxes=distilled(output.peak_boxes()[0]),
                box_maps=distilled(output.box_maps()),
            ),
            teacher=self.answers.about(batch),
            boxes=boxes,
            visible=visible,
        )
        # A distilled clip counts as one of the batch, as its label does: otherwise the fewer are distilled, the more
        # each of them weighs, and the noisier the gradient.
        return {**named, "weighted": weight * visible.shape[1] / clips * named["total"]}
