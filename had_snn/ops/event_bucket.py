"""Buckets packed events by output site, in C++ on a CPU and with torch's stable sort elsewhere.

An entry is `(t - t_begin) << 16 | tap`, one for every (event, site) pair whose kernel covers the event; entries of a
site keep the order of the events. See `kernels/neuron/event_lif.cu`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from had_snn import native
from had_snn.errors import InputError
from had_snn.native import INT32, INT64, POINTER, fields
from had_snn.ops import build

MAX_ENTRIES = (1 << 32) - 1


class Events(NamedTuple):
    """What is looked at of `PackedEvents`."""

    t: Tensor
    x: Tensor
    y: Tensor
    p: Tensor
    offsets: Tensor
    t_begin: Tensor
    t_end: Tensor


class EventBucket(native.Parameters):
    """`EventBucket` of `kernels/host/bucket.cpp`."""

    _fields_ = (
        *fields(POINTER, "t", "x", "y", "p", "offsets", "t_begin", "t_end", "start", "entries"),
        *fields(INT64, "B", "H", "W", "k", "stride", "padding"),
        *fields(INT32, "threads"),
    )


def bucket_events(
    events: Events,
    *,
    grid: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
    start: Tensor,
    entries: Tensor,
) -> None:
    """Fills `start` `[sites + 1]` and the first `start[-1]` of `entries`, both int64.

    Raises:
        InputError: If offsets do not match, or an event is unsorted, outside its window or outside the grid; on a GPU
            events are trusted, because looking would make every call wait for the device.
    """
    t, offsets = events.t, events.offsets
    if entries.numel() > MAX_ENTRIES:
        raise InputError(f"{t.numel()} events in one batch are too many for this kernel and stride; split the batch")
    if t.device.type != "cpu":
        new_start, new_entries = bucket_events_torch(events, grid=grid, kernel=kernel, stride=stride, padding=padding)
        start.copy_(new_start)
        entries[: new_entries.numel()].copy_(new_entries)
        return
    steps = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != t.numel() or bool((steps < 0).any()):
        found = f"{int(offsets[0])} to {int(offsets[-1])}" + (", not rising" if bool((steps < 0).any()) else "")
        raise InputError(f"offsets run from {found}; expected 0 to {t.numel()}, the number of events, never falling")
    ready = {name: field.contiguous() for name, field in events._asdict().items()}
    given = EventBucket(
        **build.addresses(**ready, start=start, entries=entries),
        B=events.t_begin.numel(),
        H=grid[0],
        W=grid[1],
        k=kernel,
        stride=stride,
        padding=padding,
        threads=build.threads_for(4 * t.numel()),
    )
    bad = native.bind("had_event_bucket", EventBucket)(given)
    if bad == -2:
        raise MemoryError("event_lif: no memory to sort the events")
    if bad >= 0:
        raise InputError(_explain(bad, events, grid))


def bucket_events_torch(
    events: Events,
    *,
    grid: tuple[int, int],
    kernel: int,
    stride: int,
    padding: int,
) -> tuple[Tensor, Tensor]:
    """The same buckets by a stable sort, on any device: `start` `[sites + 1]` and `entries`, both int64."""
    t, x, y, p, offsets, t_begin, _ = events
    rows, columns = ((n + 2 * padding - kernel) // stride + 1 for n in grid)
    sample = torch.searchsorted(offsets[1:].contiguous(), torch.arange(t.numel(), device=t.device), right=True)
    cover = torch.arange(-(-kernel // stride), device=t.device)
    # The outputs that cover a position end at position // stride and step downwards.
    oy = (y.long()[:, None] + padding) // stride - cover
    ox = (x.long()[:, None] + padding) // stride - cover
    dy = y.long()[:, None] + padding - oy * stride
    dx = x.long()[:, None] + padding - ox * stride
    row_ok = (oy >= 0) & (oy < rows) & (dy < kernel)
    column_ok = (ox >= 0) & (ox < columns) & (dx < kernel)
    ok = row_ok[:, :, None] & column_ok[:, None, :]
    tap = ((p.long()[:, None] * kernel + dy) * kernel)[:, :, None] + dx[:, None, :]
    site = ((sample[:, None] * rows + oy) * columns)[:, :, None] + ox[:, None, :]
    entry = ((t - t_begin[sample])[:, None, None] << 16) | tap
    sites = t_begin.numel() * rows * columns
    key = torch.where(ok, site, sites).reshape(-1)
    order = torch.sort(key, stable=True)
    start = torch.searchsorted(order.values, torch.arange(sites + 1, device=t.device))
    return start, entry.reshape(-1)[order.indices]


def _explain(bad: int, events: Events, grid: tuple[int, int]) -> str:
    """One line on what is wrong with event `bad`."""
    t, x, y, p, offsets, t_begin, t_end = events
    sample = int(torch.searchsorted(offsets[1:].contiguous(), torch.tensor(bad), right=True))
    now, first = int(t[bad]), int(offsets[sample])
    where = f"event {bad} (sample {sample}, t {now}, x {int(x[bad])}, y {int(y[bad])}, p {int(p[bad])})"
    if not (0 <= int(x[bad]) < grid[1] and 0 <= int(y[bad]) < grid[0]):
        return f"{where} lies outside the {grid[1]}x{grid[0]} grid; crop the events first"
    if int(p[bad]) > 1:
        return f"{where} has a polarity other than 0 and 1"
    if bad > first and now < int(t[bad - 1]):
        return f"{where} is earlier than the event before it ({int(t[bad - 1])}); sort the events by time"
    return f"{where} lies outside its window [{int(t_begin[sample])}, {int(t_end[sample])})"
