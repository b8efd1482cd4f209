"""The event-driven stem as a clocked convolution and LIF layer, for simulators and chips that only know a clock.

The stem decays by the true time between events; a clock can only decay by whole steps, adds up the events of a step
before it decides, and fires at most once a step. The two agree in the limit of a fine clock, and `stem_convergence`
measures how fast: the share of spikes that a window's micro-steps have too many or too few.

NIR says the jump's gain as a factor on the weights, so a gain that follows the event rate must be fixed to one value
(`fixed_gain`), and time constants per channel as full-shape arrays (importers that want one value per layer refuse it).
"""

from __future__ import annotations

import torch
from torch import Tensor

from had_snn.errors import ExportError, InputError
from had_snn.events.batch import EventBatch
from had_snn.export.search_graph import INPUT, OUTPUT, Conv, Neurons, SearchGraph, decay_times
from had_snn.models.stem import EventLIFStem
from had_snn.ops import lif_multi_step
from had_snn.ops.lif import decay_factor

STEM_CONV, STEM_LIF = "stem_conv", "stem_lif"

#: Steps that are held in memory at once.
_BLOCK = 256


@torch.no_grad()
def fixed_gain(stem: EventLIFStem, batch: EventBatch) -> float:
    """The one gain that stands for a recording: the geometric mean over its windows."""
    return float(stem.gain(batch).log().mean().exp())


@torch.no_grad()
def stem_graph(
    stem: EventLIFStem, *, dt_us: float, gain: float | None, size: int, n_steps: int, **info: object
) -> SearchGraph:
    """Puts the stem on a clock.

    Args:
        stem: The stem.
        dt_us: Step of the clock in microseconds.
        gain: Factor on the weights, the same for every window.
        size: Side of the crop in crop pixels.
        n_steps: Steps per window.
        **info: Plain values for the file's metadata.

    Returns:
        `input [2, H, W] -> stem_conv -> stem_lif -> output`, with a decay per channel.

    Raises:
        ExportError: If the gain is not constant, or the stem is no `EventLIFStem` (its rule is then unknown).
    """
    if type(stem) is not EventLIFStem:
        raise ExportError(f"stem: {type(stem).__name__} has no clocked form; expected EventLIFStem")
    if gain is None:
        raise ExportError(
            "stem: its gain follows the event rate of each window, and NIR holds constants only; give one gain for "
            "the whole recording (fixed_gain takes it from windows)"
        )
    weight = stem.weight.detach().cpu().float() * gain
    channels, _, kernel, _ = weight.shape
    side = (size + 2 * stem.padding - kernel) // stem.stride + 1
    decays = decay_factor(stem.tau_us.detach().cpu().float(), dt_us)
    nodes = {
        STEM_CONV: Conv(weight, torch.zeros(channels), stem.stride, stem.padding),
        STEM_LIF: Neurons(tuple(decays.tolist()), (channels, side, side)),
    }
    edges = ((INPUT, STEM_CONV), (STEM_CONV, STEM_LIF), (STEM_LIF, OUTPUT))
    notes = {"part": "stem", "gain": float(gain), "rounded": False, **info}
    return SearchGraph(nodes, edges, (2, size, size), n_steps, float(dt_us), {STEM_LIF: "stem"}, notes)


def event_frames(batch: EventBatch, *, dt_us: float, first: int, steps: int) -> Tensor:
    """Events counted by polarity, pixel and step: `[steps, N, 2, H, W]` for the steps from `first`."""
    height, width = batch.size_hw
    sample = torch.repeat_interleave(torch.arange(len(batch)), batch.offsets.diff())
    # Nearest picosecond first: a quotient a digit short of a whole number would put an event into the step before.
    step = (batch.network_time_us() * 1e6).round().long() // round(dt_us * 1e6) - first
    inside = (step >= 0) & (step < steps)
    parts = (step, sample, batch.p, batch.y, batch.x)
    s, n, p, y, x = (part[inside].long() for part in parts)
    index = (((s * len(batch) + n) * 2 + p) * height + y) * width + x
    frames = torch.bincount(index, minlength=steps * len(batch) * 2 * height * width)
    return frames.reshape(steps, len(batch), 2, height, width).float()


@torch.no_grad()
def run_clocked_stem(graph: SearchGraph, batch: EventBatch, *, n_steps: int) -> Tensor:
    """Runs windows from rest on the clock.

    Args:
        graph: From `stem_graph`.
        batch: Windows of equal length.
        n_steps: Micro-steps to count spikes in.

    Returns:
        Spike counts `[n_steps, N, C, H, W]`, comparable with the event-driven stem's.
    """
    length, ticks = float(batch.network_length_us[0]), graph.n_steps
    if abs(ticks * graph.dt_us - length) > 1e-6 or ticks % n_steps:
        raise InputError(
            f"a step of {graph.dt_us:g} us does not divide {n_steps} micro-steps of {length / n_steps:g} us"
        )
    conv, (tau, dt) = graph.convolutions[STEM_CONV], decay_times(graph.neurons[STEM_LIF].alpha)
    state, counts = None, None
    for first in range(0, ticks, _BLOCK):
        steps = min(_BLOCK, ticks - first)
        frames = event_frames(batch, dt_us=graph.dt_us, first=first, steps=steps)
        current = conv(frames.flatten(0, 1)).unflatten(0, (steps, len(batch)))
        spikes, state, _ = lif_multi_step(current, state, tau=tau, dt=dt)
        if counts is None:
            counts = torch.zeros(n_steps, *spikes.shape[1:])
        counts.index_add_(0, (torch.arange(first, first + steps) * n_steps) // ticks, spikes)
    assert counts is not None
    return counts


@torch.no_grad()
def stem_convergence(
    stem: EventLIFStem, batch: EventBatch, *, n_steps: int, dts_us: tuple[float, ...]
) -> list[dict[str, float]]:
    """Clocked against event-driven spikes as the clock gets finer.

    The gain is each window's own, so that nothing but the clock differs.

    Args:
        stem: The stem.
        batch: Windows of equal length.
        n_steps: Micro-steps in which spikes are compared.
        dts_us: Steps of the clock, each a divisor of the micro-step.

    Returns:
        Per clock: `dt_us`, `spikes` (event-driven), `spikes_clocked`, `mismatches` (summed differences of counts per
        neuron and micro-step) and `mismatch` (their share of the spikes).
    """
    exact = stem(batch, n_steps=n_steps)[0]
    curve = []
    for dt_us in dts_us:
        clocked = []
        for index, gain in enumerate(stem.gain(batch).tolist()):
            window = batch.samples(index, index + 1)
            ticks = round(float(window.network_length_us[0]) / dt_us)
            clock = stem_graph(stem, dt_us=dt_us, gain=gain, size=batch.size_hw[0], n_steps=ticks)
            clocked.append(run_clocked_stem(clock, window, n_steps=n_steps))
        found = torch.cat(clocked, dim=1)
        wrong, spikes = float((found - exact).abs().sum()), float(exact.sum())
        curve.append(
            {
                "dt_us": dt_us,
                "spikes": spikes,
                "spikes_clocked": float(found.sum()),
                "mismatches": wrong,
                "mismatch": wrong / max(spikes, 1.0),
            }
        )
    return curve
