"""An inference copy of the student whose spikes do not depend on the order in which sums are taken.

A dense convolution and one that adds up the weights of the spikes in reach sum the same numbers in another order; in
float32 the last bit then differs, and now and then that bit decides a spike. `freeze` rounds the weights so little
that the student stays the same, and so much that no sum is ever rounded: a weight is `n / 2**q`, where `2**q` times the
largest current that any spikes could make stays within float32's 24 bits. Whatever computes the currents, and in
whatever order, then gets the same bits, and so the same spikes, scores and boxes.

* Norms are folded into their convolutions in double precision and become plain shifts.
* Layers whose currents add up (the residual chain) share one grid.
* The correlation feeds a real-valued 1x1 convolution, so its kernel and those weights share the bits between them; the
  template's kernel takes what is left over (about eight bits behind the point) when it is read.
* Decays need no grid: `alpha * v + current` is one defined line of arithmetic for each neuron.
* A stem neuron counts at most `COUNT_LIMIT` spikes in a micro-step (the shipped student's rarely reach ten).
* The read-out's average over time is summed one micro-step after another.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.errors import InputError
from had_snn.events.stream import EventBatch
from had_snn.models.neurons import ConvNorm
from had_snn.models.state import SearchState
from had_snn.models.stem import EventLIFStem
from had_snn.models.student import ResidualBlock, SpikingTracker, StudentConfig
from had_snn.ops import EventLIFState

#: A frozen student's stem neuron counts at most so many spikes in a micro-step: the largest input that sums must hold.
COUNT_LIMIT = 32
#: Bits that sums may use; float32 has 24, one is kept for what rounding adds to the weights.
_BITS = 23
#: Bits behind the point of the 1x1 convolution on the correlation, relative to its largest weight.
_MIX_BITS = 10
#: Of shifts that stand where a norm was: with a variance of `1 - _EPSILON` they add up to 1. PyTorch 2.11 refuses 0.
_EPSILON = 2.0**-16
#: Read-out weights that are kept, one set for each number of micro-steps and share of the newest.
MAX_READOUT_WEIGHTS = 64


class FrozenStem(EventLIFStem):
    """A stem whose counts end at `COUNT_LIMIT`."""

    def forward(self, *args, **options) -> tuple[Tensor, Tensor, EventLIFState]:
        """See `EventLIFStem.forward`."""
        counts, membranes, state = super().forward(*args, **options)
        return counts.clamp(max=COUNT_LIMIT), membranes, state


class FrozenStudent(SpikingTracker):
    """A student made by `freeze`: the same modules, weights on grids, no training."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        self.stem = FrozenStem(config.stem_channels, kernel=config.stem_kernel)
        self._readout_weights: dict[tuple[int, float, float], Tensor] = {}

    @torch.no_grad()
    def encode_template(
        self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None, **options
    ) -> Tensor:
        """See `SpikingTracker.encode_template`; the kernels are on the grid that `round_kernel` finds."""
        return self.round_kernel(super().encode_template(events, boxes_cxcywh, n_steps=n_steps, **options))

    @torch.no_grad()
    def round_kernel(self, kernel: Tensor) -> Tensor:
        """Rounds template kernels `[N, C, k, k]` so that correlation and 1x1 convolution are exact together."""
        weight, beside = self.mix_match.conv.weight[:, :, 0, 0], self.mix_search.conv.weight[:, :, 0, 0]
        rest = beside.abs().sum(dim=1) + self.mix_match.norm.bias.abs()
        reach = (kernel.abs().sum(dim=(2, 3)) @ weight.abs().T + rest).amax(dim=1)
        scale = torch.exp2(_BITS - reach.log2().ceil() - _mix_grid(weight))[:, None, None, None]
        return (kernel * scale).round() / scale

    def _with_earlier(self, counts: Tensor, state: SearchState | None) -> Tensor:
        return super()._with_earlier(counts, state).clamp(max=COUNT_LIMIT)

    def _integrate(self, maps: Tensor, state: SearchState | None, *, dt_us: float, share: float) -> Tensor:
        if state is not None:
            dt_us = self.config.window_us / self.config.n_steps
            maps = torch.cat([state.readout, maps])
            # The whole window of micro-steps, and the one before it where the newest counts for a share only.
            maps = maps[-self.config.n_steps - (share < 1.0) :]
        key = (len(maps), dt_us, share)
        weights = self._readout_weights.get(key)
        if weights is None:
            if len(self._readout_weights) >= MAX_READOUT_WEIGHTS:
                self._readout_weights.clear()
            weights = self._readout_weights[key] = self._weights(*key).reshape(-1, 1, 1, 1, 1)
        total, *others = (maps * weights).unbind()
        for product in others:
            total = total + product
        return total

    def _weights(self, steps: int, dt_us: float, share: float) -> Tensor:
        """The read-out's weight of each micro-step; one step more for a share, which mixes two windows."""
        if share == 1.0:
            return self.integrator.weights(steps, dt_us=dt_us)
        newest = self.integrator.weights(min(steps, self.config.n_steps), dt_us=dt_us)
        before = self.integrator.weights(steps - 1, dt_us=dt_us)
        return share * F.pad(newest, (steps - len(newest), 0)) + (1 - share) * F.pad(before, (0, 1))


