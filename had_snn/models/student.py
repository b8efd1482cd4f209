"""The spiking student: event-driven stem, clocked spiking backbone, depth-wise matching, centre head.

Template and search share stem and backbone. With the template fixed, the search branch is a feed-forward graph of
convolutions and LIF layers with constant weights, which is what NIR can carry and chips can run:

    events -> stem -> conv1 -> lif1 -> conv2 -> lif2 -> conv3 (+ conv2's output) -> lif3
           -> match (depth-wise) -> mix_match (1x1) \\
                           lif3 -> mix_search (1x1) -> lif4 -> conv5 -> lif5 -> readout -> leaky membranes -> boxes
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

from torch import Tensor, nn

from had_snn.errors import InputError
from had_snn.events.batch import EventBatch
from had_snn.models.binned import BinnedStem, QuantisedStem
from had_snn.models.graph import STEM, Graph, GraphBuilder
from had_snn.models.head import READOUT_CHANNELS
from had_snn.models.layers import ClockedLayers
from had_snn.models.matching import DepthwiseMatching
from had_snn.models.neurons import LIF, BatchNorm, ConvNorm, LeakyReadout, Sum
from had_snn.models.outputs import Taps, TrackerOutput
from had_snn.models.search import SearchModule
from had_snn.models.stem import EventLIFStem
from had_snn.models.step_norms import NormNumbers, norm_numbers, norms_between, set_norms
from had_snn.models.student_config import StudentConfig

logger = logging.getLogger("had_snn")

STEMS: dict[str, type[EventLIFStem]] = {"events": EventLIFStem, "binned": BinnedStem, "quantised": QuantisedStem}


class ResidualBlock(nn.Module):
    """LIF -> conv -> norm with a membrane shortcut: currents add, spikes stay binary (MS-ResNet, Hu et al. 2024)."""

    def __init__(self, channels: int, *, tau_us: float) -> None:
        super().__init__()
        self.lif = LIF(tau_us=tau_us)
        self.conv = ConvNorm(channels, channels, reads="spikes")
        self.shortcut = Sum()


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
        self.conv1 = ConvNorm(in_channels, channels[0], stride=strides[0], reads="counts")
        self.lif1 = LIF(tau_us=tau_us)
        self.conv2 = ConvNorm(channels[0], channels[1], stride=strides[1], reads="spikes")
        self.blocks = nn.ModuleList(ResidualBlock(channels[1], tau_us=tau_us) for _ in range(blocks))
        self.lif_out = LIF(tau_us=tau_us)

    def forward(self, counts: Tensor, layers: ClockedLayers) -> Tensor:
        """Stem counts `[T, N, C, H, W]` to feature spikes `[T, N, C', H', W']`."""
        spikes = layers.fire(self.lif1, self.conv1(counts))
        current = self.conv2(spikes)
        for block in self.blocks:
            current = block.shortcut(current, block.conv(layers.fire(block.lif, current)))
        return layers.fire(self.lif_out, current)


class SpikingTracker(SearchModule):
    """The student.

    A subclass with another search branch overrides `head`, which training runs, and `graph`, which says the same to
    all the rest: freezing, spike-driven running, counting and export need nothing more.

    Args:
        config: Its plain numbers.

    Attributes:
        norms_at: Norms fitted to other numbers of micro-steps, by that number (`models/step_norms.py`); what trains the
            student empties it.

    Example:
        >>> student = SpikingTracker(StudentConfig())
        >>> student.config.n_steps
        4
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if {"head", "features"} & cls.__dict__.keys() and "graph" not in cls.__dict__:
            raise TypeError(
                f"{cls.__name__} overrides the search branch and must override graph(), which says the same"
            )

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        stage, deep, head = config.channels
        if config.stem not in STEMS:
            raise InputError(f"stem={config.stem!r} is unknown; there are {', '.join(STEMS)}")
        self.stem = STEMS[config.stem](config.stem_channels, kernel=config.stem_kernel)
        self.backbone = SpikingBackbone(
            config.stem_channels, (stage, deep), strides=config.strides, blocks=config.blocks, tau_us=config.tau_us
        )
        self.matching = DepthwiseMatching(kernel=config.match_kernel)
        self.match_norm = BatchNorm(deep)
        self.mix_match = ConvNorm(deep, head, kernel=1)
        self.mix_search = ConvNorm(deep, head, kernel=1, reads="spikes")
        self.mix = Sum()
        self.lif_mix = LIF(tau_us=config.tau_us)
        self.conv_head = ConvNorm(head, head, reads="spikes")
        self.lif_head = LIF(tau_us=config.tau_us)
        self.readout = nn.Conv2d(head, READOUT_CHANNELS, 3, padding=1)
        self.integrator = LeakyReadout(tau_us=config.tau_us)
        nn.init.zeros_(self.readout.bias)  # pyright: ignore[reportArgumentType]
        self.norms_at: dict[int, NormNumbers] = {}

    def fits(self, count: int) -> bool:
        """Whether the norms were made for windows of so many micro-steps, or for fewer and for more."""
        known = {self.config.n_steps, *self.norms_at}
        return min(known) <= count <= max(known)

    def at_steps(self, count: int, *, unfitted: bool = False) -> SpikingTracker:
        """This student with windows of `count` micro-steps: a copy with the norms for them, or itself.

        Args:
            count: Micro-steps of a window.
            unfitted: Leave the norms as they are, to be fitted.

        Returns:
            The student; a warning is logged where no norms were fitted to that number or to ones around it.
        """
        if count == self.config.n_steps and not unfitted:
            return self
        other = copy.deepcopy(self)
        other.config, other.norms_at = replace(self.config, n_steps=count), {}
        if not unfitted:
            if not self.fits(count):
                logger.warning(
                    "the norms fit windows of %s micro-steps, not %d, and the student will see less; fit them with: "
                    "python -m experiments.studies fit_steps checkpoint=PATH steps=[%d]",
                    *(", ".join(map(str, sorted({self.config.n_steps, *self.norms_at}))), count, count),
                )
            set_norms(other, norms_between({**self.norms_at, self.config.n_steps: norm_numbers(self)}, count))
        return other

    def features(self, counts: Tensor, layers: ClockedLayers) -> Tensor:
        """See `SearchModule.features`."""
        return self.backbone(counts, layers)

    def head(self, counts: Tensor, kernel: Tensor, layers: ClockedLayers) -> Tensor:
        """See `SearchModule.head`."""
        features = self.features(counts, layers)
        matched = layers.match(self.matching, features, kernel)
        matched = self.match_norm(matched.flatten(0, 1)).unflatten(0, matched.shape[:2])
        spikes = layers.fire(self.lif_mix, self.mix(self.mix_match(matched), self.mix_search(features)))
        return layers.fire(self.lif_head, self.conv_head(spikes))

    def graph(self) -> Graph:
        """See `SearchModule.graph`."""
        build, backbone = GraphBuilder(self), self.backbone
        add = build.add
        current = add(backbone.conv2, add(backbone.lif1, add(backbone.conv1, STEM)))
        for block in backbone.blocks:
            assert isinstance(block, ResidualBlock)
            current = add(block.shortcut, current, add(block.conv, add(block.lif, current)))
        features = add(backbone.lif_out, current)
        matched = add(self.match_norm, add(self.matching, features))
        mixed = add(self.mix, add(self.mix_match, matched), add(self.mix_search, features))
        spikes = add(self.lif_head, add(self.conv_head, add(self.lif_mix, mixed)))
        return build.graph(add(self.readout, spikes), outside=(self.stem, self.integrator))

    def forward(
        self, template: EventBatch, template_boxes: Tensor, search: EventBatch, *, taps: Taps | None = None
    ) -> TrackerOutput:
        """Template and search in one call, for training.

        Args:
            template: `B` template windows.
            template_boxes: `[B, 4]` cx, cy, w, h relative to the template crop's side.
            search: `K * B` search windows, window-major (`index = k * B + b`).
            taps: Where the inner signals go, or None.

        Returns:
            Maps for the `K * B` windows.
        """
        kernel = self.encode_template(template, template_boxes)
        repeats = len(search) // len(template)
        return self.read_window(search, kernel.repeat(repeats, 1, 1, 1), taps=taps)


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
