"""HDF5: the DSEC layout, Prophesee's `CD/events`, and any group that holds columns under common names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from had_snn.errors import FormatError, first_line, optional_import
from had_snn.recordings.column_names import split_name
from had_snn.recordings.columns import SAMPLE, ColumnPlan, check_finite, plan_columns
from had_snn.recordings.decoders import Columns
from had_snn.recordings.facts import Facts, facts_of_items, is_fact
from had_snn.recordings.hdf5_guard import MOST_OBJECTS, open_contained
from had_snn.recordings.hdf5_heaps import open_checked
from had_snn.recordings.recording import ReadOptions, Source, logger, pick

PIECE = 1 << 18  # events at a time, a multiple of usual chunks
ECF_FILTER = 36559  # Prophesee's codec for CD events
FILTERS = {
    307: "BZip2",
    32001: "Blosc",
    32004: "LZ4",
    32008: "Bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32017: "SZ",
    32026: "Blosc2",
}


def open_hdf5(path: Path, options: ReadOptions) -> Source:
    """Opens an HDF5 file (also MATLAB 7.3).

    Args:
        path: The file.
        options: `stream` names the group where several hold events; `window` is looked up in `ms_to_idx` if there.

    Returns:
        The source; nothing but a sample is read yet.

    Raises:
        FormatError: If the file is damaged or holds no events.
    """
    optional_import("h5py", extra="data")
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  # pyright: ignore[reportMissingImports]  - registers more filters where installed
    try:
        file = open_contained(path)
        groups = _find_events(file)
    except FormatError:
        raise
    except Exception as error:  # the C library reports damage as OSError, RuntimeError, KeyError, ...
        raise FormatError(path, f"damaged HDF5 file: {first_line(error)}", offset=path.stat().st_size) from error
    if not groups:
        raise FormatError(path, "no group holds events; expected datasets t, x, y, p or one table of them")
    stated = None if options.stream is None else str(options.stream).strip("/") or "/"
    wanted = pick(path, [*groups], stated, "under")
    if any(column.dtype.hasobject for column in groups[wanted].values()):  # words of any length
        file = open_checked(path)
        groups[wanted] = {name: file[column.name] for name, column in groups[wanted].items()}
    try:
        return _open_group(path, file, wanted, groups[wanted], options)
    except FormatError:
        raise
    except Exception as error:
        raise _unreadable(path, groups[wanted], error) from error


def _find_events(file: Any) -> dict[str, dict[str, Any]]:
    """Groups (by name) with their columns: `{name: dataset}`, or `{"table": dataset}` for one array of all columns."""
    found: dict[str, dict[str, Any]] = {}
    seen = 0

    def visit(name: str, item: Any) -> bool | None:
        nonlocal seen
        seen += 1
        if hasattr(item, "keys"):
            inside = ((k, item.get(k)) for k in item)  # None where a link leads nowhere
            columns = {k: d for k, d in inside if getattr(d, "shape", None)}
            flat = {k: d for k, d in columns.items() if max(d.shape, default=0) == d.size and split_name(k).role}
            if {"t", "x", "y", "p"} <= {split_name(k).role for k in flat}:
                found[name] = flat
        elif _is_table(name, item):
            found[name] = {"table": item}
        return True if seen > MOST_OBJECTS else None

    visit("/", file)
    file.visititems(visit)
    # Prophesee keeps triggers beside the events; they have no pixels and are never found here.
    return {k: v for k, v in sorted(found.items(), key=lambda kv: kv[0] not in ("events", "CD/events"))}


def _is_table(name: str, dataset: Any) -> bool:
    if dataset.dtype.names:
        return {"t", "x", "y"} <= {split_name(n).role for n in dataset.dtype.names}
    return len(dataset.shape) == 2 and dataset.shape[1] == 4 and dataset.dtype.kind in "iuf" and "event" in name.lower()


def _open_group(path: Path, file: Any, name: str, datasets: dict[str, Any], options: ReadOptions) -> Source:
    table = datasets.get("table")
    if table is not None:
        names = list(table.dtype.names) if table.dtype.names else None
        count = len(table)
        head = table[:SAMPLE]
        sample = [head[n] for n in names] if names else [head[:, i] for i in range(table.shape[1])]
    else:
        names, count = list(datasets), max(datasets[next(iter(datasets))].shape)
        if len({d.size for d in datasets.values()}) != 1:
            raise FormatError(path, f"columns of different lengths: {sorted({d.size for d in datasets.values()})}")
        sample = [np.asarray(d).reshape(-1)[:SAMPLE] if d.ndim > 1 else d[:SAMPLE] for d in datasets.values()]
    facts = _facts(path, file, name, datasets, options)
    # DSEC's layout and Prophesee's count in microseconds without saying so.
    unit = 0 if "ms_to_idx" in file or facts.offset is not None or name == "CD/events" else None
    plan = plan_columns(path, sample, options, facts, total=count, names=names, unit=unit)
    source = plan.source("hdf5", len(sample), facts, options, named=not file.userblock_size)
    source.info["stream"] = name
    first, last = _span(file, options, count, _Times(datasets, names, plan))
    source.most = max(last - first, 0)
    source.chunks = _chunks(source, file, datasets, names, plan, first, last, options)
    return source


def _chunks(
    source: Source,
    file: Any,
    datasets: dict[str, Any],
    names: list[str] | None,
    plan: ColumnPlan,
    first: int,
    last: int,
    options: ReadOptions,
) -> Iterator[Columns]:
    table, path = datasets.get("table"), source.path
    for start in range(first, last, PIECE):
        stop = min(start + PIECE, last)
        try:
            if table is not None:
                rows = table[start:stop]
                piece = [rows[n] for n in names] if names else [rows[:, i] for i in range(rows.shape[1])]
            else:
                piece = [_part(d, start, stop) for d in datasets.values()]
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise _unreadable(path, datasets, error) from error
        check_finite(path, piece, start)
        yield plan.apply(piece, source.room)
        if options.progress is not None:
            options.progress(stop, last)
    file.close()


def _part(dataset: Any, start: int, stop: int) -> np.ndarray:
    """A slice of a column; MATLAB stores columns as `[1, N]` or `[N, 1]`."""
    if len(dataset.shape) == 1:
        return dataset[start:stop]
    return dataset[0, start:stop] if dataset.shape[0] == 1 else dataset[start:stop, 0]


class _Times:
    """The times of single events, in microseconds."""

    def __init__(self, datasets: dict[str, Any], names: list[str] | None, plan: ColumnPlan) -> None:
        self._table: Any = datasets.get("table")
        self._column = list(datasets.values())[plan.index["t"]] if self._table is None else None
        self._plan = plan
        self._name = names[plan.index["t"]] if names else None
        self.offset_us = plan.offset_us

    def __getitem__(self, index: int) -> int:
        if self._column is not None:
            t = _part(self._column, index, index + 1)
        else:
            rows = self._table[index : index + 1]
            t = rows[self._name] if self._name else rows[:, self._plan.index["t"]]
        return int(self._plan.times(t)[0])


def _span(file: Any, options: ReadOptions, count: int, times: _Times) -> tuple[int, int]:
    """Events that a window can hold, from DSEC's index of the first event of each millisecond.

    The index counts milliseconds without the offset; some writers count them from the first event. Where neither fits
    the events at the window's ends, all are read.
    """
    if options.window is None or "ms_to_idx" not in file or count == 0 or not len(file["ms_to_idx"]):
        return 0, count
    index = file["ms_to_idx"]
    for zero in (times.offset_us, times[0], times[0] // 1000 * 1000):
        t0, t1 = (int(v) - zero for v in options.window)
        first_ms, last_ms = max(t0 // 1000, 0), max(t1 // 1000 + 1, 0)
        first = int(index[min(first_ms, len(index) - 1)])
        last = int(index[last_ms]) if last_ms < len(index) else count
        before = first == 0 or (0 < first <= count and times[first - 1] < options.window[0])
        behind = last == count or (first <= last < count and times[last] >= options.window[1])
        if before and behind:
            return first, last
    logger.warning("%s: its ms_to_idx does not fit its times and is not used", file.filename)
    return 0, count


def _facts(path: Path, file: Any, name: str, datasets: dict[str, Any], options: ReadOptions) -> Facts:
    """What attributes and scalars at the root, at the events' group, and at their datasets state."""
    group = file[name] if hasattr(file[name], "keys") else file[name].parent
    facts = Facts()
    times = [d for key, d in datasets.items() if key == "table" or split_name(key).role == "t"]
    words = _Words(path)
    for place in (file, group, *times) if group.name != "/" else (file, *times):
        items = {k: _scalar(place.get(k), words) for k in place if is_fact(k)} if hasattr(place, "keys") else {}
        items |= {k: words.attribute(place, k) for k in place.attrs if is_fact(k)}
        facts.add(facts_of_items(path, {k: v for k, v in items.items() if v is not None}, options))
    return facts