def _mix_grid(weight: Tensor) -> int:
    return _MIX_BITS - math.ceil(math.log2(max(float(weight.abs().max()), 2.0**-20)))


@torch.no_grad()
def freeze(student: SpikingTracker) -> FrozenStudent:
    """The inference copy of a student; see the head of this file.

    Args:
        student: As trained; it is not changed.

    Returns:
        A student in evaluation mode, on the same device, without gradients.

    Raises:
        InputError: If the student has another stem than the event-driven one.
    """
    if isinstance(student, FrozenStudent):
        return student
    if student.config.stem != "events":
        raise InputError(f"a student with stem={student.config.stem} has no frozen form; it runs as it was trained")
    frozen = FrozenStudent(student.config)
    frozen.load_state_dict(student.state_dict())
    frozen = frozen.to(next(student.parameters()).device).eval().requires_grad_(False)
    _round_together([_fold(frozen.backbone.conv1)], largest_input=COUNT_LIMIT)
    chain = [_fold(frozen.backbone.conv2)]
    for block in frozen.backbone.blocks:
        assert isinstance(block, ResidualBlock)
        chain.append(_fold(block.conv))
    _round_together(chain)
    _round_together([_fold(frozen.conv_head)])
    readout = frozen.readout
    assert readout.bias is not None
    _round_together([(readout.weight, readout.bias)])
    _round_matching(frozen)
    return frozen


def _fold(block: ConvNorm) -> tuple[Tensor, Tensor]:
    """Folds the norm and leaves a plain shift; the weight and bias, for further changes in place."""
    double = ConvNorm(block.conv.in_channels, block.conv.out_channels, kernel=block.conv.kernel_size[0]).double()
    double.load_state_dict(block.state_dict())
    double.norm.eps = block.norm.eps
    weight, bias = double.to(block.conv.weight.device).folded()
    block.conv.weight.copy_(weight)
    _make_shift(block.norm)
    block.norm.bias.copy_(bias)
    return block.conv.weight, block.norm.bias


def _make_shift(norm: nn.BatchNorm2d) -> None:
    """A norm in evaluation mode that multiplies by exactly 1 and adds its bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.eps = _EPSILON
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0 - _EPSILON)
    norm.weight.fill_(1.0)
    norm.bias.zero_()


def _round_together(layers: list[tuple[Tensor, Tensor]], *, largest_input: float = 1.0) -> None:
    """Rounds convolutions whose currents add up, so that float32 holds the largest current exactly."""
    reach = torch.stack([w.abs().sum(dim=(1, 2, 3)) * largest_input + b.abs() for w, b in layers]).sum(dim=0)
    grid = _BITS - math.ceil(math.log2(max(float(reach.max()), 2.0**-20)))
    for pair in layers:
        for values in pair:
            _round(values, grid)


def _round(values: Tensor, grid: int) -> None:
    values.copy_((values.double() * 2.0**grid).round() * 2.0**-grid)


def _round_matching(frozen: FrozenStudent) -> None:
    """Folds the norm of the correlation into the 1x1 convolution behind it and rounds both 1x1 convolutions."""
    norm = frozen.match_norm
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    weight, bias = _fold(frozen.mix_match)
    beside, more = _fold(frozen.mix_search)
    bias.copy_(bias + weight[:, :, 0, 0].double() @ shift + more)
    weight.copy_(weight * scale[:, None, None])
    more.zero_()
    _make_shift(norm)
    grid = _mix_grid(weight)
    _round(weight, grid)
    # The kernel has at least four bits behind the point, so these are on the grid of the whole current.
    _round(beside, grid + 4)
    _round(bias, grid + 4)
