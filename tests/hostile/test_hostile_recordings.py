"""Recordings that point elsewhere, lie about their size or unpack to gigabytes: refused by name, in bounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from had_snn.errors import FormatError
from had_snn.recordings.readers import read_events

h5py = pytest.importorskip("h5py")

COUNT = 500


def columns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "t": np.sort(rng.integers(0, 50_000, COUNT)),
        "x": rng.integers(0, 64, COUNT).astype(np.uint16),
        "y": rng.integers(0, 48, COUNT).astype(np.uint16),
        "p": rng.integers(0, 2, COUNT).astype(np.uint8),
    }


def plain(path: Path, *, without: tuple[str, ...] = ()) -> h5py.Group:
    """An open file with the columns of events, but for some."""
    file = h5py.File(path, "w")
    group = file.create_group("events")
    for name, column in columns().items():
        if name not in without:
            group[name] = column
    return group


def linked(path: Path) -> None:
    plain(path.with_name("secret.h5")).file.close()
    group = plain(path, without=("p",))
    group["p"] = h5py.ExternalLink("secret.h5", "/events/p")
    group.file.close()


def linked_beside(path: Path) -> None:
    """The link is in no column, and its file is not there: it must not even be looked for."""
    group = plain(path)
    group.file["notes"] = h5py.ExternalLink("/dev/zero", "/")
    group.file.close()


def stored_outside(path: Path) -> None:
    outside = path.with_name("secret.bin")
    outside.write_bytes(columns()["p"].tobytes())
    group = plain(path, without=("p",))
    group.create_dataset("p", (COUNT,), np.uint8, external=[(str(outside), 0, COUNT)])
    group.file.close()


def virtual(path: Path) -> None:
    plain(path.with_name("secret.h5")).file.close()
    group = plain(path, without=("p",))
    layout = h5py.VirtualLayout((COUNT,), np.uint8)
    layout[:] = h5py.VirtualSource(path.with_name("secret.h5"), "events/p", (COUNT,))
    group.create_virtual_dataset("p", layout)
    group.file.close()


def endless(path: Path) -> None:
    """Columns of 10^15 events, of which no chunk is written."""
    with h5py.File(path, "w") as file:
        group = file.create_group("events")
        for name, column in columns().items():
            group.create_dataset(name, (10**15,), column.dtype, chunks=(1 << 16,))


def one_chunk(path: Path) -> None:
    """A chunk that unpacks to 3 GB."""
    with h5py.File(path, "w") as file:
        group = file.create_group("events")
        for name, column in columns().items():
            side = 3 << 30 if column.dtype.itemsize == 1 else 1 << 16
            group.create_dataset(name, (side,), column.dtype, chunks=(side,), compression="gzip")


def bomb_npz(path: Path) -> None:
    """1 GB of zeros, packed to 1 MB, under a column's name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, column in columns().items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                count = (1 << 30) // column.dtype.itemsize
                told = {"descr": column.dtype.str, "fortran_order": False, "shape": (count,)}
                np.lib.format.write_array_header_1_0(file, told)
                if name == "t":
                    for _ in range(1 << 10):
                        file.write(bytes(1 << 20))


def lying_npz(path: Path) -> None:
    """A header that announces a petabyte."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, column in columns().items():
            with archive.open(f"{name}.npy", "w") as file:
                told = {"descr": column.dtype.str, "fortran_order": False, "shape": (1 << 50,)}
                np.lib.format.write_array_header_1_0(file, told)
                file.write(column.tobytes())


def lying_npy(path: Path) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50, 4)})
        file.write(bytes(320))


HOSTILE = {
    "linked.h5": (linked, "link to another file"),
    "linked_beside.h5": (linked_beside, "link to another file"),
    "stored_outside.h5": (stored_outside, "in another file"),
    "virtual.h5": (virtual, "put together of other files"),
    "endless.h5": (endless, "more than it can hold"),
    "one_chunk.h5": (one_chunk, "at a time; expected at most"),
    "bomb.npz": (bomb_npz, "decompression bomb"),
    "lying.npz": (lying_npz, "bytes announced"),
    "lying.npy": (lying_npy, "bytes, 320 are there"),
}


READ = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from had_snn.errors import HadError
from had_snn.recordings.readers import read_events
said = {}
for path in sys.argv[1:]:
    try:
        said[path] = f"read {len(read_events(path))} events"
    except HadError as error:
        said[path] = str(error)
    except BaseException as error:
        said[path] = f"raised {error!r}"
# Not getrusage: its peak holds that of the process which this one was forked from.
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
print(json.dumps([said, int(status["VmHWM"].split()[0])]))
"""


def test_they_are_refused_by_name_in_little_memory(tmp_path):
    for name, (make, _) in HOSTILE.items():
        make(tmp_path / name)
    paths = [str(tmp_path / name) for name in HOSTILE]
    done = subprocess.run([sys.executable, "-c", READ, *paths], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said, peak_kb = json.loads(done.stdout)
    for path, (_, words) in zip(paths, HOSTILE.values(), strict=True):
        assert words in said[path], said[path]
        assert said[path].startswith(path)
    assert peak_kb < 900_000


def test_what_keeps_to_itself_is_read(tmp_path):
    """Hard and soft links inside the file, and columns that pack well."""
    group = plain(tmp_path / "good.h5", without=("p",))
    group.create_dataset("p", data=np.ones(COUNT, np.uint8), compression="gzip")
    group["loop"] = group.file
    group.file["soft"] = h5py.SoftLink("/events")
    group.file["nowhere"] = h5py.SoftLink("/none")
    group.file.close()
    assert len(read_events(tmp_path / "good.h5")) == COUNT


def test_events_beyond_memory_are_a_named_error(tmp_path, monkeypatch):
    from had_snn.recordings import readers
    from had_snn.recordings.writers import write_events

    events = read_events(_written(tmp_path))
    write_events(events, tmp_path / "e.npz")

    def none_left(*_):
        raise MemoryError("Unable to allocate 8 TiB")

    monkeypatch.setattr(readers._Buffer, "append", none_left)
    with pytest.raises(FormatError, match=r"need more memory than there is \(Unable.*window="):
        read_events(tmp_path / "e.npz")


def _written(folder: Path) -> Path:
    plain(folder / "plain.h5").file.close()
    return folder / "plain.h5"
