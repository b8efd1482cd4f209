"""A cache of decoded recordings that are memory-mapped, so that any window of any recording is there at once.

A cached recording is a folder of raw columns (`t.i8`, `x.u2`, `y.u2`, `p.u1`, frames as NPY) and `meta.json` with the
checksum of its source. It is built piece by piece in bounded memory beside its final place and renamed into it, one
builder at a time; it is rebuilt when its source's content changes. Time is sorted, so the column `t` is its own index:
a window is found by bisection and only its pages are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from had_snn.errors import FormatError, InputError
from had_snn.events.stream import EventStream
from had_snn.files import atomic_file, atomic_folder
from had_snn.recordings.checks import Checker
from had_snn.recordings.clock import order_of
from had_snn.recordings.readers import open_source
from had_snn.recordings.recording import Frames, ReadOptions, Recording, Source, logger
from had_snn.recordings.resolution import Resolution

VERSION = 3
FRAMES = ("frames.npy", "frame_times.npy")
COLUMNS = {"t": np.dtype("<i8"), "x": np.dtype("<u2"), "y": np.dtype("<u2"), "p": np.dtype("u1")}
BLOCK = 1 << 20


def open_cached(
    path: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    verify: bool = False,
    frames: bool = True,
    **options: Any,
) -> Recording:
    """Opens a recording through the cache; the first time, or when the source has changed, this builds its entry.

    Args:
        path: The recording, of any format that `read_events` reads.
        cache_dir: Folder of the cache; `$HAD_SNN_CACHE`, else `~/.cache/had_snn`, if not given.
        verify: Compare the columns with their checksums (reads all of them) and rebuild a damaged entry.
        frames: Keep the recording's pictures; without them (they may lie beside it as files) an entry is much smaller.
        **options: As `read_events`; recordings opened with other options are other entries.

    Returns:
        The recording; events and frames are memory-mapped, so opening takes no time and hardly any memory.

    Raises:
        FormatError: If the source is missing, or cannot be read.
        InputError: If `window` is among the options (cut windows from the events instead).
    """
    path = Path(path)
    if options.get("window") is not None:
        raise InputError("a cached recording is whole; take windows with events.slice_time(t0, t1)")
    if not path.exists():
        raise FormatError(path, "no such file")
    folder = entry_folder(path, cache_dir, frames=None if frames else False, **options)
    found = _load(folder, path, verify=verify)
    if found is not None:
        return found
    with _locked(folder.with_name(folder.name + ".lock")):
        found = _load(folder, path, verify=verify)  # another process may have built it while this one waited
        if found is not None:
            return found
        for left in folder.parent.glob(f".{folder.name}.*"):  # by builders of this entry that were killed
            shutil.rmtree(left, ignore_errors=True)
        source, read_options = open_source(path, **options)
        with atomic_folder(folder) as temporary:
            _build(source, read_options, temporary, with_frames=frames)
    found = _load(folder, path, verify=False)
    if found is None:
        raise FormatError(path, "changed while it was read", remedy="open it again once it is complete")
    return found


def entry_folder(path: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None, **options: Any) -> Path:
    """Where the cached form of a recording is kept: its name and a hash of its place and the reading options."""
    root = Path(cache_dir or os.environ.get("HAD_SNN_CACHE") or Path.home() / ".cache" / "had_snn")
    path = Path(path).resolve()
    stated = {k: v for k, v in sorted(options.items()) if v is not None and k != "progress"}
    key = hashlib.blake2b(f"{VERSION} {path} {stated!r}".encode(), digest_size=8).hexdigest()
    return root / f"{path.stem[:60]}-{key}"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an advisory lock; where the file system has none, two builders do the same work and the last one stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError) as error:
            logger.warning("%s: no lock (%s)", path, error)
        yield


def _build(source: Source, options: ReadOptions, folder: Path, *, with_frames: bool) -> None:
    logger.info("%s: decoding into memory-mapped columns", source.path)
    before = _stat(source.path)
    checker = Checker(source, options)
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context((folder / _file(name)).open("wb")) for name in COLUMNS}
        for piece in checker.walk():
            for name, column in zip("txyp", piece, strict=True):
                np.ascontiguousarray(column).tofile(files[name])
    columns = _columns(folder, checker.count, "r+")
    resolution = Resolution.of(checker, lambda: ((columns["x"][c], columns["y"][c]) for c in _blocks(checker.count)))
    count = _finish_columns(folder, columns, checker, resolution)
    frames = source.load_frames() if with_frames and source.load_frames else None
    if frames is not None:
        for name, array in zip(FRAMES, (frames.images, np.stack([frames.start_us, frames.end_us])), strict=True):
            np.save(folder / name, array)
    meta = {
        "version": VERSION,
        "source": {"path": str(source.path.resolve()), **before, "checksum": _checksum(source.path)},
        "count": count,
        "sensor_hw": list(resolution.sensor_hw),
        "files": {path.name: _crc(path) for path in sorted(folder.iterdir())},
        "info": {"format": source.format, **source.info},
    }
    _write_meta(folder, meta)


def _columns(folder: Path, count: int, mode: Literal["r", "r+"]) -> dict[str, np.ndarray]:
    """The columns of an entry, memory-mapped; an empty file cannot be."""
    if count == 0:
        return {name: np.empty(0, dtype) for name, dtype in COLUMNS.items()}
    return {name: np.memmap(folder / _file(name), dtype, mode, shape=(count,)) for name, dtype in COLUMNS.items()}


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def _finish_columns(folder: Path, columns: dict[str, np.ndarray], checker: Checker, resolution: Resolution) -> int:
    """Brings the written columns into their final order, numbering and polarity, in place; returns how many events."""
    count = 0
    for cut in _blocks(checker.count):
        x, y, p = (columns[name][cut] for name in "xyp")
        inside = resolution.inside(x, y) if resolution.outside else None
        if resolution.off_on != (0, 1):
            p[:] = resolution.polarity(p.view(np.int8))
        if resolution.exchanged:
            x[:], y[:] = y.copy(), x.copy()
        if resolution.origin:
            x[:], y[:] = resolution.pixels(x), resolution.pixels(y)
        if inside is not None:
            kept = int(np.count_nonzero(inside))
            for column in columns.values():
                column[count : count + kept] = column[cut][inside]
            count += kept
    count = count if resolution.outside else checker.count
    if checker.unsorted:
        order = order_of(checker.source.path, columns["t"][:count])
        for column in columns.values():
            column[:count] = column[:count][order]
    for name, column in columns.items():
        if isinstance(column, np.memmap):
            column.flush()
        os.truncate(folder / _file(name), count * COLUMNS[name].itemsize)
    return count


def _load(folder: Path, path: Path, *, verify: bool) -> Recording | None:
    """The entry, or None if there is none, it is of another version or source, or it is damaged."""
    try:
        meta = _read_meta(folder)
        count, sensor_hw, about = int(meta["count"]), tuple(meta["sensor_hw"]), meta["source"]
        if meta["version"] != VERSION or not _is_fresh(folder, meta, path):
            return None
        sizes = {name: (folder / _file(name)).stat().st_size for name in COLUMNS}
        if any(sizes[name] != count * dtype.itemsize for name, dtype in COLUMNS.items()):
            logger.warning("%s: its cache entry is damaged and will be rebuilt", path)
            return None
        if verify and any(_crc(folder / name) != crc for name, crc in meta["files"].items()):
            logger.warning("%s: its cache entry fails its checksums and will be rebuilt", path)
            return None
        frames = None
        if FRAMES[0] in meta["files"]:
            times = np.load(folder / FRAMES[1])
            frames = Frames(np.load(folder / FRAMES[0], mmap_mode="r"), times[0], times[1])
    except (FileNotFoundError, KeyError, TypeError, ValueError, EOFError) as error:
        if folder.exists():
            logger.warning("%s: its cache entry is unreadable (%s) and will be rebuilt", path, error)
        return None
    if count == 0:
        events = EventStream.empty((int(sensor_hw[0]), int(sensor_hw[1])), about["path"])
    else:
        t, x, y, p = _columns(folder, count, "r").values()
        events = EventStream.from_arrays(t, x, y, p, sensor_hw, about["path"], validate=False)
    return Recording(events, frames, meta["info"])


def _is_fresh(folder: Path, meta: dict[str, Any], path: Path) -> bool:
    """True if the source is what it was: the same size and time of change, or else the same content."""
    about, now = meta["source"], _stat(path)
    if all(about[key] == now[key] for key in now):
        return True
    if about["size"] != now["size"] or about["checksum"] != _checksum(path):
        logger.info("%s: changed since it was cached", path)
        return False
    meta["source"] = {**about, **now}  # only touched: spare the next reader the checksum
    with contextlib.suppress(PermissionError):  # of another user's cache, which serves as it is
        _write_meta(folder, meta)
    return True


def _write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Writes what an entry says of itself, with a checksum."""
    text = json.dumps(meta, indent=1, default=str)
    with atomic_file(folder / "meta.json") as temporary:
        temporary.write_text(f"{text}\n{zlib.crc32(text.encode()):08x}\n")


def _read_meta(folder: Path) -> dict[str, Any]:
    text, _, told = (folder / "meta.json").read_text().removesuffix("\n").rpartition("\n")
    if f"{zlib.crc32(text.encode()):08x}" != told:
        raise ValueError("its meta.json fails its checksum")
    return json.loads(text)


def _parts(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _stat(path: Path) -> dict[str, int]:
    stats = [p.stat() for p in _parts(path)]
    return {"size": sum(s.st_size for s in stats), "mtime_ns": max((s.st_mtime_ns for s in stats), default=0)}


def _checksum(path: Path) -> str:
    total = hashlib.blake2b(digest_size=16)
    for part in _parts(path):
        with part.open("rb") as file:
            while block := file.read(BLOCK):
                total.update(block)
    return total.hexdigest()


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    return value


def _file(name: str) -> str:
    return f"{name}.{COLUMNS[name].kind}{COLUMNS[name].itemsize}"
