"""Measures what the export keeps and what it costs: simulators, rounding, int8, the stem on a clock, one piece.

    python experiments/bench_export.py checkpoint=tiny recording=recording.aedat4 box=[42,225,44,17] out=runs/bench

Writes `export.json` (the committed copy is `benchmarks/export.json`) and `stem.png`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from entry import open_run, script, versions
from export_nir import Target, collect_windows, find_target, spread, track_with
from matplotlib.figure import Figure
from omegaconf import DictConfig
from progress import progress
from sources import sequences

from had_snn.atomic import atomic_file
from had_snn.checkpoint import load_student
from had_snn.data.sequence import TrackingSequence
from had_snn.evaluate.one_pass import evaluate_tracker
from had_snn.events.stream import EventBatch, EventStream
from had_snn.export.adapters import OPENERS
from had_snn.export.chips import chip_report
from had_snn.export.deployed import DeployedStudent
from had_snn.export.nir import template_kernel, to_graph, write_nir
from had_snn.export.onepiece import OnePieceStudent, one_piece, one_piece_to_nir
from had_snn.export.rounding import Rounding
from had_snn.export.stem import fixed_gain, stem_convergence
from had_snn.export.verify import verify
from had_snn.geometry import search_crop
from had_snn.models import SpikingTracker
from had_snn.tracker import Estimate, OnlineTracker


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

    def update(
        self, events: EventStream, *, at_us: Sequence[int], frame: np.ndarray | None = None
    ) -> list[Estimate]:
        """See `OnlineTracker.update`."""
        return self.tracker.update(events, at_us=at_us)


def body_figures(student: SpikingTracker, target: Target, cfg: DictConfig, folder: Path) -> dict[str, Any]:
    """Spikes and mismatches by simulator on real windows, as trained and rounded, and boxes tracked in simulators."""
    found: dict[str, Any] = {}
    times = np.linspace(target.start_us, target.end_us, cfg.windows + 1)[1:].astype(np.int64)
    for name, rounding in (("body", Rounding()), ("body_as_trained", None), ("body_int8", Rounding(weight_bits=8))):
        graph = to_graph(student, target.events, target.box_xywh, t_us=target.start_us, rounding=rounding)
        counts, boxes = collect_windows(student, graph, target, times)
        path = folder / f"{name}.nir"
        write_nir(path, graph)
        found[name] = verify(path, counts, simulators=list(cfg.verify))
        if name == "body":
            found["chips"] = chip_report(graph)
            found["tracked_box_px"] = {
                simulator: spread(boxes, track_with(
                    DeployedStudent(student, graph, run=OPENERS[simulator](path, graph).run), target, times
                ))["max"]
                for simulator in cfg.track_in
            }  # fmt: skip
    return found


def score(tracker: Any, chosen: list[TrackingSequence]) -> float:
    """SR by the pytracking rule."""
    with progress(tracker.name, unit="sequences") as bar:
        return evaluate_tracker(tracker, chosen, protocol="pytracking", resamples=0, progress=bar).scores["SR"]


def rounding_figures(student: SpikingTracker, chosen: list[TrackingSequence]) -> dict[str, Any]:
    """SR of the student as trained, rounded, and in int8."""
    def rounded(rounding: Rounding | None):
        def deploy(events: EventStream, box: np.ndarray, t_us: int) -> DeployedStudent:
            return DeployedStudent(student, to_graph(student, events, box, t_us=t_us, rounding=rounding))

        return deploy

    scores = {"student": score(OnlineTracker(student), chosen)}
    for name, rounding in (("rounded", Rounding()), ("int8", Rounding(weight_bits=8))):
        scores[name] = score(DeployedTracker(name, rounded(rounding)), chosen)
    return {
        "sequences": len(chosen), "sr": scores,
        "rounded": {"sr_lost": scores["student"] - scores["rounded"]},
        "int8": {"sr_lost": scores["student"] - scores["int8"]},
    }  # fmt: skip


def one_piece_figures(
    student: SpikingTracker, chosen: list[TrackingSequence], cfg: DictConfig, folder: Path
) -> dict[str, Any]:
    """SR with stem and body in one file at a fine clock, tracked in a simulator."""
    config, path = student.config, folder / "one_piece.nir"

    def deploy(events: EventStream, box: np.ndarray, t_us: int) -> OnePieceStudent:
        kernel = template_kernel(student, events, box, t_us=t_us)
        crop = search_crop(box, factor=config.search_factor, size=config.search_size)
        start = t_us - config.window_us
        around = EventBatch.pack([events.slice_time(start, t_us).crop(crop)], [start], [t_us])
        graph, stem = one_piece(student, kernel, dt_us=cfg.one_piece.dt_us, gain=fixed_gain(student.stem, around))
        write_nir(path, one_piece_to_nir(graph, stem, (config.search_size, config.search_size)))
        return OnePieceStudent(student, graph, stem, run=OPENERS[cfg.one_piece.simulator](path, graph).run)

    ours = score(OnlineTracker(student), chosen)
    theirs = score(DeployedTracker("one piece", deploy), chosen)
    return {
        "dt_us": cfg.one_piece.dt_us, "simulator": cfg.one_piece.simulator, "sequences": len(chosen),
        "sr": theirs, "sr_student": ours, "sr_lost": ours - theirs,
    }  # fmt: skip


def stem_figures(student: SpikingTracker, target: Target, cfg: DictConfig) -> list[dict[str, float]]:
    """Mismatch of the clocked stem over the step of its clock, on real windows around the first box."""
    config = student.config
    crop = search_crop(target.box_xywh, factor=config.search_factor, size=config.search_size)
    starts = [target.start_us + k * config.window_us for k in range(cfg.stem.windows)]
    ends = [start + config.window_us for start in starts]
    streams = [target.events.slice_time(a, b).crop(crop) for a, b in zip(starts, ends, strict=True)]
    batch = EventBatch.pack(streams, starts, ends)
    return stem_convergence(student.stem, batch, n_steps=config.n_steps, dts_us=tuple(cfg.stem.dts_us))


def draw_stem(curve: list[dict[str, float]], path: Path) -> None:
    """The convergence curve, logarithmic on both axes; a mismatch of 0 lies on the lower edge."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog([p["dt_us"] for p in curve], [max(p["mismatch"], 1e-5) for p in curve], marker="o")
    axes.set_xlabel("step of the clock in microseconds")
    axes.set_ylabel("share of spikes that differ")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=150)


