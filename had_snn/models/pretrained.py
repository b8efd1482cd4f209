"""Pretrained ViT weights for `RGBETeacher`: ImageNet, MAE and DINOv2 checkpoints in the timm and Hugging Face layouts.

    report = load_pretrained(teacher, "vit_base_patch16_224.safetensors")
    report = load_pretrained(teacher, "hub:facebook/vit-mae-base")

Every key of the file is accounted for: it was used, or it is named with the reason why not. What differs between a
classifier and a tracker is adapted, exactly where that is possible:

* patch embeddings to another patch size by the pseudo-inverse of resizing (Beyer et al., FlexiViT, CVPR 2023), to
  other channels by their mean, to the teacher's input scale by folding the file's mean and deviation into the weights;
* position embeddings by bicubic interpolation to the template's and to the search region's grid (as OSTrack does);
* LayerScale (DINOv2) is multiplied into the layer's last projection; queries, keys and values are joined.

Class, distillation and register tokens and classification or decoder heads have no place in the teacher.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from had_snn.errors import CheckpointError, InputError, first_line, optional_import
from had_snn.models.teacher import INPUT_DEVIATION, INPUT_MEAN, PatchEmbedding, RGBETeacher

#: Mean and deviation of the images that most ViTs were trained on; some (AugReg, Hugging Face's ViT) used 0.5 and 0.5.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# The file's name of a part of block N -> (part of our layer, of joined queries, keys and values which third).
_TIMM = {
    "norm1": "norm1",
    "attn.qkv": "qkv",
    "attn.proj": "out",
    "norm2": "norm2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
    "ls1.gamma": "scale1",
    "ls2.gamma": "scale2",
    "gamma_1": "scale1",
    "gamma_2": "scale2",
}
_HF = {
    "attention.attention.query": "q",
    "attention.attention.key": "k",
    "attention.attention.value": "v",
    "attention.output.dense": "out",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
    "layer_scale1.lambda1": "scale1",
    "layer_scale2.lambda1": "scale2",
}
_BLOCK = re.compile(r"^(?:blocks|encoder\.layer)\.(?P<number>\d+)\.(?P<part>.+?)(?P<kind>\.weight|\.bias)?$")
_SINGLE = {
    "patch_embed.proj.weight": "patch.weight",
    "embeddings.patch_embeddings.projection.weight": "patch.weight",
    "patch_embed.proj.bias": "patch.bias",
    "embeddings.patch_embeddings.projection.bias": "patch.bias",
    "pos_embed": "position",
    "embeddings.position_embeddings": "position",
    "norm.weight": "norm.weight",
    "layernorm.weight": "norm.weight",
    "norm.bias": "norm.bias",
    "layernorm.bias": "norm.bias",
}
_UNUSED = {
    r"cls_token|embeddings\.cls_token|dist_token|embeddings\.distillation_token": "the teacher has no class token",
    r"(reg|register)_tokens?|embeddings\.register_tokens": "the teacher has no register tokens",
    r"(embeddings\.)?mask_token": "the teacher masks nothing",
    r"(head|head_dist|fc_norm|classifier|pooler|pre_logits)\..+": "a classification head",
    r"decoder.*": "the decoder of masked pre-training",
}


@dataclass
class PretrainedReport:
    """What became of a checkpoint.

    Attributes:
        used: The file's keys and the teacher's parameters that they went into.
        unused: The file's other keys, with the reason.
        fresh: Parameters of the teacher that keep their initial values.
    """

    used: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)


def read_state_dict(source: str | Path) -> dict[str, Tensor]:
    """Reads tensors by name, without running code from the file.

    Args:
        source: A `.safetensors` file, a `.pth`/`.pt`/`.bin` file of tensors (a dictionary inside it under `model`,
            `state_dict` or `teacher` is unpacked), or `hub:OWNER/NAME[@REVISION][:FILE]` for a file of a Hugging Face
            repository (default `model.safetensors`).

    Raises:
        CheckpointError: If it cannot be had or read.
        MissingExtraError: If a hub is asked for and `huggingface_hub` is not installed.
    """
    path = _from_hub(str(source)) if str(source).startswith("hub:") else Path(source)
    if not path.is_file():
        raise CheckpointError(f"no pretrained weights at {path}; give a file, or hub:OWNER/NAME")
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path}: not a readable file of weights ({first_line(error)})") from error
    except Exception as error:  # pickle's own errors have no common class
        raise CheckpointError(f"{path}: damaged, or with more in it than tensors, which is never loaded") from error
    for name in ("model", "state_dict", "teacher"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not isinstance(found, Mapping) or not all(torch.is_tensor(value) for value in found.values()):
        raise CheckpointError(f"{path}: expected tensors by name, found {type(found).__name__}")
    return dict(found)


def _from_hub(source: str) -> Path:
    match = re.fullmatch(r"hub:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./-]+))?", source)
    if match is None:
        raise InputError(f"{source}: expected hub:OWNER/NAME, hub:OWNER/NAME@REVISION or hub:OWNER/NAME:FILE")
    hub = optional_import("huggingface_hub", extra="hub")
    file = match["file"] or "model.safetensors"
    try:
        return Path(hub.hf_hub_download(match["repo"], file, revision=match["revision"]))
    except Exception as error:  # network, account and repository errors come in many classes
        raise CheckpointError(
            f"cannot get {file} of {match['repo']} from the hub ({type(error).__name__}: {str(error)[:200]!r}); "
            "download it on a machine with a network and give the file's path"
        ) from error


def sort_keys(keys: Sequence[str], *, depth: int) -> tuple[dict[str, str], dict[str, str]]:
    """Tells what each key of a file is.

    Args:
        keys: Names in the file.
        depth: Layers of the teacher; blocks after them are unused.

    Returns:
        The role of each key that is used (such as `3.qkv.weight` or `position`), and the reason for each other one.

    Raises:
        CheckpointError: If a key is of neither layout; the message names it.
    """
    roles, unused, strange = {}, {}, []
    for key in keys:
        name = re.sub(r"^(module\.|backbone\.|vit\.|dinov2(_with_registers)?\.|deit\.|base_model\.)+", "", key)
        reason = next((why for pattern, why in _UNUSED.items() if re.fullmatch(pattern, name)), None)
        block = _BLOCK.match(name)
        if name in _SINGLE:
            roles[key] = _SINGLE[name]
        elif reason is not None:
            unused[key] = reason
        elif block is not None:
            part = (_TIMM if name.startswith("blocks") else _HF).get(block["part"])
            if part is None:
                strange.append(key)
            elif int(block["number"]) >= depth:
                unused[key] = f"the teacher has {depth} layers"
            else:
                roles[key] = f"{block['number']}.{part}{block['kind'] or ''}"
        else:
            strange.append(key)
    if strange:
        raise CheckpointError(
            f"{len(strange)} keys are of no known ViT layout, the first is {strange[0]!r}; "
            "timm's and Hugging Face's ViT, ViT-MAE and DINOv2 (without SwiGLU) are understood"
        )
    return roles, unused


def resize_patches(weight: Tensor, size: int) -> Tensor:
    """Resamples patch kernels `[D, C, P, P]` so that a patch resized to `size` gives the same token, in the sense of
    least squares: `w' = pinv(B^T) w` for the resizing `B` (Beyer et al., FlexiViT, CVPR 2023)."""
    old = weight.shape[-1]
    if old == size:
        return weight
    basis = torch.eye(old * old).reshape(old * old, 1, old, old)
    resized = F.interpolate(basis, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
    back = torch.linalg.pinv(resized.reshape(old * old, size * size))
    return (weight.float().flatten(2) @ back.T).unflatten(2, (size, size))


def resize_positions(position: Tensor, grid: int) -> Tensor:
    """Position embeddings `[1, N, D]` on a grid of `grid x grid`, as `[D, grid, grid]`; leading tokens are dropped."""
    side = math.isqrt(position.shape[1])
    maps = position[0, position.shape[1] - side * side :].float().T.unflatten(1, (side, side))[None]
    if side != grid:
        maps = F.interpolate(maps, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    return maps[0]


def _rgb_patches(weight: Tensor, bias: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> tuple[Tensor, ...]:
    """Weights for images scaled as the teacher scales them, equal to the file's on images scaled as the file's."""
    if weight.shape[1] == 1:  # a grey image's weights, shared by three channels
        weight = weight.expand(-1, 3, -1, -1) / 3
    means, deviations = torch.tensor(mean), torch.tensor(deviation)
    shift = (INPUT_MEAN - means) / deviations
    return (
        weight * (INPUT_DEVIATION / deviations)[:, None, None],
        bias + (weight * shift[:, None, None]).sum(dim=(1, 2, 3)),
    )


def _gather_blocks(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """The parameters of layer `number` under torch's names, from tensors by role."""
    part = {role.partition(".")[2]: value.float() for role, value in tensors.items() if role.startswith(f"{number}.")}
    for kind in ("weight", "bias"):
        if f"q.{kind}" in part:
            part[f"qkv.{kind}"] = torch.cat([part.pop(f"{name}.{kind}") for name in "qkv"])
    if "qkv.weight" in part and "qkv.bias" not in part:
        part["qkv.bias"] = torch.zeros(len(part["qkv.weight"]))
    for scale, last in (("scale1", "out"), ("scale2", "fc2")):
        if scale in part:
            gamma = part.pop(scale)
            part[f"{last}.weight"] = part[f"{last}.weight"] * gamma[:, None]
            part[f"{last}.bias"] = part[f"{last}.bias"] * gamma
    names = {
        "qkv.weight": "self_attn.in_proj_weight",
        "qkv.bias": "self_attn.in_proj_bias",
        "out": "self_attn.out_proj",
        "fc1": "linear1",
        "fc2": "linear2",
    }
    named = {}
    for role, value in part.items():
        stem, _, kind = role.rpartition(".")
        named[names.get(role) or f"{names.get(stem, stem)}.{kind}"] = value
    return {f"encoder.layers.{number}.{name}": value for name, value in named.items()}


