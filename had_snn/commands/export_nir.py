"""Exports a student with one template baked in to NIR, and verifies the file in simulators, spike for spike.

had-snn export checkpoint=tiny verify=[norse,snntorch]
had-snn export recording.aedat4 --box 42,225,44,17
had-snn export part=one_piece dt_us=1000 verify=[norse,event_by_event] windows=10
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from had_snn.checkpoint import load_student
from had_snn.commands.first_box import first_box, moment
from had_snn.commands.progress import progress
from had_snn.commands.reading import read_options
from had_snn.commands.run_folder import open_run, versions
from had_snn.commands.sources import sequences
from had_snn.errors import InputError
from had_snn.events.stream import EventStream
from had_snn.export.adapters import OPENERS
from had_snn.export.chips import chip_lines, chip_report, chip_table
from had_snn.export.clocked_stem import STEM_CONV, STEM_LIF, fixed_gain
from had_snn.export.deployed import DeployedStudent
from had_snn.export.lowering import template_and_look, to_graph
from had_snn.export.nir import HOST, load_nir, part_of, stored_notes, write_nir
from had_snn.export.onepiece import OnePieceStudent, one_piece
from had_snn.export.rounding import Rounding
from had_snn.export.search_graph import INPUT, OUTPUT, SearchGraph, run_graph
from had_snn.export.verify import line, table, verify
from had_snn.files import written_together
from had_snn.geometry import check_box
from had_snn.models import SpikingTracker
from had_snn.recordings.readers import read_events
from had_snn.tracking import OnlineTracker
from had_snn.tracking.buffer import EventBuffer
from had_snn.tracking.policy import WindowPolicy
from had_snn.tracking.template import template_window
from had_snn.tracking.window_rule import WindowRule
from had_snn.viz.layer_graph import Box, draw_graph

log = logging.getLogger("had_snn")


@dataclass(frozen=True)
class Target:
    """What the template shows: a box at a time in a recording, and how far the recording goes on."""

    name: str
    events: EventStream
    box_xywh: np.ndarray
    start_us: int
    end_us: int


def find_target(cfg: DictConfig, student: SpikingTracker) -> Target:
    """The recording and box that a config names, or the chosen sequence's first box."""
    if cfg.recording is not None:
        events = read_events(cfg.recording, **read_options(cfg.read))
        if len(events) == 0:
            raise InputError(f"{cfg.recording} holds no events")
        given = moment(cfg.start_us, cfg.start_s, "start", events.t_start)
        found, start = first_box(cfg.box, start_us=given, target=cfg.object, zero_us=events.t_start)
        if found is None:
            raise InputError("box=draw: an export is repeated, so its box is given as [x,y,w,h] or as a file")
        box = check_box(found, events.sensor_hw)
        if start is None:
            start = first_full_time(student, events, box)
            log.info("the template shows the box at %d us, when a window of events has come near it", start)
        if not events.t_start <= start < events.t_end:
            raise InputError(f"start_us={start} is outside the recording, {events.t_start} to {events.t_end} us")
        return Target(str(cfg.recording), events, box, start, events.t_end)
    chosen = sequences(cfg.data, cfg.split, limit=cfg.sequence + 1)
    if not 0 <= cfg.sequence < len(chosen):
        raise InputError(f"sequence={cfg.sequence}: split {cfg.split} has the sequences 0 to {len(chosen) - 1}")
    sequence = chosen[cfg.sequence]
    start, end = int(sequence.label_times_us[0]), int(sequence.label_times_us[-1])
    return Target(sequence.name, sequence.events, np.asarray(sequence.boxes_xywh[0]), start, end)


def first_full_time(student: SpikingTracker, events: EventStream, box_xywh: np.ndarray) -> int:
    """When a recording has shown a box for a whole window, by the tracker's rule, at the latest the longest."""
    rule = WindowRule(student.config.window_us, WindowPolicy())
    for n in range(rule.shortest, rule.longest + 1):
        t_us = events.t_start + math.ceil(rule.length(n))
        if template_window(EventBuffer(events.slice_time(events.t_start, t_us)), box_xywh, t_us, rule)[1]:
            return t_us
    return events.t_start + math.ceil(rule.length(rule.longest))


