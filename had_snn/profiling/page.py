"""One self-contained HTML page for one or several profiles: tables, and pictures as inline SVG.

Estimates and measurements stand in separate tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from had_snn.profiling.drawing import bars, heat_map, lines, raster
from had_snn.profiling.energy import (
    COSTS,
    EXACT,
    HOROWITZ_FP32,
    PUBLISHED_MJ,
    PUBLISHED_SOURCE,
    RULES,
    SDTRACK,
)
from had_snn.profiling.profile import Profile

_HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Spikes and energy</title><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#1c2530;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}h3{font-size:1rem;margin:1.2rem 0 .3rem}
table{border-collapse:collapse;margin:.6rem 0;display:block;overflow-x:auto}
th,td{padding:.2rem .6rem;border-bottom:1px solid #dde3ea;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{background:#f3f6f9;white-space:normal}
.words th:last-child,.words td:last-child{text-align:left;white-space:normal}
.note{color:#55606e;max-width:75ch}svg{max-width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#1c2530}
details{margin:.6rem 0}
</style></head><body>
"""


def _number(value: Any) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, int) or (isinstance(value, float) and value == int(value) and abs(value) >= 1):
        return f"{int(value):,}".replace(",", " ")
    return f"{value:.4g}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, words: bool = False) -> str:
    """A table of numbers; with `words` its last column is text."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{_number(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    kind = " class=words" if words else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>\n"


def _overview(profiles: list[Profile]) -> str:
    rows = []
    for p in profiles:
        rows.append([p.name, *(p.energy_mj(rules) for rules in RULES), p.parameters, p.state_bytes])
    text = _table(["mJ per output, 45 nm fp32", *(rules.name for rules in RULES), "parameters", "state bytes"], rows)
    second = [
        [p.name, p.outputs_per_second, *((p.energy_mj(r) or 0) * p.outputs_per_second for r in RULES)] for p in profiles
    ]
    text += _table(["mJ per tracked second", "outputs per second", *(rules.name for rules in RULES)], second)
    return text + _ratios(profiles) + _beside_published(profiles)


def _ratios(profiles: list[Profile]) -> str:
    """How many times a network that does not spike costs what a spiking one does."""
    dense = [p for p in profiles if p.kind == "ann"]
    rows = [
        [f"{ann.name} / {p.name}", *((ann.energy_mj(r) or 0) / (p.energy_mj(r) or math.inf) for r in RULES)]
        for ann in dense
        for p in profiles
        if p.kind == "spiking"
    ]
    return _table(["times the energy per output", *(rules.name for rules in RULES)], rows) if rows else ""


def _beside_published(profiles: list[Profile]) -> str:
    """Bars on a logarithmic axis: these networks by the most common rule, others as their authors publish them."""
    published = {f"{name} (published)": value for name, value in PUBLISHED_MJ.items()}
    ours = {p.name: p.energy_mj(SDTRACK) or 0.0 for p in profiles}
    values = dict(sorted({n: v for n, v in (ours | published).items() if v > 0}.items(), key=lambda pair: pair[1]))
    text = "<h2>Beside published figures</h2>\n<p class=note>mJ per output on a logarithmic axis, 45 nm fp32: these "
    text += f"networks under the rule {SDTRACK.name}, others by their authors' rule. "
    text += f"Sources: {escape(PUBLISHED_SOURCE)}.</p>\n"
    return text + bars(values, unit="mJ", marked=list(published), decades=True)


def _variants(profiles: list[Profile]) -> str:
    rows = []
    for p in profiles:
        shares = [p.energy_mj(template=mode) for mode in ("amortised", "every", "none")]
        rows.append([p.name, *shares, p.energy_mj(folded=True), p.memory_mj()])
    columns = ["exact, mJ per output", "template over its track", "template every output", "without template"]
    text = _table([*columns, "matching folded", "memory traffic (separate)"], rows)
    other = [[p.name, *(p.energy_mj(EXACT, cost) for cost in COSTS)] for p in profiles]
    return text + _table(["exact, other cost tables", *(cost.name for cost in COSTS)], other)


def _layers(profile: Profile) -> str:
    energies = profile.energy_by_layer(EXACT, HOROWITZ_FP32)
    ordered = sorted(energies.items(), key=lambda pair: pair[0].startswith("template."))
    micro = {name: value * 1e3 for name, value in ordered if value}
    text = f"<h2>{escape(profile.name)}</h2>\n<h3>Energy by layer (exact rule)</h3>\n{bars(micro, unit='uJ')}"
    spiking = {f"{p.branch}.{p.name}": p for p in profile.neurons if p.spikes is not None}
    if spiking:
        figures = {name: p.figures() for name, p in spiking.items()}
        text += "<h3>Spikes per neuron, by layer and micro-step</h3>\n"
        text += heat_map({name: f["rate_by_step"] for name, f in figures.items()}, columns="micro-step")
        text += (
            "<h3>Share of neurons by firing rate (0 to 1 in 20 bins, each row scaled to itself without silence)</h3>\n"
        )
        text += heat_map({name: _scaled(f["rate_histogram"]) for name, f in figures.items()}, columns="bin")
        columns = ["layer", "neurons", "spikes per window", "rate", "silent", "silent channels", "saturated"]
        keys = ("spikes_per_window", "rate", "silent", "silent_channels", "saturated")
        rows = [[n, spiking[n].neurons, *(f[key] for key in keys)] for n, f in figures.items()]
        text += _table(columns, rows)
        text += "<details><summary>Spike rasters: the busiest neurons of the first windows</summary>\n"
        for name, population in spiking.items():
            text += f"<h3>{escape(name)}</h3>\n{raster(population.first_spikes, name=name)}"
        text += "</details>\n"
    text += "<details><summary>All counts (means over windows; energies per output)</summary>\n"
    columns = ["name", "inputs", "form", "input_rate", "input_spikes", "synops", "active", "dense", "textbook"]
    columns += ["additions", "updates", "parameters", "bytes", *(f"uj_{rules.name}" for rules in RULES)]
    rows = profile.to_rows()
    for branch in ("search", "template"):
        chosen = [[row.get(column, "") for column in columns] for row in rows if row["branch"] == branch]
        text += f"<h3>{branch} branch</h3>\n{_table(columns, chosen)}"
    listed = "".join(f"<li>{escape(item)}</li>" for item in profile.uncounted)
    return text + f"</details>\n<p class=note>Not counted:</p><ul class=note>{listed}</ul>\n"


def _scaled(histogram: Sequence[int]) -> list[float]:
    top = max(histogram[1:], default=0) or 1
    return [min(1.0, count / top) for count in histogram]


def _by_event_rate(profiles: list[Profile]) -> str:
    """A plot for each spiking network: their energies lie decades apart."""
    text = ""
    for p in profiles:
        rows = p.energy_by_event_rate()
        curve = [(row["events_per_second_to"] / math.sqrt(2), row["mj"] * 1e3) for row in rows]
        if curve:
            label = "uJ per search window (exact, without template)"
            text += lines({p.name: curve}, x_label="events per second in the search crop", y_label=label) + "<br>"
    return text


def _measured(measured: dict[str, Any]) -> str:
    columns = ["seconds", "outputs", "s_per_output", "cpu_j_per_output", "gpu_j_per_output"]
    rows = [[name, *(figures.get(column) for column in columns)] for name, figures in measured.items()]
    notes = sorted({note for figures in measured.values() for note in figures.get("notes", ())})
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return _table(["network", *columns], rows) + f"<ul class=note>{listed}</ul>\n"


def write_page(path: Path, profiles: list[Profile], *, measured: dict[str, Any] | None = None) -> None:
    """Writes the page.

    Args:
        path: The file to write.
        profiles: Networks to show, in this order.
        measured: Measurements by network (`Measurement.to_dict`), shown in a table of their own.
    """
    text = _HEAD + "<h1>Spikes and energy</h1>\n"
    text += "<p class=note>Estimates: counted operations times a published cost for each, without memory traffic.</p>\n"
    text += _overview(profiles) + "<h2>Variants of the exact rule</h2>\n" + _variants(profiles)
    text += "<h2>Energy against event rate</h2>\n" + _by_event_rate(profiles)
    if measured:
        text += "<h2>Measured on this machine, without counting</h2>\n" + _measured(measured)
    text += "".join(_layers(profile) for profile in profiles)
    text += "<h2>Rules and costs</h2>\n"
    text += _table(["rule", "as counted by"], [[r.name, r.source] for r in RULES], words=True)
    costs = [[c.name, c.ac_pj, c.mac_pj, c.update_pj, c.source] for c in COSTS]
    text += _table(["costs", "AC pJ", "MAC pJ", "update pJ", "source"], costs, words=True)
    path.write_text(text + "</body></html>\n", encoding="utf-8")
