"""Writing recordings: `write_events` to AEDAT4, RAW (EVT3), HDF5 (DSEC layout), NPZ or CSV, whole or not at all.

What is written reads back the same: times, pixels, polarity and sensor size. Only AEDAT4 holds frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from had_snn.errors import InputError, optional_import
from had_snn.events.stream import EventStream, require_stream
from had_snn.files import atomic_file
from had_snn.recordings.aedat4_writer import write_aedat4
from had_snn.recordings.recording import Frames, logger

PIECE = 1 << 20
EVT3_CLOCK = 1 << 24  # microseconds until EVT3's time wraps
EVT3_LONGEST = 1 << 40  # microseconds; silence takes words too
_HIGH_STEP = 1 << 10  # largest step between two upper time words; above half their range it would read as a wrap
SUFFIXES = {
    ".aedat4": "aedat4",
    ".raw": "raw",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npz": "npz",
    ".csv": "csv",
    ".txt": "csv",
}

Progress = Callable[[int, int], None]


def write_events(
    events: EventStream,
    path: str | os.PathLike[str],
    *,
    frames: Frames | None = None,
    format: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes a recording.

    Args:
        events: The events; a memory-mapped stream is written piece by piece.
        path: Where to; replaced if there, and never seen half-written.
        frames: Pictures; left out with a warning where the format holds none.
        format: `"aedat4"`, `"raw"`, `"hdf5"`, `"npz"` or `"csv"`; by the suffix if not given.
        progress: Called with (events done, events in total).

    Returns:
        The path.

    Raises:
        InputError: If the format is unknown or cannot hold the events.
    """
    path, events = Path(path), require_stream(events)
    kind = format or SUFFIXES.get(path.suffix.lower())
    if kind not in set(SUFFIXES.values()):
        known = ", ".join(SUFFIXES)
        raise InputError(
            f"cannot tell a writable format from {path.name!r}; expected a suffix of {known}, or format=..."
        )
    if frames is not None and len(frames) and kind != "aedat4":
        logger.warning("%s: %d frames left out, the format holds only events", path, len(frames))
    with atomic_file(path) as temporary:
        if kind == "aedat4":
            write_aedat4(events, temporary, frames=frames, progress=progress)
        else:
            {"raw": _write_raw, "hdf5": _write_hdf5, "npz": _write_npz, "csv": _write_csv}[kind](
                events, temporary, progress
            )
    return path


def _pieces(events: EventStream, progress: Progress | None) -> Iterator[tuple[int, EventStream]]:
    for start in range(0, len(events), PIECE):
        yield start, events.slice_index(start, start + PIECE)
        if progress is not None:
            progress(min(start + PIECE, len(events)), len(events))


def _write_csv(events: EventStream, path: Path, progress: Progress | None) -> None:
    height, width = events.sensor_hw
    with path.open("w", encoding="ascii") as file:
        file.write(f"# width={width} height={height} time_unit=us\nt,x,y,p\n")
        for _, piece in _pieces(events, progress):
            rows = zip(piece.t.tolist(), piece.x.tolist(), piece.y.tolist(), piece.p.tolist(), strict=True)
            file.writelines(map("%d,%d,%d,%d\n".__mod__, rows))


def _write_npz(events: EventStream, path: Path, progress: Progress | None) -> None:
    with path.open("wb") as file:
        np.savez(
            file,
            t=events.t,
            x=events.x,
            y=events.y,
            p=events.p,
            sensor_hw=np.array(events.sensor_hw, np.int64),
            time_unit=np.array("us"),
        )
    if progress is not None:
        progress(len(events), len(events))


