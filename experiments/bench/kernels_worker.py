"""Times one set of rows in a process of its own, so that its allocator and its peak memory are its own.

Started by `kernels.py` with a JSON list of rows; prints one JSON list of results. Within a row every contender runs
once a round, in turn, so that a busy moment of the machine hits all of them; results are medians over the rounds.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from experiments.bench.kernels_rivals import LIF_RIVALS
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.ops import event_lif, lif_multi_step


def interleave(jobs: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, dict[str, float]]:
    """Median, quartiles and minimum of each job in ms, after a warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for round_ in range(rounds + 1):
        for name, job in jobs.items():
            begin = time.perf_counter()
            job()
            if device == "cuda":
                torch.cuda.synchronize()
            if round_ >= 1:
                times[name].append((time.perf_counter() - begin) * 1e3)
    result = {}
    for name, values in times.items():
        q1, median, q3 = statistics.quantiles(values, n=4)
        result[name] = {"median": median, "q1": q1, "q3": q3, "min": min(values), "rounds": len(values)}
    return result


def queued(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median time of each job in ms on the GPU itself: ten calls, one behind the other, between two events.

    Where a job keeps the GPU busy for longer than its launch takes, this is the time of its kernels alone.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(10):
                job()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end) / 10)
    return {name: statistics.median(values) for name, values in times.items()}


def lif_row(row: dict) -> dict:
    """One size of the clocked LIF: `T`, `neurons`, `backward`, `names`, `rounds`."""
    T, neurons, device = row["T"], row["neurons"], row["device"]
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(T, neurons, generator=generator) * 0.65).to(device).requires_grad_(row["backward"])
    weight, target = torch.randn(T, neurons, generator=generator).to(device), torch.empty(T, neurons, device=device)
    jobs: dict[str, Callable[[], object]] = {"copy": lambda: target.copy_(x.detach())}
    missing = {}
    for name in row["names"]:
        try:
            layer = LIF_RIVALS[name](T)
            spikes = layer(x)
        except Exception as error:  # noqa: BLE001  # a peer that is absent or broken here is reported, not fatal
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            continue
        rate = float(spikes.detach().float().mean())

        def job(layer=layer) -> object:
            if not row["backward"]:
                with torch.no_grad():
                    return layer(x)
            return torch.autograd.grad(layer(x), x, weight)

        jobs[name] = job
        missing.pop(name, None)
        row.setdefault("spike_rate", {})[name] = rate
    result = interleave(jobs, row["rounds"], device)
    # What our own kernels move: x in and spikes out; with the backward, x and the gradient in and the gradient out.
    copy = result.pop("copy")
    moved = (5 if row["backward"] else 2) / 2
    found = {"ms": result, "copy_ms": copy["median"], "memory_limit_ms": copy["median"] * moved, "missing": missing}
    if device == "cuda":
        times = queued(jobs, row["rounds"])
        found |= {"queued_ms": times, "queued_memory_limit_ms": times["copy"] * moved}
    return row | found


def memory_row(row: dict) -> dict:
    """Peak memory of one contender's forward and backward, above what the input and the package need, in MB."""
    x = torch.randn(row["T"], row["neurons"]).requires_grad_()
    weight, layer = torch.ones(row["T"], row["neurons"]), LIF_RIVALS[row["name"]](row["T"])
    small = torch.randn(row["T"], 64).requires_grad_()
    torch.autograd.grad(layer(small).sum(), small)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.autograd.grad(layer(x), x, weight)
    return row | {"peak_mb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def draw(count: int, hw: tuple[int, int], span: int, device: str) -> EventBatch:
    """Uniform random events of one sample."""
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, span, count))
    x, y, p = (rng.integers(0, n, count) for n in (hw[1], hw[0], 2))
    return EventBatch.pack([EventStream.from_arrays(t, x, y, p, hw)], [0], [span]).to(device)


