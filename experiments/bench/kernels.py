"""Measures the spiking kernels beside every library a user could pick instead, in one run on one machine.

    python -m experiments.bench kernels quick=true            # one LIF size and the stem, about a minute
    python -m experiments.bench kernels                       # the whole grid, the plot and benchmarks/kernels.json

Each size runs in processes of its own: one keeps freed memory (the three glibc settings of KEEP), one has the default
allocator, as real training has. See kernels_rivals.py for how each library is set up.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from omegaconf import DictConfig

from experiments.bench.kernels_plot import plot
from experiments.record import write_record
from experiments.worker import environment, worker
from had_snn.commands.run_folder import machine
from had_snn.errors import HadError

KEEP = {"MALLOC_TRIM_THRESHOLD_": 1 << 34, "MALLOC_MMAP_THRESHOLD_": 1 << 34, "MALLOC_TOP_PAD_": 1 << 30}
SETTING = ("T", "neurons", "backward", "fresh", "events", "channels", "kernel", "stride", "membranes", "name")


def measure(rows: list[dict], *, threads: int, keep: bool) -> list[dict]:
    """Runs rows in one process; `keep` tells its allocator to keep freed memory."""
    own = environment(PYTHONWARNINGS="ignore", **(KEEP if keep else {}))
    command = worker("bench.kernels_worker", json.dumps(rows), str(threads))
    done = subprocess.run(command, capture_output=True, text=True, env=own, check=False)
    if done.returncode != 0:
        raise HadError(f"a benchmark process failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def plan(cfg: DictConfig) -> tuple[list[dict], list[dict], list[dict]]:
    """Rows of the clocked LIF, of the stem, and of peak memory and convergence."""
    shared = {"device": cfg.device, "rounds": cfg.rounds}
    lif = shared | {"kind": "lif", "names": list(cfg.quick_rivals if cfg.quick else cfg.rivals)}
    stem = shared | {"kind": "stem", "peers": True, "membranes": False} | dict(cfg.stem)
    if cfg.quick:
        return [lif | dict(cfg.main) | {"backward": b} for b in (False, True)], [stem], []
    sizes = [{"T": t, "neurons": n // t} for t in cfg.steps for n in cfg.neuron_steps]
    lif_rows = [lif | s | {"backward": b} for s in [dict(cfg.main), *sizes] for b in (False, True)]
    varied = [{name: value} for name, values in cfg.stem_grid.items() for value in values]
    stem_rows = [stem, *(stem | {"peers": False} | change for change in varied)]
    others = [{"kind": "memory", "name": n} | dict(cfg.main) for n in cfg.rivals]
    return lif_rows, stem_rows, [*others, {"kind": "convergence", "dt_us": list(cfg.convergence_us)}]


def summary(results: list[dict], cfg: DictConfig) -> dict[str, object]:
    """The committed figures: the main LIF row, kept and fresh, and the main stem row."""
    found: dict[str, object] = {}
    lif: dict[str, dict] = {}
    for row in results:
        if row["kind"] == "lif" and {k: row[k] for k in cfg.main} == dict(cfg.main):
            key = ("fwd_bwd" if row["backward"] else "fwd") + ("_fresh" if row["fresh"] else "")
            figures = {name: round(values["median"], 2) for name, values in row["ms"].items()}
            lif[key] = figures | {"memory_limit": round(row["memory_limit_ms"], 2)}
        elif row["kind"] == "stem" and row["peers"]:
            found["stem"] = {name: round(value, 1) for name, value in row["mev_per_s"].items()}
    return {"lif": lif} | found


def table(results: list[dict]) -> str:
    """All rows as text."""
    lines = []
    for row in results:
        head = " ".join(f"{key}={row[key]}" for key in SETTING if key in row)
        if row["kind"] == "convergence":
            shares = zip(row["dt_us"], row["misplaced"], strict=True)
            lines.append("misplaced spikes: " + ", ".join(f"{share:.3%} at {dt} us" for dt, share in shares))
            continue
        if row["kind"] == "memory":
            lines.append(f"memory {head}: {row['peak_mb']:.0f} MB")
            continue
        unit = row["mev_per_s"] if row["kind"] == "stem" else {n: v["median"] for n, v in row["ms"].items()}
        spread = {n: (v["q3"] - v["q1"]) / v["median"] for n, v in row["ms"].items()}
        cells = "  ".join(f"{name} {value:.2f} (±{spread[name]:.0%})" for name, value in unit.items())
        limit = f"  limit {row['memory_limit_ms']:.2f}" if row["kind"] == "lif" else ""
        lines.append(f"{row['kind']} {head} [{'Mev/s' if row['kind'] == 'stem' else 'ms'}]: {cells}{limit}")
        lines += [f"  not measured: {name}: {why}" for name, why in row["missing"].items()]
    return "\n".join(lines)


def brief(row: dict) -> dict:
    """A row without what every other row says too, and the median alone of its times."""
    kept = {name: value for name, value in row.items() if name not in ("names", "spike_rate")}
    return kept | ({"ms": {name: times["median"] for name, times in row["ms"].items()}} if "ms" in row else {})


def main(cfg: DictConfig) -> None:
    lif, stem, others = plan(cfg)
    results = []
    for keep in (True, False):
        rows = [row | {"fresh": not keep} for row in lif if keep or {k: row[k] for k in cfg.main} == dict(cfg.main)]
        for row in rows:
            results += measure([row], threads=cfg.threads, keep=keep)
            print(table(results[-1:]), flush=True)
    for row in [*stem, *others]:
        results += measure([row], threads=cfg.threads, keep=False)
        print(table(results[-1:]), flush=True)
    record = summary(results, cfg) | {"machine": machine(cfg.threads, cfg.device)}
    if cfg.out is not None:
        out = Path(cfg.out)
        write_record(out, record | ({} if cfg.quick else {"rows": [brief(row) for row in results]}))
        if not cfg.quick:
            plot(results, out.with_suffix(".png"))
