"""Errors carry what a user needs on one line."""

from __future__ import annotations

import pickle

import pytest

from had_snn.errors import FormatError, MissingExtraError, optional_import


def test_a_format_error_says_where_and_what_helps():
    error = FormatError("a.raw", "found 3 bytes, expected whole words of 4", offset=8, remedy="repair=True")
    assert str(error) == "a.raw at byte 8: found 3 bytes, expected whole words of 4 (repair=True)"


def test_names_from_a_file_stay_in_the_line_of_their_error():
    assert str(FormatError("a.npz", "found t\n\x1b[2J\u2028.npy")) == r"a.npz: found t\n\x1b[2J\u2028.npy"


def test_a_missing_extra_is_named_with_its_cause():
    with pytest.raises(MissingExtraError, match=r"had-snn\[data\]") as caught:
        optional_import("no_such_module_anywhere", extra="data")
    assert isinstance(caught.value.__cause__, ImportError)


def test_an_installed_module_is_returned():
    assert optional_import("json", extra="data").dumps([1]) == "[1]"


def test_an_error_comes_whole_from_another_process():
    error = FormatError("a\n.raw", "found 1, expected 2", offset=7, remedy="convert it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is FormatError
    assert (str(again), again.path, again.offset, again.remedy) == (str(error), error.path, 7, "convert it")
