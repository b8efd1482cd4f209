"""HDF5 files may point to other files and announce more than they hold; such files are refused before anything is read.

External links, external storage and virtual data sets ("HDF5 File Format Specification", IV.A.2) make a library open
whatever path stands in a file. A data set of any shape costs a file nothing as long as no chunk of it is written, and a
chunk that is packed well may unpack to gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from had_snn.errors import FormatError, optional_import

MOST_OBJECTS = 10_000
#: Bytes that a file may announce for each of its own (deflate packs 1032 to 1 at best), and that any file may.
MOST_PACKED, SLACK = 1100, 1 << 28
LARGEST_CHUNK = 1 << 30


def open_contained(path: Path) -> Any:
    """Opens a file that keeps to itself.

    Args:
        path: The file.

    Returns:
        An `h5py.File`, for reading.

    Raises:
        FormatError: If something in it lies in another file, or it announces more than it can hold.
        OSError: If it is no HDF5 file.
    """
    h5py = optional_import("h5py", extra="data")
    file = h5py.File(path, "r")
    announced = 0
    for name, dataset in _datasets(path, file, h5py):
        if dataset.external:
            raise FormatError(
                path, f"the data of {name} lie in another file ({dataset.external[0][0]}), which is not read"
            )
        if dataset.is_virtual:
            raise FormatError(path, f"{name} is put together of other files, which are not read", remedy=_REMEDY)
        chunk = dataset.dtype.itemsize
        for side in dataset.chunks or (0,):
            chunk *= side
        if chunk > LARGEST_CHUNK:
            raise FormatError(
                path, f"{name} unpacks to {chunk >> 20} MB at a time; expected at most {LARGEST_CHUNK >> 20}"
            )
        announced += dataset.nbytes if dataset.shape is not None else 0
        if announced > MOST_PACKED * path.stat().st_size + SLACK:
            held = f"{announced >> 20} MB of data announced by a file of {path.stat().st_size} bytes"
            raise FormatError(path, f"{held}, with {name} of shape {dataset.shape}: more than it can hold")
    return file


_REMEDY = "copy the data into one file: h5repack, or h5py's Dataset[...]"


def _datasets(path: Path, file: Any, h5py: Any) -> Iterator[tuple[str, Any]]:
    """All data sets, each once; no link out of the file is followed."""
    seen, groups, objects = set(), [file], 0
    while groups:
        group = groups.pop()
        for name in group:
            objects += 1
            if objects > MOST_OBJECTS:
                return
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                told = f"{group.name.rstrip('/')}/{name} is a link to another file ({link.filename}), which is not read"
                raise FormatError(path, told, remedy=_REMEDY)
            if not isinstance(link, h5py.HardLink):
                continue
            item = group[name]
            at = h5py.h5o.get_info(item.id).addr
            if at in seen:
                continue
            seen.add(at)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                yield item.name, item
