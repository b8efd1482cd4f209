"""Recordings that are opened when something asks for them, so that a data set of any size opens at once.

A sequence of a data set holds `LazyEvents`: an `EventStream` whose columns come from a `RecordingPool` when they are
used. The pool keeps the recordings that were used last; all are memory-mapped, so keeping one costs hardly any memory
but a few open files.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, overload

import numpy as np

from had_snn.events.stream import EventStream
from had_snn.recordings.recording import Recording

Item = TypeVar("Item")
Open = Callable[[], Recording]


class RecordingPool:
    """The recordings that were used last.

    Args:
        capacity: How many are kept open.
    """

    def __init__(self, capacity: int = 64) -> None:
        self.capacity = capacity
        self._open: OrderedDict[str, Recording] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, opener: Open) -> Recording:
        """The recording `key`, opened by `opener` unless it is open."""
        with self._lock:
            if key not in self._open:
                self._open[key] = opener()
                while len(self._open) > self.capacity:
                    self._open.popitem(last=False)
            self._open.move_to_end(key)
            return self._open[key]

    def __len__(self) -> int:
        return len(self._open)

    def __reduce__(self) -> tuple[type[RecordingPool], tuple[int]]:
        return RecordingPool, (self.capacity,)  # another process opens its own


class LazyEvents(EventStream):
    """A stream that is opened at its first use.

    Args:
        pool: Where the recording is kept while it is in use.
        key: Its name there.
        opener: Opens it.
    """

    def __init__(self, pool: RecordingPool, key: str, opener: Open) -> None:
        for name, value in (("source", key), ("_pool", pool), ("_opener", opener)):
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in ("t", "x", "y", "p", "sensor_hw"):
            raise AttributeError(name)
        pool: RecordingPool = self.__dict__["_pool"]
        return getattr(pool.get(self.source, self.__dict__["_opener"]).events, name)

    def __reduce__(self) -> tuple[type[LazyEvents], tuple[RecordingPool, str, Open]]:
        return LazyEvents, (self.__dict__["_pool"], self.source, self.__dict__["_opener"])


class LazyFrames:
    """The pictures inside a recording, uint8 `[H, W, 3]` each, opened at their first use.

    Args:
        pool: Where the recording is kept while it is in use.
        key: Its name there.
        opener: Opens it.
        numbers: Which of its pictures, in which order.
    """

    def __init__(self, pool: RecordingPool, key: str, opener: Open, numbers: np.ndarray) -> None:
        self.pool, self.key, self.opener, self.numbers = pool, key, opener, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> np.ndarray:
        frames = self.pool.get(self.key, self.opener).frames
        assert frames is not None
        image = np.asarray(frames.images[int(self.numbers[index])])
        return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image


class LazyList(Sequence[Item], Generic[Item]):
    """A list whose items are made when they are asked for, and then kept; slices share them.

    Args:
        makers: One function without arguments for each item.
    """

    def __init__(self, makers: Sequence[Callable[[], Item]]) -> None:
        self._makers, self._made, self._places = makers, dict[int, Item](), range(len(makers))

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> LazyList[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | LazyList[Item]:
        if isinstance(index, slice):
            part = copy.copy(self)
            part._places = self._places[index]
            return part
        place = self._places[index]
        if place not in self._made:
            self._made[place] = self._makers[place]()
        return self._made[place]
