"""Counting any network of convolutions, fully connected layers and attention, and saying what was not counted.

Convolutions and `nn.Linear` are counted from their real inputs, as a hook sees them: spikes (all 0 or 1, or -1), counts
(whole numbers) or real values, with borders, zeros and zero weights told apart. Everything else that multiplies
matrices (attention above all) is counted by torch's own `FlopCounterMode`, half of whose FLOPs are MACs; its number for
the hooked layers must equal their textbook count, or `profile_module` refuses to answer.

Norms, activations, softmax and other element-wise work is listed with its number of elements, not charged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from had_snn.errors import HadError
from had_snn.models import RGBETeacher
from had_snn.profiling.profile import LayerProfile, Profile
from had_snn.profiling.synops import ConvShape, alive_taps, reached, tap_inputs

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_KINDS = ("spikes", "counts", "real")


class CountMismatchError(HadError):
    """Two independent counts of the same layer differ: the counter does not understand the layer."""


class _Root(nn.Module):
    """Gives every module one unambiguous path, also when a method other than `forward` is what runs."""

    def __init__(self, net: nn.Module, call: Callable[[], Any]) -> None:
        super().__init__()
        self.net = net
        self.call = call

    def forward(self) -> Any:
        return self.call()


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as matrix products: fused paths (the encoder layer's, and scaled dot products on a CPU) hide them from
    `FlopCounterMode`."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def input_kind(values: Tensor) -> str:
    """`"spikes"` when all values are -1, 0 or 1, `"counts"` when all are whole numbers, otherwise `"real"`."""
    if values.is_floating_point() and not bool((values == values.round()).all()):
        return "real"
    return "spikes" if bool((values.abs() <= 1).all()) else "counts"


def _count_linear(layer: nn.Linear, values: Tensor) -> dict[str, int]:
    rows = values.reshape(-1, layer.in_features)
    active = (rows != 0).sum(dim=0)
    return {
        "input_spikes": int(rows.abs().sum(dtype=torch.float64)),
        "input_active": int(active.sum()),
        "input_sites": rows.numel(),
        "synops": int(rows.abs().sum(dtype=torch.float64)) * layer.out_features,
        "active": int(active.sum()) * layer.out_features,
        "effective": int((active * (layer.weight != 0).sum(dim=0)).sum()),
        "dense": rows.numel() * layer.out_features,
        "textbook": rows.numel() * layer.out_features,
        "additions": len(rows) * layer.out_features * (layer.bias is not None),
    }


def _count_conv(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, values: Tensor) -> dict[str, int]:
    shape = ConvShape.of(layer)
    size = tuple(values.shape[-len(shape.kernel) :])
    flat = values.reshape(-1, layer.in_channels, *size)
    active = (flat != 0).sum(dim=0).double()
    total = flat.abs().sum(dim=(0, 1), dtype=torch.float64)
    count = {
        "input_spikes": int(total.sum()),
        "input_active": int(active.sum()),
        "input_sites": flat.numel(),
        "synops": int(reached(total, shape)),
        "active": int(reached(active.sum(dim=0), shape)),
        "dense": len(flat) * shape.dense(size),
        "textbook": len(flat) * shape.textbook(size),
    }
    count["effective"] = count["active"]
    if (layer.weight == 0).any() and len(size) == 2:
        count["effective"] = int((tap_inputs(active[None], shape) * alive_taps(layer.weight, shape.groups)).sum())
    outputs = len(flat) * layer.out_channels * int(torch.tensor(shape.outputs(size)).prod())
    return count | {"additions": outputs * (layer.bias is not None)}


class _Watcher:
    """Hooks on all leaves of a network: exact counts of what it knows, elements of what it does not."""

    def __init__(self, net: nn.Module, branch: str) -> None:
        self.branch = branch
        self.layers: dict[str, LayerProfile] = {}
        self.elements: dict[str, tuple[str, int]] = {}
        self.refused: dict[str, str] = {}
        self.handles = []
        for name, module in net.named_modules():
            if isinstance(module, (*_CONVS, nn.Linear)):
                self.handles.append(module.register_forward_pre_hook(self._known(name or "net")))
            elif not any(True for _ in module.children()):
                self.handles.append(module.register_forward_hook(self._unknown(name or "net")))

    def _known(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            values = inputs[0].detach()
            try:
                count = _count_linear(module, values) if isinstance(module, nn.Linear) else _count_conv(module, values)  # pyright: ignore[reportArgumentType]
            except HadError as error:
                self.refused[name] = str(error)
                return
            kind = input_kind(values)
            if name not in self.layers:
                self.layers[name] = LayerProfile.of(name, self.branch, kind, module.parameters())
            layer = self.layers[name]
            layer.inputs = max(layer.inputs, kind, key=_KINDS.index)
            graded = count["effective"] if kind != "spikes" else 0
            layer.add(torch.zeros(1, dtype=torch.int64), effective_graded=graded, **count)

        return hook

    def _unknown(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
            first = output[0] if isinstance(output, (tuple, list)) else output
            if isinstance(first, Tensor) and not isinstance(module, (nn.Identity, nn.Dropout, nn.Flatten)):
                kind, before = self.elements.get(name, (type(module).__name__, 0))
                self.elements[name] = (kind, before + first.numel())

        return hook

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def _own_flops(counts: dict[str, dict[Any, int]]) -> dict[str, int]:
    """FLOPs of each module without those of the modules inside it, by path below the root."""
    total = {name: sum(by_op.values()) for name, by_op in counts.items() if name != "Global"}
    own = dict(total)
    for name in total:
        parent = name.rpartition(".")[0]
        while parent and parent not in total:
            parent = parent.rpartition(".")[0]
        if parent:
            own[parent] -= total[name]
    cut: dict[str, int] = defaultdict(int)
    for name, flops in own.items():
        cut[name.removeprefix("_Root.net.").removeprefix("_Root.net").removeprefix("_Root") or "net"] += flops
    return cut


def count_call(
    net: nn.Module, call: Callable[[], Any], *, branch: str = "search"
) -> tuple[list[LayerProfile], list[str], Any]:
    """Counts everything that `net` does during one call.

    Args:
        net: The network.
        call: What to run, e.g. `lambda: net(x)`. It is run twice and must do the same both times (a network that keeps
            state must be reset inside); evaluation mode is the caller's.
        branch: Branch that the layers are booked under.

    Returns:
        Layers with their counts, what was not counted, and the call's result.

    Raises:
        CountMismatchError: If a layer's exact count contradicts `FlopCounterMode`.
    """
    root = _Root(net, call)
    with torch.no_grad(), _plain_attention(), FlopCounterMode(display=False) as counter:
        root()
    # A second pass, because the hooks' own arithmetic would be counted too.
    watcher = _Watcher(net, branch)
    try:
        with torch.no_grad(), _plain_attention():
            result = root()
    finally:
        watcher.close()
    own = _own_flops(counter.get_flop_counts())
    layers = dict(watcher.layers)
    for name, flops in own.items():
        if name in watcher.layers:
            textbook = watcher.layers[name].total("textbook")
            if flops != 2 * textbook:
                raise CountMismatchError(
                    f"{name}: {textbook} MACs by shape, {flops / 2:g} by torch's FLOP counter; the layer is not what "
                    f"it looks like (expected a plain {type(net.get_submodule(name)).__name__})"
                )
        elif flops and name not in watcher.refused:
            layers[name] = _matrix_products(net, name, flops // 2, branch)
    return list(layers.values()), _uncounted(net, watcher, own), result


def _matrix_products(net: nn.Module, name: str, macs: int, branch: str) -> LayerProfile:
    """What a module multiplies itself, outside of the layers inside it: attention, in the main."""
    module = net if name == "net" else net.get_submodule(name)
    weights = [p for p in module.parameters(recurse=isinstance(module, nn.MultiheadAttention)) if p.ndim >= 1]
    layer = LayerProfile.of(name, branch, "real", weights)
    same = dict.fromkeys(("dense", "textbook", "active", "effective", "effective_graded"), macs)
    layer.add(torch.zeros(1, dtype=torch.int64), **same)
    return layer


def _uncounted(net: nn.Module, watcher: _Watcher, own: dict[str, int]) -> list[str]:
    found = [f"{name}: {reason}" for name, reason in watcher.refused.items()]
    by_kind: Counter[str] = Counter()
    for name, (kind, elements) in watcher.elements.items():
        by_kind[kind] += 0 if own.get(name) else elements
    found += [f"{kind}: {elements} elements" for kind, elements in sorted(by_kind.items()) if elements]
    covered = [*watcher.layers, *watcher.refused, *(name for name, flops in own.items() if flops)]
    for name, module in net.named_modules():
        weights = [key for key, p in module.named_parameters(recurse=False) if p.ndim >= 2]
        inside = any(name == path or name.startswith(f"{path}.") for path in covered)
        if weights and not inside:
            what = f"{name or 'net'} ({type(module).__name__}): {', '.join(weights)}"
            found.append(f"{what}: no matrix product with them seen")
    return found


def profile_module(net: nn.Module, *inputs: Any, name: str = "", outputs: int | None = None) -> Profile:
    """Counts one forward pass of any network.

    Args:
        net: The network; put into evaluation mode.
        *inputs: Arguments of its forward pass.
        name: Its name in tables; the class when empty.
        outputs: Outputs that the pass makes; the first argument's batch size when None.

    Returns:
        The profile; `uncounted` lists what it leaves out.
    """
    net.eval()
    layers, uncounted, _ = count_call(net, lambda: net(*inputs))
    kind = "spiking" if any(layer.inputs != "real" for layer in layers) else "ann"
    profile = Profile(name or type(net).__name__, kind, outputs=outputs or len(inputs[0]), layers=layers)
    profile.parameters = sum(p.numel() for p in net.parameters())
    profile.uncounted = uncounted
    return profile


def profile_teacher(
    teacher: RGBETeacher,
    *,
    name: str = "teacher",
    outputs_per_second: float | None = None,
    outputs_per_track: int = 1,
    modalities: tuple[str, ...] = ("rgb", "events"),
    generator: torch.Generator | None = None,
) -> Profile:
    """Counts the teacher: one template and one search window.

    Its work does not depend on what it sees, except for NeuroBench's rule, which leaves out zeros of the inputs: a
    sparse voxel grid would lower the first layer's figure there.

    Args:
        teacher: The network; put into evaluation mode.
        name: Its name in tables.
        outputs_per_second: Outputs for each second of tracking; one for each window's length when None.
        outputs_per_track: Outputs that one template serves.
        modalities: What it sees, of `"rgb"` and `"events"`.
        generator: Source of the stand-in input.

    Returns:
        The profile, with attention and the template's branch.
    """
    teacher.eval()
    config, device = teacher.config, next(teacher.parameters()).device
    generator = generator or torch.Generator().manual_seed(0)

    def view(size: int) -> tuple[Tensor | None, Tensor | None]:
        image = torch.rand(1, 3, size, size, generator=generator).to(device) if "rgb" in modalities else None
        voxel = torch.randn(1, config.voxel_bins, size, size, generator=generator).to(device)
        return image, voxel if "events" in modalities else None

    box = torch.tensor([[0.5, 0.5, 0.4, 0.4]], device=device)
    first = view(config.template_size)
    template_layers, _, template = count_call(teacher, lambda: teacher.encode_template(*first, box), branch="template")
    second = view(config.search_size)
    layers, uncounted, _ = count_call(teacher, lambda: teacher.forward_search(*second, template))
    seconds = 1 / outputs_per_second if outputs_per_second else config.window_us * 1e-6
    for layer in layers:
        layer.counts *= outputs_per_track
    profile = Profile(name, "ann", outputs=outputs_per_track, tracks=1, seconds=seconds * outputs_per_track)
    profile.layers = [*template_layers, *layers]
    profile.parameters = sum(p.numel() for p in teacher.parameters())
    profile.uncounted = [*uncounted, "frame, voxel grid and crops (host)", "reading the box from the maps (host)"]
    return profile
