"""Weights on disk: safetensors with the network's plain numbers in the header, and a JSON card beside them.

Loading never executes code from a file: tensors come from safetensors, numbers from JSON, and the class from a fixed
table of two names. Writing is atomic: a reader sees the old file or the new one, never half of it.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from had_snn.errors import CheckpointError, first_line
from had_snn.files import atomic_file, flush
from had_snn.models import RGBETeacher, SpikingTracker, StudentConfig, TeacherConfig, step_norms
from had_snn.models.stored import require_finite, require_shapes

#: Folder of the weights that come with the package.
RELEASED = Path(__file__).parent / "weights"

_KINDS = {"student": (SpikingTracker, StudentConfig), "teacher": (RGBETeacher, TeacherConfig)}


def save_weights(
    path: Path | str,
    network: SpikingTracker | RGBETeacher,
    *,
    card: dict[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Writes a network.

    Args:
        path: `*.safetensors`; the card goes beside it as `*.json`.
        network: A student or a teacher.
        card: What a user should know: data, command, seed, figures, limits.
        half: Store kernels and matrices as float16, which rounds them to 11 bits (see `round_to_half`); loading gives
            float32 again.
    """
    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if half:
        tensors = {name: value.half() if _is_kernel(value) else value for name, value in tensors.items()}
    if isinstance(network, SpikingTracker):
        tensors |= step_norms.pack(network.norms_at)
    metadata, written = require_saveable(network, card)
    with ExitStack() as stack:  # both are written before the card takes its place, and then the weights
        temporary = stack.enter_context(atomic_file(path))
        save_file(tensors, str(temporary), metadata=metadata)
        flush(temporary)
        if card is not None:
            stack.enter_context(atomic_file(path.with_suffix(".json"))).write_text(written)


def require_saveable(
    network: SpikingTracker | RGBETeacher, card: dict[str, Any] | None = None
) -> tuple[dict[str, str], str]:
    """What `save_weights` writes beside the tensors; before a training it finds at once what could not be saved.

    Args:
        network: A student or a teacher.
        card: As in `save_weights`.

    Returns:
        The header of the weights and the text of the card.

    Raises:
        CheckpointError: If a number of the network or an entry of the card cannot be written and read back.
    """
    kind = "student" if isinstance(network, SpikingTracker) else "teacher"
    try:
        numbers = json.dumps(dataclasses.asdict(network.config))
        again = _KINDS[kind][1](**_numbers(json.loads(numbers)))
        text = json.dumps(card, indent=2) + "\n"
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"this {kind} could not be written: {error}; its card needs plain numbers") from error
    if dataclasses.asdict(again) != _numbers(dataclasses.asdict(network.config)):
        raise CheckpointError(f"this {kind} would be read back as another: {again}, not {network.config}")
    return {"kind": kind, "config": numbers}, text


def _numbers(numbers: dict[str, Any]) -> dict[str, Any]:
    """JSON and configs have lists where a network has tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in numbers.items()}


def _is_kernel(value: Tensor) -> bool:
    return value.is_floating_point() and value.ndim >= 2


@torch.no_grad()
def round_to_half(network: nn.Module) -> None:
    """Rounds kernels and matrices in place to what `save_weights(half=True)` stores, so that a test meets the same."""
    for value in network.state_dict().values():
        if _is_kernel(value):
            value.copy_(value.half())


def _load(path: Path, kind: str) -> SpikingTracker | RGBETeacher:
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    found = metadata.get("kind")
    if found != kind:
        raise CheckpointError(f"{path}: holds a {found or 'foreign network'}, expected a {kind} saved by had_snn")
    network_class, config_class = _KINDS[kind]
    try:
        numbers = json.loads(metadata["config"])
        known = {field.name for field in dataclasses.fields(config_class)}
        unknown = set(numbers) - known
        if unknown:
            raise CheckpointError(f"{path}: unknown numbers {sorted(unknown)}; it was made by a newer version")
        config = config_class(**_numbers(numbers))
        fitted = {name: tensors.pop(name) for name in sorted(tensors) if name.startswith(step_norms.PREFIX)}
        _require_fit(network_class, config, tensors)
        network = network_class(config)
        network.load_state_dict(tensors)
        if isinstance(network, SpikingTracker):
            network.norms_at = step_norms.unpack(fitted, network)
    # A number of the wrong kind or size fails wherever it is first used.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: weights and configuration do not fit together ({first_line(error)})") from error
    require_finite(path, {**network.state_dict(), **fitted})
    return network.eval()


def _require_fit(network_class: Any, config: Any, tensors: dict[str, Tensor]) -> None:
    """Compares shapes before the network is made: its numbers, which a file may choose, decide how large it gets."""
    repeats = next((name for name in ("blocks", "depth") if getattr(config, name, 0) > len(tensors)), None)
    if repeats is not None:
        raise ValueError(f"{repeats}={getattr(config, repeats)} with {len(tensors)} tensors")
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in network_class(config).state_dict().items()}
    require_shapes({name: tuple(value.shape) for name, value in tensors.items()}, expected)


def released_names(kind: str = "student") -> list[str]:
    """Names of the released networks of a kind, `student` or `teacher`."""
    return sorted(path.stem.removeprefix(f"{kind}_") for path in RELEASED.glob(f"{kind}_*.safetensors"))


def released(name_or_path: str | Path, kind: str = "student") -> Path:
    """The file of a released name, or the path that is none."""
    path = RELEASED / f"{kind}_{name_or_path}.safetensors"
    return path if path.is_file() else Path(name_or_path)


def load_student(
    name_or_path: str | Path = "tiny", *, n_steps: int | None = None, device: str | torch.device = "cpu"
) -> SpikingTracker:
    """Loads a student, ready for tracking.

    Args:
        name_or_path: A released name (`"tiny"`) or a `.safetensors` file.
        n_steps: Micro-steps of a window, if others than it was trained with (see `SpikingTracker.at_steps`).
        device: Where to put it.

    Returns:
        The student in evaluation mode.

    Raises:
        CheckpointError: If there is no such name or file, or the file is damaged or holds another network.
    """
    path = released(name_or_path)
    if not path.is_file():
        names = ", ".join(released_names()) or "none"
        raise CheckpointError(
            f"no student {str(name_or_path)!r}: neither a file nor a released name (there are: {names})"
        )
    student = _load(path, "student")
    assert isinstance(student, SpikingTracker)
    return (student if n_steps is None else student.at_steps(n_steps)).to(device)


def load_teacher(name_or_path: str | Path, *, device: str | torch.device = "cpu") -> RGBETeacher:
    """Loads a teacher, by a released name or from a file; see `load_student`."""
    path = released(name_or_path, "teacher")
    if not path.is_file():
        names = ", ".join(released_names("teacher")) or "none"
        raise CheckpointError(
            f"no teacher {str(name_or_path)!r}: neither a file nor a released name (there are: {names}); "
            "train one with: had-snn train-teacher"
        )
    teacher = _load(path, "teacher")
    assert isinstance(teacher, RGBETeacher)
    return teacher.to(device)
