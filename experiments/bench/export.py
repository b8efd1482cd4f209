"""Measures what the export keeps and what it costs: simulators, rounding, int8, the stem on a clock, one piece.

    python -m experiments.bench export checkpoint=tiny recording=recording.aedat4 box=[42,225,44,17] out=runs/bench

Writes `export.json` (the committed copy is `benchmarks/export.json`), `export_stem.png` and `export_cost.png`. Each of
`parts` puts its own keys into an `export.json` that is there already, so a part can be measured again alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig

from experiments.record import write_record
from had_snn.checkpoint import load_student
from had_snn.commands.export_nir import collect_windows, find_target, spread, track_with
from had_snn.commands.progress import progress
from had_snn.commands.run_folder import open_run, versions
from had_snn.commands.sources import sequences
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import InputError
from had_snn.evaluate.metrics import paired_difference
from had_snn.evaluate.one_pass import evaluate_tracker
from had_snn.evaluate.results import EvaluationResult
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream
from had_snn.export.adapters import OPENERS
from had_snn.export.chips import chip_report
from had_snn.export.clocked_stem import fixed_gain, stem_convergence
from had_snn.export.deployed import DeployedStudent
from had_snn.export.lowering import template_and_look, to_graph
from had_snn.export.nir import write_nir
from had_snn.export.onepiece import OnePieceStudent, one_piece
from had_snn.export.reference_runner import run_events, thinned
from had_snn.export.rounding import Rounding
from had_snn.export.verify import verify
from had_snn.files import atomic_file
from had_snn.geometry import search_crop
from had_snn.models import SpikingTracker
from had_snn.tracking import Estimate, OnlineTracker

PROTOCOL = "pytracking"


class DeployedTracker:
    """Exports anew for every template it is started with, and tracks with what was exported.

    Args:
        name: Name in results.
        deploy: Makes a network with a student's face from events, box and time.
    """

    def __init__(self, name: str, deploy: Callable[[EventStream, np.ndarray, int], Any]) -> None:
        self.name, self.deploy = name, deploy

    def init(self, events: EventStream, box_xywh: Any, *, t_us: int, frame: np.ndarray | None = None) -> None:
        """See `OnlineTracker.init`."""
        self.tracker = OnlineTracker(self.deploy(events, np.asarray(box_xywh), t_us))
        self.tracker.init(events, box_xywh, t_us=t_us)

    def update(self, events: EventStream, *, at_us: Sequence[int], frame: np.ndarray | None = None) -> list[Estimate]:
        """See `OnlineTracker.update`."""
        return self.tracker.update(events, at_us=at_us)


def rounded_tracker(student: SpikingTracker, name: str, rounding: Rounding) -> DeployedTracker:
    """The student as it is exported in some number format."""

    def deploy(events: EventStream, box: np.ndarray, t_us: int) -> DeployedStudent:
        return DeployedStudent(student, to_graph(student, events, box, t_us=t_us, rounding=rounding))

    return DeployedTracker(name, deploy)


def measure_body(student: SpikingTracker, cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Spikes and mismatches by simulator on real windows, as trained and rounded, and boxes tracked in simulators."""
    target = find_target(cfg, student)
    found: dict[str, Any] = {"recording": Path(target.name).name, "windows": cfg.windows}
    times = np.linspace(target.start_us, target.end_us, cfg.windows + 1)[1:].astype(np.int64)
    for name, rounding in (("body", Rounding()), ("body_as_trained", None), ("body_int8", Rounding(weight_bits=8))):
        graph = to_graph(student, target.events, target.box_xywh, t_us=target.start_us, rounding=rounding)
        counts, boxes = collect_windows(student, graph, target, times)
        path = folder / f"{name}.nir"
        write_nir(path, graph)
        report = verify(path, counts, simulators=list(cfg.verify if name == "body" else cfg.verify_others))
        found[name] = {s: {k: v for k, v in entry.items() if k != "layers"} for s, entry in report.items()}
        found[name + "_chips"] = chip_report(graph)
        if name == "body":
            found["tracked_box_px"] = {
                simulator: spread(
                    boxes,
                    track_with(DeployedStudent(student, graph, run=OPENERS[simulator](path, graph).run), target, times),
                )["max"]
                for simulator in cfg.track_in
            }
    return found


