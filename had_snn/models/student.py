"""The spiking student: event-driven stem, clocked spiking backbone, depth-wise matching, centre head.

Template and search share stem and backbone. With the template fixed, the search branch is a feed-forward graph of
convolutions and LIF layers with constant weights, which is what NIR can carry and chips can run:

    events -> stem -> conv1 -> lif1 -> conv2 -> lif2 -> conv3 (+ conv2's output) -> lif3
           -> match (depth-wise) -> mix_match (1x1) \\
                           lif3 -> mix_search (1x1) -> lif4 -> conv5 -> lif5 -> readout -> leaky membranes -> boxes
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from had_snn.errors import InputError
from had_snn.events.stream import EventBatch
from had_snn.models.binned import BinnedStem, QuantisedStem
from had_snn.models.head import READOUT_CHANNELS, split_readout
from had_snn.models.matching import DepthwiseMatching
from had_snn.models.neurons import LIF, ConvNorm, LeakyReadout
from had_snn.models.outputs import Taps, TrackerOutput
from had_snn.models.state import SearchState
from had_snn.models.stem import EventLIFStem
from had_snn.ops import EventLIFState

#: Potentials by layer name, read before and written after a window; None when each window starts from rest.
_Membranes = dict[str, Tensor] | None


@dataclass(frozen=True)
class StudentConfig:
    """Plain numbers that define a student; written into every checkpoint.

    Attributes:
        stem_channels: Channels of the event-driven stem.
        channels: Channels of the two backbone stages and of the head.
        blocks: Residual spiking blocks of the second stage.
        strides: Strides of the two stages, behind the stem's 4: (1, 2) ends at stride 8, (2, 2) at stride 16.
        stem_kernel: Receptive field of the stem in crop pixels; its stride is 4.
        n_steps: Micro-steps `T` per window.
        window_us: Window length in microseconds.
        template_size: Side of the template crop in crop pixels.
        template_factor: Side of the template crop in units of `sqrt(w * h)`.
        search_size: Side of the search crop in crop pixels.
        search_factor: Side of the search crop in units of `sqrt(w * h)`.
        match_kernel: Side of the correlation kernel in cells.
        tau_us: Initial time constant of the clocked layers.
        stem: What reads the events: `events`, at their own times, or one of the controls: `binned` (counts per
            micro-step) and `quantised` (timestamps rounded down to 10 ms).
    """

    stem_channels: int = 16
    channels: tuple[int, int, int] = (32, 48, 48)
    blocks: int = 1
    strides: tuple[int, int] = (1, 2)
    stem_kernel: int = 4
    n_steps: int = 4
    window_us: int = 40_000
    template_size: int = 72
    template_factor: float = 2.25
    search_size: int = 96
    search_factor: float = 3.0
    match_kernel: int = 5
    tau_us: float = 20_000.0
    stem: str = "events"


STEMS = {"events": EventLIFStem, "binned": BinnedStem, "quantised": QuantisedStem}


class ResidualBlock(nn.Module):
    """LIF -> conv -> norm with a membrane shortcut: currents add, spikes stay binary (MS-ResNet, Hu et al. 2024)."""

    def __init__(self, channels: int, *, tau_us: float) -> None:
        super().__init__()
        self.lif = LIF(tau_us=tau_us)
        self.conv = ConvNorm(channels, channels)


class SpikingBackbone(nn.Module):
    """Clocked spiking backbone: two stages behind the stem.

    Args:
        in_channels: Channels of the stem.
        channels: Channels of the stages.
        strides: Strides of the stages.
        blocks: Residual blocks of the second stage.
        tau_us: Initial time constant.
    """

    def __init__(
        self, in_channels: int, channels: tuple[int, int], *, strides: tuple[int, int], blocks: int, tau_us: float
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, channels[0], stride=strides[0])
        self.lif1 = LIF(tau_us=tau_us)
        self.conv2 = ConvNorm(channels[0], channels[1], stride=strides[1])
        self.blocks = nn.ModuleList(ResidualBlock(channels[1], tau_us=tau_us) for _ in range(blocks))
        self.lif_out = LIF(tau_us=tau_us)

    def forward(
        self, counts: Tensor, *, dt_us: float, taps: Taps | None = None, tag: str = "", membranes: _Membranes = None
    ) -> Tensor:
        """Stem counts `[T, N, C, H, W]` to feature spikes `[T, N, C', H', W']`; `membranes` as in `_fire`."""
        spikes = _fire(self.lif1, self.conv1(counts), dt_us, taps, tag + "lif1", membranes)
        current = self.conv2(spikes)
        for index, block in enumerate(self.blocks):
            spikes = _fire(block.lif, current, dt_us, taps, f"{tag}blocks.{index}.lif", membranes)
            current = current + block.conv(spikes)
        return _fire(self.lif_out, current, dt_us, taps, tag + "lif_out", membranes)


def _fire(
    lif: LIF, current: Tensor, dt_us: float, taps: Taps | None, name: str, membranes: _Membranes = None
) -> Tensor:
    """Runs a LIF layer and records its signals when somebody listens.

    With `membranes`, the layer starts from the potentials under its name, from rest where there are none, and leaves
    its final ones there.
    """
    before = None if membranes is None else membranes.get(name)
    wanted = taps is not None and taps.wants_membranes(name)
    spikes, after, traces = lif(current, before, dt_us=dt_us, return_membranes=wanted)
    if membranes is not None:
        membranes[name] = after
    if taps is not None:
        taps.add(name, spikes, traces)
    return spikes


class SpikingTracker(nn.Module):
    """The student.

    Args:
        config: Its plain numbers.

    Example:
        >>> student = SpikingTracker(StudentConfig())
        >>> student.config.n_steps
        4
    """

    #: Whether a tracker must stay with the template it began with: true of exports, which hold it as weights.
    template_is_fixed = False

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        stage, deep, head = config.channels
        if config.stem not in STEMS:
            raise InputError(f"stem={config.stem!r} is unknown; there are {', '.join(STEMS)}")
        self.stem: EventLIFStem = STEMS[config.stem](config.stem_channels, kernel=config.stem_kernel)
        self.backbone = SpikingBackbone(
            config.stem_channels, (stage, deep), strides=config.strides, blocks=config.blocks, tau_us=config.tau_us
        )
        self.matching = DepthwiseMatching(kernel=config.match_kernel)
        self.match_norm = nn.BatchNorm2d(deep)
        self.mix_match = ConvNorm(deep, head, kernel=1)
        self.mix_search = ConvNorm(deep, head, kernel=1)
        self.lif_mix = LIF(tau_us=config.tau_us)
        self.conv_head = ConvNorm(head, head)
        self.lif_head = LIF(tau_us=config.tau_us)
        self.readout = nn.Conv2d(head, READOUT_CHANNELS, 3, padding=1)
        self.integrator = LeakyReadout(tau_us=config.tau_us)
        nn.init.zeros_(self.readout.bias)  # pyright: ignore[reportArgumentType]

    @property
    def grid(self) -> int:
        """Cells per side of the output maps."""
        return self.config.search_size // (self.stem.stride * self.config.strides[0] * self.config.strides[1])

    def _dt_us(self, events: EventBatch, n_steps: int) -> float:
        """Micro-step of a batch in microseconds; one batch holds windows of one length."""
        lengths = (events.t_end - events.t_begin).tolist()
        length = lengths[0]
        if any(other != length for other in lengths):
            raise InputError(f"windows of one batch must be equally long, found {sorted(set(lengths))} us")
        return length / n_steps

    def encode_template(
        self, events: EventBatch, boxes_cxcywh: Tensor, *, n_steps: int | None = None, taps: Taps | None = None
    ) -> Tensor:
        """Reads the template windows into correlation kernels.

        Args:
            events: `B` template windows.
            boxes_cxcywh: The target's box in each template crop, `[B, 4]`, relative to the crop's side.
            n_steps: Micro-steps; the configured number when None.
            taps: Where stem and backbone leave their inner signals, or None.

        Returns:
            Kernels `[B, C, k, k]`.
        """
        steps = n_steps or self.config.n_steps
        counts, potentials, _ = self.stem(events, n_steps=steps)
        if taps is not None:
            taps.add("stem", counts, potentials)
        spikes = self.backbone(counts, dt_us=self._dt_us(events, steps), taps=taps, tag="backbone.")
        return self.matching.template_kernel(spikes.mean(dim=0), boxes_cxcywh)

    def forward_search(
        self,
        events: EventBatch,
        kernel: Tensor,
        *,
        n_steps: int | None = None,
        with_taps: bool | Taps = False,
        state: SearchState | None = None,
        with_state: bool = False,
        gain: Tensor | None = None,
        share: float = 1.0,
        dt_us: float | None = None,
    ) -> TrackerOutput:
        """Finds the template in search windows.

        Args:
            events: `N` search windows.
            kernel: Template kernels `[N, C, k, k]`, one per window.
            n_steps: Micro-steps; the configured number when None.
            with_taps: Also collect the inner signals, in new `Taps` or in these.
            state: What the windows before left behind, or None for rest. The read-out then looks back over the
                configured number of micro-steps, however few this window has.
            with_state: Also return the new state.
            gain: Scale of the stem's jumps `[N]`; from these windows' own event rates when None.
            share: Weight in (0, 1] of the newest micro-step in a read-out with state. Below 1 it is not over yet: the
                new state keeps its stem spikes, and the next call goes on with it.
            dt_us: Length of a micro-step, where that is not the window's over `n_steps`: these events may be the rest
                of a micro-step that began earlier.

        Returns:
            The head's maps on a `G x G` grid.
        """
        steps = n_steps or self.config.n_steps
        dt_us = self._dt_us(events, steps) if dt_us is None else dt_us
        taps = (with_taps if isinstance(with_taps, Taps) else Taps()) if with_taps else None
        membranes = dict(state.membranes) if state is not None else {} if with_state else None
        counts, potentials, stem = self.stem(events, None if state is None else state.stem, n_steps=steps, gain=gain)
        counts = self._with_earlier(counts, state)
        if taps is not None:
            taps.add("stem", counts, potentials)
        features = self.backbone(counts, dt_us=dt_us, taps=taps, tag="backbone.", membranes=membranes)
        matched = self.matching(features, kernel)
        if taps is not None:
            taps.matched, taps.rates = matched, features.mean(dim=0) if taps.traces else None
        matched = self.match_norm(matched.flatten(0, 1)).unflatten(0, matched.shape[:2])
        current = self.mix_match(matched) + self.mix_search(features)
        spikes = _fire(self.lif_mix, current, dt_us, taps, "lif_mix", membranes)
        spikes = _fire(self.lif_head, self.conv_head(spikes), dt_us, taps, "lif_head", membranes)
        if self.training and membranes is None:
            output, maps = split_readout(self._read_out_once(spikes, dt_us=dt_us)), None
        else:
            maps = self.readout(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2])
            output = split_readout(self._integrate(maps, state, dt_us=dt_us, share=share))
        output.activity = features.detach().mean(dim=(0, 3, 4))
        output.taps = taps
        if with_state and membranes is not None and maps is not None:
            output.state = self._state_after(state, stem, membranes, maps, counts, share=share)
        return output

    def _with_earlier(self, counts: Tensor, state: SearchState | None) -> Tensor:
        """Adds what a micro-step under way has counted before."""
        if state is None or state.counts is None:
            return counts
        if len(counts) != 1:
            raise InputError(f"a micro-step is under way; finish it with n_steps=1 before reading {len(counts)}")
        return counts + state.counts

    def _state_after(
        self,
        before: SearchState | None,
        stem: EventLIFState,
        membranes: dict[str, Tensor],
        maps: Tensor,
        counts: Tensor,
        *,
        share: float,
    ) -> SearchState:
        """The new state; after a micro-step that is not over, all but the stem is as before."""
        if before is not None and share < 1.0:
            return SearchState(stem, before.membranes, before.readout, counts)
        history = maps if before is None else torch.cat([before.readout, maps])
        return SearchState(stem, membranes, history[-self.config.n_steps :])

    def _read_out_once(self, spikes: Tensor, *, dt_us: float) -> Tensor:
        """Read-out and integration of a whole window, exchanged: both are linear, so one convolution does for all
        micro-steps. For training only, where a read-out of its own at each micro-step is of no use."""
        weights = self.integrator.weights(len(spikes), dt_us=dt_us).to(spikes.dtype)
        assert self.readout.bias is not None
        bias = self.readout.bias * weights.sum()
        return F.conv2d(torch.tensordot(weights, spikes, dims=1), self.readout.weight, bias, padding=1)

    def _integrate(self, maps: Tensor, state: SearchState | None, *, dt_us: float, share: float) -> Tensor:
        """The leaky read-out over these micro-steps, or over the newest `n_steps` when there were others before."""
        if state is None:
            return self.integrator(maps, dt_us=dt_us)
        steps, dt_us = self.config.n_steps, self.config.window_us / self.config.n_steps
        newest = self.integrator(torch.cat([state.readout, maps])[-steps:], dt_us=dt_us)
        return newest if share == 1.0 else share * newest + (1 - share) * self.integrator(state.readout, dt_us=dt_us)

    def forward(
        self,
        template: EventBatch,
        template_boxes: Tensor,
        search: EventBatch,
        *,
        with_taps: bool | Taps = False,
    ) -> TrackerOutput:
        """Template and search in one call, for training.

        Args:
            template: `B` template windows.
            template_boxes: `[B, 4]` cx, cy, w, h relative to the template crop's side.
            search: `K * B` search windows, window-major (`index = k * B + b`).
            with_taps: Also collect the inner signals, in new `Taps` or in these.

        Returns:
            Maps for the `K * B` windows.
        """
        kernel = self.encode_template(template, template_boxes)
        repeats = len(search) // len(template)
        return self.forward_search(search, kernel.repeat(repeats, 1, 1, 1), with_taps=with_taps)


def student_tiny(**overrides: object) -> SpikingTracker:
    """The small student (about 0.07 M parameters, 96 px search) that trains on a laptop."""
    return SpikingTracker(StudentConfig(**overrides))  # pyright: ignore[reportArgumentType]


def student_base(**overrides: object) -> SpikingTracker:
    """The large student (about 2 M parameters, 256 px search of four target sizes, maps of 16 x 16 cells).

    Its wide layers stand at stride 16, like the maps of the OSTrack family: a quarter of stride 8's cells, so that
    width and depth cost little. The crops are those of `teacher_small` and `teacher_base`.
    """
    numbers: dict[str, object] = {
        "stem_channels": 32,
        "channels": (96, 192, 192),
        "blocks": 4,
        "strides": (2, 2),
        "template_size": 144,
        "template_factor": 2.25,
        "search_size": 256,
        "search_factor": 4.0,
        "match_kernel": 5,
    }
    return SpikingTracker(StudentConfig(**{**numbers, **overrides}))  # pyright: ignore[reportArgumentType]
