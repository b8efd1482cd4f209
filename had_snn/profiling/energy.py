"""What an operation costs, and whose rules say which operations count.

Published energy figures of spiking trackers follow different rules, so a figure without its rule means nothing. A
`Rules` record says how counts become additions (AC), multiply-accumulates (MAC) and membrane updates; a `CostTable`
says what each costs. Presets:

`EXACT`       true fan-out, borders, each spike of a count one addition; real-valued inputs cost a MAC per synapse,
              zeros included; bias and shortcut additions and one update per neuron and micro-step (in the stem: per
              event and neuron that sees it) are charged too.
`EXACT_MAC`   the same, but a spike count `n > 0` costs one MAC instead of `n` additions.
`SDTRACK`     the rule of SDTrack and most spike-driven transformers: T * rate * textbook MACs at the price of an AC;
              the first layer and real-valued inputs at the price of a MAC, also times T; no borders, biases or
              membranes. (SDTrack's last layers are MACs because their inputs are real-valued; ours reads spikes.)
`SPIKEFET`    as SpikeFET's script: the first and the last layer at the price of an AC, the last at rate 1.
`NEUROBENCH`  effective operations: non-zero input times non-zero weight; a micro-step whose inputs are all 0 or 1 is
              AC, any other MAC (metric `SynapticOperations` of NeuroBench 2).

The event-driven stem is counted by its events under every rule, never by T * H * W: under `SDTRACK` and `SPIKEFET`
events times the textbook fan-out, under the others with true borders. Networks without spikes cost a MAC per synapse:
true borders under `EXACT`, the textbook number under `SDTRACK` and `SPIKEFET`, non-zero inputs under `NEUROBENCH`.

None of these includes memory traffic, which dominates on most machines: `Profile.memory_mj` gives it separately.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CostTable:
    """Energy of single operations.

    Attributes:
        name: Short name.
        ac_pj: One addition of a weight to a membrane, picojoules.
        mac_pj: One multiplication and addition; None where the hardware has none.
        update_pj: One membrane update (decay, comparison, reset).
        source: Where the figures come from.
        access_pj: One 32-bit memory access, or None when the figures above already hold it or nothing is published.
    """

    name: str
    ac_pj: float
    mac_pj: float | None
    update_pj: float
    source: str
    access_pj: float | None = None


_HOROWITZ = "M. Horowitz, Computing's energy problem (and what we can do about it), ISSCC 2014: 45 nm, 0.9 V"

#: 32-bit float: add 0.9 pJ, multiply 3.7 pJ; an update is a multiplication and a comparison. A 64-bit access to an
#: 8 KiB SRAM costs 10 pJ, half of which is charged for 32 bits.
HOROWITZ_FP32 = CostTable("45nm_fp32", 0.9, 4.6, 4.6, _HOROWITZ, access_pj=5.0)
#: 16-bit float: add 0.4 pJ, multiply 1.1 pJ.
HOROWITZ_FP16 = CostTable("45nm_fp16", 0.4, 1.5, 1.5, _HOROWITZ, access_pj=5.0)
#: 8-bit integer: add 0.03 pJ, multiply 0.2 pJ; accumulators that need more than 8 bits cost more.
HOROWITZ_INT8 = CostTable("45nm_int8", 0.03, 0.23, 0.23, _HOROWITZ, access_pj=5.0)
#: Synaptic operation 23.6 pJ (minimum), active neuron update 81 pJ; memory is inside the figures, spike routing is not.
LOIHI = CostTable("loihi", 23.6, None, 81.0, "M. Davies et al., Loihi, IEEE Micro 38(1), 2018, table 2: 14 nm, 0.75 V")
#: No figure per synaptic operation of Speck is published (0.42 mW at rest: Yao et al., Nature Communications 2024). SNE
#: is of its class, a digital engine for event-driven convolutions on event-camera data, with 4-bit weights.
SNE = CostTable("sne", 0.221, None, 0.0, "A. Di Mauro et al., SNE, arXiv 2204.10687, 2022: 0.221 pJ per operation")
#: Programmable digital core; the figure holds memory and control.
SENECA = CostTable("seneca", 2.8, None, 2.8, "G. Tang et al., SENECA, Frontiers in Neuroscience 17, 2023, table 3")

COSTS: tuple[CostTable, ...] = (HOROWITZ_FP32, HOROWITZ_FP16, HOROWITZ_INT8, LOIHI, SNE, SENECA)


@dataclass(frozen=True)
class Rules:
    """How counts become operations.

    Attributes:
        name: Short name.
        synapses: `"exact"` fan-out, `"rate"` times the textbook number, or `"effective"` (zeros left out).
        counts: A spike count `n`: `"repeat"` is n ACs, `"multiply"` one MAC, `"by_step"` decides for each micro-step.
        first: What the first layer's operations are.
        last_at_rate_one: Charge the last layer as if every input spiked.
        biases: Charge bias and shortcut additions.
        updates: Charge membrane updates.
        source: Who counts like this.
    """

    name: str
    synapses: Literal["exact", "rate", "effective"]
    counts: Literal["repeat", "multiply", "by_step"] = "repeat"
    first: Literal["ac", "mac"] = "ac"
    last_at_rate_one: bool = False
    biases: bool = False
    updates: bool = False
    source: str = ""


EXACT = Rules("exact", "exact", biases=True, updates=True, source="this project")
EXACT_MAC = Rules("exact_mac", "exact", counts="multiply", biases=True, updates=True, source="this project")
SDTRACK = Rules("sdtrack", "rate", first="mac", source="SDTrack's energy script, spike-driven transformer papers")
SPIKEFET = Rules("spikefet", "rate", last_at_rate_one=True, source="SpikeFET's energy script")
NEUROBENCH = Rules("neurobench", "effective", counts="by_step", source="NeuroBench 2, metric SynapticOperations")

RULES: tuple[Rules, ...] = (EXACT, EXACT_MAC, SDTRACK, SPIKEFET, NEUROBENCH)

#: Published theoretical energy per output, millijoules (each paper by its own rule, 45 nm fp32).
PUBLISHED_MJ: dict[str, float] = {
    "SDTrack-Tiny": 8.16,
    "SpikeET": 8.80,
    "SNNTrack": 8.25,
    "SDTrack-Base": 30.52,
    "OSTrack-256": 98.9,
    "HDETrack": 120.8,
    "CEUTrack": 265.6,
}
PUBLISHED_SOURCE = (
    "SDTrack: Shan et al., arXiv 2503.08703; SpikeET: Yang et al. (SpikeFET), arXiv 2505.20834; SNNTrack, OSTrack-256, "
    "HDETrack and CEUTrack as comparison tables of spiking trackers quote them"
)


@dataclass
class Operations:
    """Numbers of operations.

    Attributes:
        acs: Additions.
        macs: Multiply-accumulates.
        updates: Membrane updates.
    """

    acs: float = 0.0
    macs: float = 0.0
    updates: float = 0.0

    def __add__(self, other: Operations) -> Operations:
        return Operations(self.acs + other.acs, self.macs + other.macs, self.updates + other.updates)

    def scaled(self, factor: float) -> Operations:
        """The same operations `factor` times."""
        return Operations(self.acs * factor, self.macs * factor, self.updates * factor)

    def energy_pj(self, cost: CostTable) -> float | None:
        """Picojoules; None when there are MACs and the hardware has none."""
        if self.macs and cost.mac_pj is None:
            return None
        return self.acs * cost.ac_pj + self.macs * (cost.mac_pj or 0.0) + self.updates * cost.update_pj

    def memory_pj(self, cost: CostTable) -> float | None:
        """Picojoules of memory traffic when every operand comes from memory and nothing is reused: a weight read, a
        membrane read and written for an AC; a weight and an activation read for a MAC; a membrane read and written for
        an update. None when the table has no price for an access."""
        if cost.access_pj is None:
            return None
        return (3 * self.acs + 2 * self.macs + 2 * self.updates) * cost.access_pj
