"""All that an online tracker remembers, as one value, in memory and on disk.

A tracker that is given a saved state goes on as if it had never stopped: the boxes are the same to the last bit. The
file is safetensors with plain numbers in its header; loading it executes nothing.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from had_snn.errors import CheckpointError, InputError, first_line
from had_snn.events.stream import EventStream
from had_snn.files import atomic_file
from had_snn.geometry import Crop
from had_snn.models import SearchState
from had_snn.models.stored import require_finite, require_shapes
from had_snn.tracking.buffer import EventBuffer
from had_snn.tracking.carried import CarriedSearch
from had_snn.tracking.follower import FollowerState
from had_snn.tracking.motion import Motion

_KIND = "tracker_state"


@dataclass
class TrackerState:
    """What an `OnlineTracker` remembers between two calls.

    Attributes:
        made_for: Numbers of the tracker that made it (student, mode), which must be those of the tracker that goes on.
        t_init_us: Time of the given box.
        next_t_us: Time of the next box that is due by itself.
        follower: Box, score, lost or not, as of the newest look.
        buffer: Events that a later window may still need.
        recorded_us: Since when events are recorded.
        look_us: Time of the newest look.
        seen_us: Time of the newest look at which the target made events.
        asked_us: Time of the newest box.
        n: The newest look's window (`window_rule.py`).
        template_n: The template's window.
        near: Events near the target in the newest look's window.
        looks: Windows read by the network so far.
        kernel: The template, `[1, C, k, k]`; None while no window has shown the target. Once it has been read
            from a whole window, it never changes.
        template_due_us: Time from which the template is to be read, or read anew; None when it stays as it is.
        carried: Membranes, when the tracker carries them.
    """

    made_for: dict[str, Any]
    t_init_us: int
    next_t_us: int
    follower: FollowerState
    buffer: EventBuffer
    recorded_us: int
    look_us: int
    seen_us: int
    asked_us: int
    n: int
    template_n: int
    near: int = 0
    looks: int = 0
    kernel: Tensor | None = None
    template_due_us: int | None = None
    carried: CarriedSearch | None = None


#: Of a tracker's state, what is a plain number.
_NUMBERS = (
    "made_for",
    "t_init_us",
    "next_t_us",
    "recorded_us",
    "look_us",
    "seen_us",
    "asked_us",
    "n",
    "template_n",
    "near",
    "looks",
    "template_due_us",
)


def require_fit(
    path: str | os.PathLike[str],
    state: TrackerState,
    made_for: Mapping[str, Any],
    expected: Mapping[str, tuple[int, ...]],
    windows: tuple[int, int],
) -> None:
    """Refuses a state that a tracker cannot go on from.

    Args:
        path: Where it comes from.
        state: The state.
        made_for: The tracker's mode and network.
        expected: Shapes of the `kernel`, and by their names of the tensors of a `SearchState` from rest.
        windows: The shortest and the longest of the tracker's rule.

    Raises:
        InputError: If another student or mode made it.
        CheckpointError: Naming a tensor of another shape, or windows that there are not.
    """
    path = os.fspath(path)
    if names := [name for name in made_for if made_for[name] != state.made_for.get(name)]:
        found = ", ".join(f"{name} {state.made_for.get(name)} (here {made_for[name]})" for name in names)
        raise InputError(f"{path}: state of another tracker: {found}")
    _require_shapes(path, state, expected)
    if not all(windows[0] <= n <= windows[1] for n in (state.n, state.template_n)):
        raise CheckpointError(f"{path}: damaged tracker state (windows {state.n}, {state.template_n})")


def _require_shapes(path: str, state: TrackerState, expected: Mapping[str, tuple[int, ...]]) -> None:
    found = {} if state.kernel is None else {"kernel": tuple(state.kernel.shape)}
    wanted = {name: expected[name] for name in found}
    if state.carried is not None:
        found |= {name: tuple(value.shape) for name, value in state.carried.search.tensors().items()}
        wanted |= expected
        steps = found["readout"][:1]  # as many as there were, up to a window's
        wanted["readout"] = (min(steps, expected["readout"][:1])[0], *expected["readout"][1:])
        if "counts" in found:  # of a micro-step that is under way
            wanted["counts"] = (1, *expected["stem.v"])
    try:
        require_shapes(found, wanted)
    except ValueError as error:
        raise CheckpointError(f"{path}: state of another network ({error})") from error


def save_state(path: str | os.PathLike[str], state: TrackerState) -> Path:
    """Writes a state in one step.

    Args:
        path: `*.safetensors`; an existing file is replaced.
        state: The state.

    Returns:
        The path.
    """
    events = state.buffer.joined()
    tensors = {f"events.{name}": torch.from_numpy(np.array(getattr(events, name), np.int64)) for name in "txyp"}
    following = state.follower
    tensors["first_box"] = torch.from_numpy(following.first_box)
    for name, value in (("kernel", state.kernel), ("activity", following.activity)):
        if value is not None:
            tensors[name] = torch.as_tensor(value)
    follower = {k: v for k, v in vars(following).items() if k not in ("first_box", "activity", "motion")}
    numbers: dict[str, Any] = {name: getattr(state, name) for name in _NUMBERS}
    numbers |= {"last_t": state.buffer.last_t, "follower": follower, "motion": dataclasses.asdict(following.motion)}
    if state.carried is not None:
        carried = state.carried
        times = {"read_us": carried.read_us, "passed": carried.passed}
        numbers["carried"] = {**times, "crop": dataclasses.asdict(carried.crop)}
        tensors |= {f"search.{name}": value for name, value in state.carried.search.tensors().items()}
    with atomic_file(path) as temporary:
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        save_file(plain, str(temporary), metadata={"kind": _KIND, "numbers": json.dumps(numbers)})
    return Path(path)


def load_state(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> TrackerState:
    """Reads what `save_state` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged or something else.
    """
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if metadata.get("kind") != _KIND:
        raise CheckpointError(f"{path}: holds no tracker state; expected a file that OnlineTracker.save wrote")
    require_finite(path, tensors)
    try:
        return _rebuild(json.loads(metadata["numbers"]), tensors)
    # A number of the wrong kind or size fails wherever it is first used.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: damaged tracker state ({first_line(error)})") from error


def _check_numbers(numbers: dict[str, Any]) -> None:
    """Times and counts are whole numbers, the others finite ones.

    Raises:
        ValueError: Naming the first that is not.
    """
    whole = {name: numbers[name] for name in _NUMBERS if name != "made_for"} | {"last_t": numbers["last_t"]}
    optional = ("template_due_us", "last_t")
    for name, value in whole.items():
        if value is None and name in optional:
            continue
        if type(value) is not int or abs(value) >= 1 << 62:
            raise ValueError(f"{name} is {value!r}, expected a whole number")
    for name, value in _numbers_in({name: numbers[name] for name in ("follower", "motion")}):
        if not math.isfinite(value) or abs(value) >= 1 << 62:
            raise ValueError(f"{name} is {value!r}, expected a finite number")
    if min(numbers["looks"], numbers["near"]) < 0 or not numbers["motion"]["window_us"] > 0:
        raise ValueError("a count below 0 or a window of no length")
    if any(abs(side) > 20 for side in numbers["motion"]["log_sides"]):
        raise ValueError(f"sides of exp({numbers['motion']['log_sides']}) pixels")


def _numbers_in(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers_in(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers_in(item, name)
    elif value is not None:
        yield name, float(value)


def _rebuild(numbers: dict[str, Any], tensors: dict[str, Tensor]) -> TrackerState:
    _check_numbers(numbers)
    columns = {name: tensors[f"events.{name}"].cpu().numpy() for name in "txyp"}
    activity = tensors.get("activity")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in numbers["motion"].items()}
    motion = Motion(**fields)
    follower = FollowerState(
        **{**numbers["follower"], "sensor_hw": tuple(numbers["follower"]["sensor_hw"])},
        first_box=tensors["first_box"].cpu().numpy(),
        motion=motion,
        activity=None if activity is None else activity.cpu().numpy(),
    )
    require_shapes({"first_box": follower.first_box.shape}, {"first_box": (4,)})
    buffer = EventBuffer(EventStream.from_arrays(**columns, sensor_hw=follower.sensor_hw))
    buffer.last_t = numbers["last_t"]
    carried = None
    if "carried" in numbers:
        search = {name.removeprefix("search."): v for name, v in tensors.items() if name.startswith("search.")}
        found = numbers["carried"]
        state = SearchState.from_tensors(search)
        carried = CarriedSearch(Crop(**found["crop"]), found["read_us"], found["passed"], state)
    plain = {name: numbers[name] for name in _NUMBERS}
    return TrackerState(**plain, follower=follower, buffer=buffer, kernel=tensors.get("kernel"), carried=carried)
