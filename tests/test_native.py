"""The compiled library: found, refused when it is missing, broken, or older than the kernels beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from had_snn import native
from had_snn.native import NativeLibraryError

KERNELS = Path(__file__).resolve().parents[1] / "kernels"


def test_the_library_knows_what_it_was_built_from():
    library = native.load_library()
    native._check_digest(library, native.library_path(), KERNELS)


@pytest.mark.parametrize("change", ["edit", "add", "remove"])
def test_a_library_of_other_kernels_is_refused(tmp_path, change):
    kernels = shutil.copytree(KERNELS, tmp_path / "kernels")
    if change == "edit":
        text = kernels / "host" / "text.cpp"
        text.write_text(text.read_text() + "\n")
    elif change == "add":
        (kernels / "neuron" / "new.cu").write_text("")
    else:
        (kernels / "sensor" / "pixel.hpp").unlink()
    with pytest.raises(NativeLibraryError, match=r"other kernels than .*rebuild it with: pip install -e \."):
        native._check_digest(native.load_library(), native.library_path(), kernels)


def test_a_missing_or_broken_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv(native.ENVIRONMENT_OVERRIDE, str(tmp_path / "none.so"))
    with pytest.raises(NativeLibraryError, match=r"were not found .*none\.so"):
        native.load_library()
    (tmp_path / "broken.so").write_bytes(b"no library")
    monkeypatch.setenv(native.ENVIRONMENT_OVERRIDE, str(tmp_path / "broken.so"))
    with pytest.raises(NativeLibraryError, match="cannot be loaded"):
        native.load_library()


def test_a_function_that_is_not_there_is_named():
    with pytest.raises(NativeLibraryError, match="has no function had_nothing"):
        native.bind("had_nothing")
