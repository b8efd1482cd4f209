"""NPY and NPZ files: structured arrays, matrices with four or more columns, or one array a column."""

from __future__ import annotations

import contextlib
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings.column_names import has_roles, split_name
from had_snn.recordings.columns import SAMPLE, plan_columns, slices
from had_snn.recordings.decoders import Columns
from had_snn.recordings.facts import facts_of_items
from had_snn.recordings.recording import ReadOptions, Source, logger, mend_or_raise

_MOST = 1 << 62  # bytes
#: An array that unpacks to more than this, and to so many times its packed size, is refused.
_LARGE, _MOST_PACKED = 1 << 30, 200
_NUMBERS = "biufmM"  # kinds of dtypes that may be columns


def open_npy(path: Path, options: ReadOptions) -> Source:
    """Opens an NPY file; the array is memory-mapped, not loaded."""
    info: dict = {}
    with path.open("rb") as file:
        shape, fortran, dtype = _npy_header(path, file)
        data_at = file.tell()
    count, there = int(np.prod(shape, dtype=object)), path.stat().st_size - data_at
    if count * dtype.itemsize > there:
        problem = f"the array of shape {shape} needs {count * dtype.itemsize} bytes, {there} are there"
        mend_or_raise(path, info, options, problem, mended="keeps the whole rows", offset=path.stat().st_size)
        if fortran or len(shape) == 0:
            raise FormatError(path, "an array stored by columns cannot be mended", offset=path.stat().st_size)
        row = dtype.itemsize * int(np.prod(shape[1:], dtype=object))
        shape = (there // row if row else 0, *shape[1:])
    order = "F" if fortran else "C"
    empty = int(np.prod(shape, dtype=object)) == 0
    array = np.zeros(shape, dtype) if empty else np.memmap(path, dtype, "r", data_at, shape, order)
    return source_of(path, "npy", {"array": array}, options, info)


def open_npz(path: Path, options: ReadOptions) -> Source:
    """Opens an NPZ archive of one array a column (`t`, `x`, `y`, `p` under common names) or one array of all.

    Columns of a name each are read piece by piece, so that an archive larger than memory can be read too.
    """
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(zipfile.ZipFile(path))
            arrays = _members(path, archive, stack)
        except FormatError:
            raise
        except Exception as error:  # damaged archives raise nearly anything: BadZipFile, zlib.error, ...
            raise FormatError(path, f"damaged NPZ archive: {error}", offset=path.stat().st_size) from error
        source = source_of(path, "npz", arrays, options, {})
        source.chunks = _closing(stack.pop_all(), source.chunks)
        return source


def _closing(files: contextlib.ExitStack, chunks: Iterable[Columns]) -> Iterator[Columns]:
    with files:
        yield from chunks


def _members(path: Path, archive: zipfile.ZipFile, stack: contextlib.ExitStack) -> dict[str, Any]:
    """The arrays of an archive by name; columns are left to be read in pieces."""
    arrays: dict[str, Any] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        with contextlib.suppress(_Skip):
            column = _Column(path, archive, member, needed=split_name(name).role is not None)
            stack.callback(column.close)
            arrays[name] = column if len(column.shape) == 1 and split_name(name).role else column.whole()
    if not has_roles(arrays):
        arrays = {name: a.whole() if isinstance(a, _Column) else a for name, a in arrays.items()}
    return arrays


class _Column:
    """A one-dimensional array in an archive, read from its begin to its end in slices."""

    ndim = 1

    def __init__(self, path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, needed: bool) -> None:
        self.path, self._archive, self._member, self._needed = path, archive, member, needed
        if member.file_size > max(_LARGE, _MOST_PACKED * member.compress_size):
            problem = f"{member.filename} unpacks from {member.compress_size} to {member.file_size} bytes"
            raise FormatError(path, f"{problem}: a decompression bomb", remedy="events never pack so well")
        self._file, self._at = self._open(), 0
        self.size = int(np.prod(self.shape, dtype=object))
        if self.dtype.kind not in _NUMBERS + "SU" and self.dtype.names is None:  # words may state a unit
            raise _Skip
        if self.size * self.dtype.itemsize > member.file_size:
            need = self.size * self.dtype.itemsize
            raise FormatError(path, f"damaged NPZ archive: {need} bytes announced, {member.file_size} stored")

    def _open(self) -> IO[bytes]:
        with self._archive.open(self._member) as file:
            if file.read(6) != np.lib.format.MAGIC_PREFIX:
                raise _Skip
        file = self._archive.open(self._member)
        try:
            self.shape, self._fortran, self.dtype = _npy_header(self.path, file)
        except _Objects:
            if self._needed:
                raise
            logger.warning(
                "%s: %s holds Python objects, which are never loaded; left out", self.path, self._member.filename
            )
            raise _Skip from None
        return file

    def close(self) -> None:
        """Closes the member; the archive stays open as long as one of them is."""
        self._file.close()

    def __len__(self) -> int:
        return self.size

    def reshape(self, *_: int) -> _Column:
        """Itself: it is flat."""
        return self

    def __getitem__(self, cut: slice) -> np.ndarray:
        start, stop, _ = cut.indices(self.size)
        try:
            if start < self._at:
                self._file.close()
                self._file, self._at = self._open(), 0
            if start > self._at:
                self._read(start - self._at)
            return self._read(stop - start)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
            problem = f"damaged NPZ archive: {error}"
            raise FormatError(self.path, problem, offset=self.path.stat().st_size) from error

    def _read(self, count: int) -> np.ndarray:
        data = self._file.read(count * self.dtype.itemsize)
        if len(data) != count * self.dtype.itemsize:
            raise EOFError(f"{self._member.filename} ends early")
        self._at += count
        return np.frombuffer(data, self.dtype)

    def whole(self) -> np.ndarray:
        """All of it, in the shape that its header tells."""
        return self[:].reshape(self.shape, order="F" if self._fortran else "C")


class _Skip(Exception):
    """A member that is no array of numbers or words."""


class _Objects(FormatError):
    """An array of Python objects."""


def _npy_header(path: Path, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=20_000)
        if version == (3, 0) and dtype.names:  # the same but for names in UTF-8
            dtype.names = tuple(name.encode("latin-1").decode() for name in dtype.names)
    except Exception as error:  # the header is Python text, parsing it can raise nearly anything
        raise FormatError(path, f"damaged NPY header: {str(error).splitlines()[0]}", offset=0) from error
    if dtype.hasobject:
        raise _Objects(path, "holds Python objects, which are never loaded; expected numbers")
    # NumPy cannot hold a shape whose size overflows, not even where another side is 0.
    whole = all(isinstance(n, int) and n >= 0 for n in shape)
    if not whole or math.prod(n or 1 for n in shape) * dtype.itemsize > _MOST:
        raise FormatError(path, f"damaged NPY header: shape {shape}", offset=0)
    return shape, fortran, dtype


def source_of(path: Path, kind: str, arrays: Mapping[str, Any], options: ReadOptions, info: dict) -> Source:
    """Finds the events among named arrays."""
    columns, names = _pick(path, arrays)
    lengths = {len(c) for c in columns}
    if len(lengths) != 1:
        raise FormatError(path, f"columns of different lengths: {sorted(lengths)}")
    for i, column in enumerate(columns):
        if column.dtype.kind not in _NUMBERS:
            raise FormatError(path, f"column {names[i] if names else i} holds {column.dtype}; expected numbers")
    sample = [np.asarray(c[:SAMPLE]) for c in columns]
    facts = facts_of_items(path, {n: a for n, a in arrays.items() if not split_name(n).role and a.size <= 3}, options)
    plan = plan_columns(path, sample, options, facts, total=len(columns[0]), names=names)
    source = plan.source(kind, len(columns), facts, options, named="sensor_hw" in arrays)
    source.info |= info
    if names:
        source.info["names"] = list(names)
    source.most = len(columns[0])
    source.chunks = slices(path, columns, plan, source)
    return source


def _pick(path: Path, arrays: Mapping[str, Any]) -> tuple[list[Any], list[str] | None]:
    """The columns, and their names if there are any."""
    structured = [a for a in arrays.values() if a.dtype.names and has_roles(a.dtype.names)]
    if structured:
        flat = structured[0].reshape(-1)
        names = [n for n in flat.dtype.names or () if flat.dtype[n].kind in _NUMBERS or split_name(n).role]
        return [flat[name] for name in names], names
    if has_roles(arrays):
        named = {n: a.reshape(-1) for n, a in arrays.items() if split_name(n).role}
        return list(named.values()), list(named)
    matrices = [a for a in arrays.values() if a.ndim == 2 and a.size and a.dtype.kind in "biuf"]
    if matrices:
        matrix = max(matrices, key=lambda a: a.size)
        if 4 <= matrix.shape[0] <= 6 and matrix.shape[0] < matrix.shape[1]:  # a row for each of t, x, y, p
            matrix = matrix.T
        if 3 <= matrix.shape[1] <= 16:
            return [matrix[:, i] for i in range(matrix.shape[1])], None
    empty = [a for a in arrays.values() if a.ndim == 2 and a.shape[0] == 0 and 3 <= a.shape[1] <= 16]
    if empty:
        return [empty[0][:, i] for i in range(empty[0].shape[1])], None
    found = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in list(arrays.items())[:8]) or "nothing"
    raise FormatError(path, f"no events: found {found}; expected columns t, x, y, p or a matrix with one event a row")
