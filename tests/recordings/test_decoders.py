"""The compiled loops against one-record-at-a-time decoders: any bytes, cut anywhere, in as little room as may be."""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

import numpy as np
import pytest
import reference_decoders as reference
from event_files import rows
from hypothesis import given, settings
from hypothesis import strategies as st

from had_snn.recordings.decoders import TEXT_BAD_LINE, TEXT_TOO_LARGE, Columns, Decoder, TextParser, fresh, gather, scan
from had_snn.recordings.evt import evt_decoder


def unpack(data: bytes, dtype: str) -> list[int]:
    return np.frombuffer(data, dtype).tolist()


def swapped(data: bytes) -> list[int]:
    return np.frombuffer(data, "<u4").reshape(-1, 2)[:, ::-1].copy().view("<u8").reshape(-1).tolist()


VOID = {n: np.dtype((np.void, n)) for n in (5, 6, 8)}
CASES = {
    "evt2": (lambda: evt_decoder("evt2"), lambda d: reference.evt2(unpack(d, "<u4"))),
    "evt21": (lambda: evt_decoder("evt21"), lambda d: reference.evt21(unpack(d, "<u8"))),
    "evt21, halves swapped": (lambda: evt_decoder("evt21", legacy=True), lambda d: reference.evt21(swapped(d))),
    "evt3": (lambda: evt_decoder("evt3"), lambda d: reference.evt3(unpack(d, "<u2"))),
    "dat": (lambda: Decoder("dat", np.dtype("<u8")), reference.dat),
    "nmnist": (lambda: Decoder("nmnist", VOID[5], state=(0,)), reference.nmnist),
    "aedat1": (lambda: Decoder("aedat", VOID[6], state=(-1, 2, 0, 0)), lambda d: reference.aedat(d, 1, None)),
    "aedat2": (lambda: Decoder("aedat", VOID[8], state=(-1, 4, 0, 0)), lambda d: reference.aedat(d, 2, None)),
    "davis": (
        lambda: Decoder("aedat", VOID[8], state=(-1, 4, 346, 260)),
        lambda d: reference.aedat(d, 2, (260, 346)),
    ),
    "es": (lambda: Decoder("es", np.dtype("u1"), least=5, state=(0, 240)), lambda d: reference.es(d, 240)),
}


def wrapped(found: list) -> list:
    """Pixels below 0 are handed on as large ones, for the checks to refuse."""
    return [(t, x % 65536, y % 65536, p) for t, x, y, p in found]


