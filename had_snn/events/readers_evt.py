"""The event encodings of Prophesee sensors, EVT2, EVT2.1 and EVT3, decoded a block of words at a time.

Descriptions: https://docs.prophesee.ai/stable/data/encoding_formats/. Each decoder keeps the state that the encoding
has (the upper bits of time, the row, the base of a vector), so a stream may be cut into blocks anywhere between words.
Words that are not change events (triggers, vendor words, continuations) are skipped. Events before the first time word
are dropped: their time is unknown.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from had_snn.events.recording import Columns

_BITS_SET = np.array([n.bit_count() for n in range(1 << 12)], np.uint8)
_KINDS_21 = (0, 1, 8, 10, 14, 15)


class EvtDecoder(Protocol):
    """What the three decoders share."""

    word: np.dtype

    def decode(self, words: np.ndarray) -> Columns:
        """Events of the next words of the stream."""
        ...


class _HighTime:
    """Upper bits of time, extended beyond their width by counting the wraps."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.last: int | None = None

    def extend(self, highs: np.ndarray) -> np.ndarray:
        """Values as read, int64 `[n]`, as values that go on growing when the counter wraps."""
        if len(highs) == 0:
            return highs
        period = 1 << self.bits
        first = highs[0] if self.last is None else self.last % period
        # A drop of more than half the range is a wrap; a smaller one is what it looks like, a step back in time.
        wraps = np.cumsum(np.diff(highs, prepend=first) < -(period >> 1))
        loops = 0 if self.last is None else self.last // period
        extended = highs + (wraps + loops) * period
        self.last = int(extended[-1])
        return extended


class Evt2Decoder:
    """EVT2: 32-bit words, one event each."""

    word = np.dtype("<u4")

    def __init__(self) -> None:
        self._time = _HighTime(28)

    def decode(self, words: np.ndarray) -> Columns:
        """Events of `words`, uint32 `[n]`."""
        kind = (words >> np.uint32(28)).astype(np.uint8)
        high = _spread_high(kind == 8, (words & np.uint32(0x0FFFFFFF)), self._time)
        at = np.flatnonzero(kind <= 1)
        high, at = _with_time(high, at, len(words))
        events = words[at]
        low = (events >> np.uint32(22)) & np.uint32(63)
        x = ((events >> np.uint32(11)) & np.uint32(0x7FF)).astype(np.uint16)
        y = (events & np.uint32(0x7FF)).astype(np.uint16)
        return Columns((high << 6) + low, x, y, kind[at].view(np.int8))


class Evt21Decoder:
    """EVT2.1: 64-bit words of up to 32 events in a row; `legacy` files store the halves of a word swapped."""

    word = np.dtype("<u8")

    def __init__(self, *, legacy: bool = False) -> None:
        self.legacy = legacy
        self._time = _HighTime(28)

    def decode(self, words: np.ndarray) -> Columns:
        """Events of `words`, uint64 `[n]`."""
        halves = words.view("<u4").reshape(-1, 2)
        lower, upper = (halves[:, 1], halves[:, 0]) if self.legacy else (halves[:, 0], halves[:, 1])
        kind = (upper >> np.uint32(28)).astype(np.uint8)
        high = _spread_high(kind == 8, (upper & np.uint32(0x0FFFFFFF)), self._time)
        at = np.flatnonzero(kind <= 1)
        high, at = _with_time(high, at, len(words))
        heads = upper[at]
        valid = np.ascontiguousarray(lower[at]).view(np.uint8).reshape(-1, 4)
        bit = np.flatnonzero(np.unpackbits(valid, axis=1, bitorder="little"))
        row = bit >> 5
        t = ((high << 6) + ((heads >> np.uint32(22)) & np.uint32(63)))[row]
        x = ((heads >> np.uint32(11)) & np.uint32(0x7FF)).astype(np.uint16)[row] + (bit & 31).astype(np.uint16)
        y = (heads & np.uint32(0x7FF)).astype(np.uint16)[row]
        return Columns(t, x, y, kind[at].view(np.int8)[row])


