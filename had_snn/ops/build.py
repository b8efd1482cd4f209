"""Finds, loads and launches the kernels: the CPU library through ctypes, the GPU text through CuPy.

The CPU library is built with the package (see `CMakeLists.txt`) and holds each loop for several vector widths; the one
that this processor can run is chosen once. The GPU text is compiled by NVRTC at first use and cached by CuPy on disk.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from had_snn import native
from had_snn.errors import HadError, InputError, optional_import
from had_snn.native import Parameters

logger = logging.getLogger("had_snn")

WIDTHS = ("base", "avx2", "avx512")  # by the number that had_cpu_level returns
STORAGE = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
BACKENDS = ("auto", "native", "cupy", "ref")

_announced: set[tuple[str, str]] = set()


class KernelError(HadError, RuntimeError):
    """The kernels cannot be loaded, compiled or launched."""


@functools.lru_cache(maxsize=1)
def native_width() -> str:
    """Vector width in use: the widest that the processor runs, or what `HAD_SNN_WIDTH` names.

    Raises:
        KernelError: If `HAD_SNN_WIDTH` names a width that is unknown or beyond this processor.
    """
    level = native.bind("had_cpu_level")()
    wanted = os.environ.get("HAD_SNN_WIDTH")
    if wanted is None:
        return WIDTHS[level]
    if wanted not in WIDTHS[: level + 1]:
        raise KernelError(f"HAD_SNN_WIDTH={wanted}: this processor runs {', '.join(WIDTHS[: level + 1])}")
    return wanted


def bind(name: str, *arguments: type[Any], storage: torch.dtype | None = None, **options: Any) -> Callable[..., Any]:
    """`native.bind` for a kernel that exists for several vector widths, and perhaps for several storage types."""
    kind = "" if storage is None else f"_{STORAGE[storage]}"
    return native.bind(f"had_{name}_{native_width()}{kind}", *arguments, **options)


def addresses(**tensors: Tensor | None) -> dict[str, int | None]:
    """Pointers of a `Parameters`: the address of each tensor's first element, None for None."""
    return {name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()}


def refuse_unless(good: Tensor, values: Tensor, name: str, *, expected: str = "a positive number") -> None:
    """Raises `InputError` for the first value that is not good."""
    if not bool(good.all()):
        first = int((~good.reshape(-1)).nonzero()[0])
        raise InputError(f"{name} {first} is {float(values.reshape(-1)[first])}; expected {expected}")


def threads_for(work: int) -> int:
    """Threads for `work` neuron-steps or entry-channels: one where waking the others costs more than they save."""
    return 1 if work < 1 << 17 else torch.get_num_threads()


def _native_ready() -> str | None:
    try:
        native_width()
    except HadError as error:
        return str(error)
    return None


def _cupy_ready() -> str | None:
    try:
        cupy = optional_import("cupy", extra="cuda")
    except HadError as error:
        return str(error)
    return None if cupy.cuda.is_available() else "CuPy sees no CUDA device"


@torch.compiler.assume_constant_result
def choose_backend(asked: str, device_type: str, dtype: torch.dtype) -> str:
    """Decides which implementation runs; `"auto"` logs once what it took, any other choice is met or refused.

    Args:
        asked: One of `BACKENDS`.
        device_type: Device type of the tensors, `"cpu"` or `"cuda"`.
        dtype: Storage type of the input.

    Returns:
        `"native"`, `"cupy"` or `"ref"`.

    Raises:
        InputError: If the name is unknown, or the choice does not fit device or dtype.
        KernelError: If the chosen implementation is not installed.
    """
    if asked not in BACKENDS:
        raise InputError(f"backend {asked!r} is unknown; expected one of {', '.join(BACKENDS)}")
    if asked == "ref":
        return "ref"
    fitting = {"cpu": "native", "cuda": "cupy"}.get(device_type)
    if asked != "auto" and asked != fitting:
        raise InputError(f"backend {asked!r} does not run on {device_type} tensors; use {fitting or 'ref'!r} or 'auto'")
    if fitting is None:
        problem: str | None = f"there are no kernels for {device_type} tensors"
    elif dtype not in STORAGE:
        problem = f"the kernels store float32, float16 or bfloat16, not {str(dtype).removeprefix('torch.')}"
    else:
        problem = _native_ready() if fitting == "native" else _cupy_ready()
    if problem is None:
        assert fitting is not None
        _announce(fitting, f"spiking kernels on {device_type}: {fitting}", logging.INFO)
        return fitting
    if asked != "auto":
        raise (InputError if fitting is None or dtype not in STORAGE else KernelError)(problem)
    _announce("ref", f"spiking kernels on {device_type}: the slow torch reference, because {problem}", logging.WARNING)
    return "ref"