def track_with(student: Any, target: Target, times: np.ndarray) -> np.ndarray:
    """Boxes `[len(times), 4]` of a student, or of what has its face, at the given times."""
    tracker = OnlineTracker(student)
    context = target.events.slice_time(target.start_us - tracker.context_us, target.start_us)
    tracker.init(context, target.box_xywh, t_us=target.start_us)
    events = target.events.slice_time(target.start_us, int(times[-1]))
    return np.stack([e.box_xywh for e in tracker.update(events, at_us=[int(t) for t in times])])


def collect_windows(
    student: SpikingTracker, graph: SearchGraph, target: Target, times: np.ndarray
) -> tuple[Tensor, np.ndarray]:
    """Input counts `[T, N, C, H, W]` of the windows that the deployed student looks at, and the boxes it finds."""
    seen: list[Tensor] = []

    def watch(counts: Tensor):
        seen.append(counts.contiguous())
        return run_graph(graph, counts)

    kind = OnePieceStudent if part_of(graph) == "one piece" else DeployedStudent
    boxes = track_with(kind(student, graph, run=watch), target, times)
    if not seen:
        raise InputError(f"{target.name}: no window after {target.start_us} us holds enough events to look at")
    return torch.cat(seen, dim=1), boxes


def export_graph(student: SpikingTracker, target: Target, cfg: DictConfig) -> SearchGraph:
    """The body in the number format asked for, or stem and body on one fine clock."""
    rounding = Rounding(**cfg.rounding) if cfg.rounding is not None else None
    body = to_graph(student, target.events, target.box_xywh, rounding=rounding, t_us=target.start_us)
    if cfg.part == "body":
        return body
    kernel, seen = template_and_look(student, target.events, target.box_xywh, t_us=target.start_us)
    gain = fixed_gain(student.stem, seen) if cfg.gain == "template" else cfg.gain
    graph = one_piece(student, kernel, dt_us=float(cfg.dt_us), gain=gain, seen=seen)
    notes = {key: body.info[key] for key in ("student", "sensor_hw", "template")}
    return graph.with_nodes(graph.nodes, **notes)


def stem_of(graph: SearchGraph) -> SearchGraph:
    """The stem out of stem and body, ending at its spikes."""
    nodes = {name: node for name, node in graph.nodes.items() if name in (STEM_CONV, STEM_LIF)}
    edges = ((INPUT, STEM_CONV), (STEM_CONV, STEM_LIF), (STEM_LIF, OUTPUT))
    return replace(
        graph, nodes=nodes, edges=edges, taps={STEM_LIF: graph.taps[STEM_LIF]}, info={**graph.info, "part": "stem"}
    )


def draw(graph: SearchGraph, report: dict[str, Any], path: Path) -> None:
    """The graph as a picture; spikes per neuron and step, as verified, with each layer."""
    decided = next((entry["layers"] for entry in report.values() if entry["layers"]), {})
    before, after = HOST[part_of(graph)]
    boxes = [Box(INPUT, (before.split(";")[0], "x".join(map(str, graph.input_shape))), "host")]
    for name in graph.nodes:
        if name in graph.convolutions:
            conv = graph.convolutions[name]
            shape = "x".join(map(str, conv.weight.shape))
            boxes.append(Box(name, (f"conv {shape}, stride {conv.stride}",), "synapses"))
            continue
        rate = f"{decided[name]['spikes'] / decided[name]['decisions']:.3f} spikes a step" if name in decided else ""
        alphas = graph.neurons[name].alpha
        decay = f"{min(alphas):.3f} to {max(alphas):.3f}" if isinstance(alphas, tuple) else f"{alphas:g}"
        shape = "x".join(map(str, graph.neurons[name].shape))
        boxes.append(Box(name, (f"LIF {shape}, decay {decay}", rate), "neurons"))
    boxes.append(Box(OUTPUT, (after.split(",")[0],), "host"))
    title = f"{part_of(graph)}: {graph.n_steps} steps of {graph.dt_us:g} us; host grey, synapses blue, neurons orange"
    draw_graph(path, boxes, graph.edges, title=title)