def load_pretrained(
    teacher: RGBETeacher,
    source: str | Path | Mapping[str, Tensor],
    *,
    mean: Sequence[float] = IMAGENET[0],
    deviation: Sequence[float] = IMAGENET[1],
) -> PretrainedReport:
    """Starts a teacher from pretrained ViT weights.

    Args:
        teacher: With patches embedded in one convolution (`teacher_small`, `teacher_base`); changed in place.
        source: See `read_state_dict`, or the tensors themselves.
        mean: Mean per channel of the scaling that the file's images had.
        deviation: Deviation per channel of that scaling.

    Returns:
        What became of every key and which parameters of the teacher are fresh.

    Raises:
        CheckpointError: If the file cannot be had, is of another layout, or does not fit the teacher.
    """
    tensors = dict(source) if isinstance(source, Mapping) else read_state_dict(source)
    config = teacher.config
    if not isinstance(teacher.rgb_stem, PatchEmbedding):
        raise CheckpointError(
            "this teacher embeds patches with several convolutions; pretrained weights need embed=patch"
        )
    roles, unused = sort_keys(list(tensors), depth=config.depth)
    by_role = {role: tensors[key] for key, role in roles.items()}
    missing = [name for name in ("patch.weight", "patch.bias", "position", "norm.weight") if name not in by_role]
    missing += [f"layer {n}" for n in range(config.depth) if f"{n}.norm1.weight" not in by_role]
    if missing:
        raise CheckpointError(f"the weights lack {', '.join(missing)}; the teacher has {config.depth} layers")
    width = by_role["patch.weight"].shape[0]
    if width != config.dim:
        raise CheckpointError(
            f"the weights are {width} wide and the teacher {config.dim}; choose teacher=small or teacher=base"
        )
    values = {"encoder.norm.weight": by_role["norm.weight"], "encoder.norm.bias": by_role["norm.bias"]}
    kernel = resize_patches(by_role["patch.weight"].float(), config.patch)
    values["rgb_stem.weight"], values["rgb_stem.bias"] = _rgb_patches(
        kernel, by_role["patch.bias"].float(), mean, deviation
    )
    # Events have no colours: each time bin starts from the mean kernel, scaled so that equal bins sum to one image.
    values["event_stem.weight"] = kernel.mean(dim=1, keepdim=True).repeat(1, config.voxel_bins, 1, 1) * (
        kernel.shape[1] / config.voxel_bins
    )
    values["event_stem.bias"] = torch.zeros(config.dim)
    values["template_position"] = resize_positions(by_role["position"], teacher.template_grid)
    values["search_position"] = resize_positions(by_role["position"], teacher.search_grid)
    for number in range(config.depth):
        values.update(_gather_blocks(by_role, number))
    own = teacher.state_dict()
    for name, value in values.items():
        if name not in own or own[name].shape != value.shape:
            wanted = list(own[name].shape) if name in own else "nothing of that name"
            raise CheckpointError(f"the weights give {name} the shape {list(value.shape)}; the teacher has {wanted}")
    teacher.load_state_dict(values, strict=False)
    fresh = [name for name, _ in teacher.named_parameters() if name not in values]
    return PretrainedReport({key: _destination(role) for key, role in roles.items()}, unused, fresh)


def _destination(role: str) -> str:
    """The teacher's parameters that a role went into, for the report."""
    named = {
        "patch.weight": "rgb_stem.weight, event_stem.weight",
        "patch.bias": "rgb_stem.bias",
        "position": "template_position, search_position",
    }
    if role in named:
        return named[role]
    return f"encoder.layers.{role}" if role[0].isdigit() else f"encoder.{role}"