class _Words:
    """Reads words of any length through heaps that are checked; the file is opened again where there are any."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _checked(self) -> Any:
        return open_checked(self._path)

    def attribute(self, place: Any, name: str) -> Any:
        return (self._checked[place.name] if place.attrs.get_id(name).dtype.hasobject else place).attrs[name]

    def scalar(self, item: Any) -> Any:
        item = self._checked[item.name] if item.dtype.hasobject else item
        return item.asstr()[()] if item.dtype.kind in "OS" else item[()]


def _scalar(item: Any, words: _Words) -> Any:
    """The content of a small dataset of numbers or words, or None."""
    if not hasattr(item, "shape") or item.size is None:
        return None
    if "MATLAB_class" in item.attrs and words.attribute(item, "MATLAB_class") == b"char" and 0 < item.size < 100:
        return "".join(chr(code) for code in np.asarray(item).reshape(-1))
    if item.size > 3 or item.dtype.kind not in "iufOS":
        return None
    with contextlib.suppress(TypeError):  # a reference is neither a number nor a word
        return words.scalar(item)
    return None


def _unreadable(path: Path, datasets: dict[str, Any], error: Exception) -> FormatError:
    """Says when a codec is missing, which the C library reports in words that help nobody."""
    codecs: list[int] = []
    for dataset in datasets.values():
        with contextlib.suppress(AttributeError, RuntimeError, ValueError):
            pipeline = dataset.id.get_create_plist()
            codecs += [pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())]
    available = optional_import("h5py", extra="data").h5z.filter_avail
    if ECF_FILTER in codecs:
        remedy = "install Prophesee's hdf5_ecf and set HDF5_PLUGIN_PATH, or convert to RAW"
        return FormatError(path, "compressed with Prophesee's ECF codec, which is not installed", remedy=remedy)
    if missing := [code for code in codecs if not available(code)]:
        name = FILTERS.get(missing[0], "an unknown codec")
        problem = f"compressed with {name} (HDF5 filter {missing[0]}), which is not installed"
        return FormatError(path, problem, remedy="pip install hdf5plugin, or had-snn[data], which brings it")
    known = [f"{FILTERS[code]}, which hdf5plugin reads" for code in codecs if code in FILTERS]
    about = f" (compressed with {known[0]})" if known else ""
    return FormatError(path, f"damaged HDF5 file: {first_line(error)}{about}", offset=path.stat().st_size)