def measure_stem(student: SpikingTracker, cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Mismatch of the clocked stem over the step of its clock, on real windows around the first box."""
    target, config = find_target(cfg, student), student.config
    crop = search_crop(target.box_xywh, factor=config.search_factor, size=config.search_size)
    starts = [target.start_us + k * config.window_us for k in range(cfg.stem.windows)]
    ends = [start + config.window_us for start in starts]
    streams = [target.events.slice_time(a, b).crop(crop) for a, b in zip(starts, ends, strict=True)]
    batch = EventBatch.pack(streams, starts, ends)
    curve = stem_convergence(student.stem, batch, n_steps=config.n_steps, dts_us=tuple(cfg.stem.dts_us))
    draw_stem(curve, folder / "export_stem.png")
    return {"stem": curve}


def measure_cost(student: SpikingTracker, cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Operations of the event-by-event runner over the share of the input's spikes that is kept."""
    target = find_target(cfg, student)
    graph = to_graph(student, target.events, target.box_xywh, t_us=target.start_us)
    times = np.linspace(target.start_us, target.end_us, cfg.cost.windows + 1)[1:].astype(np.int64)
    counts, _ = collect_windows(student, graph, target, times)
    points = []
    for share in cfg.cost.shares:
        run = run_events(graph, thinned(counts, float(share), seed=cfg.seed))
        spikes = sum(int(fired.sum()) for fired in run.trace.spikes.values())
        neurons = sum(fired.numel() for fired in run.trace.spikes.values())
        points.append(
            {
                "input_share": float(share),
                "firing_rate": spikes / neurons,
                "synops_per_window": sum(run.synops.values()) / counts.shape[1],
                "updates_per_window": sum(run.updates.values()) / counts.shape[1],
            }
        )
    dense = counts.shape[0] * sum(layer["synapses"] for layer in chip_report(graph)["layers"].values())
    draw_cost(points, dense, folder / "export_cost.png")
    return {"cost": {"windows": counts.shape[1], "dense_macs_per_window": dense, "points": points}}


def score(tracker: Any, chosen: list[TrackingSequence]) -> EvaluationResult:
    """One pass over the sequences."""
    with progress(tracker.name, unit="sequences") as bar:
        return evaluate_tracker(tracker, chosen, protocol=PROTOCOL, resamples=0, progress=bar)


def lost(ours: EvaluationResult, theirs: EvaluationResult) -> dict[str, Any]:
    """SR lost, with the interval of the paired difference over sequences."""
    apart = paired_difference(ours.curves, theirs.curves, score="SR", protocol=PROTOCOL)
    return {
        "sequences": len(ours.curves),
        "sr_student": ours.scores["SR"],
        "sr": theirs.scores["SR"],
        "sr_lost": apart.difference,
        "interval_95": [apart.low, apart.high],
    }


def chosen_sequences(cfg: DictConfig, limit: int) -> list[TrackingSequence]:
    """The first `limit` sequences of the split."""
    found = list(sequences(cfg.data, cfg.split, limit=limit))
    if len(found) < limit:
        raise InputError(f"limit={limit}: split {cfg.split} has {len(found)} sequences")
    return found


def measure_int8(student: SpikingTracker, cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """SR lost by int8, and by the finer default where asked for."""
    chosen = chosen_sequences(cfg, cfg.limit)
    ours = score(OnlineTracker(student), chosen)
    found = {}
    for name in cfg.formats:
        rounding = Rounding(weight_bits=8) if name == "int8" else Rounding()
        theirs = score(rounded_tracker(student, name, rounding), chosen)
        found[name] = {**lost(ours, theirs), "rounding": asdict(rounding)}
    return found


def measure_one_piece(student: SpikingTracker, cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """SR with stem and body in one file at a fine clock, tracked in a simulator."""
    path = folder / "one_piece.nir"

    def deploy(events: EventStream, box: np.ndarray, t_us: int) -> OnePieceStudent:
        kernel, around = template_and_look(student, events, box, t_us=t_us)
        gain = fixed_gain(student.stem, around)
        graph = one_piece(student, kernel, dt_us=cfg.one_piece.dt_us, gain=gain, seen=around)
        write_nir(path, graph)
        return OnePieceStudent(student, graph, run=OPENERS[cfg.one_piece.simulator](path, graph).run)

    chosen = chosen_sequences(cfg, cfg.one_piece.limit)
    ours, theirs = score(OnlineTracker(student), chosen), score(DeployedTracker("one piece", deploy), chosen)
    return {"one_piece": {"dt_us": cfg.one_piece.dt_us, "simulator": cfg.one_piece.simulator, **lost(ours, theirs)}}


def draw_stem(curve: list[dict[str, float]], path: Path) -> None:
    """The convergence curve, logarithmic on both axes; no mismatch at all is drawn on the lower edge."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    least = 0.5 / max(point["spikes"] for point in curve)
    axes.loglog([p["dt_us"] for p in curve], [max(p["mismatch"], least) for p in curve], marker="o")
    axes.axhline(least, color="#888888", linestyle="--", linewidth=1)
    axes.text(curve[0]["dt_us"], least * 1.15, "no spike differs", ha="right", fontsize=8)
    axes.set_xlabel("step of the clock in microseconds")
    axes.set_ylabel("differing spikes, share of all spikes")
    axes.set_title("stem: clocked against event-driven", fontsize=10)
    axes.grid(alpha=0.3, which="both")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=150)


def draw_cost(points: list[dict[str, float]], dense: int, path: Path) -> None:
    """Synaptic operations over the firing rate, beside what a frame-based run of the same network multiplies."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    rates = [100 * p["firing_rate"] for p in points]
    axes.plot(rates, [p["synops_per_window"] / 1e6 for p in points], marker="o", label="additions, event by event")
    axes.plot(
        rates, [p["updates_per_window"] / 1e6 for p in points], marker="s", label="membrane updates (leak and bias)"
    )
    axes.axhline(dense / 1e6, color="#888888", linestyle="--", label="dense multiply-adds")
    axes.set_xlabel("spikes per neuron and micro-step, percent")
    axes.set_ylabel("millions per window")
    axes.set_title("cost follows spikes", fontsize=10)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=150)


PARTS = {
    "body": measure_body,
    "stem": measure_stem,
    "cost": measure_cost,
    "int8": measure_int8,
    "one_piece": measure_one_piece,
}


def run(cfg: DictConfig) -> dict[str, Any]:
    """The parts asked for; writes `export.json` and the plots into the run folder."""
    student = load_student(cfg.checkpoint)
    folder = open_run(cfg)
    path = folder / "export.json"
    record = json.loads(path.read_text()) if path.is_file() else {}
    for name in cfg.parts:
        with torch.no_grad():
            record |= PARTS[name](student, cfg, folder)
        record["versions"] = versions()
        write_record(path, record)
    return record


def main(cfg: DictConfig) -> None:
    record = run(cfg)
    for kind in ("body", "body_as_trained", "body_int8"):
        for name, entry in record.get(kind, {}).items():
            print(f"{kind:<16}{name:<16}{entry['status']:<14}{entry['mismatches']:>8} of {entry['spikes']} spikes")
    for point in record.get("stem", []):
        print(f"stem at {point['dt_us']:g} us: {100 * point['mismatch']:.3f} % of {point['spikes']:.0f} spikes differ")
    for name in ("rounded", "int8", "one_piece"):
        if name in record:
            low, high = record[name]["interval_95"]
            print(f"{name}: {record[name]['sr_lost']:+.2f} SR lost ({low:+.2f} to {high:+.2f})")
    print(f"wrote {Path(cfg.out) / 'export.json'}")
