"""The demo's page: what each stage made, on one self-contained HTML file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from had_snn.data.sequence import TrackingSequence
from had_snn.evaluate.report import Card, Facts, Media, Metric, ReportData, Section, write_report
from had_snn.evaluate.report_sections import (
    attributes_section,
    curves_section,
    energy_section,
    export_section,
    run_section,
    scores_section,
    training_section,
)
from had_snn.evaluate.report_sequences import sequences_section

#: Columns of `losses.csv` that are worth a curve.
_CURVES = ("total", "focal", "giou", "iou", "distill/membrane", "distill/rate", "distill/response")


def history(path: Path) -> dict[str, list[float]]:
    """Steps and losses of a training run."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in _CURVES if rows and name in rows[0]]
    return {"step": [float(r["iteration"]) for r in rows]} | {n: [float(r[n]) for r in rows] for n in names}


def cards(record: Mapping[str, Any]) -> list[Card]:
    """The large numbers at the top."""
    mismatches = sum(entry["mismatches"] for entry in record["export"].values())
    return [
        Card("student SR", Metric(record["student"]["SR"], "student.SR"), "events only, spiking"),
        Card("teacher SR", Metric(record["teacher"]["SR"], "teacher.SR"), "RGB + events"),
        Card("mean-shift SR", Metric(record["mean_shift"]["SR"], "mean_shift.SR"), "classical, events only"),
        Card(
            "energy per output",
            Metric(record["energy_mj_per_output"]["student"], "energy_mj_per_output.student", None, unit="mJ"),
            "student, estimated, 45 nm",
        ),
        Card("spikes that differ", Metric(mismatches, "", 0), f"in {len(record['export'])} simulators"),
    ]


def write(
    folder: Path, record: Mapping[str, Any], found: Mapping[str, Any], sequences: Sequence[TrackingSequence]
) -> Path:
    """Writes `report.html`.

    Args:
        folder: The demo's run folder.
        record: What goes into `metrics.json`.
        found: What the stages returned: `evaluation`, `profile`, `export`, `track`.
        sequences: The evaluated sequences.

    Returns:
        The page.
    """
    evaluations = found["evaluation"]
    tracked = {key: value for key, value in found["track"].items() if key not in ("video", "ms_per_box")}
    tracked |= {f"ms per box, {name}": f"{value:.1f}" for name, value in found["track"]["ms_per_box"].items()}
    sections = [
        scores_section(evaluations, reference="student"),
        curves_section(evaluations),
        Section(
            "A recording, tracked",
            [
                Media(Path(found["track"]["video"]).read_bytes(), "Events, the student's box and its score."),
                Facts(tracked),
            ],
            intro="The last stage follows the slow target of the packaged recording, as a user would.",
        ),
        attributes_section(evaluations),
        sequences_section(evaluations, sequences, limit=12),
        energy_section(
            record["energy_mj_per_output"],
            note="Arithmetic only, 45 nm fp32 (4.6 pJ per MAC, 0.9 pJ per AC; Horowitz, ISSCC 2014). Other rules and "
            "all layers: profile_energy/energy.html.",
            facts={
                f"{name} under {rule} rules": f"{value:.4g} mJ"
                for name, rules in found["profile"].items()
                for rule, value in rules.items()
                if value is not None
            },
        ),
        export_section(
            {name: {key: entry[key] for key in ("spikes", "mismatches")} for name, entry in record["export"].items()},
            note="The search branch with one template baked in, written to NIR and run by each simulator from the file "
            "on real event windows; the leaky read-out and the box decoding run on the host.",
        ),
        training_section(
            {
                "teacher": history(folder / "train_teacher" / "losses.csv"),
                "student": history(folder / "distill_student" / "losses.csv"),
            }
        ),
        run_section(
            seconds={key: value for key, value in record["seconds"].items() if key != "total"},
            versions=record["versions"],
            config=(folder / "config.yaml").read_text(),
        ),
    ]
    data = ReportData(
        "HAD-SNN demo",
        subtitle=f"{len(sequences)} held-out simulated sequences, seed {record['seed']}",
        protocol=record["protocol"],
        cards=cards(record),
        sections=sections,
    )
    return write_report(folder / "report.html", data)
