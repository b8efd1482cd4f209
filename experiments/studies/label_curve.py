"""How many labels a teacher saves: success rate against the share of the training sequences that is labelled.

    python -m experiments.studies label_curve out=runs/labels

Every arm takes the same steps. `none` learns from the labelled sequences alone; the other arms have a teacher, which
also labels the rest from each first box. It is an ablation with another report: jobs, folders and options are those of
`ablation`, and what is there is not run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from experiments.record import write_record
from experiments.studies import ablation
from experiments.studies.ablation_report import difference, rounded, spread_of
from had_snn.commands.run_folder import open_run
from had_snn.errors import InputError

Runs = dict[str, dict[float, list[dict[str, Any]]]]


def by_arm_and_share(results: Mapping[str, dict[str, Any]]) -> Runs:
    """Results of students by arm and by the share of labels, in the order of both.

    Raises:
        InputError: If one was trained under another budget than `fixed`: a curve compares equal steps.
    """
    found: Runs = {}
    for result in results.values():
        job = result["job"]
        if job["kind"] != "student":
            continue
        if job["budget"] != "fixed":
            raise InputError(f"budget={job['budget']} in a label curve: expected fixed, equal steps for all")
        found.setdefault(job["arm"], {}).setdefault(job["labels"], []).append(result)
    return {arm: dict(sorted(shares.items())) for arm, shares in found.items()}


def summarise(results: Mapping[str, dict[str, Any]], *, resamples: int) -> dict[str, Any]:
    """The curve of every arm, its gain over none, and what it has over none with more labels.

    Args:
        results: Results of `ablation_worker.py` by job name.
        resamples: Bootstrap resamples.

    Returns:
        `curve`: for each arm a list of `{labels, SR, seconds, gain}`, shares ascending, seconds the slowest seed's;
        `saved`: for each arm with a teacher and each share, its SR minus that of none with the next larger share.
    """
    runs = by_arm_and_share(results)
    alone = runs.get("none", {})
    curve: dict[str, list[dict[str, Any]]] = {}
    saved: dict[str, dict[str, Any]] = {}
    for arm, shares in runs.items():
        for labels, found in shares.items():
            point: dict[str, Any] = {"labels": labels, "SR": rounded(spread_of(found, resamples=resamples))}
            point["seeds"] = [round(run["scores"]["SR"], 3) for run in found]
            point["seconds"] = round(max(run["seconds"] for run in found), 1)
            if arm != "none" and labels in alone:
                point["gain"] = difference(found, alone[labels], resamples=resamples)
            curve.setdefault(arm, []).append(point)
            more = min((share for share in alone if share > labels), default=None)
            if arm != "none" and more is not None:
                saved.setdefault(arm, {})[f"{labels:g} against {more:g}"] = difference(
                    found, alone[more], resamples=resamples
                )
    record: dict[str, Any] = {"curve": curve, "saved": saved}
    if "teacher" in results:
        record["teacher"] = rounded(spread_of([results["teacher"]], resamples=resamples))
    return record


def run(cfg: DictConfig) -> dict[str, Any]:
    """Runs what is missing and writes `label_curve.json` and `label_curve.png`."""
    folder = open_run(cfg)
    results, beside = ablation.tested(cfg, folder)
    record = summarise(results, resamples=cfg.resamples) | beside
    write_record(folder / "label_curve.json", record)
    plot(record, folder / "label_curve.png")
    return record


def plot(record: Mapping[str, Any], path: Path) -> None:
    """SR with its interval over the share of labels, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5.6, 3.6))
    shares = sorted({100 * point["labels"] for points in record["curve"].values() for point in points})
    for place, (arm, points) in enumerate(record["curve"].items()):
        rates = [point["SR"] for point in points]
        error = [[sr["mean"] - sr["low"] for sr in rates], [sr["high"] - sr["mean"] for sr in rates]]
        # A little apart, so that no interval hides another.
        at = [100 * point["labels"] * 1.03**place for point in points]
        axis.errorbar(at, [sr["mean"] for sr in rates], yerr=error, fmt="o-", capsize=3, label=arm)
    if "teacher" in record:
        axis.axhline(record["teacher"]["mean"], linestyle="--", color="0.4", linewidth=1, label="teacher")
    axis.set_xscale("log")
    axis.set_xticks(shares, [f"{share:g}" for share in shares])
    axis.minorticks_off()
    axis.set_xlabel("training sequences with labels, %")
    axis.set_ylabel("SR, %")
    axis.legend(loc="best", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(cfg: DictConfig) -> None:
    record, text = run(cfg), "{mean:.1f} [{low:.1f}, {high:.1f}]"
    for arm, points in record["curve"].items():
        for point in points:
            gain = f"  over none {text.format(**point['gain'])}" if "gain" in point else ""
            line = f"{arm:<10}{100 * point['labels']:5g} %  SR {text.format(**point['SR'])}"
            print(f"{line}  {point['seconds']:.0f} s{gain}")
    for arm, differences in record["saved"].items():
        for shares, value in differences.items():
            print(f"{arm}, labels {shares} of none: {text.format(**value)}")
    print(f"wrote {Path(cfg.out) / 'label_curve.json'}")