def decode(decoder: Decoder, data: bytes, cut: int, room) -> list:
    """Decodes data in two blocks of whole items; what an Event Stream block cuts goes before the next."""
    size, found, left = decoder.word.itemsize, [], b""
    for block in (data[: cut // size * size], data[cut // size * size :]):
        block, taken = left + block, 0
        for piece, done in decoder.pieces(np.frombuffer(block, np.uint8), room):
            found += rows(piece)
            taken = done
        left = block[taken * size :]
    return found


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=120)
@given(data=st.data())
def test_any_bytes_cut_anywhere_in_little_room(case, data):
    make, judge = CASES[case]
    decoder = make()
    size = decoder.word.itemsize
    items = data.draw(st.integers(0, 60))
    content = bytearray(data.draw(st.binary(min_size=items * size, max_size=items * size)))
    if case.startswith("evt"):  # let kinds that mean something be likely
        for i in range(items):
            at = size * i + (3 if "swapped" in case else size - 1)
            kind = data.draw(st.sampled_from([0, 0, 1, 2, 3, 4, 5, 6, 8, 8, 14, content[at] >> 4]))
            content[at] = kind << 4 | content[at] & 15
    cut = data.draw(st.integers(0, len(content)))
    most = 32 if "21" in case else 12 if case == "evt3" else 1
    room = data.draw(st.sampled_from([fresh, lambda _: fresh(most), lambda _: fresh(most + 1)]))
    assert decode(decoder, bytes(content), cut, room) == wrapped(judge(bytes(content)))


def test_room_is_never_exceeded():
    """Guard values around the arrays stay what they were."""
    words = np.full(4_000, 0x4FFF, np.uint16)
    words[:3] = 0x8001, 0x0002, 0x3000
    guarded = [np.full(200, 7, a.dtype) for a in fresh(0)]
    decoder, total = evt_decoder("evt3"), 0
    for piece, _ in decoder.pieces(words, lambda _: Columns(*(a[10:110] for a in guarded))):
        total += len(piece.t)
        assert all((a[:10] == 7).all() and (a[110:] == 7).all() for a in guarded)
    assert total == (4_000 - 3) * 12


def test_gather_at_any_address_and_scan():
    record = np.zeros(1_000, np.dtype([("a", "u1"), ("t", "<i8"), ("x", "<u2"), ("y", "<i2"), ("p", "i1")]))
    rng = np.random.default_rng(0)
    record["t"], record["x"] = np.sort(rng.integers(-5, 10**12, 1_000)), rng.integers(0, 65536, 1_000)
    record["y"], record["p"] = rng.integers(0, 32768, 1_000), rng.integers(-1, 2, 1_000)
    out = fresh(1_000)
    found = Columns(*(gather(record[n], a) for n, a in zip("txyp", out, strict=True)))
    assert all((getattr(found, n) == record[n]).all() for n in "txyp")
    seen = scan(out)
    assert not seen.backward
    assert (seen.x, seen.y, seen.p) == tuple((int(record[n].min()), int(record[n].max())) for n in "xyp")
    for at in (1, 500, 999):
        out.t[:] = record["t"]
        out.t[at] = out.t[at - 1] - 1
        assert scan(out).backward
    low, high = -(2**63), 2**63 - 1
    assert scan(Columns(np.array([high, low]), *(a[:2] for a in out[1:]))).backward
    assert not scan(Columns(np.array([low, high]), *(a[:2] for a in out[1:]))).backward


NUMBERS = st.one_of(
    st.integers(-4 * 10**12, 4 * 10**12).map(str),  # in seconds this is just below the 2^62 us that are read
    st.decimals(-(10**6), 10**6, places=9).map(str),
    st.floats(-1e6, 1e6).map(repr),
    st.floats(0, 1e6).map("{:.18e}".format),
    st.sampled_from(["0", "-0", "+5", "5.", ".5", "-.5", "1e3", "1E-3", "0.0000005", "12345678901234567890.5e-19"]),
)


@settings(max_examples=300)
@given(
    lines=st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8),
    exponent=st.sampled_from([6, 3, 0, -3]),
    separator=st.sampled_from([" ", ",", "\t", "; ", " , "]),
)
def test_decimals_are_exact(lines, exponent, separator):
    """Against Python's decimal arithmetic; halves go up."""
    text = "# a comment\n\n" + "".join(f"{a}{separator}{b}\r\n" for a, b in lines)
    parser = TextParser({"t": 0, "x": 1, "y": 1}, 2, exponent)
    found, stopped, why = parser.parse(text.encode(), 0, len(text))
    exact = [int((Decimal(a).scaleb(exponent) + Decimal("0.5")).to_integral_value(ROUND_FLOOR)) for a, _ in lines]
    assert (stopped, why) == (len(text), 0)
    assert found.t.tolist() == exact


@pytest.mark.parametrize("bad", ["1", "1 2 3", "1 x", "1 2x", "- 2", ". 2", "1 e5", "1 2e", "nan 2", "0x1 2", "1 2 #"])
def test_a_line_of_something_else_is_where_parsing_stops(bad):
    text = f"1 2\n{bad}\n3 4\n".encode()
    found, stopped, why = TextParser({"t": 0, "x": 1, "y": 1}, 2, 0).parse(text, 0, len(text))
    assert (found.t.tolist(), stopped, why) == ([1], 4, TEXT_BAD_LINE)


@pytest.mark.parametrize("large", ["4611686018427387905", "1e30", "99999999999999999999999", "5e18"])
def test_times_that_do_not_fit(large):
    text = f"1 2\n{large} 2\n".encode()
    assert TextParser({"t": 0, "x": 1, "y": 1}, 2, 0).parse(text, 0, len(text))[1:] == (4, TEXT_TOO_LARGE)
