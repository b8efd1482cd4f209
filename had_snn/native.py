"""Finds, loads and binds the compiled kernels: the only way from Python to them.

`kernels/` is compiled for the host when the package is built, into one shared library that lies at
`had_snn/ops/_native/` of the installed package. With an editable install the Python files stay in the repository while
the library is in site-packages, so every place that `had_snn` is imported from is searched.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import had_snn
from had_snn.errors import HadError

ENVIRONMENT_OVERRIDE = "HAD_SNN_LIBRARY"
#: Types that a kernel is given: an address, `had_i64`, `int`, `float`, `double`.
POINTER, INT64, INT32 = ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int
FLOAT32, FLOAT64 = ctypes.c_float, ctypes.c_double
_STEM = "libhad_snn"
_CHECKOUT = Path(had_snn.__path__[0]).resolve().parent / "kernels"  # may be another package's, or not there
_SUFFIXES = (".cu", ".cuh", ".cpp", ".hpp")


class NativeLibraryError(HadError):
    """The compiled kernels are missing, or the file found is not a library of this machine."""


def _suffix() -> str:
    return {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


def candidate_paths() -> list[Path]:
    """Every place where the library may lie, in the order of search; an override by environment stands alone."""
    override = os.environ.get(ENVIRONMENT_OVERRIDE)
    if override:
        return [Path(override)]
    roots = [Path(p) for p in had_snn.__path__]
    roots += [Path(sysconfig.get_path(scheme)) / "had_snn" for scheme in ("platlib", "purelib")]
    found: dict[Path, None] = dict.fromkeys(root / "ops" / "_native" / f"{_STEM}{_suffix()}" for root in roots)
    return list(found)


def library_path() -> Path:
    """Path of the compiled kernels.

    Raises:
        NativeLibraryError: If there is none; the message holds the command that builds it.
    """
    candidates = candidate_paths()
    for path in candidates:
        if path.is_file():
            return path
    looked = ", ".join(str(p) for p in candidates)
    raise NativeLibraryError(
        f"the compiled kernels were not found (looked for {looked}); build them with: pip install -e . "
        f"(or point {ENVIRONMENT_OVERRIDE} to {_STEM}{_suffix()})"
    )


def kernel_folder() -> Path:
    """Folder of the kernels' text: the checkout's `kernels/`, or its part `neuron/` inside an installed wheel."""
    return _CHECKOUT if _in_checkout() else library_path().parent / "kernels"


def _in_checkout() -> bool:
    return (_CHECKOUT / "neuron" / "prelude.cuh").is_file()


def digest_of_kernels(folder: Path) -> str:
    """Digest of the kernels' text, as `CMakeLists.txt` puts it into the library."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*") if path.suffix in _SUFFIXES)
    digests = "".join(hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files)
    return hashlib.sha256(digests.encode()).hexdigest()


@functools.lru_cache(maxsize=8)
def _load(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeLibraryError(f"{path} cannot be loaded ({error}); rebuild it with: pip install -e .") from error
    if ENVIRONMENT_OVERRIDE not in os.environ and _in_checkout():
        _check_digest(library, path, _CHECKOUT)
    return library


def _check_digest(library: ctypes.CDLL, path: Path, kernels: Path) -> None:
    """Calling functions whose arguments have changed would end the process without a word."""
    function = getattr(library, "had_digest", None)
    if function is not None:
        function.restype = ctypes.c_char_p
    if function is None or function().decode() != digest_of_kernels(kernels):
        message = f"{path} was built from other kernels than {kernels}; rebuild it with: pip install -e ."
        raise NativeLibraryError(message)


def load_library() -> ctypes.CDLL:
    """The compiled kernels, loaded once per process; calls into it release the interpreter lock.

    Raises:
        NativeLibraryError: If the library is missing or cannot be loaded.
    """
    return _load(library_path())


class Parameters(ctypes.Structure):
    """What one kernel is given: the C struct of the same name, field by field.

    A pointer is the address of a tensor's or array's first element, which the caller keeps alive during the call; None
    stands for what is not there.
    """


def fields(kind: type[Any], *names: str) -> list[tuple[str, type[Any]]]:
    """Neighbouring fields of one type, for the `_fields_` of a `Parameters`."""
    return [(name, kind) for name in names]


@functools.lru_cache(maxsize=64)
def bind(name: str, *arguments: type[Any], returns: type[Any] | None = INT64) -> Callable[..., Any]:
    """A function of the compiled kernels. It releases the interpreter lock while it runs.

    Args:
        name: Full symbol name.
        arguments: ctypes type of each argument; a `Parameters` travels by its address.
        returns: ctypes type of the result, or None.

    Raises:
        NativeLibraryError: If the library cannot be loaded, or is older than the Python files and lacks the function.
    """
    library = load_library()
    try:
        function = library[name]
    except AttributeError as error:
        message = (
            f"{library._name} has no function {name}: it is older than this package; rebuild with: pip install -e ."
        )
        raise NativeLibraryError(message) from error
    function.argtypes = [ctypes.POINTER(kind) if issubclass(kind, Parameters) else kind for kind in arguments]
    function.restype = returns
    return function