def run(cfg: DictConfig) -> dict[str, Any]:
    """All figures; writes `export.json` and `stem.png` into the run folder."""
    student, target = load_student(cfg.checkpoint), find_target(cfg)
    chosen = list(sequences(cfg.data, cfg.split)[: cfg.limit]) if cfg.limit else []
    folder = open_run(cfg)
    record: dict[str, Any] = {"recording": Path(target.name).name, "windows": cfg.windows, "versions": versions()}
    record |= body_figures(student, target, cfg, folder)
    with torch.no_grad():
        record["stem"] = stem_figures(student, target, cfg)
    draw_stem(record["stem"], folder / "stem.png")
    if chosen:
        record |= rounding_figures(student, chosen)
        record["one_piece"] = one_piece_figures(student, chosen[: cfg.one_piece.limit], cfg, folder)
    with atomic_file(folder / "export.json") as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    return record


@script("bench_export")
def main(cfg: DictConfig) -> None:
    record = run(cfg)
    for kind in ("body", "body_as_trained", "body_int8"):
        for name, entry in record[kind].items():
            print(f"{kind:<16}{name:<16}{entry['status']:<10}{entry['mismatches']:>8} of {entry['spikes']} spikes")
    for point in record["stem"]:
        print(f"stem at {point['dt_us']:g} us: {100 * point['mismatch']:.3f} % of {point['spikes']:.0f} spikes differ")
    for name in ("rounded", "int8", "one_piece"):
        if name in record:
            print(f"{name}: {record[name]['sr_lost']:+.2f} SR lost")
    print(f"wrote {Path(cfg.out) / 'export.json'}")


if __name__ == "__main__":
    main()
