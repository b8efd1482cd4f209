"""What is optimised: a task owns a network's forward pass on a clip and returns named losses.

A task is one `nn.Module` whose parameters are everything that is trained: for distillation the student together with
the alignment modules, while the frozen teacher stays outside. `forward` returns the losses by name; `total` is what is
minimised, the others are what it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.collective import shared_mean
from had_snn.data.clips import ClipBatch
from had_snn.distill.schedule import EVERY_CLIP, DistillSchedule
from had_snn.distill.signals import StudentSignals, TeacherSignals
from had_snn.errors import InputError
from had_snn.events.stream import EventBatch
from had_snn.models import RGBETeacher, SearchState, SpikingTracker, Taps, TrackerOutput
from had_snn.train.losses import tracking_losses


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
        if images[1] is None or voxels[1] is None:
            output = self.teacher(images[0], voxels[0], batch.template_box, images[1], voxels[1])
            return tracking_losses(output, batch.boxes.flatten(0, 1), batch.visible.flatten())
        draw = torch.rand(()).item()
        if draw < self.modality_dropout / 2:
            images = (None, None)
        elif draw < self.modality_dropout:
            voxels = (None, None)
        output = self.teacher(images[0], voxels[0], batch.template_box, images[1], voxels[1])
        return tracking_losses(output, batch.boxes.flatten(0, 1), batch.visible.flatten())


@dataclass
class Carried:
    """What the windows of a batch hand to those after them; filled by the task, cut from the graph."""

    state: SearchState | None = None


@dataclass
class Piece:
    """Some consecutive windows of a batch, one backward pass.

    Attributes:
        batch: Those windows.
        share: Of all windows of the batch, in (0, 1].
        carried: Shared by the pieces of one batch; None where every window starts from rest.
    """

    batch: ClipBatch
    share: float = 1.0
    carried: Carried | None = field(default=None)

    def to(self, device: torch.device | str) -> Piece:
        """The same piece on `device`."""
        return Piece(self.batch.to(device), self.share, self.carried)


class StudentTask(nn.Module):
    """Training of the student, with or without a teacher.

    With `carry=K`, the windows of a clip run one after another and hand on their membranes, and the gradient flows
    back through `K` of them (truncated backpropagation through time; Williams & Peng, 1990): a batch falls into pieces
    of `K` windows with a backward pass each, so memory grows with `K` and not with the length of a clip. The template
    is encoded again for each piece.

    Args:
        student: The network.
        distillation: A module of `had_snn.distill` that is called with the signals of both networks, or None to train
            on labels alone. Its total counts in proportion to the share of distilled clips in the batch.
        teacher: The frozen teacher; needed with `distillation`.
        schedule: The weight of distillation over the steps; the teacher is not asked where it is 0.
        rate_weight: Weight of the spike-rate guard.
        rate_range: Mean spikes per neuron and micro-step that no layer may leave without a penalty.
        carry: Windows that the gradient flows through with carried state (the clips must come from
            `StreamingClips`), or None for windows that each start from rest.
    """

    def __init__(
        self,
        student: SpikingTracker,
        *,
        distillation: nn.Module | None = None,
        teacher: RGBETeacher | None = None,
        schedule: DistillSchedule = EVERY_CLIP,
        rate_weight: float = 1.0,
        rate_range: tuple[float, float] = (0.01, 0.4),
        carry: int | None = None,
    ) -> None:
        super().__init__()
        if carry is not None and carry < 1:
            raise InputError(f"carry={carry}: the gradient must flow through at least one window")
        self.carry = carry
        if (distillation is None) != (teacher is None):
            raise ValueError("distillation needs a teacher, and a teacher is only needed for distillation")
        self.student = student
        self.distillation = distillation
        # A tuple hides the teacher from nn.Module: it is neither trained, nor moved to train mode, nor checkpointed.
        frozen = [teacher.eval().requires_grad_(False)] if teacher is not None else []
        self._teacher: tuple[RGBETeacher, ...] = tuple(frozen)
        self._answers: dict[int, TeacherSignals] = {}
        self.rate_weight, self.rate_range = rate_weight, rate_range
        self.schedule = schedule
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StudentTask:
        """Moves and casts the teacher with the task: it is no submodule, and must still be where its clips are."""
        for teacher in self._teacher:
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)

    #: The layer whose membranes and spike rates are distilled: the first behind the matching. The teacher's features
    #: know the template, and what lies before the matching cannot.
    distilled_layer = "lif_mix"

    def pieces(self, batch: ClipBatch) -> Iterator[Piece]:
        """The parts of a batch that get a backward pass each, in order."""
        if self.carry is None:
            yield Piece(batch)
            return
        events = batch.search_events
        if events is None or batch.move_cells is None or not _touching(events, len(batch.boxes)):
            raise InputError("carried state needs clips whose windows touch; draw them with data.streaming")
        windows, carried = len(batch.boxes), Carried()
        for start in range(0, windows, self.carry):
            part = batch.windows(start, start + self.carry)
            yield Piece(part, len(part.boxes) / windows, carried)

    def forward(self, piece: Piece | ClipBatch) -> dict[str, Tensor]:
        """Named losses of clips; spike rates by layer as `rate/LAYER`, their silent channels as `silent/LAYER`."""
        batch, carried = (piece.batch, piece.carried) if isinstance(piece, Piece) else (piece, None)
        if carried is None:
            output = self.student(batch.template_events, batch.template_box, batch.search_events, taps=self._taps())
        else:
            output = self._run_windows(batch, carried)
        losses = self._supervised(batch, output)
        taps = output.taps
        assert taps is not None
        with torch.no_grad():
            rates = {name: shared_mean(spikes.mean()) for name, spikes in taps.spikes.items()}
            guard = self._rate_guard(rates)
        if guard > 0:
            # Only now, as the gradient of a mean is as large as the spikes, and most of the time it is zero.
            guard = self._rate_guard({name: shared_mean(spikes.mean()) for name, spikes in taps.spikes.items()})
        losses["rate_guard"] = guard
        losses["total"] = losses["total"] + self.rate_weight * guard
        step = int(self.steps)
        self.steps += 1
        weight = self.schedule.weight(step)
        if self.distillation is not None and weight > 0 and _asks_teacher(batch):
            losses.update(self._distil(batch, output, losses["total"], weight))
        losses.update({f"rate/{name}": rate.detach() for name, rate in rates.items()})
        if step % SILENCE_EVERY == 0:
            losses.update({f"silent/{name}": silent_channels(spikes) for name, spikes in taps.spikes.items()})
        return losses

    def _supervised(self, batch: ClipBatch, output: TrackerOutput) -> dict[str, Tensor]:
        """Losses against the labels, on the clips that have some."""
        boxes, visible = batch.boxes, batch.visible
        if batch.labelled is not None:
            chosen = batch.labelled.nonzero()[:, 0]
            output, boxes, visible = _of_clips(output, chosen, len(boxes)), boxes[:, chosen], visible[:, chosen]
        return tracking_losses(output, boxes.flatten(0, 1), visible.flatten())

    def _taps(self) -> Taps:
        """Collects spikes, and the membranes of one layer where they are distilled."""
        traces = self.distillation is not None and bool(self.distillation.needs_membranes)
        return Taps(traces=traces, only=self.distilled_layer)

    def _run_windows(self, batch: ClipBatch, carried: Carried) -> TrackerOutput:
        """Window after window with carried state; maps and signals as of all windows at once, window-major."""
        assert batch.template_events is not None
        assert batch.search_events is not None
        assert batch.move_cells is not None
        kernel = self.student.encode_template(batch.template_events, batch.template_box)
        windows, clips = batch.boxes.shape[:2]
        outputs, state = [], carried.state
        for k in range(windows):
            events = batch.search_events.samples(k * clips, (k + 1) * clips)
            state = None if state is None else state.moved(batch.move_cells[k])
            outputs.append(self.student.step(events, kernel, state, taps=self._taps()))
            state = outputs[-1].state
        carried.state = None if state is None else state.detach()
        return _joined(outputs)

    def _rate_guard(self, rates: dict[str, Tensor]) -> Tensor:
        """Squared distance of each layer's mean rate from the allowed range, relative to its nearer end."""
        low, high = self.rate_range
        below = [F.relu(low - rate) / low for rate in rates.values()]
        above = [F.relu(rate - high) / high for name, rate in rates.items() if name != "stem"]
        return torch.stack(below + above).square().sum()

    def _distil(self, batch: ClipBatch, output: TrackerOutput, supervised: Tensor, weight: float) -> dict[str, Tensor]:
        """Losses against the teacher, on the distilled clips, added to the total."""
        assert self.distillation is not None
        assert output.taps is not None
        windows, clips = batch.boxes.shape[:2]
        chosen = torch.arange(clips, device=batch.boxes.device) if batch.distilled is None else batch.distilled

        def by_window(maps: Tensor) -> Tensor:
            return maps.unflatten(0, (windows, -1))

        def distilled(maps: Tensor) -> Tensor:
            return by_window(maps) if batch.distilled is None else by_window(maps)[:, chosen]

        membranes = output.taps.membranes.get(self.distilled_layer)
        if membranes is not None:
            membranes = membranes.unflatten(1, (windows, clips))[:, :, chosen].transpose(0, 1)
        student_boxes, _ = output.peak_boxes()
        named = self.distillation(
            student=StudentSignals(
                membranes=membranes,
                rates=distilled(output.taps.spikes[self.distilled_layer].mean(dim=0)),
                score_logits=distilled(output.score_logits),
                boxes=distilled(student_boxes),
                box_maps=distilled(output.box_maps()),
            ),
            teacher=self._teacher_signals(batch, chosen),
            boxes=batch.boxes[:, chosen],
            visible=batch.visible[:, chosen],
        )
        # A distilled clip counts as one of the batch, as its label does: otherwise the fewer are distilled, the more
        # each of them weighs, and the noisier the gradient.
        total = supervised + weight * len(chosen) / clips * named["total"]
        return {**{f"distill/{name}": value for name, value in named.items()}, "total": total}

    @torch.no_grad()
    def _teacher_signals(self, batch: ClipBatch, chosen: Tensor) -> TeacherSignals:
        """What the teacher says of the distilled clips; of clips that come again, what it said the first time."""
        if batch.pool_numbers is None:
            return self._ask_teacher(batch, chosen, torch.arange(len(chosen), device=chosen.device))
        numbers = batch.pool_numbers.tolist()
        new = [i for i, number in enumerate(numbers) if number not in self._answers]
        if new:
            answers = self._ask_teacher(batch, chosen, torch.tensor(new, device=chosen.device))
            for place, i in enumerate(new):
                parts = (answers.features, answers.score_logits, answers.boxes)
                # Copies: a view would keep the whole batch alive.
                self._answers[numbers[i]] = TeacherSignals(*(part[:, place].clone() for part in parts))
        kept = [self._answers[number] for number in numbers]
        return TeacherSignals(
            features=torch.stack([answer.features for answer in kept], dim=1),
            score_logits=torch.stack([answer.score_logits for answer in kept], dim=1),
            boxes=torch.stack([answer.boxes for answer in kept], dim=1),
        )

    def _ask_teacher(self, batch: ClipBatch, chosen: Tensor, which: Tensor) -> TeacherSignals:
        """Runs the teacher on some of the distilled clips; `which` are their places among them."""
        count = len(chosen)
        answer = self._teacher[0](
            _pick(batch.template_image, which, count),
            _pick(batch.template_voxel, which, count),
            batch.template_box[chosen[which]],
            _pick(batch.search_image, which, count),
            _pick(batch.search_voxel, which, count),
            with_taps=True,
        )
        assert answer.taps is not None
        parts = (answer.taps.features, answer.score_logits, answer.peak_boxes()[0])
        return TeacherSignals(*(part.unflatten(0, (len(batch.boxes), -1)) for part in parts))


