"""Exports a student with one template baked in to NIR, and verifies the file in simulators, spike for spike.

    python experiments/export_nir.py checkpoint=tiny verify=[norse,snntorch]
    python experiments/export_nir.py recording=recording.aedat4 box=[42,225,44,17] windows=100
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from entry import open_run, script, versions
from omegaconf import DictConfig, ListConfig
from progress import progress
from sources import sequences
from torch import Tensor

from had_snn.atomic import atomic_file
from had_snn.checkpoint import load_student
from had_snn.errors import InputError
from had_snn.events.readers import read_events
from had_snn.events.stream import EventStream
from had_snn.export.adapters import OPENERS
from had_snn.export.chips import chip_lines, chip_report
from had_snn.export.deployed import DeployedStudent
from had_snn.export.graph import SearchGraph, run_graph
from had_snn.export.nir import to_graph, write_nir
from had_snn.export.rounding import Rounding
from had_snn.export.verify import line, table, verify
from had_snn.geometry import check_box
from had_snn.models import SpikingTracker
from had_snn.tracker import OnlineTracker


@dataclass(frozen=True)
class Target:
    """What the template shows: a box at a time in a recording, and how far the recording goes on."""

    name: str
    events: EventStream
    box_xywh: np.ndarray
    start_us: int
    end_us: int


def find_target(cfg: DictConfig) -> Target:
    """The recording and box that a config names, or the chosen sequence's first box."""
    if cfg.recording is not None:
        events = read_events(cfg.recording)
        if len(events) == 0:
            raise InputError(f"{cfg.recording} holds no events")
        start = int(cfg.start_us) if cfg.start_us is not None else events.t_start
        if not events.t_start <= start < events.t_end:
            raise InputError(f"start_us={start} is outside the recording, {events.t_start} to {events.t_end} us")
        if not isinstance(cfg.box, ListConfig) or not all(isinstance(v, int | float) for v in cfg.box):
            raise InputError(f"box={cfg.box}: expected four numbers in pixels, box=[x,y,w,h]")
        box = check_box(np.array(list(cfg.box), dtype=np.float64), events.sensor_hw)
        return Target(str(cfg.recording), events, box, start, events.t_end)
    chosen = sequences(cfg.data, cfg.split)
    if not 0 <= cfg.sequence < len(chosen):
        raise InputError(f"sequence={cfg.sequence}: split {cfg.split} has the sequences 0 to {len(chosen) - 1}")
    sequence = chosen[cfg.sequence]
    start, end = int(sequence.label_times_us[0]), int(sequence.label_times_us[-1])
    return Target(sequence.name, sequence.events, np.asarray(sequence.boxes_xywh[0]), start, end)


def track_with(student: Any, target: Target, times: np.ndarray) -> np.ndarray:
    """Boxes `[len(times), 4]` of a student, or of what has its face, at the given times."""
    tracker = OnlineTracker(student)
    context = target.events.slice_time(target.start_us - student.config.window_us, target.start_us)
    tracker.init(context, target.box_xywh, t_us=target.start_us)
    events = target.events.slice_time(target.start_us, int(times[-1]))
    return np.stack([e.box_xywh for e in tracker.update(events, at_us=[int(t) for t in times])])


def collect_windows(
    student: SpikingTracker, graph: SearchGraph, target: Target, times: np.ndarray
) -> tuple[Tensor, np.ndarray]:
    """Stem counts `[T, N, C, H, W]` of the windows that the deployed student looks at, and the boxes it finds."""
    seen: list[Tensor] = []

    def watch(counts: Tensor):
        seen.append(counts.contiguous())
        return run_graph(graph, counts)

    boxes = track_with(DeployedStudent(student, graph, run=watch), target, times)
    if not seen:
        raise InputError(f"{target.name}: no window after {target.start_us} us holds enough events to look at")
    return torch.cat(seen, dim=1), boxes


def draw(graph: SearchGraph, report: dict[str, Any], path: Path) -> None:
    """The graph as Graphviz text; spikes per neuron and micro-step, as verified, beside each layer."""
    decided = next((entry["layers"] for entry in report.values() if entry["layers"]), {})
    lines = ["digraph student {", "  rankdir=LR; node [shape=box, fontname=sans];"]
    for name, conv in graph.convolutions.items():
        shape = "x".join(map(str, conv.weight.shape))
        lines.append(f'  {name} [label="{name}\\nconv {shape}, stride {conv.stride}"];')
    for name, node in graph.neurons.items():
        rate = f", rate {decided[name]['spikes'] / decided[name]['decisions']:.3f}" if name in decided else ""
        shape = "x".join(map(str, node.shape))
        lines.append(f'  {name} [label="{name}\\nLIF {shape}\\nalpha {node.alpha:g}{rate}", shape=ellipse];')
    lines += [f"  {source} -> {target};" for source, target in graph.edges]
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join([*lines, "}"]) + "\n")


def run(cfg: DictConfig) -> dict[str, Any]:
    """Exports, verifies, writes the run folder; returns spikes, mismatches and status by simulator."""
    student = load_student(cfg.checkpoint)
    rounding = Rounding(**cfg.rounding) if cfg.rounding is not None else None
    target = find_target(cfg)
    options = {"t_us": target.start_us, "n_steps": cfg.n_steps}
    graph = to_graph(student, target.events, target.box_xywh, rounding=rounding, **options)
    times = np.linspace(target.start_us, target.end_us, int(cfg.windows) + 1)[1:].astype(np.int64)
    counts, boxes = collect_windows(student, graph, target, times)
    folder = open_run(cfg)
    path = folder / "student.nir"
    write_nir(path, graph)
    with progress("verify", unit="windows") as bar:
        report = verify(path, counts, simulators=list(cfg.verify), progress=lambda name, n, of: bar(n, of, name))
    record = {
        "file": path.name, "target": target.name, "windows": counts.shape[1], "simulators": report,
        "rounding": {
            "formats": graph.info.get("rounding"), "layers": graph.info.get("layers"),
            "box_change_px": spread(boxes, track_with(student, target, times)),
        },
        "tracked_in": {
            name: spread(boxes[: cfg.track_windows], track_with(
                DeployedStudent(student, graph, run=OPENERS[name](path, graph).run), target, times[: cfg.track_windows]
            ))
            for name in cfg.track_in
        },
        "chips": chip_report(graph), "versions": versions(),
    }  # fmt: skip
    for name, text in (("verify.json", json.dumps(record, indent=2) + "\n"), ("verify.md", table(report))):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text)
    draw(graph, report, folder / "graph.dot")
    return {name: {key: entry[key] for key in ("status", "spikes", "mismatches")} for name, entry in report.items()}


def spread(boxes_a: np.ndarray, boxes_b: np.ndarray) -> dict[str, float]:
    """Largest and mean difference of two lists of boxes in pixels."""
    apart = np.abs(boxes_a - boxes_b)
    return {"max": float(apart.max()), "mean": float(apart.mean())}


@script("export_nir")
def main(cfg: DictConfig) -> None:
    run(cfg)
    record = json.loads((Path(cfg.out) / "verify.json").read_text())
    for name, entry in record["simulators"].items():
        print(line(name, entry))
    for name, apart in record["tracked_in"].items():
        print(f"boxes tracked in {name} differ by at most {apart['max']:.2g} px")
    print(f"rounding moves boxes by {record['rounding']['box_change_px']['mean']:.2f} px on average")
    print("\n".join(chip_lines(record["chips"])))
    print(f"wrote {Path(cfg.out) / 'student.nir'}, verify.json, verify.md, graph.dot")


if __name__ == "__main__":
    main()
