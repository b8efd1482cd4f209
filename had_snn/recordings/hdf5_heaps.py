"""Words in HDF5 files: strings of any length lie in global heaps, whose damage the C library does not notice.

Layout: "HDF5 File Format Specification", III.E, Global Heap. libhdf5 (as of 2.0) steps from object to object by the
sizes that stand there, and steps on one spot for ever where a free object says that it is 0 bytes long.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from had_snn.errors import FormatError, optional_import

_SIGN = b"GCOL\1\0\0\0"  # with the only version there is
_HEAD = 16  # bytes before the first object, and before the content of each


def open_checked(path: Path) -> Any:
    """Opens a file so that its heaps are checked as they are read, at some cost of speed.

    Args:
        path: The file.

    Returns:
        An `h5py.File`; its reads raise `FormatError` where a heap is damaged.
    """
    raw = _CheckedHeaps(path)
    file = optional_import("h5py", extra="data").File(raw, "r")
    raw.width = file.id.get_create_plist().get_sizes()[1]
    return file


class _CheckedHeaps(io.FileIO):
    """A file that checks each global heap on its way to the library."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "r")
        self.path = path
        self.width = 8  # of lengths in the file, in bytes

    def __del__(self) -> None:
        self.close()  # with the last object of the file, as h5py closes files

    def readinto(self, buffer: Any) -> int | None:
        at = max(self.tell() - len(_SIGN) + 1, 0)
        count = super().readinto(buffer)
        seen = os.pread(self.fileno(), self.tell() + len(_SIGN) - 1 - at, at)
        found = seen.find(_SIGN)
        while found >= 0:
            self._check(at + found)
            found = seen.find(_SIGN, found + 1)
        return count

    def _check(self, start: int) -> None:
        head = os.pread(self.fileno(), _HEAD, start)
        heap = os.pread(self.fileno(), min(self._length(head), os.fstat(self.fileno()).st_size), start)
        at = _HEAD
        while at + _HEAD <= len(heap):
            length = self._length(heap[at : at + _HEAD])
            # A free object, of number 0, counts its own head; the others are padded to 8 bytes.
            step = _HEAD + (length + 7) // 8 * 8 if any(heap[at : at + 2]) else length
            if not 0 < step <= len(heap) - at:
                problem = "damaged HDF5 file: a global heap whose sizes do not add up"
                raise FormatError(self.path, problem, offset=start + at)
            at += step

    def _length(self, head: bytes) -> int:
        return int.from_bytes(head[8 : 8 + self.width], "little")