def _announce(taken: str, message: str, level: int) -> None:
    if (taken, message) not in _announced:
        _announced.add((taken, message))
        logger.log(level, message)


def neuron_folder() -> Path:
    """Folder of the text that a GPU runs."""
    return native.kernel_folder() / "neuron"


def cupy_options(defines: Sequence[str] = ()) -> tuple[str, ...]:
    """Compiler options of the GPU build: no contraction, so that a GPU decides every spike as a CPU does."""
    return ("--std=c++17", "--fmad=false", f"-I{neuron_folder()}", *(f"-D{define}" for define in defines))


@functools.lru_cache(maxsize=64)
def _cupy_kernel(file: str, name: str, storage: str, device: int) -> Any:
    cupy = optional_import("cupy", extra="cuda")
    text = (neuron_folder() / file).read_text(encoding="utf-8")
    # CuPy caches by the text it is given, which does not hold the included files; their digest does it for them.
    included = "".join(path.read_text(encoding="utf-8") for path in sorted(neuron_folder().glob("*.cuh")))
    key = f"// {digest_of(included)}\n"
    with cupy.cuda.Device(device):
        module = cupy.RawModule(code=key + text, options=cupy_options([f"HAD_STORAGE_{storage.upper()}"]))
        return module.get_function(name)


def digest_of(text: str) -> str:
    """Short digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def launch_cupy(
    file: str, name: str, parameters: Parameters, *, threads: int, device: torch.device, storage: torch.dtype
) -> None:
    """Launches a GPU kernel on torch's current stream of `device`.

    Args:
        file: File in `kernels/neuron/`.
        name: The kernel, without `had_`.
        parameters: What it is given.
        threads: Number of work items; the grid is capped and the kernels stride over the rest.
        device: Where the tensors live.
        storage: What they hold.
    """
    cupy = optional_import("cupy", extra="cuda")
    index = device.index if device.index is not None else torch.cuda.current_device()
    kernel = _cupy_kernel(file, f"had_{name}", STORAGE[storage], index)
    block = 256
    grid = max(1, min((threads + block - 1) // block, 1 << 20))
    with cupy.cuda.Device(index), _cupy_stream(cupy, torch.cuda.current_stream(index).cuda_stream, index):
        kernel((grid,), (block,), (by_value(parameters),))


def by_value(parameters: Parameters) -> np.ndarray:
    """The struct as CuPy passes one by value: a NumPy array of one element, the struct's own bytes.

    Source: "Custom user types" of docs.cupy.dev/en/stable/user_guide/kernel.html.
    """
    return np.frombuffer(memoryview(parameters), dtype=np.dtype((np.void, ctypes.sizeof(parameters))))


class _Handle:
    """A stream by its handle, as the CUDA stream protocol wants it; torch's own streams have it only lately."""

    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def _cupy_stream(cupy: Any, handle: int, index: int) -> Any:
    """CuPy's view of a stream of torch; CuPy 14 has another way to make one than those before."""
    if handle == 0:
        return cupy.cuda.Stream.null
    if hasattr(cupy.cuda.Stream, "from_external"):
        return cupy.cuda.Stream.from_external(_Handle(handle))
    return cupy.cuda.ExternalStream(handle, index)
