"""The event encodings of Prophesee sensors, EVT2, EVT2.1 and EVT3, decoded a block of words at a time.

Descriptions: https://docs.prophesee.ai/stable/data/encoding_formats/. Each decoder keeps the state that the encoding
has (the upper bits of time, the row, the base of a vector), so a stream may be cut into blocks anywhere between words.
Words that are not change events (triggers, vendor words, continuations) are skipped. Events before the first time word
are dropped: their time is unknown. The loops are in `kernels/host/readers.cpp`.
"""

from __future__ import annotations

import numpy as np

from had_snn.recordings.decoders import Decoder

_KINDS_21 = (0, 1, 8, 10, 14, 15)


def evt_decoder(kind: str, *, legacy: bool = False) -> Decoder:
    """A decoder at the start of a stream.

    Args:
        kind: `"evt2"` (32-bit words, one event each), `"evt21"` (64-bit words of up to 32 events in a row) or `"evt3"`
            (16-bit words that change row, time or column; vectors of up to 12 events).
        legacy: The halves of EVT2.1 words are swapped.
    """
    if kind == "evt2":
        return Decoder("evt2", np.dtype("<u4"))
    if kind == "evt21":
        return Decoder("evt21", np.dtype("<u8"), most=32, state=(-1, int(legacy)))
    return Decoder("evt3", np.dtype("<u2"), most=12, state=(-1, 0, -1, 0, 0))


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