def stem_row(row: dict) -> dict:
    """One setting of the stem (`events`, `channels`, `kernel`, `stride`, `T`); with `peers` beside binning."""
    hw, span, T = (260, 346), 1_000_000, row["T"]
    events, k, device = draw(row["events"], hw, span, row["device"]), row["kernel"], row["device"]
    generator = torch.Generator().manual_seed(1)
    weight = (torch.rand(row["channels"], 2, k, k, generator=generator) * 0.3 - 0.05).to(device).requires_grad_()
    tau = torch.full((row["channels"],), 20_000.0, device=device).requires_grad_()
    options = {"n_steps": T, "size_hw": hw, "stride": row["stride"], "return_membranes": row["membranes"]}

    def forward() -> Tensor:
        with torch.no_grad():
            return event_lif(events, weight, tau, **options)[0]

    gradient = torch.randn(forward().shape, device=device)

    def both() -> object:
        return torch.autograd.grad(event_lif(events, weight, tau, **options)[0], (weight, tau), gradient)

    jobs: dict[str, Callable[[], object]] = {"had_forward": forward, "had_forward_backward": both}
    missing = {}
    if row["peers"]:
        fields = [getattr(events, n).cpu().numpy() for n in ("x", "y", "t", "p")]
        x, y, t, p = fields  # t is int64, so the index below is computed in int64

        def histogram() -> object:
            index = ((t * T // span * 2 + p) * hw[0] + y) * hw[1] + x
            return np.bincount(index, minlength=T * 2 * hw[0] * hw[1])

        jobs["numpy_histogram"] = histogram
        ready = ((t * T // span * 2 + p) * hw[0] + y) * hw[1] + x
        jobs["numpy_bincount_only"] = lambda: np.bincount(ready, minlength=T * 2 * hw[0] * hw[1])
        try:
            from tonic.transforms import ToFrame, ToVoxelGrid

            structured = np.empty(len(t), dtype=[("x", "<i2"), ("y", "<i2"), ("t", "<i8"), ("p", "?")])
            for name, field in zip(("x", "y", "t", "p"), fields, strict=True):
                structured[name] = field
            size = (hw[1], hw[0], 2)
            frame = ToFrame(sensor_size=size, n_time_bins=T)
            voxel = ToVoxelGrid(sensor_size=size, n_time_bins=T)
            jobs["tonic_toframe"] = lambda: frame(structured)
            jobs["tonic_tovoxelgrid"] = lambda: voxel(structured)
        except ImportError as error:
            missing["tonic"] = str(error)
    ms = interleave(jobs, row["rounds"], device)
    rate = {name: row["events"] / values["median"] / 1e3 for name, values in ms.items()}
    return row | {"ms": ms, "mev_per_s": rate, "missing": missing}


def convergence_row(row: dict) -> dict:
    """Share of spikes that the clocked form, fed with binned events, puts into another window of 5 ms."""
    hw, span, count, window = (32, 32), 100_000, 10_000, 5_000
    events, generator = draw(count, hw, span, "cpu"), torch.Generator().manual_seed(1)
    weight, tau = torch.rand(16, 2, 4, 4, generator=generator) * 0.5 - 0.05, torch.logspace(3.3, 4.6, 16)
    exact = event_lif(events, weight, tau, n_steps=span // window, size_hw=hw, stride=4, return_membranes=False)[0]
    misplaced = []
    for dt in row["dt_us"]:
        state, found = None, []
        for begin in range(0, span, window):  # a window at a time bounds memory
            inside = slice(*(int(torch.searchsorted(events.t, torch.tensor(edge))) for edge in (begin, begin + window)))
            t, x, y, p = (getattr(events, name)[inside].long() for name in ("t", "x", "y", "p"))
            place = (((t - begin) // dt * 2 + p) * hw[0] + y) * hw[1] + x
            frames = torch.bincount(place, minlength=window // dt * 2 * hw[0] * hw[1]).float().reshape(-1, 2, *hw)
            current = torch.nn.functional.conv2d(frames, weight, stride=4).unsqueeze(1)
            spikes, state, _ = lif_multi_step(current, state, tau=tau, dt=float(dt))
            found.append(spikes.sum(0))
        misplaced.append(float((torch.stack(found) - exact).abs().sum() / exact.sum()))
    return row | {"misplaced": misplaced, "spikes": float(exact.sum())}


def main() -> None:
    """Reads rows from the command line, prints results as the last line."""
    rows, threads = json.loads(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    kinds = {"lif": lif_row, "stem": stem_row, "memory": memory_row, "convergence": convergence_row}
    print(json.dumps([kinds[row["kind"]](row) for row in rows]))


if __name__ == "__main__":
    main()