def summary(graph: SearchGraph, record: dict[str, Any], notes: dict[str, Any]) -> str:
    """What the file is and how it was found to behave, for a reader."""
    rounding = record["rounding"]["formats"] or {"weights and decays": "as trained"}
    numbers = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in rounding.items())
    crop = notes["preprocessing"]
    lines = [
        f"# {record['file']}: {part_of(graph)} of the student, template from {Path(record['target']).name}",
        "",
        f"- clock: {graph.n_steps} steps of {graph.dt_us:g} us (nominal dt in the file: {notes['dt_nominal_s']} s)",
        f"- input: {crop['crop']}; {notes['host_before']}",
        f"- output: {notes['host_after']}",
        f"- neuron: {notes['neuron']['euler']}",
        f"- numbers: {numbers}",
        f"- written with {', '.join(f'{name} {version}' for name, version in notes['versions'].items())}",
        "",
        f"## {record['windows']} windows in simulators",
        "",
        table(record["simulators"]),
        "## Chips",
        "",
        chip_table(record["chips"]),
        *chip_lines(record["chips"]),
        "",
        "![the graph](graph.png)",
    ]
    return "\n".join(lines) + "\n"


def rounding_report(student: SpikingTracker, graph: SearchGraph, target: Target, times, boxes) -> dict[str, Any]:
    """Number formats, and how far boxes move from those of the student as trained."""
    return {
        "formats": graph.info.get("rounding"),
        "layers": graph.info.get("layers"),
        "box_change_px": spread(boxes, track_with(student, target, times)),
    }


def run(cfg: DictConfig) -> dict[str, Any]:
    """Exports, verifies, writes the run folder; returns spikes, mismatches and status by simulator."""
    student = load_student(cfg.checkpoint, n_steps=cfg.n_steps)
    target = find_target(cfg, student)
    tracked = export_graph(student, target, cfg)
    times = np.linspace(target.start_us, target.end_us, int(cfg.windows) + 1)[1:].astype(np.int64)
    counts, boxes = collect_windows(student, tracked, target, times)
    graph = stem_of(tracked) if cfg.part == "stem" else tracked
    folder = open_run(cfg)
    with written_together(folder, "verify.json") as draft:
        path = draft / "student.nir"
        write_nir(path, graph)
        with progress("verify", unit="windows") as bar:
            report = verify(path, counts, simulators=list(cfg.verify), progress=lambda name, n, of: bar(n, of, name))
        kind, short = (DeployedStudent if cfg.part == "body" else OnePieceStudent), times[: cfg.track_windows]
        record = {
            "file": path.name,
            "part": part_of(graph),
            "target": target.name,
            "windows": counts.shape[1],
            "simulators": report,
            "rounding": rounding_report(student, graph, target, times, boxes),
            "tracked_in": {
                name: spread(
                    boxes[: len(short)],
                    track_with(kind(student, tracked, run=OPENERS[name](path, graph).run), target, short),
                )
                for name in (cfg.track_in if cfg.part != "stem" else ())
            },
            "chips": chip_report(graph),
            "versions": versions(),
        }
        text = summary(graph, record, stored_notes(load_nir(path), path))
        (draft / "verify.json").write_text(json.dumps(record, indent=2) + "\n")
        (draft / "summary.md").write_text(text)
        draw(graph, report, draft / "graph.png")
    return {name: {key: entry[key] for key in ("status", "spikes", "mismatches")} for name, entry in report.items()}


def spread(boxes_a: np.ndarray, boxes_b: np.ndarray) -> dict[str, float]:
    """Largest and mean difference of two lists of boxes in pixels."""
    apart = np.abs(boxes_a - boxes_b)
    return {"max": float(apart.max()), "mean": float(apart.mean())}


def main(cfg: DictConfig) -> None:
    run(cfg)
    record = json.loads((Path(cfg.out) / "verify.json").read_text())
    for name, entry in record["simulators"].items():
        print(line(name, entry))
    for name, apart in record["tracked_in"].items():
        print(f"boxes tracked in {name} differ by at most {apart['max']:.2g} px")
    print(f"rounding moves boxes by {record['rounding']['box_change_px']['mean']:.2f} px on average")
    print("\n".join(chip_lines(record["chips"])))
    print(f"wrote {Path(cfg.out) / 'student.nir'}, verify.json, summary.md, graph.png")
