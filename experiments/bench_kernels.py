"""Measures the spiking kernels beside every library a user could pick instead, in one run on one machine.

    python experiments/bench_kernels.py quick=true            # one LIF size and the stem, about a minute
    python experiments/bench_kernels.py                       # the whole grid, the plot and benchmarks/kernels.json

Each size runs in processes of its own: one keeps freed memory (the three glibc settings of KEEP), one has the default
allocator, as real training has. See bench_kernels_rivals.py for how each library is set up.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
from bench_kernels_plot import plot
from entry import script, versions
from omegaconf import DictConfig

from had_snn.errors import HadError

KEEP = {"MALLOC_TRIM_THRESHOLD_": 1 << 34, "MALLOC_MMAP_THRESHOLD_": 1 << 34, "MALLOC_TOP_PAD_": 1 << 30}
SETTING = ("T", "neurons", "backward", "fresh", "events", "channels", "kernel", "stride", "membranes", "name")


def measure(rows: list[dict], *, threads: int, keep: bool) -> list[dict]:
    """Runs rows in one process; `keep` tells its allocator to keep freed memory."""
    environment = {"PYTHONWARNINGS": "ignore"} | ({k: str(v) for k, v in KEEP.items()} if keep else {})
    command = [sys.executable, str(Path(__file__).with_name("bench_kernels_worker.py")), json.dumps(rows), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    if done.returncode != 0:
        raise HadError(f"a benchmark process failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine(threads: int, device: str) -> dict[str, object]:
    """What the numbers were taken on; no names and no paths."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = {"cpu": names[0] if names else platform.machine(), "cores": os.cpu_count(), "threads": threads}
    found |= {"memory_gib": round(memory, 1), "versions": versions()}
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


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


@script("bench_kernels")
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
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record | ({} if cfg.quick else {"rows": results}), indent=1) + "\n")
        if not cfg.quick:
            plot(results, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
