"""MATLAB files of version 5 to 7.2: a struct with fields like `x y ts p`, a matrix, or one variable a column.

The parts of the format that hold numbers are read here (https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf):
SciPy's reader, the usual one, crashes the interpreter on damaged files. Version 7.3 is HDF5 and read as such.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from had_snn.errors import FormatError
from had_snn.recordings.arrays import source_of
from had_snn.recordings.column_names import has_roles, split_name
from had_snn.recordings.recording import ReadOptions, Source, pick

HEADER = 128
MATRIX, COMPRESSED = 14, 15
STRUCT, WORDS, NUMERIC = 2, 4, range(6, 16)
DTYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1"}
DEEPEST = 4


class _Broken(Exception):
    """An element that does not hold what its tag says."""


@dataclass
class _Variable:
    """A matrix `[rows, columns]` of numbers, one word, or the fields of a 1 x 1 struct."""

    name: str
    matrix: np.ndarray | None = None
    fields: dict[str, np.ndarray] | None = None


def open_mat(path: Path, options: ReadOptions) -> Source:
    """Opens a MATLAB file.

    Args:
        path: The file.
        options: `stream` names the struct where several look like events; `TD` is the default where there is one.

    Returns:
        The source.

    Raises:
        FormatError: If the file is damaged or holds no events.
    """
    data = path.read_bytes()
    if len(data) < HEADER or data[126:128] not in (b"IM", b"MI"):
        raise FormatError(path, "damaged MATLAB file: no byte order in its header", offset=min(len(data), 126))
    order = "<" if data[126:128] == b"IM" else ">"
    matrices: dict[str, np.ndarray] = {}
    structs: dict[str, dict[str, np.ndarray]] = {}
    at = HEADER
    try:
        while at < len(data):
            variable, after = _variable(memoryview(data), at, order)
            if variable.matrix is not None:
                matrices[variable.name] = variable.matrix
            elif variable.fields is not None and has_roles(variable.fields):
                structs[variable.name] = variable.fields
            at = after
    except (_Broken, zlib.error) as error:
        raise FormatError(path, f"damaged MATLAB file: {error}", offset=at) from error
    if not structs and not matrices:
        raise FormatError(path, "no events: the file holds no variables of numbers", offset=len(data))
    if not structs:
        return source_of(path, "mat", matrices, options, {})
    # ATIS files hold grey-level events (EM) beside the change events (TD).
    wanted = pick(path, sorted(structs, key=lambda name: name != "TD"), options.stream, "in struct")
    facts = {name: matrix for name, matrix in matrices.items() if matrix.size <= 3 and not split_name(name).role}
    return source_of(path, "mat", {**facts, **structs[wanted]}, options, {"stream": wanted})


def _variable(data: memoryview, at: int, order: str) -> tuple[_Variable, int]:
    """The variable whose element begins at `at`, and where the next one begins."""
    kind, body, after = _element(data, at, order)
    if kind == COMPRESSED:
        unpacked = zlib.decompressobj()
        # Ask for no more than the matrix inside says it holds.
        head = unpacked.decompress(body, 8)
        if len(head) < 8:
            raise _Broken("a compressed variable ends early")
        size = int(np.frombuffer(head, f"{order}u4", 1, 4)[0])
        rest = unpacked.decompress(unpacked.unconsumed_tail, size) if size else b""
        kind, body, _ = _element(memoryview(head + rest), 0, order)
    return (_matrix(body, order, 0) if kind == MATRIX and len(body) else _Variable("")), after


def _element(data: memoryview, at: int, order: str) -> tuple[int, memoryview, int]:
    """Type and content of the element at `at`, and where the next one begins."""
    if at + 8 > len(data):
        raise _Broken("a tag ends early")
    kind, size = (int(v) for v in np.frombuffer(data, f"{order}u4", 2, at))
    if kind >> 16:  # up to four bytes stand in the tag itself
        kind, size = kind & 0xFFFF, kind >> 16
        if size > 4:
            raise _Broken(f"a short element of {size} bytes")
        return kind, data[at + 4 : at + 4 + size], at + 8
    end = at + 8 + size
    if end > len(data):
        raise _Broken(f"an element of {size} bytes, {len(data) - at - 8} are there")
    return kind, data[at + 8 : end], end if kind == COMPRESSED else end + -size % 8


def _numbers(kind: int, body: memoryview, order: str) -> np.ndarray:
    if kind not in DTYPES:
        raise _Broken(f"numbers of unknown type {kind}")
    dtype = np.dtype(order + DTYPES[kind])
    if len(body) % dtype.itemsize:
        raise _Broken(f"{len(body)} bytes of {dtype.itemsize}-byte numbers")
    return np.frombuffer(body, dtype)


def _whole_numbers(kind: int, body: memoryview, order: str) -> np.ndarray:
    """Flags, sizes and lengths, which the format writes as integers."""
    numbers = _numbers(kind, body, order)
    if numbers.dtype.kind not in "iu":
        raise _Broken(f"flags, sizes or lengths as {numbers.dtype}")
    return numbers


def _matrix(data: memoryview, order: str, depth: int) -> _Variable:
    """A matrix element: flags, sizes, name, then numbers or fields."""
    kind, body, at = _element(data, 0, order)
    flags = _whole_numbers(kind, body, order)
    kind, body, at = _element(data, at, order)
    shape = [int(v) for v in _whole_numbers(kind, body, order)]
    kind, body, at = _element(data, at, order)
    variable = _Variable(bytes(body).decode("latin-1"))
    if len(flags) == 0 or len(shape) < 2 or min(shape) < 0:
        raise _Broken("a matrix without a class or with impossible sizes")
    content = int(flags[0]) & 0xFF
    if content in NUMERIC:
        kind, body, _ = _element(data, at, order)
        numbers = _numbers(kind, body, order)
        if len(numbers) != int(np.prod(shape, dtype=object)):
            raise _Broken(f"{len(numbers)} numbers in a matrix of {shape}")
        variable.matrix = numbers.reshape(shape, order="F")
    elif content == WORDS and shape[0] == 1:
        kind, body, _ = _element(data, at, order)
        variable.matrix = np.array("".join(map(chr, _whole_numbers(kind, body, order))))
    elif content == STRUCT and shape == [1, 1] and depth < DEEPEST:
        variable.fields = _fields(data, at, order, depth)
    return variable


def _fields(data: memoryview, at: int, order: str, depth: int) -> dict[str, np.ndarray]:
    """The numeric fields of a 1 x 1 struct, flat."""
    kind, body, at = _element(data, at, order)
    lengths = _whole_numbers(kind, body, order)
    kind, body, at = _element(data, at, order)
    length = int(lengths[0]) if len(lengths) else 0
    if not 0 < length <= 64:
        raise _Broken(f"field names of {length} bytes")
    names = [bytes(body[i : i + length]).split(b"\0")[0].decode("latin-1") for i in range(0, len(body), length)]
    fields: dict[str, np.ndarray] = {}
    for name in names:
        _, body, at = _element(data, at, order)
        found = _matrix(body, order, depth + 1).matrix if len(body) else None
        if found is not None:
            fields[name] = found.reshape(-1, order="F")
    return fields
