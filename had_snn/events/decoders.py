"""The compiled inner loops of the readers (`kernels/host/readers.cpp`, `kernels/host/text.cpp`) for NumPy arrays.

They write events into arrays that the caller provides (a `Room`), so that a whole recording is decoded straight into
the arrays that it is returned in.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from had_snn.native import load_library, native_function

KINDS = ("evt2", "evt21", "evt3", "dat", "aedat", "es", "nmnist")  # the order of kDecoders in readers.cpp
DTYPES = {"t": np.dtype(np.int64), "x": np.dtype(np.uint16), "y": np.dtype(np.uint16), "p": np.dtype(np.int8)}
TEXT_BAD_LINE, TEXT_TOO_LARGE = 1, 2
_STATE = 8
_ROLES = {"t": 0, "x": 1, "y": 2, "p": 3}


class Columns(NamedTuple):
    """A piece of a file: `t` int64 microseconds, `x`, `y`, `p` any integers, as the file numbers them."""

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray

    def cut(self, stop: int) -> Columns:
        """The first `stop` events, as views."""
        return Columns(self.t[:stop], self.x[:stop], self.y[:stop], self.p[:stop])


Room = Callable[[int], Columns]  # arrays of `DTYPES` for at least so many events


def fresh(count: int) -> Columns:
    """Room in new arrays."""
    return Columns(*(np.empty(count, dtype) for dtype in DTYPES.values()))


class Scratch:
    """Room in arrays that are used again: what was written before is lost."""

    def __init__(self) -> None:
        self._arrays = fresh(0)

    def __call__(self, count: int) -> Columns:
        """Room for at least `count` events."""
        if len(self._arrays.t) < count:
            self._arrays = fresh(count)
        return self._arrays


@functools.lru_cache(maxsize=8)
def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = native_function(load_library(), name)
    function.restype, function.argtypes = result, list(arguments)
    return function


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


class Decoder:
    """One of the loops with the state that its encoding carries from block to block.

    Args:
        kind: A name of `KINDS`.
        word: Dtype of an item; data is taken in multiples of it.
        most: Events that one item can hold.
        least: Items that an event takes at least.
        state: First values of the loop's state; `readers.cpp` says which.
    """

    def __init__(
        self, kind: str, word: np.dtype, *, most: int = 1, least: int = 1, state: Sequence[int] = (-1,)
    ) -> None:
        self.word = word
        self._kind, self._most, self._least = KINDS.index(kind), most, least
        self._state = np.zeros(_STATE, np.int64)
        self._state[: len(state)] = state
        self._used = np.zeros(1, np.int64)

    def pieces(self, data: np.ndarray, room: Room) -> Iterator[tuple[Columns, int]]:
        """Decodes items and carries on where the last ones ended.

        Args:
            data: Contiguous items, `[n]`.
            room: Where the events go.

        Yields:
            Events, valid until the next piece, and how many items have been taken so far; items that are not taken
            (a record that the end cuts) are left to the caller.
        """
        pointer, integer = ctypes.c_void_p, ctypes.c_longlong
        decode = _function("had_decode", integer, ctypes.c_int, pointer, integer, *[pointer] * 5, integer, pointer)
        data, done = np.ascontiguousarray(data), 0
        size = self.word.itemsize
        items = data.nbytes // size
        while done < items:
            out = room((items - done) // self._least + self._most)
            count = decode(
                self._kind,
                _address(data) + done * size,
                items - done,
                _address(self._state),
                *(_address(column) for column in out),
                len(out.t),
                _address(self._used),
            )
            done += int(self._used[0])
            yield out.cut(count), done
            if self._used[0] == 0:
                return

    def decode(self, data: np.ndarray) -> Columns:
        """Decodes items into new arrays."""
        found = [piece for piece, _ in self.pieces(data, fresh)] or [fresh(0)]
        return found[0] if len(found) == 1 else Columns(*(np.concatenate(columns) for columns in zip(*found)))  # noqa: B905


def gather(column: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Copies a column of packed records, whatever its alignment.

    Args:
        column: `[n]`, any stride.
        target: At least `n` items of the same size, contiguous.

    Returns:
        The first `n` items of `target`, seen with the column's dtype.
    """
    copy = _function(
        "had_gather", ctypes.c_int, ctypes.c_void_p, *[ctypes.c_longlong] * 2, ctypes.c_int, ctypes.c_void_p
    )
    found = target[: len(column)].view(column.dtype)
    if copy(_address(column), column.strides[0], len(column), column.itemsize, _address(found)):
        found[:] = column
    return found


class Seen(NamedTuple):
    """What the checks need to know of a piece: whether a time is below the one before it; lowest and highest values."""

    backward: bool
    x: tuple[int, int]
    y: tuple[int, int]
    p: tuple[int, int]


def scan(piece: Columns) -> Seen:
    """Looks through the events of a piece, `n > 0`."""
    if all(
        column.dtype == dtype and column.flags.c_contiguous
        for column, dtype in zip(piece, DTYPES.values(), strict=True)
    ):
        look = _function("had_scan", None, *[ctypes.c_void_p] * 4, ctypes.c_longlong, ctypes.c_void_p)
        values = np.empty(7, np.int64)
        look(*(_address(column) for column in piece), len(piece.t), _address(values))
        backward, *rest = values.tolist()
        return Seen(bool(backward), *zip(rest[::2], rest[1::2], strict=True))
    t = piece.t
    return Seen(bool((t[1:] < t[:-1]).any()), *((int(c.min()), int(c.max())) for c in piece[1:]))


class TextParser:
    """Reads lines of numbers into columns.

    Args:
        index: Position of `t`, `x`, `y` and perhaps `p` in a line.
        width: Numbers in a line.
        exponent: Decimal exponent that turns the file's times into microseconds.
    """

    def __init__(self, index: dict[str, int], width: int, exponent: int) -> None:
        self._roles = np.full(width, -1, np.int32)
        for name, position in index.items():
            self._roles[position] = _ROLES[name]
        self._exponent = exponent
        self._columns: tuple[np.ndarray, ...] = ()
        self._stopped = np.zeros(2, np.int64)

    def parse(self, block: bytes | bytearray, start: int, stop: int) -> tuple[Columns, int, int]:
        """Parses whole lines.

        Args:
            block: Text.
            start: Where the first line begins.
            stop: End of the last line; byte `stop - 1` is a line end.

        Returns:
            Events, valid until the next call; the byte at which parsing stopped; and why: 0 at the end, `TEXT_BAD_LINE`
            or `TEXT_TOO_LARGE` where a line begins that holds something else.
        """
        pointer, integer = ctypes.c_void_p, ctypes.c_longlong
        kinds = (pointer, integer, pointer, ctypes.c_int, ctypes.c_int, *[pointer] * 4, integer, pointer)
        read = _function("had_read_text", integer, *kinds)
        most = (stop - start) // (2 * len(self._roles)) + 1
        if not self._columns or len(self._columns[0]) < most:
            self._columns = (np.empty(most, np.int64), *(np.ones(most, np.int32) for _ in range(3)))
        text = np.frombuffer(block, np.uint8)
        count = read(
            _address(text) + start,
            stop - start,
            _address(self._roles),
            len(self._roles),
            self._exponent,
            *(_address(column) for column in self._columns),
            most,
            _address(self._stopped),
        )
        return Columns(*self._columns).cut(count), start + int(self._stopped[0]), int(self._stopped[1])
