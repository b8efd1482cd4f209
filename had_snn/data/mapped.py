"""Arrays on disk that cost memory only where they are read, and no open file each.

`numpy.memmap` keeps a file descriptor for as long as the array lives. A split of 400 sequences has 2,000 arrays, and
most systems allow a process 1,024 open files. torch's mapping closes the file once it is mapped.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch


def mapped_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """A `.npy` file as a read-only array whose pages are read when they are used.

    Args:
        path: The file, written by `numpy.save` (without pickled objects).

    Returns:
        The array; no file stays open.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no `.npy` file, holds pickled objects or is shorter than it says.
    """
    path = Path(path)
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f".npy version {version} is unknown; expected 1.0 or 2.0")
        shape, fortran, dtype = read_header[version](file)
        begin, size = file.tell(), os.fstat(file.fileno()).st_size
    if dtype.hasobject:
        raise ValueError("holds pickled objects")
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size - begin < wanted:
        raise ValueError(f"the array of shape {shape} needs {wanted} bytes, {size - begin} are there")
    if wanted == 0:
        array = np.zeros(shape, dtype)
    else:
        # Not shared: a private mapping needs no right to write.
        data = torch.from_file(os.fspath(path), shared=False, size=begin + wanted, dtype=torch.uint8).numpy()[begin:]
        array = data.view(dtype).reshape(shape, order="F" if fortran else "C")
    array.flags.writeable = False
    return array