def _write_hdf5(events: EventStream, path: Path, progress: Progress | None) -> None:
    """The layout of DSEC: `events/{t,x,y,p}` from `t_offset` on, and the first event of each millisecond."""
    h5py = optional_import("h5py", extra="data")
    offset = events.t_start // 1000 * 1000
    span = events.t_end - offset
    dtypes = {"t": np.uint32 if span < 1 << 32 else np.int64, "x": np.uint16, "y": np.uint16, "p": np.uint8}
    with h5py.File(path, "w") as file:
        group = file.create_group("events")
        group.attrs["height"], group.attrs["width"] = events.sensor_hw
        chunks = (min(1 << 16, len(events)),)
        options = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "chunks": chunks}
        columns = {
            name: group.create_dataset(name, (len(events),), dtype, **(options if len(events) else {}))
            for name, dtype in dtypes.items()
        }
        for start, piece in _pieces(events, progress):
            cut = slice(start, start + len(piece))
            columns["t"][cut] = piece.t - offset
            for name in "xyp":
                columns[name][cut] = getattr(piece, name)
        file["t_offset"] = np.int64(offset)
        milliseconds = span // 1000 + 1
        if len(events) and milliseconds <= max(4 * len(events), 1 << 20):  # not for a few events over days
            edges = offset + 1000 * np.arange(milliseconds, dtype=np.int64)
            file["ms_to_idx"] = np.searchsorted(events.t, edges).astype(np.uint64)


def _write_raw(events: EventStream, path: Path, progress: Progress | None) -> None:
    """EVT3. Its clock starts below 2^24 us; later and negative times are told by a `t_offset` line of the header."""
    height, width = events.sensor_hw
    if max(height, width) > 2048:
        raise InputError(f"EVT3 holds pixels below 2048; the sensor is {width}x{height}")
    offset = events.t_start // EVT3_CLOCK * EVT3_CLOCK
    if len(events) and events.t_end - offset > EVT3_LONGEST:
        raise InputError(f"EVT3 cannot hold {(events.t_end - offset) / 1e6:.0f} s; at most {EVT3_LONGEST / 1e6:.0f} s")
    with path.open("wb") as file:
        lines = ["evt 3.0", f"format EVT3;height={height};width={width}", f"geometry {width}x{height}"]
        lines += [f"t_offset {offset}"] if offset else []
        file.write("".join(f"% {line}\n" for line in [*lines, "end"]).encode())
        last: tuple[int, int, int] | None = None
        for _, piece in _pieces(events, progress):
            words, last = _evt3_words(piece.t - offset, piece, last)
            file.write(words.tobytes())


def _evt3_words(
    t: np.ndarray, piece: EventStream, last: tuple[int, int, int] | None
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Words of a piece: for each event the upper and lower time and the row where they change, then the column.

    Args:
        t: int64 `[n]`, times from the file's offset on.
        piece: The events.
        last: Upper time, lower time and row in force before the piece; None at the start of a file.

    Returns:
        uint16 words, and what is in force after them.
    """
    high, low, row = t >> 12, t & 0xFFF, piece.y.astype(np.int64)
    before = last or (-1, -1, -1)
    step = np.diff(high, prepend=before[0])
    if last is None:
        step[0] = 1  # the first upper word says where time starts
    highs = -(-step // _HIGH_STEP)  # words for the way up, so that no step looks like a wrap
    new_low = (np.diff(low, prepend=before[1]) != 0) | (step > 0)
    new_row = np.diff(row, prepend=before[2]) != 0
    total = highs + new_low + new_row + 1
    end = np.cumsum(total)
    words = np.empty(int(end[-1]), np.uint16)
    words[end - 1] = 0x2000 | (piece.p.astype(np.uint16) << 11) | piece.x
    words[end[new_row] - 2] = piece.y[new_row]
    at_low = end - 2 - new_row
    words[at_low[new_low]] = 0x6000 | low[new_low]
    rising = np.flatnonzero(highs)
    repeats = highs[rising]
    within = np.arange(int(repeats.sum())) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    owner = np.repeat(rising, repeats)
    value = np.minimum(high[owner] - step[owner] + (within + 1) * _HIGH_STEP, high[owner])
    words[(end - total)[owner] + within] = 0x8000 | (value & 0xFFF)
    return words, (int(high[-1]), int(low[-1]), int(row[-1]))
