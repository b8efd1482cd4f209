"""Pretrained ViTs: every key of every layout is accounted for, and the teacher computes what the ViT computes."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from had_snn.errors import CheckpointError, InputError
from had_snn.models import teacher_small, teacher_tiny
from had_snn.models.pretrained import load_pretrained, read_state_dict, resize_patches, resize_positions
from had_snn.models.teacher import INPUT_DEVIATION, INPUT_MEAN

SMALL = {"dim": 48, "depth": 3, "heads": 6, "template_size": 48, "search_size": 96, "patch": 16}


def timm_vit(
    *, dim=48, depth=3, patch=16, positions=37, classes=10, scale=False, registers=0, random=True
) -> dict[str, torch.Tensor]:
    """A checkpoint with timm's names and shapes (`vit_*`, `deit_*`, MAE's encoder, `vit_*_dinov2` with `scale`)."""
    torch.manual_seed(0)

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(*shape) * 0.2 if random else torch.zeros(*shape)

    found = {
        "cls_token": new(1, 1, dim),
        "pos_embed": new(1, positions, dim),
        "patch_embed.proj.weight": new(dim, 3, patch, patch),
        "patch_embed.proj.bias": new(dim),
    }
    if registers:
        found["reg_token"] = new(1, registers, dim)
    for n in range(depth):
        shapes = {
            "norm1.weight": (dim,),
            "norm1.bias": (dim,),
            "attn.qkv.weight": (3 * dim, dim),
            "attn.qkv.bias": (3 * dim,),
            "attn.proj.weight": (dim, dim),
            "attn.proj.bias": (dim,),
            "norm2.weight": (dim,),
            "norm2.bias": (dim,),
            "mlp.fc1.weight": (4 * dim, dim),
            "mlp.fc1.bias": (4 * dim,),
            "mlp.fc2.weight": (dim, 4 * dim),
            "mlp.fc2.bias": (dim,),
            **({"ls1.gamma": (dim,), "ls2.gamma": (dim,)} if scale else {}),
        }
        found |= {f"blocks.{n}.{name}": new(*shape) for name, shape in shapes.items()}
    found |= {"norm.weight": new(dim), "norm.bias": new(dim)}
    if classes:
        found |= {"head.weight": new(classes, dim), "head.bias": new(classes)}
    return found


def hugging_face(timm: dict[str, torch.Tensor], *, kind: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """The same weights under Hugging Face's names: `vit` (also ViT-MAE) or `dinov2`."""
    singles = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
        "reg_token": "embeddings.register_tokens",
    }
    parts = {"attn.proj": "attention.output.dense"}
    if kind == "vit":
        parts |= {
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        }
    else:
        parts |= {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
    found = {}
    for name, value in timm.items():
        stem, dot, kind_of = name.rpartition(".") if name.endswith((".weight", ".bias")) else (name, "", "")
        block = re.match(r"blocks\.(\d+)\.(.+)", stem)
        if name.startswith("head."):
            found[f"classifier.{kind_of}"] = value
        elif block is None:
            found[f"{prefix}{singles[stem]}{dot}{kind_of}"] = value
        elif block[2] == "attn.qkv":
            for third, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[f"{prefix}encoder.layer.{block[1]}.attention.attention.{third}.{kind_of}"] = part
        else:
            found[f"{prefix}encoder.layer.{block[1]}.{parts.get(block[2], block[2])}{dot}{kind_of}"] = value
    return found


def reference_blocks(tokens: torch.Tensor, w: dict[str, torch.Tensor], *, depth: int, heads: int) -> torch.Tensor:
    """A ViT's blocks and last norm, written down from the papers."""
    for n in range(depth):
        p = {name.removeprefix(f"blocks.{n}."): v for name, v in w.items() if name.startswith(f"blocks.{n}.")}
        x = F.layer_norm(tokens, tokens.shape[-1:], p["norm1.weight"], p["norm1.bias"], 1e-6)
        q, k, v = F.linear(x, p["attn.qkv.weight"], p["attn.qkv.bias"]).unflatten(2, (3, heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = F.linear(mixed.transpose(1, 2).flatten(2), p["attn.proj.weight"], p["attn.proj.bias"])
        tokens = tokens + x * p.get("ls1.gamma", torch.ones(()))
        x = F.layer_norm(tokens, tokens.shape[-1:], p["norm2.weight"], p["norm2.bias"], 1e-6)
        x = F.linear(
            F.gelu(F.linear(x, p["mlp.fc1.weight"], p["mlp.fc1.bias"])), p["mlp.fc2.weight"], p["mlp.fc2.bias"]
        )
        tokens = tokens + x * p.get("ls2.gamma", torch.ones(()))
    return F.layer_norm(tokens, tokens.shape[-1:], w["norm.weight"], w["norm.bias"], 1e-6)


@pytest.mark.parametrize("scale", [False, True], ids=["plain", "layer-scale"])
def test_the_teachers_layers_compute_what_the_vit_computes(scale):
    weights = timm_vit(scale=scale)
    teacher = teacher_small(**SMALL).eval()
    load_pretrained(teacher, weights)
    tokens = torch.randn(2, 45, 48)
    with torch.no_grad():
        torch.testing.assert_close(
            teacher.encoder(tokens), reference_blocks(tokens, weights, depth=3, heads=6), rtol=1e-4, atol=1e-4
        )


def test_patches_see_images_as_the_vit_was_shown_them():
    weights = timm_vit()
    teacher = teacher_small(**SMALL).eval()
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    load_pretrained(teacher, weights, mean=mean, deviation=deviation)
    image = torch.rand(1, 3, 48, 48)
    scaled = (image - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
    wanted = F.conv2d(scaled, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=16)
    with torch.no_grad():
        got = teacher.rgb_stem((image - INPUT_MEAN) / INPUT_DEVIATION)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    # A voxel grid with the same value in each bin looks like a grey image of that value.
    grey = torch.rand(1, 1, 48, 48)
    events = F.conv2d(grey.expand(-1, 5, -1, -1), teacher.event_stem.weight, stride=16)
    torch.testing.assert_close(
        events,
        F.conv2d(grey.expand(-1, 3, -1, -1), weights["patch_embed.proj.weight"], stride=16),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("kind", "prefix", "scale"),
    [("vit", "", False), ("vit", "vit.", False), ("dinov2", "", True), ("dinov2", "dinov2.", True)],
)
def test_both_layouts_give_the_same_teacher(kind, prefix, scale):
    weights = timm_vit(scale=scale)
    torch.manual_seed(1)
    one, two = teacher_small(**SMALL), teacher_small(**SMALL)
    two.load_state_dict(one.state_dict())
    load_pretrained(one, weights)
    load_pretrained(two, hugging_face(weights, kind=kind, prefix=prefix))
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# The published checkpoints' own sizes: ImageNet ViT-S/16, DeiT, MAE with its decoder, DINOv2 on patches of 14.
def published(name: str) -> dict[str, torch.Tensor]:
    small = {"dim": 384, "depth": 12, "positions": 197, "classes": 1000, "random": False}
    dino = {**small, "patch": 14, "positions": 1370, "classes": 0, "scale": True}
    if name == "timm ImageNet":
        return timm_vit(**small)
    if name == "timm DINOv2 with registers":  # position embeddings without the class token
        return timm_vit(**{**dino, "positions": 1369}, registers=4)
    if name == "Hugging Face DINOv2":
        return hugging_face(timm_vit(**dino), kind="dinov2") | {"embeddings.mask_token": torch.zeros(1, 384)}
    if name == "Hugging Face ImageNet":
        return hugging_face(timm_vit(**small), kind="vit", prefix="vit.")
    encoder = hugging_face(timm_vit(**{**small, "classes": 0}), kind="vit", prefix="vit.")
    decoder = {
        "decoder.mask_token": (1, 1, 512),
        "decoder.decoder_pos_embed": (1, 197, 512),
        "decoder.decoder_embed.weight": (512, 384),
        "decoder.decoder_layers.0.layernorm_before.weight": (512,),
        "decoder.decoder_norm.weight": (512,),
        "decoder.decoder_pred.weight": (768, 512),
    }
    return encoder | {name: torch.zeros(shape) for name, shape in decoder.items()}


NAMES = [
    "timm ImageNet",
    "timm DINOv2 with registers",
    "Hugging Face DINOv2",
    "Hugging Face ImageNet",
    "Hugging Face MAE",
]


@pytest.fixture(scope="module")
def small_teacher():
    return teacher_small()


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_accounted_for(name, small_teacher):
    weights = published(name)
    report = load_pretrained(small_teacher, weights)
    assert set(report.used) | set(report.unused) == set(weights)
    assert not set(report.used) & set(report.unused)
    unused = {re.sub(r"^(vit|decoder)\..*?(\w+)$", r"\1", key) for key in report.unused}
    assert all(reason for reason in report.unused.values()), unused
    assert not any(name.startswith(("encoder.", "rgb_stem", "event_stem", "search_pos")) for name in report.fresh)
    assert {"missing_rgb", "missing_events", "target_embedding", "readout.weight"} <= set(report.fresh)


def test_layers_beyond_the_teachers_are_named():
    report = load_pretrained(teacher_small(**SMALL), timm_vit(depth=5))
    assert report.unused["blocks.4.mlp.fc2.weight"] == "the teacher has 3 layers"


def test_positions_are_interpolated_smoothly_and_kept_where_the_grid_fits():
    grid = torch.arange(36.0).reshape(6, 6)
    position = torch.cat([torch.full((1, 1, 1), 99.0), grid.reshape(1, 36, 1)], dim=1)
    assert torch.equal(resize_positions(position, 6)[0], grid)
    larger = resize_positions(position, 12)[0]
    torch.testing.assert_close(larger.mean(), grid.mean(), rtol=1e-3, atol=0)
    inner = larger[3:-3, 3:-3]
    torch.testing.assert_close(inner.diff(dim=1), torch.full((6, 5), 0.5), rtol=0.1, atol=0)


def test_resized_patches_give_the_token_of_the_resized_patch():
    weight, patch = torch.randn(8, 3, 14, 14), torch.rand(1, 3, 14, 14)
    larger = F.interpolate(patch, size=(16, 16), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(
        (resize_patches(weight, 16) * larger).sum((1, 2, 3)), (weight * patch).sum((1, 2, 3)), rtol=1e-3, atol=1e-3
    )


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match="embed=patch"):
        load_pretrained(teacher_tiny(), timm_vit())
    with pytest.raises(CheckpointError, match="48 wide and the teacher 96"):
        load_pretrained(teacher_small(**{**SMALL, "dim": 96}), timm_vit())
    with pytest.raises(CheckpointError, match="layer 3, layer 4"):
        load_pretrained(teacher_small(**{**SMALL, "depth": 5}), timm_vit())
    with pytest.raises(CheckpointError, match=r"blocks\.0\.mlp\.w12"):
        load_pretrained(teacher_small(**SMALL), timm_vit() | {"blocks.0.mlp.w12.weight": torch.zeros(1)})
    wide = timm_vit() | {"blocks.1.mlp.fc1.weight": torch.zeros(96, 48)}
    with pytest.raises(CheckpointError, match=r"layers\.1\.linear1\.weight"):
        load_pretrained(teacher_small(**SMALL), wide)
    with pytest.raises(CheckpointError, match="no pretrained weights at"):
        read_state_dict(tmp_path / "nothing.safetensors")
    with pytest.raises(InputError, match="hub:OWNER/NAME"):
        read_state_dict("hub:only-a-name")


def test_files_are_read_and_code_is_not_run(tmp_path):
    weights = timm_vit()
    save_file(weights, str(tmp_path / "vit.safetensors"))
    torch.save({"model": weights, "epoch": 3}, tmp_path / "vit.pth")
    for name in ("vit.safetensors", "vit.pth"):
        found = read_state_dict(tmp_path / name)
        assert found.keys() == weights.keys()
        assert torch.equal(found["norm.weight"], weights["norm.weight"])
    torch.save({"model": print}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match=r"code\.pth"):
        read_state_dict(tmp_path / "code.pth")
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "vit.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"half\.safetensors"):
        read_state_dict(tmp_path / "half.safetensors")


def test_a_hub_that_cannot_be_reached_is_a_clear_error(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def unreachable(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors of facebook/vit-mae-base.*no route.*give the file's path"
    ):
        read_state_dict("hub:facebook/vit-mae-base@main")
