"""HDF5: the DSEC layout, Prophesee's `CD/events`, and any group that holds columns under common names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from had_snn.errors import FormatError, optional_import
from had_snn.events.decoders import Columns
from had_snn.events.readers_columns import SAMPLE, ColumnPlan, check_finite, plan_columns, split_name
from had_snn.events.recording import ReadOptions, Source, logger

MOST_OBJECTS = 10_000
PIECE = 1 << 18  # events at a time, a multiple of usual chunks
ECF_FILTER = 36559  # Prophesee's codec for CD events


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
    h5py = optional_import("h5py", extra="data")
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  # pyright: ignore[reportMissingImports]  - registers more filters where installed
    try:
        file = h5py.File(path, "r")
        groups = _find_events(file)
    except Exception as error:  # the C library reports damage as OSError, RuntimeError, KeyError, ...
        raise FormatError(path, f"damaged HDF5 file: {_line(error)}", offset=path.stat().st_size) from error
    if not groups:
        raise FormatError(path, "no group holds events; expected datasets t, x, y, p or one table of them")
    wanted = str(options.stream).strip("/") if options.stream is not None else next(iter(groups))
    if wanted not in groups:
        raise FormatError(path, f"no events under {wanted!r}; the file has them under {', '.join(groups)}")
    if len(groups) > 1 and options.stream is None:
        logger.info("%s: events under %s; reading %s (stream=... picks another)", path, ", ".join(groups), wanted)
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
            columns = {k: item[k] for k in item if hasattr(item[k], "shape") and len(item[k].shape) >= 1}
            flat = {k: d for k, d in columns.items() if max(d.shape, default=0) == d.size and split_name(k)[0]}
            if {"t", "x", "y", "p"} <= {split_name(k)[0] for k in flat}:
                found[name] = flat
        elif _is_table(name, item):
            found[name] = {"table": item}
        return True if seen > MOST_OBJECTS else None

    visit("", file)
    file.visititems(visit)
    # Prophesee keeps triggers beside the events; they have no pixels and are never found here.
    return {k: v for k, v in sorted(found.items(), key=lambda kv: kv[0] not in ("events", "CD/events"))}


def _is_table(name: str, dataset: Any) -> bool:
    if dataset.dtype.names:
        return {"t", "x", "y"} <= {split_name(n)[0] for n in dataset.dtype.names}
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
    offset = _scalar(file, name, "t_offset")
    plan = plan_columns(path, sample, options, names=names, unit="us" if offset is not None else None)
    info: dict[str, Any] = {"stream": name, "columns": plan.describe(len(sample)), "time_unit": plan.unit}
    if offset is not None:
        info["t_offset"] = offset
    parent = file[name] if hasattr(file[name], "keys") else file[name].parent
    sensor_hw = _sensor(file, parent)
    source = Source(path, "hdf5", (), sensor_hw, info, countable_from_one=bool(file.userblock_size))
    first, last = _span(file, options, count, offset or 0)
    source.most = max(last - first, 0)
    source.chunks = _chunks(source, file, datasets, names, plan, first, last, offset or 0, options)
    return source


def _chunks(
    source: Source,
    file: Any,
    datasets: dict[str, Any],
    names: list[str] | None,
    plan: ColumnPlan,
    first: int,
    last: int,
    offset: int,
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
        yield plan.apply(piece, source.room, offset)
        if options.progress is not None:
            options.progress(stop, last)
    file.close()


def _part(dataset: Any, start: int, stop: int) -> np.ndarray:
    """A slice of a column; MATLAB stores columns as `[1, N]` or `[N, 1]`."""
    if len(dataset.shape) == 1:
        return dataset[start:stop]
    return dataset[0, start:stop] if dataset.shape[0] == 1 else dataset[start:stop, 0]


def _span(file: Any, options: ReadOptions, count: int, offset: int) -> tuple[int, int]:
    """Events that a window can hold, from DSEC's index of the first event of each millisecond."""
    if options.window is None or "ms_to_idx" not in file:
        return 0, count
    index = file["ms_to_idx"]
    t0, t1 = (int(v) - offset for v in options.window)
    first_ms, last_ms = max(t0 // 1000, 0), t1 // 1000 + 1
    if not len(index) or first_ms >= len(index):
        return (int(index[-1]), count) if len(index) else (0, count)
    first = int(index[first_ms])
    last = int(index[last_ms]) if 0 <= last_ms < len(index) else count
    return max(min(first, count), 0), max(min(last, count), 0)


def _scalar(file: Any, name: str, key: str) -> int | None:
    for place in (file, file[name] if hasattr(file[name], "keys") else file[name].parent):
        if key in place and getattr(place[key], "size", 0) == 1 and place[key].dtype.kind in "iu":
            return int(np.asarray(place[key]).reshape(-1)[0])
    return None


def _sensor(file: Any, group: Any) -> tuple[int, int] | None:
    """Sensor size from attributes: Prophesee's `geometry` "WxH", e2vid's `sensor_resolution` (height, width), ours."""
    for place in (group, file):
        attributes = place.attrs
        for key in ("sensor_hw", "sensor_resolution"):
            if key in attributes and np.size(attributes[key]) >= 2:
                height, width = (int(v) for v in np.asarray(attributes[key]).reshape(-1)[:2])
                return (height, width) if height > 0 and width > 0 else None
        geometry = attributes.get("geometry", "")
        geometry = geometry.decode() if isinstance(geometry, bytes) else str(geometry)
        width, _, height = geometry.partition("x")
        if width.isdigit() and height.isdigit():
            return int(height), int(width)
        if "width" in attributes and "height" in attributes:
            return int(attributes["height"]), int(attributes["width"])
    return None


def _unreadable(path: Path, datasets: dict[str, Any], error: Exception) -> FormatError:
    """Says when a codec is missing, which the C library reports in words that help nobody."""
    for dataset in datasets.values():
        with contextlib.suppress(AttributeError, RuntimeError, ValueError):
            pipeline = dataset.id.get_create_plist()
            filters = [pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())]
            if ECF_FILTER in filters:
                remedy = "install Prophesee's hdf5_ecf and set HDF5_PLUGIN_PATH, or convert to RAW"
                return FormatError(path, "compressed with Prophesee's ECF codec, which is not installed", remedy=remedy)
            if filters and "filter" in str(error):
                return FormatError(
                    path, f"compressed with filter {filters}, not available", remedy="pip install hdf5plugin"
                )
    return FormatError(path, f"damaged HDF5 file: {_line(error)}", offset=path.stat().st_size)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
