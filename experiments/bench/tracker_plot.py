"""Pictures of `tracker.py`: time against firing rate, and events a second in real time."""

from __future__ import annotations

from pathlib import Path


def plot(record: dict, path: Path) -> None:
    """Draws the curve of each student and the latency by event rate into one PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    for axis, name in zip(axes, ("tiny", "base"), strict=False):
        rows = [row for row in record["curve"] if row["student"] == name]
        for path_name in ("spikes", "dense"):
            points = [(row["rate"], row["ms"][path_name]) for row in rows]
            axis.plot(*zip(*points, strict=True), "o-", markersize=3, label=path_name)
        axis.set(xlabel="spikes per neuron and micro-step", ylabel="ms per output, one core", title=f"student_{name}")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    threads = max(row["threads"] for row in record["rates"])
    for period in sorted({row["period_us"] for row in record["rates"]}):
        rows = [row for row in record["rates"] if row["period_us"] == period and row["threads"] == threads]
        points = [(row["rate"], row["latency_ms"]["p50"]) for row in rows]
        axes[2].plot(*zip(*points, strict=True), "o-", markersize=3, label=f"a box every {period / 1000:g} ms")
        axes[2].axhline(period / 1000, color="grey", linewidth=0.5)
    cores = f"{threads} core" + "s" * (threads > 1)
    axes[2].set(xscale="log", yscale="log", xlabel="events a second", ylabel=f"ms per output (median), {cores}")
    axes[2].set_title("student_tiny; grey: the period")
    axes[2].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
