"""Measures readers: events per second of processor time and peak memory, beside other packages on the same files.

    python -m experiments.bench readers sizes=[1000000,10000000] formats=[raw,aedat4]

Every reader runs in a process of its own; its memory is the peak above that of the imported package. Peers that are
not installed are left out. Processor seconds are compared (fastest of some repeats), so that a busy machine does not
decide; a ratio above 1 means that this package needs less than the best peer of the same file. All readers use one
thread. Three rows have no peer: `window` reads 20 ms from the middle of a RAW file, `cache_build` fills the cache from
it, and `cache` opens the filled cache in a new process, its pages not in memory, and takes 20 ms.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from experiments.record import write_record
from experiments.worker import environment, worker
from had_snn.commands.run_folder import machine
from had_snn.events.stream import EventStream
from had_snn.files import atomic_file

SENSOR_HW = (720, 1280)
PIECE = 1 << 22
SPLIT = "[np.ascontiguousarray(e[n]) for n in 'txyp']"
DV = (
    "(lambda r: np.concatenate([b.numpy() for b in iter(r.getNextEventBatch, None)]))"
    "(__import__('dv_processing').io.MonoCameraRecording(path))"
)
PEERS: dict[str, dict[str, str]] = {
    "raw": {
        "expelliarmus": "__import__('expelliarmus').Wizard(encoding='evt3', fpath=path).read()",
        "evlib": "__import__('evlib').load_events(path).collect()",
    },
    "evt2": {
        "expelliarmus": "__import__('expelliarmus').Wizard(encoding='evt2', fpath=path).read()",
        "evlib": "__import__('evlib').load_events(path).collect()",
    },
    "dat": {"expelliarmus": "__import__('expelliarmus').Wizard(encoding='dat', fpath=path).read()"},
    "es": {"event_stream": "np.concatenate(list(__import__('event_stream').Decoder(path)))"},
    "aedat4": {
        "aedat": "np.concatenate([p['events'] for p in __import__('aedat').Decoder(path) if 'events' in p])",
        "dv-processing": DV,
    },
    "npy": {"numpy": "np.load(path)", "numpy, split into columns": f"[{SPLIT} for e in [np.load(path)]]"},
    "npz": {"numpy": "{k: v for k, v in np.load(path).items()}"},
    "hdf5": {
        "h5py": "{k: v[:] for k, v in __import__('h5py').File(path)['events'].items()}",
        "evlib": "__import__('evlib').load_events(path).collect()",
    },
    "csv": {
        "numpy": "np.loadtxt(path, delimiter=',', skiprows=2, dtype=np.int64)",
        "pandas": "__import__('pandas').read_csv(path, skiprows=1)",
        "polars": "[c.to_numpy() for c in __import__('polars').read_csv(path, skip_rows=1)]",
    },
}
WINDOW = "t0 := int(size) // 10, t0 + 20_000"  # five million events a second: the middle of the file
OURS = {
    "window": f"read_events(path, window=({WINDOW}))",
    "cache_build": "(shutil.rmtree(path + '.cache', ignore_errors=True), open_cached(path, path + '.cache'))",
    "cache": f"open_cached(path, path + '.cache').events.slice_time({WINDOW}).t.sum()",
}


def make_events(count: int) -> EventStream:
    """Moving-edge-like events: runs along rows, bursts in time, five million a second."""
    t, x, y = np.empty(count, np.int64), np.empty(count, np.uint16), np.empty(count, np.uint16)
    p = np.empty(count, np.uint8)
    for start in range(0, count, PIECE):
        n = min(PIECE, count - start)
        rng = np.random.default_rng([count, start])
        cut = slice(start, start + n)
        t[cut] = start // 5 + np.sort(rng.integers(0, max(1, n // 5), n))
        y[cut] = np.repeat(rng.integers(0, SENSOR_HW[0], n // 3 + 1), 3)[:n]
        x[cut] = (np.repeat(rng.integers(0, SENSOR_HW[1], n // 3 + 1), 3)[:n] + np.arange(n) % 3) % SENSOR_HW[1]
        p[cut] = rng.integers(0, 2, n)
    return EventStream.from_arrays(t, x, y, p, SENSOR_HW, validate=False)


def make_file(folder: Path, kind: str, count: int) -> Path:
    """A file of such events, made once."""
    from had_snn.recordings.writers import write_events

    if kind in OURS:
        kind = "raw"
    # expelliarmus refuses EVT2 in a file that is not called .raw
    path = folder / ("evt2" if kind == "evt2" else "") / f"{count}.{'raw' if kind == 'evt2' else kind}"
    if path.exists():
        return path
    events = make_events(count)
    encoder = {"evt2": _evt2, "dat": _dat, "es": _es, "npy": _npy}.get(kind)
    if encoder is None:
        return write_events(events, path, format=kind)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.writelines(encoder(events))
    return path


def _pieces(events: EventStream) -> Iterator[tuple[EventStream, int]]:
    """Pieces of a stream and the time before each."""
    for start in range(0, len(events), PIECE):
        yield events.slice_index(start, start + PIECE), int(events.t[start - 1]) if start else -64


def _evt2(events: EventStream) -> Iterator[bytes]:
    yield b"% evt 2.0\n% geometry 1280x720\n% end\n"
    for piece, before in _pieces(events):
        high = piece.t >> 6
        new = np.flatnonzero(np.diff(high, prepend=before >> 6))
        low = (piece.t & 63).astype(np.uint32)
        words = (piece.p.astype(np.uint32) << 28) | (low << 22) | (piece.x.astype(np.uint32) << 11) | piece.y
        yield np.insert(words, new, (0x80000000 | high[new]).astype(np.uint32)).astype("<u4").tobytes()


def _dat(events: EventStream) -> Iterator[bytes]:
    yield b"% Data file containing CD events.\n% Version 2\n% Height 720\n% Width 1280\n\x0c\x08"
    for piece, _ in _pieces(events):
        data = (piece.p.astype(np.uint32) << 28) | (piece.y.astype(np.uint32) << 14) | piece.x
        yield np.stack([piece.t.astype(np.uint32), data], axis=1).astype("<u4").tobytes()


def _es(events: EventStream) -> Iterator[bytes]:
    yield b"Event Stream\x02\x00\x00\x01" + np.array(SENSOR_HW[::-1], "<u2").tobytes()
    for piece, before in _pieces(events):
        record = np.empty(len(piece), [("head", "u1"), ("x", "<u2"), ("y", "<u2")])
        steps = np.minimum(np.diff(piece.t, prepend=max(before, 0)), 126)
        record["head"], record["x"], record["y"] = steps << 1 | piece.p, piece.x, SENSOR_HW[0] - 1 - piece.y
        yield record.tobytes()


def _npy(events: EventStream) -> Iterator[bytes]:
    dtype = events.slice_index(0, 1).to_structured().dtype
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (len(events),)}
    text = repr(header)
    text += " " * (-(10 + len(text) + 1) % 64) + "\n"
    yield b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()
    for piece, _ in _pieces(events):
        yield piece.to_structured().tobytes()


def measure(call: str, path: Path, repeats: int) -> dict | None:
    """Runs one reader in a fresh process; None if its package is not there."""
    command = worker("bench.readers", call, str(path), str(repeats))
    single = environment(POLARS_MAX_THREADS=1, OMP_NUM_THREADS=1)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=single)
    if done.returncode and "ModuleNotFoundError" not in done.stderr:
        print(f"{path.name}: {call[:40]}: {done.stderr.strip().splitlines()[-1:]}", flush=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def one(call: str, path: str, repeats: int) -> None:
    """The measuring process: prints seconds and megabytes as JSON."""
    from had_snn.recordings.cache import entry_folder, open_cached
    from had_snn.recordings.readers import read_events

    names = {"np": np, "shutil": shutil, "read_events": read_events, "open_cached": open_cached}
    small = Path(path).with_name(f"1000{Path(path).suffix}")
    run: Callable[[], object] = eval(f"lambda: {call}", {**names, "path": path, "size": Path(path).stem})
    if "slice_time" in call:
        for column in entry_folder(path, path + ".cache").iterdir():
            with column.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    else:
        eval(f"lambda: {call}", {**names, "path": str(small), "size": "1000"})()  # imports what it needs
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
            repeats = 1 if kind in OURS else max(1, min(cfg.repeats, int(cfg.repeats * 1e7 / size)))
            rows = {name: measure(call, path, repeats) for name, call in calls.items()}
            peers = [r["cpu"] for name, r in rows.items() if r and name != "had-snn"]
            for name, row in rows.items():
                if row is None:
                    continue
                table.append(
                    {
                        "format": kind,
                        "events": int(size),
                        "reader": name,
                        "seconds": round(row["seconds"], 4),
                        "cpu_s": round(row["cpu"], 4),
                        "MB": round(row["megabytes"]),
                    }
                )
                if kind not in OURS:
                    table[-1]["Mev/s"] = round(size / row["cpu"] / 1e6, 2)
                if peers and name == "had-snn":
                    table[-1]["ratio"] = round(min(peers) / row["cpu"], 2)
                print("  ".join(f"{k} {v}" for k, v in table[-1].items()), flush=True)
            if not cfg.keep and int(size) > 1000 and kind != "cache_build":
                shutil.rmtree(f"{path}.cache", ignore_errors=True)
                if kind not in OURS or kind == "cache":
                    path.unlink()
    return table


def main(cfg: DictConfig) -> None:
    table = run(cfg)
    if cfg.out is not None:
        out = Path(cfg.out)
        before = json.loads(out.read_text())["rows"] if cfg.add and out.exists() else []
        done = {(row["format"], row["events"]) for row in table}
        rows = [row for row in before if (row["format"], row["events"]) not in done] + table
        rows.sort(key=lambda row: (list(cfg.order).index(row["format"]), row["events"]))
        write_record(out, {"rows": rows, "machine": machine(1, "cpu")})


if __name__ == "__main__":
    one(sys.argv[1], sys.argv[2], int(sys.argv[3]))
