"""Spiking operators with their plain-torch twins: clocked and event-driven LIF, and sums over spike trains."""

from had_snn.ops.build import KernelError
from had_snn.ops.event_lif import EventLIFState, decay_rate, event_lif, event_lif_ref
from had_snn.ops.event_lif_kernels import output_hw
from had_snn.ops.lif import decay_factor, lif_multi_step, lif_multi_step_ref
from had_snn.ops.spike_count import SpikeCount, SpikeCounter
from had_snn.ops.surrogate import Surrogate, atan, rect, sigmoid, spike, triangle

__all__ = [
    "EventLIFState",
    "KernelError",
    "SpikeCount",
    "SpikeCounter",
    "Surrogate",
    "atan",
    "decay_factor",
    "decay_rate",
    "event_lif",
    "event_lif_ref",
    "lif_multi_step",
    "lif_multi_step_ref",
    "output_hw",
    "rect",
    "sigmoid",
    "spike",
    "triangle",
]
