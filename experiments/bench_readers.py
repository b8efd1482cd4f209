"""Measures readers: seconds, events per CPU second (fastest of some repeats) and peak memory, beside other packages.

    python experiments/bench_readers.py sizes=[1000000,10000000] formats=[raw,aedat4]

Every reader runs in a process of its own; its memory is the peak above that of the imported package. Peers that are
not installed are left out. Processor seconds are compared, so that a busy machine does not decide; a ratio above 1
means that this package needs less than the best peer of the same file.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from entry import script
from omegaconf import DictConfig

SENSOR_HW = (720, 1280)
PEERS: dict[str, dict[str, str]] = {
    "raw": {"expelliarmus": "__import__('expelliarmus').Wizard(encoding='evt3', fpath=path).read()"},
    "evt2": {"expelliarmus": "__import__('expelliarmus').Wizard(encoding='evt2', fpath=path).read()"},
    "dat": {"expelliarmus": "__import__('expelliarmus').Wizard(encoding='dat', fpath=path).read()"},
    "es": {"event_stream": "np.concatenate(list(__import__('event_stream').Decoder(path)))"},
    "aedat4": {
        "aedat": "np.concatenate([p['events'] for p in __import__('aedat').Decoder(path) if 'events' in p])",
        "tonic": "__import__('tonic.io').io.read_aedat4(path)",
    },
    "npy": {"numpy": "np.load(path)"},
    "npz": {"numpy": "{k: v for k, v in np.load(path).items()}"},
    "hdf5": {"h5py": "{k: v[:] for k, v in __import__('h5py').File(path)['events'].items()}"},
    "csv": {"numpy": "np.loadtxt(path, delimiter=',', skiprows=2, dtype=np.int64)"},
}
OURS = {"cache": "open_cached(path, path + '.cache').events.slice_time(500_000, 520_000).t.sum()"}


def make_file(folder: Path, kind: str, count: int) -> Path:
    """A file of moving-edge-like events (runs along rows, bursts in time), made once by conversion."""
    from had_snn.events.stream import EventStream
    from had_snn.events.writers import write_events

    # expelliarmus refuses EVT2 in a file that is not called .raw
    path = folder / ("evt2" if kind == "evt2" else "") / f"{count}.{'raw' if kind == 'evt2' else kind}"
    if path.exists():
        return path
    rng = np.random.default_rng(count)
    row = np.repeat(rng.integers(0, SENSOR_HW[0], count // 3 + 1), 3)[:count]
    column = (np.repeat(rng.integers(0, SENSOR_HW[1], count // 3 + 1), 3)[:count] + np.arange(count) % 3) % SENSOR_HW[1]
    t = np.sort(rng.integers(0, max(1, count // 5), count))  # five million events a second
    events = EventStream.from_arrays(t, column, row, rng.integers(0, 2, count), SENSOR_HW)
    encoder = {"evt2": _evt2, "dat": _dat, "es": _es}.get(kind)
    if encoder is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoder(events))
    elif kind == "npy":
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.save(file, events.to_structured())
    else:
        write_events(events, path, format="raw" if kind == "cache" else kind)
    return path


def _evt2(events) -> bytes:
    high = events.t >> 6
    new = np.flatnonzero(np.diff(high, prepend=-1))
    low = (events.t & 63).astype(np.uint32)
    words = (events.p.astype(np.uint32) << 28) | (low << 22) | (events.x.astype(np.uint32) << 11) | events.y
    words = np.insert(words, new, (0x80000000 | high[new]).astype(np.uint32))
    return b"% evt 2.0\n% geometry 1280x720\n% end\n" + words.astype("<u4").tobytes()


def _dat(events) -> bytes:
    data = (events.p.astype(np.uint32) << 28) | (events.y.astype(np.uint32) << 14) | events.x
    record = np.stack([events.t.astype(np.uint32), data], axis=1).astype("<u4")
    return b"% Data file containing CD events.\n% Version 2\n% Height 720\n% Width 1280\n\x0c\x08" + record.tobytes()


def _es(events) -> bytes:
    record = np.empty(len(events), [("head", "u1"), ("x", "<u2"), ("y", "<u2")])
    steps = np.minimum(np.diff(events.t, prepend=0), 126)
    record["head"], record["x"], record["y"] = steps << 1 | events.p, events.x, SENSOR_HW[0] - 1 - events.y
    return b"Event Stream\x02\x00\x00\x01" + np.array(SENSOR_HW[::-1], "<u2").tobytes() + record.tobytes()


def measure(call: str, path: Path, repeats: int) -> dict | None:
    """Runs one reader in a fresh process; None if its package is not there."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", call, str(path), str(repeats)], capture_output=True, text=True, check=False
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def one(call: str, path: str, repeats: int) -> None:
    """The measuring process: prints seconds and megabytes as JSON."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from had_snn.events.cache import open_cached
    from had_snn.events.readers import read_events

    run: Callable[[], object] = eval(
        f"lambda: {call}", {"np": np, "path": path, "read_events": read_events, "open_cached": open_cached}
    )
    small = str(Path(path).with_name(f"1000{Path(path).suffix}"))
    eval(f"lambda: {call}", {"np": np, "path": small, "read_events": read_events, "open_cached": open_cached})()
    if "open_cached" in call:
        run()  # builds the entry
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    wall, cpu = [], []
    for _ in range(repeats):
        start, busy = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    print(json.dumps({"seconds": min(wall), "cpu": min(cpu), "megabytes": memory("VmHWM") - before}))


def memory(field: str) -> float:
    """Resident megabytes, now (`VmRSS`) or at most (`VmHWM`); Linux only."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def run(cfg: DictConfig) -> list[dict]:
    """The table, a row for each format, size and reader."""
    table = []
    for kind in cfg.formats:
        make_file(Path(cfg.folder), kind, 1000)
        for size in cfg.sizes:
            path = make_file(Path(cfg.folder), kind, int(size))
            calls = {"had-snn": OURS.get(kind, "read_events(path)"), **PEERS.get(kind, {})}
            rows = {name: measure(call, path, cfg.repeats) for name, call in calls.items()}
            peers = [r["cpu"] for name, r in rows.items() if r and name != "had-snn"]
            for name, row in rows.items():
                if row is None:
                    continue
                ratio = min(peers) / row["cpu"] if peers and name == "had-snn" else None
                table.append(
                    {
                        "format": kind, "events": int(size), "reader": name, "seconds": round(row["seconds"], 4),
                        "cpu_s": round(row["cpu"], 4), "Mev/s": round(size / row["cpu"] / 1e6, 2),
                        "MB": round(row["megabytes"]),
                        "ratio": None if ratio is None else round(ratio, 2),
                    }
                )  # fmt: skip
                print("  ".join(f"{k} {v}" for k, v in table[-1].items() if v is not None), flush=True)
    return table


@script("bench_readers")
def main(cfg: DictConfig) -> None:
    table = run(cfg)
    if cfg.out is not None:
        with Path(cfg.out).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        main()
