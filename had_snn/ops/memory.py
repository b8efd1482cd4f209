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
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.native import INT32, INT64, POINTER, Parameters, bind, fields

MIN_BYTES = 1 << 20  # below this the C allocator recycles by itself
_MAX_DIMS = 16
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>

_DLPACK_KIND = {torch.float32: (2, 32), torch.float16: (2, 16), torch.bfloat16: (4, 16), torch.int64: (0, 64)}
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class PoolTensor(Parameters):
    """`PoolTensor` of `kernels/host/pool.cpp`."""

    _fields_ = (
        *((name, INT64 * _MAX_DIMS) for name in ("shape", "strides")),
        *fields(INT64, "bytes"),
        *fields(INT32, "ndim", "code", "bits"),
    )


class PoolStatistics(Parameters):
    """`PoolStatistics` of `kernels/host/pool.cpp`."""

    _fields_ = (*fields(INT64, "free_bytes", "recycled", "fresh"),)


@functools.lru_cache(maxsize=1)
def _pool() -> Callable[[PoolTensor], int | None] | None:
    """What gives a tensor out of the pool, or None where the pool is off."""
    asked = os.environ.get("HAD_SNN_POOL_MB")
    try:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8 if asked is None else int(asked) << 20
    except ValueError as error:
        raise InputError(f"HAD_SNN_POOL_MB is {asked!r}; expected a whole number of megabytes") from error
    if limit <= 0:
        return None
    _keep(limit)
    return bind("had_pool_tensor", PoolTensor, returns=POINTER)


def _keep(limit: int) -> None:
    """Frees what lies beyond `limit` bytes of free blocks, now and from now on."""
    bind("had_pool_set_limit", INT64, returns=None)(limit)


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
    code, bits = _DLPACK_KIND[dtype]
    size = count * dtype.itemsize
    asked = PoolTensor(shape=tuple(shape), strides=tuple(strides), bytes=size, ndim=len(shape), code=code, bits=bits)
    managed = pool(asked)
    if not managed:
        raise MemoryError(f"no memory for a tensor of {size} bytes")
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
    if _pool() is not None:
        _keep(0)
        _pool.cache_clear()
        _pool()


def statistics() -> dict[str, int]:
    """Free bytes held, requests met by a recycled block, and requests that needed a new one."""
    found = PoolStatistics()
    if _pool() is not None:
        bind("had_pool_statistics", PoolStatistics, returns=None)(found)
    return {"free_bytes": found.free_bytes, "recycled": found.recycled, "new": found.fresh}


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
