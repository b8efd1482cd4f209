"""`mapped_npy`: the same array as numpy reads, without an open file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn

from had_snn.data.mapped import mapped_npy


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=stn.arrays(
        st.sampled_from([np.dtype(name) for name in ("uint8", "<u2", "<i8", "<f4", "<f8", "bool")]),
        stn.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
    ),
    fortran=st.booleans(),
)
def test_gives_what_numpy_gives(tmp_path: Path, array: np.ndarray, fortran: bool) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.asfortranarray(array) if fortran else array)
    mapped = mapped_npy(path)
    assert mapped.dtype == array.dtype
    assert mapped.shape == array.shape
    np.testing.assert_array_equal(mapped, array)
    assert not mapped.flags.writeable


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_keeps_no_file_open(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(1000))
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = [mapped_npy(tmp_path / "a.npy") for _ in range(50)]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert all(array[-1] == 999 for array in kept)


def test_array_outlives_the_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(1000))
    kept = mapped_npy(tmp_path / "a.npy")
    (tmp_path / "a.npy").unlink()
    assert kept.sum() == 499_500


def test_refuses_what_is_short_or_something_else(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.arange(1000))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="needs 8000 bytes, 7999 are there"):
        mapped_npy(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="magic"):
        mapped_npy(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="pickled"):
        mapped_npy(path)
    with pytest.raises(FileNotFoundError):
        mapped_npy(tmp_path / "none.npy")
