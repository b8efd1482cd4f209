"""The RGB+event teacher: a one-stream vision transformer over template and search tokens of both modalities.

Every token stands for a patch of the crop and carries what the RGB frame and the event voxel grid show there. Template
and search tokens pass through the same transformer together (one-stream, as in OSTrack and CEUTrack), so features are
extracted and related at once; the search tokens, joined with their depth-wise correlation with the target's tokens
(the student's matching), go to the same centre head as the student's. Either modality may be missing: a learnt
embedding takes its place.

The patch embedding is a short stack of strided convolutions instead of one large one, which makes small transformers
trainable within minutes (Xiao et al., "Early convolutions help transformers see better", NeurIPS 2021).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from had_snn.errors import InputError
from had_snn.models.head import READOUT_CHANNELS, split_readout
from had_snn.models.matching import DepthwiseMatching, box_coverage
from had_snn.models.outputs import Taps, TrackerOutput


@dataclass(frozen=True)
class TeacherConfig:
    """Plain numbers that define a teacher; written into every checkpoint.

    Attributes:
        dim: Token width.
        depth: Transformer layers.
        heads: Attention heads.
        mlp_ratio: Hidden width of a layer's MLP in units of `dim`.
        patch: Side of a patch in crop pixels, 8 or 16.
        voxel_bins: Time bins of the event voxel grid.
        template_size: Side of the template crop in crop pixels.
        template_factor: Side of the template crop in units of `sqrt(w * h)`.
        search_size: Side of the search crop in crop pixels.
        search_factor: Side of the search crop in units of `sqrt(w * h)`.
        match_kernel: Side of the correlation kernel in cells, odd.
        window_us: Length of the event window in microseconds.
        embed: How patches become tokens: `convolutions`, a stack of strided ones that trains fast, or `patch`, the
            single one of the usual ViT, which pretrained weights fit.
        norm_epsilon: Of the layer norms; pretrained ViTs use 1e-6.
    """

    dim: int = 96
    depth: int = 2
    heads: int = 4
    mlp_ratio: float = 2.0
    patch: int = 8
    voxel_bins: int = 5
    template_size: int = 72
    template_factor: float = 2.25
    search_size: int = 96
    search_factor: float = 3.0
    match_kernel: int = 5
    window_us: int = 40_000
    embed: str = "convolutions"
    norm_epsilon: float = 1e-5


#: RGB in [0, 1] is scaled to `(image - INPUT_MEAN) / INPUT_DEVIATION` before the first layer.
INPUT_MEAN, INPUT_DEVIATION = 0.45, 0.25


class PatchEmbedding(nn.Conv2d):
    """One convolution whose stride is its kernel: a token is a linear map of its patch.

    Args:
        in_channels: Channels of the image.
        dim: Token width.
        patch: Side of a patch.
    """

    def __init__(self, in_channels: int, dim: int, *, patch: int) -> None:
        super().__init__(in_channels, dim, patch, stride=patch)


class PatchStem(nn.Sequential):
    """Strided convolutions from an image to a grid of tokens.

    Args:
        in_channels: Channels of the image.
        dim: Token width.
        patch: Total stride, a power of two.
    """

    def __init__(self, in_channels: int, dim: int, *, patch: int) -> None:
        halvings = patch.bit_length() - 1
        widths = [in_channels] + [max(16, dim // 2 ** (halvings - 1 - i)) for i in range(halvings - 1)] + [dim]
        layers: list[nn.Module] = []
        for level, (low, high) in enumerate(itertools.pairwise(widths), start=1):
            layers += [nn.Conv2d(low, high, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(high), nn.GELU()]
            if level == halvings - 1:
                layers += [nn.Conv2d(high, high, 3, padding=1, bias=False), nn.BatchNorm2d(high), nn.GELU()]
        super().__init__(*layers, nn.Conv2d(dim, dim, 1))


class RGBETeacher(nn.Module):
    """The teacher.

    Args:
        config: Its plain numbers.
    """

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        if config.embed not in ("convolutions", "patch"):
            raise InputError(f"embed={config.embed!r} is unknown; expected 'convolutions' or 'patch'")
        stem = PatchEmbedding if config.embed == "patch" else PatchStem
        self.rgb_stem = stem(3, dim, patch=config.patch)
        self.event_stem = stem(config.voxel_bins, dim, patch=config.patch)
        self.missing_rgb = nn.Parameter(torch.zeros(dim))
        self.missing_events = nn.Parameter(torch.zeros(dim))
        self.template_grid, self.search_grid = config.template_size // config.patch, config.search_size // config.patch
        self.template_position = nn.Parameter(torch.randn(dim, self.template_grid, self.template_grid) * 0.02)
        self.search_position = nn.Parameter(torch.randn(dim, self.search_grid, self.search_grid) * 0.02)
        self.target_embedding = nn.Parameter(torch.randn(dim) * 0.02)
        layer = nn.TransformerEncoderLayer(
            dim,
            config.heads,
            int(dim * config.mlp_ratio),
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
            layer_norm_eps=config.norm_epsilon,
        )
        self.matching = DepthwiseMatching(kernel=config.match_kernel)
        self.match_norm = nn.BatchNorm2d(dim)
        norm = nn.LayerNorm(dim, eps=config.norm_epsilon)
        self.encoder = nn.TransformerEncoder(layer, config.depth, norm=norm, enable_nested_tensor=False)
        self.head = nn.Sequential(
            nn.Conv2d(2 * dim, dim, 1, bias=False),
            nn.BatchNorm2d(dim),
            nn.GELU(),
            nn.Conv2d(dim, dim, 3, padding=1, bias=False),
            nn.BatchNorm2d(dim),
            nn.GELU(),
        )
        self.readout = nn.Conv2d(dim, READOUT_CHANNELS, 1)
        nn.init.zeros_(self.readout.bias)  # pyright: ignore[reportArgumentType]

    @property
    def grid(self) -> int:
        """Cells per side of the output maps."""
        return self.search_grid

    def _tokens(self, image: Tensor | None, voxel: Tensor | None) -> Tensor:
        """Both modalities of a crop as one grid of tokens `[N, D, G, G]`."""
        if image is None and voxel is None:
            raise InputError("the teacher needs RGB, events or both; found neither")
        if image is not None:
            rgb = self.rgb_stem((image - INPUT_MEAN) / INPUT_DEVIATION)
        else:
            rgb = self.missing_rgb[None, :, None, None]
        events = self.event_stem(voxel) if voxel is not None else self.missing_events[None, :, None, None]
        return rgb + events

    def encode_template(self, image: Tensor | None, voxel: Tensor | None, boxes_cxcywh: Tensor) -> Tensor:
        """Embeds templates; the tokens inside the target's box are marked.

        Args:
            image: RGB crops `[B, 3, S, S]` in [0, 1], or None.
            voxel: Event voxel grids `[B, bins, S, S]`, or None.
            boxes_cxcywh: `[B, 4]` relative to the template crop's side.

        Returns:
            `[B, D + 1, G, G]`: tokens and, as the last channel, how much of each cell the box covers.
        """
        cover = box_coverage(boxes_cxcywh, self.template_grid)[:, None]
        tokens = self._tokens(image, voxel) + self.template_position
        tokens = tokens + cover * self.target_embedding[None, :, None, None]
        return torch.cat([tokens, cover], dim=1)

    def forward_search(
        self, image: Tensor | None, voxel: Tensor | None, template: Tensor, *, with_taps: bool = False
    ) -> TrackerOutput:
        """Finds the template in search crops.

        Args:
            image: RGB crops `[N, 3, S, S]` in [0, 1], or None.
            voxel: Event voxel grids `[N, bins, S, S]`, or None.
            template: Result of `encode_template`, `[N, D + 1, G, G]`, one per search crop.
            with_taps: Also return the search features.

        Returns:
            The head's maps on a `G x G` grid.
        """
        search = self._tokens(image, voxel) + self.search_position
        cover = template[:, -1:]
        joined = torch.cat([template[:, :-1].flatten(2), search.flatten(2)], dim=2).transpose(1, 2)
        encoded = self.encoder(joined).transpose(1, 2)
        split = self.template_grid**2
        target = encoded[:, :, :split].unflatten(2, (self.template_grid, self.template_grid))
        features = encoded[:, :, split:].unflatten(2, (self.search_grid, self.search_grid))
        kernel = self.matching.kernel_from(target * cover)
        related = self.match_norm(self.matching(features[None], kernel)[0])
        output = split_readout(self.readout(self.head(torch.cat([features, related], dim=1))))
        if with_taps:
            output.taps = Taps(features=features)
        return output

    def forward(
        self,
        template_image: Tensor | None,
        template_voxel: Tensor | None,
        template_boxes: Tensor,
        search_image: Tensor | None,
        search_voxel: Tensor | None,
        *,
        with_taps: bool = False,
    ) -> TrackerOutput:
        """Template and search in one call, for training; `K * B` search crops, window-major."""
        template = self.encode_template(template_image, template_voxel, template_boxes)
        windows = next(t for t in (search_image, search_voxel) if t is not None).shape[0]
        template = template.repeat(windows // template.shape[0], 1, 1, 1)
        return self.forward_search(search_image, search_voxel, template, with_taps=with_taps)


def teacher_tiny(**overrides: object) -> RGBETeacher:
    """About 0.6 M parameters, 96 px search: trains on two CPU cores within minutes on synthetic data."""
    return RGBETeacher(TeacherConfig(**overrides))  # pyright: ignore[reportArgumentType]


def teacher_small(**overrides: object) -> RGBETeacher:
    """ViT-S, 256 px search; `pretrained.load_pretrained` starts it from ImageNet, MAE or DINOv2 weights."""
    numbers: dict[str, object] = {
        "dim": 384,
        "depth": 12,
        "heads": 6,
        "mlp_ratio": 4.0,
        "patch": 16,
        "template_size": 144,
        "template_factor": 2.25,
        "search_size": 256,
        "search_factor": 4.0,
        "embed": "patch",
        "norm_epsilon": 1e-6,
    }
    return RGBETeacher(TeacherConfig(**{**numbers, **overrides}))  # pyright: ignore[reportArgumentType]


def teacher_base(**overrides: object) -> RGBETeacher:
    """ViT-B, 256 px search; see `teacher_small`."""
    return teacher_small(**{"dim": 768, "heads": 12, **overrides})
