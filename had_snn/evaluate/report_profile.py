"""The page of profiles: energy under every rule, and what it is made of; estimates and measurements apart."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from had_snn.evaluate.report import Details, Figure, Gallery, Media, ReportData, Section, Table, write_report
from had_snn.evaluate.report_sections import bars_figure
from had_snn.profiling import COSTS, EXACT, PUBLISHED_MJ, PUBLISHED_SOURCE, RULES, SDTRACK, NeuronProfile, Profile
from had_snn.viz import plots
from had_snn.viz.film import encode_png
from had_snn.viz.render import spike_strip

_RULES = [rules.name for rules in RULES]
_COUNTS = ("inputs", "form", "input_rate", "input_spikes", "synops", "active", "dense", "textbook", "additions")
_FIGURES = ("spikes_per_window", "rate", "silent", "silent_channels", "saturated")


def write_profile_report(
    path: str | os.PathLike[str], profiles: Sequence[Profile], *, measured: Mapping[str, Any] | None = None
) -> Path:
    """Writes one self-contained page.

    Args:
        path: The file.
        profiles: Networks to show, in this order.
        measured: Measurements by network (`Measurement.to_dict`), shown in a table of their own.

    Returns:
        The path.
    """
    sections = [_overview(profiles), _beside_published(profiles), _variants(profiles), _by_event_rate(profiles)]
    sections += [_measured(measured)] if measured else []
    sections += [_network(f"Network {number}: {p.name}", p) for number, p in enumerate(profiles, start=1)]
    subtitle = "Estimates: counted operations times a published cost for each, without memory traffic."
    return write_report(path, ReportData("Spikes and energy", subtitle, sections=[*sections, _rules()]))


def _overview(profiles: Sequence[Profile]) -> Section:
    energies = {p.name: [p.energy_mj(rules) or 0.0 for rules in RULES] for p in profiles}
    rows = [[p.name, *energies[p.name], p.parameters, p.state_bytes] for p in profiles]
    tables = [Table(["network", *_RULES, "parameters", "state bytes"], rows, caption="mJ per output, 45 nm fp32")]
    rows = [[p.name, p.outputs_per_second, *(mj * p.outputs_per_second for mj in energies[p.name])] for p in profiles]
    tables.append(Table(["network", "outputs per second", *_RULES], rows, caption="mJ per tracked second"))
    # How many times a network that does not spike costs what a spiking one does.
    pairs = [(ann, p) for ann in profiles for p in profiles if (ann.kind, p.kind) == ("ann", "spiking")]
    rows = [
        [f"{ann.name} / {p.name}", *(a / (b or math.inf) for a, b in zip(energies[ann.name], energies[p.name]))]  # noqa: B905
        for ann, p in pairs
    ]
    tables += [Table(["networks", *_RULES], rows, caption="times the energy per output")] if rows else []
    return Section("Overview", tables)


def _beside_published(profiles: Sequence[Profile]) -> Section:
    """These networks by the most common rule, others as their authors publish them."""
    published = {f"{name} (published)": value for name, value in PUBLISHED_MJ.items()}
    ours = {p.name: p.energy_mj(SDTRACK) or 0.0 for p in profiles}
    values = dict(sorted({n: v for n, v in (ours | published).items() if v > 0}.items(), key=lambda pair: pair[1]))
    figure = bars_figure(values, title="Energy", label="mJ per output", marked=list(published), log=True)
    text = f"45 nm fp32: these networks under the rule {SDTRACK.name}, others by their authors' rule. "
    return Section("Beside published figures", [figure], f"{text}Sources: {PUBLISHED_SOURCE}.")


def _variants(profiles: Sequence[Profile]) -> Section:
    rows = [
        [
            p.name,
            *(p.energy_mj(template=mode) for mode in ("amortised", "every", "none")),
            p.energy_mj(folded=True),
            p.memory_mj(),
        ]
        for p in profiles
    ]
    columns = ["network", "template over its track", "template every output", "without template", "matching folded"]
    tables = [Table([*columns, "memory traffic (separate)"], rows, caption="exact, mJ per output")]
    rows = [[p.name, *(p.energy_mj(EXACT, cost) for cost in COSTS)] for p in profiles]
    tables.append(Table(["network", *(cost.name for cost in COSTS)], rows, caption="exact, other cost tables"))
    return Section("Variants of the exact rule", tables)


def _by_event_rate(profiles: Sequence[Profile]) -> Section:
    """A plot for each spiking network: their energies lie decades apart."""
    figures = []
    for p in profiles:
        rows = p.energy_by_event_rate()
        rates = [row["events_per_second_to"] / math.sqrt(2) for row in rows]
        series = {p.name: (rates, [row["mj"] * 1e3 for row in rows])}
        options = {"title": p.name, "x_label": "events per second in the search crop", "y_label": "uJ", "log_x": True}
        if rows:
            svg = plots.svg_figure(
                lambda ax, s=series, o=options: plots.curves(ax, s, **o), title=f"energy of {p.name}"
            )
            figures.append(Figure(svg))
    return Section("Energy against event rate", figures, "Of a search window, exact, without the template.")


def _measured(measured: Mapping[str, Any]) -> Section:
    columns = ["seconds", "outputs", "s_per_output", "cpu_j_per_output", "gpu_j_per_output"]
    rows = [[name, *(figures.get(column) for column in columns)] for name, figures in measured.items()]
    notes = sorted({note for figures in measured.values() for note in figures.get("notes", ())})
    return Section(
        "Measured on this machine, without counting", [Table(["network", *columns], rows, note="; ".join(notes))]
    )


def _network(title: str, profile: Profile) -> Section:
    ordered = sorted(profile.energy_by_layer().items(), key=lambda pair: pair[0].startswith("template."))
    micro = {name: value * 1e3 for name, value in ordered if value}
    blocks: list[Any] = [bars_figure(micro, title="Energy by layer (exact rule)", label="uJ")]
    spiking = {f"{p.branch}.{p.name}": p for p in profile.neurons if p.spikes is not None}
    blocks += _spikes(spiking) if spiking else []
    columns = ["name", *_COUNTS, "updates", "parameters", "bytes", *(f"uj_{name}" for name in _RULES)]
    tables = []
    for branch in ("search", "template"):
        rows = [[row.get(column, "") for column in columns] for row in profile.to_rows() if row["branch"] == branch]
        tables.append(Table(columns, rows, caption=f"{branch} branch"))
    blocks.append(Details("All counts (means over windows; energies per output)", tables))
    return Section(title, [*blocks, Table(["Not counted"], [[item] for item in profile.uncounted])])


def _spikes(spiking: Mapping[str, NeuronProfile]) -> list[Any]:
    """What the neurons did: by micro-step, by rate, in numbers, and one by one."""
    figures = {name: p.figures() for name, p in spiking.items()}
    shares = {name: _scaled(found["rate_histogram"]) for name, found in figures.items()}
    maps = [
        ({name: found["rate_by_step"] for name, found in figures.items()}, "Spikes per neuron", "micro-step"),
        (
            shares,
            "Share of neurons by firing rate",
            "rate, 0 to 1 in 20 bins; each row scaled to itself without silence",
        ),
    ]
    blocks: list[Any] = []
    for rows, title, label in maps:
        svg = plots.svg_figure(
            lambda ax, rows=rows, title=title, label=label: plots.heat_map(ax, rows, title=title, label=label),
            size=(4.8, 0.9 + 0.26 * len(rows)),
            title=title,
        )
        blocks.append(Figure(svg))
    columns = ["layer", "neurons", *(key.replace("_", " ") for key in _FIGURES)]
    blocks.append(Table(columns, [[n, spiking[n].neurons, *(f[key] for key in _FIGURES)] for n, f in figures.items()]))
    rasters = []
    for name, population in spiking.items():
        train = population.first_spikes.numpy()
        strip = spike_strip(train, width=5 * len(train), height=3 * train.shape[1], steps=len(train), style="light")
        rasters.append(Media(encode_png(strip), name))
    return [*blocks, Details("Spike rasters: the busiest neurons of the first windows", [Gallery(rasters)])]


def _scaled(histogram: Sequence[int]) -> list[float]:
    top = max(histogram[1:], default=0) or 1
    return [min(1.0, count / top) for count in histogram]


def _rules() -> Section:
    costs = [[c.name, c.ac_pj, c.mac_pj, c.update_pj, c.source] for c in COSTS]
    tables = [
        Table(["rule", "as counted by"], [[rules.name, rules.source] for rules in RULES]),
        Table(["costs", "AC pJ", "MAC pJ", "update pJ", "source"], costs),
    ]
    return Section("Rules and costs", tables)
