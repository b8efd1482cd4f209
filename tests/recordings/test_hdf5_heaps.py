"""Heaps of words in HDF5 files: a damaged one is named where the C library would step on one spot for ever."""

from __future__ import annotations

import struct

import pytest
from table_files import assert_reads_as, make_columns

from had_snn.errors import FormatError
from had_snn.recordings.readers import read_events

COLUMNS = make_columns(n=300)


@pytest.fixture(params=["attribute", "scalar", "column"])
def words(request, tmp_path):
    """A file with a word of any length at one place, and where its heap begins."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "e.h5"
    with h5py.File(path, "w") as file:
        for name, column in COLUMNS.items():
            in_words = request.param == "column" and name == "t"
            file[f"events/{name}"] = column.astype(str).astype(h5py.string_dtype()) if in_words else column
        if request.param == "scalar":
            file["events/time_unit"] = "us"
        else:
            (file if request.param == "attribute" else file["events"]).attrs["time_unit"] = "us"
        file.attrs["GCOL"] = "GCOL"  # no heap
    content = bytearray(path.read_bytes())
    return path, content, content.index(b"GCOL\1\0\0\0")


def objects(content: bytearray, start: int):
    """Where each object of a heap begins, and its number."""
    (size,) = struct.unpack_from("<Q", content, start + 8)
    at = start + 16
    while at + 16 <= start + size:
        number, length = struct.unpack_from("<H6xQ", content, at)
        yield at, number
        at += 16 + -(-length // 8) * 8 if number else length


def test_words_are_read(words):
    assert_reads_as(read_events(words[0]), COLUMNS)


@pytest.mark.parametrize("length", [0, 2**64 - 16, 2**63, 8192])
def test_a_damaged_heap_is_named(words, length):
    path, content, start = words
    at = next((at for at, number in objects(content, start) if number == 0), None)
    if at is None:  # a full heap: its second word's number becomes that of the free space
        at = [at for at, _ in objects(content, start)][1]
        struct.pack_into("<H", content, at, 0)
    struct.pack_into("<Q", content, at + 8, length)
    path.write_bytes(content)
    with pytest.raises(FormatError, match=rf"e\.h5 at byte {at}: .*a global heap whose sizes do not add up"):
        read_events(path)
