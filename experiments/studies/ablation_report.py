"""What an ablation found: means and intervals over seeds and sequences, differences, a table and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from had_snn.errors import InputError
from had_snn.evaluate.seeds import Spread, gap_closed, paired_spread, spread

SCORES = ("SR", "PR", "NPR")


def rounded(value: Spread) -> dict[str, float]:
    """A spread as plain numbers."""
    return {name: round(number, 3) for name, number in asdict(value).items()}


def _table(runs: list[dict[str, Any]], score: str = "SR") -> np.ndarray:
    """`[seeds, sequences]` of one score."""
    names = [run["sequences"] for run in runs]
    if any(other != names[0] for other in names):
        raise InputError("the runs were tested on different sequences; use another out= folder for another test")
    return np.array([run["per_sequence"][score] for run in runs])


def spread_of(runs: list[dict[str, Any]], score: str = "SR", *, resamples: int) -> Spread:
    """Mean and interval of a score over the runs and their sequences."""
    return spread(_table(runs, score), resamples=resamples)


def _paired(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Two tables of the seeds that both were run with, in the same order."""
    by_seed = [{run["job"].get("seed"): run for run in runs} for runs in (first, second)]
    seeds = [seed for seed in by_seed[0] if seed in by_seed[1]]
    if not seeds:
        raise InputError("two arms have no seed in common; give them one with seeds=")
    ours, theirs = (_table([runs[seed] for seed in seeds]) for runs in by_seed)
    return ours, theirs


def difference(first: list[dict[str, Any]], second: list[dict[str, Any]], *, resamples: int) -> dict[str, float]:
    """SR of the first runs minus the second, sequence by sequence, over the seeds that both have.

    A second run without a seed, as of a tracker that is not trained, is compared with every seed.
    """
    if len(second) == 1 and second[0]["job"].get("seed") is None:
        return rounded(paired_spread(_table(first), _table(second), resamples=resamples))
    return rounded(paired_spread(*_paired(first, second), resamples=resamples))


def summarise(results: Mapping[str, dict[str, Any]], *, resamples: int) -> dict[str, Any]:
    """All figures of an ablation.

    Args:
        results: Results of `ablation_worker.py` by job name.
        resamples: Bootstrap resamples.

    Returns:
        `trackers` (baselines and teacher), `arms` (by share of the labels and budget), and the differences: `gain` and
        `gap_closed` of the first set, all others in their own set.
    """
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    others: dict[str, list[dict[str, Any]]] = {}
    for name, result in results.items():
        job = result["job"]
        if job["kind"] == "student":
            place = groups.setdefault((f"{job['labels']:g}", job["budget"]), {})
            place.setdefault(job["arm"], []).append(result)
        else:
            tracker = "teacher" if job["kind"] == "teacher" else name.removeprefix("baseline-")
            others.setdefault(tracker, []).append(result)
    options: dict[str, Any] = {"resamples": resamples}
    goal = _table(others["teacher"]) if "teacher" in others else None
    sets = []
    for (labels, budget), arms in groups.items():
        start = arms.get("none") or groups[labels, "time"]["none"]
        entry: dict[str, Any] = {"labels": float(labels), "budget": budget, "arms": {}, "gain": {}, "gap_closed": {}}
        for arm, runs in arms.items():
            entry["arms"][arm] = of_arm(runs, options)
        # `full` takes as many steps under both budgets, so its run at equal time is the one to compare with.
        full = arms.get("full") or groups.get((labels, "time"), {}).get("full")
        for arm, runs in {**arms, **({"full": full} if full else {})}.items():
            if arm != "none":
                ours, theirs = _paired(runs, start)
                entry["gain"][f"{arm}_vs_none"] = rounded(paired_spread(ours, theirs, **options))
                if goal is not None:
                    each = goal if len(goal) == len(ours) else goal.mean(axis=0, keepdims=True)
                    entry["gap_closed"][arm] = rounded(gap_closed(ours, theirs, each, **options))
            if arm not in ("none", "full") and full:
                entry["gain"][f"full_vs_{arm}"] = difference(full, runs, **options)
        sets.append(entry)
    return {
        "trackers": {name: of_arm(runs, options) for name, runs in others.items()},
        "gain": sets[0]["gain"],
        "gap_closed": sets[0]["gap_closed"].get("full"),
        "sets": sets,
    }


