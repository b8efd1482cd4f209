"""The compiled inner loops of the readers (`kernels/host/`: `readers.cpp`, `columns.cpp`, `text.cpp`) for NumPy arrays.

They write events into arrays that the caller provides (a `Room`), so that a whole recording is decoded straight into
the arrays that it is returned in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from had_snn.native import INT32, INT64, POINTER, Parameters, bind, fields

KINDS = ("evt2", "evt21", "evt3", "dat", "aedat", "es", "nmnist")  # the order of kDecoders in readers.cpp
DTYPES = {"t": np.dtype(np.int64), "x": np.dtype(np.uint16), "y": np.dtype(np.uint16), "p": np.dtype(np.int8)}
TEXT_BAD_LINE, TEXT_TOO_LARGE = 1, 2
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


class Decode(Parameters):
    """`Decode` of `kernels/host/readers.cpp`."""

    _fields_ = (
        *fields(POINTER, "data", "t", "x", "y", "p"),
        *fields(INT64, "items", "capacity", "used"),
        ("state", INT64 * 5),
        *fields(INT32, "kind"),
    )


class Gather(Parameters):
    """`Gather` of `kernels/host/columns.cpp`."""

    _fields_ = (*fields(POINTER, "source", "target"), *fields(INT64, "stride", "count"), *fields(INT32, "size"))


class Scan(Parameters):
    """`Scan` of `kernels/host/columns.cpp`."""

    _fields_ = (
        *fields(POINTER, "t", "x", "y", "p"),
        *fields(INT64, "n", "backward", "x_low", "x_high", "y_low", "y_high", "p_low", "p_high"),
    )


class ReadText(Parameters):
    """`ReadText` of `kernels/host/text.cpp`."""

    _fields_ = (
        *fields(POINTER, "data", "roles", "t", "x", "y", "p"),
        *fields(INT64, "size", "capacity", "stopped", "why"),
        *fields(INT32, "width", "shift"),
    )


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _point(given: Decode | Scan | ReadText, columns: Columns) -> None:
    given.t, given.x, given.y, given.p = map(_address, columns)


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
        self._most, self._least = most, least
        self._given = Decode(kind=KINDS.index(kind), state=tuple(state))

    def pieces(self, data: np.ndarray, room: Room) -> Iterator[tuple[Columns, int]]:
        """Decodes items and carries on where the last ones ended.

        Args:
            data: Contiguous items, `[n]`.
            room: Where the events go.

        Yields:
            Events, valid until the next piece, and how many items have been taken so far; items that are not taken
            (a record that the end cuts) are left to the caller.
        """
        decode, given = bind("had_decode", Decode), self._given
        data, done = np.ascontiguousarray(data), 0
        size = self.word.itemsize
        items = data.nbytes // size
        while done < items:
            out = room((items - done) // self._least + self._most)
            given.data, given.items, given.capacity = _address(data) + done * size, items - done, len(out.t)
            _point(given, out)
            count = decode(given)
            done += given.used
            yield out.cut(count), done
            if given.used == 0:
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
    found = target[: len(column)].view(column.dtype)
    given = Gather(source=_address(column), target=_address(found), stride=column.strides[0], count=len(column))
    given.size = column.itemsize
    if bind("had_gather", Gather)(given):
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
        found = Scan(n=len(piece.t))
        _point(found, piece)
        bind("had_scan", Scan, returns=None)(found)
        ranges = ((found.x_low, found.x_high), (found.y_low, found.y_high), (found.p_low, found.p_high))
        return Seen(bool(found.backward), *ranges)
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
        self._given = ReadText(roles=_address(self._roles), width=width, shift=exponent)
        self._columns = Columns(*(np.empty(0, dtype) for dtype in (np.int64, np.int32, np.int32, np.int32)))

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
        most = (stop - start) // (2 * len(self._roles)) + 1
        if len(self._columns.t) < most:
            self._columns = Columns(np.empty(most, np.int64), *(np.ones(most, np.int32) for _ in range(3)))
        text, given = np.frombuffer(block, np.uint8), self._given
        given.data, given.size, given.capacity = _address(text) + start, stop - start, most
        _point(given, self._columns)
        count = bind("had_read_text", ReadText)(given)
        return self._columns.cut(count), start + given.stopped, given.why
