"""Pictures of a kernel benchmark: cost by size, by events and by micro-steps; convergence of the clocked form."""

from __future__ import annotations

from pathlib import Path


def plot(results: list[dict], path: Path) -> None:
    """Draws the rows of `kernels.py` into one PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7.5))
    _sizes(results, axes[0, 0])
    _stem(results, axes[0, 1], "events", "events in one call")
    _stem(results, axes[1, 0], "T", "micro-steps")
    _convergence(results, axes[1, 1])
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _sizes(results: list[dict], axis) -> None:
    """Forward and backward of the clocked LIF against its size, T = 16, freed memory kept."""
    rows = [r for r in results if r["kind"] == "lif" and r["backward"] and not r["fresh"] and r["T"] == 16]
    rows.sort(key=lambda r: r["neurons"])
    for name in dict.fromkeys(n for r in rows for n in r["ms"]):
        points = [(r["T"] * r["neurons"], r["ms"][name]["median"]) for r in rows if name in r["ms"]]
        axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    limit = [(r["T"] * r["neurons"], r["memory_limit_ms"]) for r in rows]
    axis.plot(*zip(*limit, strict=True), "k--", label="copy of its bytes")
    axis.set(xscale="log", yscale="log", xlabel="neuron-steps", ylabel="ms", title="clocked LIF, forward + backward")
    axis.legend(fontsize=7)


def _stem(results: list[dict], axis, name: str, label: str) -> None:
    """Time of the stem against one of its settings, the others being those of the main row."""
    rows = [r for r in results if r["kind"] == "stem" and not r["membranes"]]
    main = next(r for r in rows if r["peers"])
    settings = [k for k in ("events", "channels", "kernel", "stride", "T") if k != name]
    rows = sorted((r for r in rows if all(r[k] == main[k] for k in settings)), key=lambda r: r[name])
    for job in ("had_forward", "had_forward_backward"):
        axis.plot([r[name] for r in rows], [r["ms"][job]["median"] for r in rows], "o-", markersize=3, label=job)
    axis.set(xscale="log", xlabel=label, ylabel="ms", title=f"event-driven LIF against {label}")
    if name == "events":
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    axis.legend(fontsize=7)


def _convergence(results: list[dict], axis) -> None:
    """How many spikes the clocked form puts elsewhere than the event-driven one."""
    row = next(r for r in results if r["kind"] == "convergence")
    axis.plot(row["dt_us"], [max(100 * e, 1e-4) for e in row["misplaced"]], "o-", markersize=3)
    axis.set(xscale="log", yscale="log", xlabel="step of the clocked form, us", ylabel="misplaced spikes, %")
    axis.set_title("clocked LIF against the event-driven one")