def _pick(maps: Tensor | None, clips: Tensor, count: int) -> Tensor | None:
    """Some clips of window-major maps `[K * count, ...]`."""
    return None if maps is None else maps.unflatten(0, (-1, count))[:, clips].flatten(0, 1)


def _asks_teacher(batch: ClipBatch) -> bool:
    """Whether a teacher can say anything about some clip."""
    return batch.search_image is not None or batch.search_voxel is not None


def _of_clips(output: TrackerOutput, chosen: Tensor, windows: int) -> TrackerOutput:
    """The maps of some clips, window-major as before."""
    maps = (output.score_logits, output.offsets, output.sizes)
    return TrackerOutput(*(m.unflatten(0, (windows, -1))[:, chosen].flatten(0, 1) for m in maps))


def _touching(events: EventBatch, windows: int) -> bool:
    """Whether each window of every clip begins where the one before ended."""
    begin, end = events.t_begin.view(windows, -1), events.t_end.view(windows, -1)
    return bool((begin[1:] == end[:-1]).all())


#: Channels are searched for silent ones at every so many steps: it costs a pass over all spikes.
SILENCE_EVERY = 10


@torch.no_grad()
def silent_channels(spikes: Tensor) -> Tensor:
    """Share of the channels of `[T, N, C, H, W]` without a single spike."""
    return (spikes.amax(dim=(0, 1, 3, 4)) == 0).float().mean()


def _joined(outputs: list[TrackerOutput]) -> TrackerOutput:
    """Outputs of successive windows as one, window-major."""
    taps = [output.taps for output in outputs if output.taps is not None]
    joined = Taps(
        membranes={name: torch.cat([part.membranes[name] for part in taps], dim=1) for name in taps[0].membranes},
        spikes={name: torch.cat([part.spikes[name] for part in taps], dim=1) for name in taps[0].spikes},
    )
    maps = [torch.cat([getattr(o, name) for o in outputs]) for name in ("score_logits", "offsets", "sizes")]
    return TrackerOutput(*maps, taps=joined)