def of_arm(runs: list[dict[str, Any]], options: dict[str, Any]) -> dict[str, Any]:
    """One arm over its seeds."""
    found: dict[str, Any] = {score: rounded(spread_of(runs, score, **options)) for score in SCORES}
    found["by_attribute"] = {
        name: {score: round(float(np.mean([run["by_attribute"][name][score] for run in runs])), 2) for score in SCORES}
        | {"sequences": runs[0]["by_attribute"][name]["sequences"]}
        for name in runs[0]["by_attribute"]
    }
    found["runs"] = [
        {
            "seed": run["job"].get("seed"),
            **{score: round(run["scores"][score], 3) for score in SCORES},
            **{key: round(run[key], 4) for key in ("seconds", "seconds_per_step") if key in run},
            **({"iterations": run["job"]["iterations"]} if "iterations" in run["job"] else {}),
        }
        for run in runs
    ]
    return found


def table(record: Mapping[str, Any]) -> str:
    """The figures as a table to read."""
    head = f"{'labels':>6} {'budget':<7}{'tracker':<12}{'SR':>6} {'95 %':<14}{'PR':>6}{'NPR':>7}"
    lines = [head + f"{'gain':>7} 95 %"]
    rows = [("", "", name, arm, None) for name, arm in record["trackers"].items()]
    for entry in record["sets"]:
        gains = {name: entry["gain"].get(f"{name}_vs_none") for name in entry["arms"]}
        rows += [(f"{entry['labels']:g}", entry["budget"], n, arm, gains[n]) for n, arm in entry["arms"].items()]
    for labels, budget, name, arm, gain in rows:
        sr = arm["SR"]
        line = f"{labels:>6} {budget:<7}{name:<12}{sr['mean']:6.1f} {_interval(sr):<14}"
        line += f"{arm['PR']['mean']:6.1f}{arm['NPR']['mean']:7.1f}"
        lines.append(line + (f"{gain['mean']:+7.1f} {_interval(gain)}" if gain else ""))
    return "\n".join(lines) + "\n"


def _interval(value: Mapping[str, float]) -> str:
    return f"[{value['low']:.1f}, {value['high']:.1f}]"


def plot(record: Mapping[str, Any], path: Path) -> None:
    """SR of every arm with its interval, its seeds as dots; teacher and baselines as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    sets = record["sets"]
    widths = [max(2, len(entry["arms"])) for entry in sets]
    figure, axes = plt.subplots(
        1,
        len(sets),
        figsize=(2 + 0.75 * sum(widths), 4.2),
        sharey=True,
        squeeze=False,
        gridspec_kw={"width_ratios": widths},
    )
    for axis, entry in zip(axes[0], sets, strict=True):
        for i, arm in enumerate(entry["arms"].values()):
            sr = arm["SR"]
            error = [[sr["mean"] - sr["low"]], [sr["high"] - sr["mean"]]]
            axis.bar(i, sr["mean"], width=0.7, color=f"C{i}", alpha=0.6, yerr=error, capsize=3)
            axis.plot([i] * len(arm["runs"]), [run["SR"] for run in arm["runs"]], "k.", markersize=4)
        for name, tracker in record["trackers"].items():
            axis.axhline(tracker["SR"]["mean"], linestyle="--" if name == "teacher" else ":", color="0.4", linewidth=1)
            if axis is axes[0, 0]:
                axis.text(-0.45, tracker["SR"]["mean"] + 0.2, name, fontsize=7, color="0.3")
        axis.set_xticks(range(len(entry["arms"])), list(entry["arms"]), rotation=60, fontsize=8)
        axis.set_title(f"{100 * entry['labels']:g} % labels, equal {entry['budget']}", fontsize=8)
        axis.set_ylim(bottom=15)
    axes[0, 0].set_ylabel("SR, %")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
