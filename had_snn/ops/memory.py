"""Output tensors for the CPU kernels, from recycled memory where they are large.

The C allocator gives large blocks back to the operating system and faults them in again page by page, which for outputs
of 100 MB takes several times as long as the neurons themselves. `empty_strided` takes large blocks from a pool instead
(`kernels/host/pool.cpp`): a block returns to it when its tensor dies. At most `HAD_SNN_POOL_MB` megabytes of free
blocks are kept (default: an eighth of the machine's memory; 0 turns the pool off).
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor

from had_snn import native
from had_snn.errors import InputError

MIN_BYTES = 1 << 20  # below this the C allocator recycles by itself
_MAX_DIMS = 16
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>

_DLPACK_KIND = {torch.float32: (2, 32), torch.float16: (2, 16), torch.bfloat16: (4, 16), torch.int64: (0, 64)}
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


@functools.lru_cache(maxsize=1)
def _pool() -> ctypes.CDLL | None:
    asked = os.environ.get("HAD_SNN_POOL_MB")
    try:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8 if asked is None else int(asked) << 20
    except ValueError as error:
        raise InputError(f"HAD_SNN_POOL_MB is {asked!r}; expected a whole number of megabytes") from error
    if limit <= 0:
        return None
    library = native.load_library()
    library.had_pool_tensor.restype = ctypes.c_void_p
    library.had_pool_tensor.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int] * 3, ctypes.c_longlong]
    library.had_pool_set_limit.argtypes = [ctypes.c_longlong]
    library.had_pool_set_limit(limit)
    return library


def empty_strided(shape: Sequence[int], strides: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`torch.empty_strided`, from the pool where the tensor is large and lives on the CPU.

    Args:
        shape: Sizes.
        strides: Strides in elements, dense in some order of the dimensions.
        dtype: Storage type.
        device: Where it lives.

    Returns:
        An uninitialised tensor that begins on a 64-byte line.
    """
    count = math.prod(shape)
    large = count * dtype.itemsize >= MIN_BYTES and device.type == "cpu"
    if not large or dtype not in _DLPACK_KIND or len(shape) > _MAX_DIMS or (pool := _pool()) is None:
        return torch.empty_strided(shape, strides, dtype=dtype, device=device)
    sizes = ctypes.c_longlong * len(shape)
    code, bits = _DLPACK_KIND[dtype]
    managed = pool.had_pool_tensor(sizes(*shape), sizes(*strides), len(shape), code, bits, count * dtype.itemsize)
    if not managed:
        raise MemoryError(f"no memory for a tensor of {count * dtype.itemsize} bytes")
    return torch.from_dlpack(_new_capsule(managed, b"dltensor", None))


def empty(shape: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`torch.empty`, from the pool where the tensor is large and lives on the CPU."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return empty_strided(shape, strides[::-1], dtype=dtype, device=device)


def release() -> None:
    """Gives all free blocks back to the operating system."""
    pool = _pool()
    if pool is not None:
        pool.had_pool_set_limit(0)
        _pool.cache_clear()
        _pool()


def statistics() -> dict[str, int]:
    """Free bytes held, requests met by a recycled block, and requests that needed a new one."""
    pool = _pool()
    if pool is None:
        return {"free_bytes": 0, "recycled": 0, "new": 0}
    out = (ctypes.c_longlong * 3)()
    pool.had_pool_statistics(out)
    return dict(zip(("free_bytes", "recycled", "new"), out, strict=True))


def keep_freed_memory() -> bool:
    """Tells the C allocator to keep freed blocks of up to 32 MB (glibc's largest setting), for training on a CPU.

    What torch's own operators allocate is outside the pool, and faulting it in again at every step costs about as much
    as the convolutions of a small network save. Applies to the process from now on; returns whether it took effect.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False  # another C library
    return bool(mallopt(_M_MMAP_THRESHOLD, 32 << 20)) and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