def halves_are_swapped(data: np.ndarray) -> bool:
    """True if EVT2.1 data, uint8 `[n]`, makes sense only with the halves of its words swapped.

    The upper half holds the kind of word and, in time words, a count that never falls over a few thousand words.
    """
    halves = data[: len(data) // 8 * 8].view("<u4").reshape(-1, 2)

    def sense(upper: np.ndarray) -> float:
        kind = upper >> 28
        times = upper[kind == 8]
        return float(np.isin(kind, _KINDS_21).mean()) + float(len(times) > 0 and bool((times[1:] >= times[:-1]).all()))

    return len(halves) > 0 and sense(halves[:, 0]) > sense(halves[:, 1])


def _spread_high(
    is_high: np.ndarray, payload: np.ndarray, time: _HighTime
) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Positions and extended values of the time words, and the value before the first of them."""
    before = time.last
    at = np.flatnonzero(is_high)
    return at, time.extend(payload[at].astype(np.int64)), before


def _with_time(
    high: tuple[np.ndarray, np.ndarray, int | None], at: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Upper time of every event `at`, without the events that precede all time words."""
    places, values, before = high
    bounds = np.searchsorted(at, places)
    if before is None:
        at = at[bounds[0] :] if len(bounds) else at[:0]
        bounds = bounds - bounds[0] if len(bounds) else bounds
    else:
        values, bounds = np.concatenate([[before], values]), np.concatenate([[0], bounds])
    return np.repeat(values, np.diff(bounds, append=len(at))), at


def _running(mask: np.ndarray) -> np.ndarray:
    """How many are true up to and including each position; 32 bits because NumPy adds those up ten times faster."""
    return np.cumsum(mask, dtype=np.int32)


class Evt3Decoder:
    """EVT3: 16-bit words that change one part of the state (row, time, column) each; vectors of up to 12 events."""

    word = np.dtype("<u2")

    def __init__(self) -> None:
        self._high = _HighTime(12)
        self._time: int | None = None
        self._row: int | None = None
        self._base = (0, 0)  # next column and polarity of a vector

    def decode(self, words: np.ndarray) -> Columns:
        """Events of `words`, uint16 `[n]`."""
        kind = (words >> np.uint16(12)).astype(np.uint8)
        times = self._times(words, kind)
        is_row = kind == 0
        rows = words[is_row] & np.uint16(0x7FF)
        vectors = self._vectors(words, kind)
        at = np.flatnonzero(kind == 2)
        if vectors is not None:
            per_word = (kind == 2).astype(np.uint8)
            per_word[vectors[0]] = vectors[1]
            at = np.repeat(np.arange(len(words)), per_word)
        time_index = _running((kind == 6) | (kind == 8)).take(at)
        row_index = _running(is_row).take(at)
        # Index 0 is the state left by the words before these.
        t = np.concatenate([[-1 if self._time is None else self._time], times]).take(time_index)
        y = np.concatenate([[np.uint16(self._row or 0)], rows]).take(row_index)
        events = words.take(at)
        x, p = events & np.uint16(0x7FF), ((events & np.uint16(0x800)) != 0).view(np.int8)
        if vectors is not None:
            in_vector = kind[at] != 2
            x[in_vector], p[in_vector] = vectors[2], vectors[3]
        unknown = 0
        if self._time is None or self._row is None:
            known = np.flatnonzero(
                ((time_index > 0) | (self._time is not None)) & ((row_index > 0) | (self._row is not None))
            )
            unknown = int(known[0]) if len(known) else len(at)
        self._time = int(times[-1]) if len(times) else self._time
        self._row = int(rows[-1]) if len(rows) else self._row
        return Columns(t[unknown:], x[unknown:], y[unknown:], p[unknown:])

    def _times(self, words: np.ndarray, kind: np.ndarray) -> np.ndarray:
        """Time after each time word, int64 microseconds.

        A new upper part clears the lower one until the lower one's own word comes; a repeated upper part does not.
        """
        at = np.flatnonzero((kind == 6) | (kind == 8))
        is_high = kind[at] == 8
        payload = (words[at] & np.uint16(0xFFF)).astype(np.int64)
        before = self._high.last
        highs = self._high.extend(payload[is_high])
        which = _running(is_high)
        start = -1 if before is None else before
        high = np.concatenate([[start], highs]).take(which)
        changed = is_high & (np.diff(high, prepend=start) != 0)
        # The lower part in force: the last lower word, or 0 where the upper part has changed since.
        sets_low = changed | ~is_high
        lows = np.where(is_high, 0, payload)[sets_low]
        carried = 0 if self._time is None else self._time & 0xFFF
        times = (high << 12) + np.concatenate([[carried], lows]).take(_running(sets_low))
        if before is None and len(at):  # lower words before the first upper one tell no time
            first = int(np.argmax(which > 0)) if (which > 0).any() else len(at)
            kind[at[:first]] = 15
            times = times[first:]
        return times

    def _vectors(self, words: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, ...] | None:
        """Vector words: positions and event counts; their events' columns and polarities in order. None without any."""
        is_part = (kind >= 3) & (kind <= 5)
        at = np.flatnonzero(is_part)
        if len(at) == 0:
            return None
        parts, kinds = words[at], kind[at]
        is_base = kinds == 3
        width = np.where(kinds == 4, 12, np.where(kinds == 5, 8, 0))
        before = np.cumsum(width) - width
        which = _running(is_base)
        base_x = np.concatenate([[self._base[0]], (parts[is_base] & np.uint16(0x7FF)).astype(np.int64)])
        base_p = np.concatenate([[self._base[1]], ((parts[is_base] >> np.uint16(11)) & np.uint16(1)).astype(np.int64)])
        done_at_base = np.concatenate([[0], before[is_base]])
        start = base_x[which] + before - done_at_base[which]
        self._base = (int(start[-1] + width[-1]), int(base_p[which[-1]]))
        mask = np.where(
            kinds == 4, parts & np.uint16(0xFFF), np.where(kinds == 5, parts & np.uint16(0xFF), np.uint16(0))
        )
        bits = np.unpackbits(mask.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
        bit = np.flatnonzero(bits)
        row = bit >> 4
        x = np.minimum(start[row] + (bit & 15), 65535).astype(np.uint16)
        return at, _BITS_SET[mask], x, base_p[which[row]].astype(np.int8)
