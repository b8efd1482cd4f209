"""The same student on other libraries' neurons: the reference in parity tests and what benchmarks compare with.

    rival = rebuild(student, "spikingjelly")      # or "snntorch"
    output = rival.read_window(events, kernel)

Only the LIF layers are replaced; every weight and every other module is shared with the original, so training one
trains the other. Both libraries are set to our line: decay without scaling the input, hard reset to 0 at once. What
stays different: SpikingJelly fires at `>=` (a potential equal to the threshold fires) and computes the decay as
`v - v / tau`; surrogates have other slopes; snnTorch lets the gradient pass through the reset; both take the decay as a
number, so time constants get no gradient.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from types import ModuleType

import torch
from torch import Tensor

from had_snn.errors import InputError, optional_import
from had_snn.models import SpikingTracker
from had_snn.models.neurons import LIF
from had_snn.ops.lif import decay_factor

LIBRARIES = ("spikingjelly", "snntorch")


def _import(name: str) -> ModuleType:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        # Both libraries touch names at import that NumPy and torch announce to drop; nothing of ours uses them.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(spikingjelly|snntorch).*")
        return optional_import(name, extra="simulators")


class ForeignLIF(LIF):
    """Takes the place of a `LIF`, with another library's neuron inside.

    Args:
        original: Gives the time constant (shared, not copied).
    """

    def __init__(self, original: LIF) -> None:
        super().__init__(surrogate=original.surrogate)
        self.log_tau = original.log_tau

    def alpha(self, dt_us: float) -> float:
        """Decay per micro-step, as our kernels compute it."""
        return float(decay_factor(self.tau_us.detach(), dt_us))


class SpikingJellyLIF(ForeignLIF):
    """`LIFNode` of SpikingJelly: `h = v - v / tau + x`, fires at `h >= 1`."""

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, dt_us: float, return_membranes: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `LIF.forward`; membranes are rebuilt from the library's post-reset trace."""
        neuron = _import("spikingjelly.activation_based.neuron")
        surrogate = _import("spikingjelly.activation_based.surrogate")
        alpha = self.alpha(dt_us)
        node = neuron.LIFNode(
            tau=1 / (1 - alpha),
            decay_input=False,
            v_threshold=1.0,
            v_reset=0.0,
            detach_reset=True,
            step_mode="m",
            surrogate_function=surrogate.ATan(),
            store_v_seq=True,
        )
        node.train(self.training)
        if state is not None:
            node.v = state
        spikes = node(x)
        return spikes, node.v_seq[-1], _pre_reset(x, node.v_seq, state, alpha) if return_membranes else None


class SnnTorchLIF(ForeignLIF):
    """`Leaky` of snnTorch: `h = beta * v + x`, fires at `h > 1`, reset to zero without delay."""

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, dt_us: float, return_membranes: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `LIF.forward`; membranes are rebuilt from the library's post-reset trace."""
        snntorch = _import("snntorch")
        alpha = self.alpha(dt_us)
        node = snntorch.Leaky(beta=alpha, threshold=1.0, reset_mechanism="zero", reset_delay=False).to(x.device)
        v = torch.zeros_like(x[0]) if state is None else state
        spikes, potentials = [], []
        for current in x:
            s, v = node(current, v)
            spikes.append(s)
            potentials.append(v)
        trace = torch.stack(potentials)
        return torch.stack(spikes), v, _pre_reset(x, trace, state, alpha) if return_membranes else None


def _pre_reset(x: Tensor, after: Tensor, state: Tensor | None, alpha: float) -> Tensor:
    """Potentials before the reset, `alpha * v[t - 1] + x[t]`, from those after it."""
    before = torch.cat([(torch.zeros_like(after[:1]) if state is None else state[None]), after[:-1]])
    return alpha * before + x


_NEURONS = {"spikingjelly": SpikingJellyLIF, "snntorch": SnnTorchLIF}


def rebuild(student: SpikingTracker, library: str) -> SpikingTracker:
    """The student with every clocked LIF layer computed by another library.

    Args:
        student: The network; the result shares its parameters.
        library: `"spikingjelly"` or `"snntorch"`.

    Returns:
        A tracker network of the same class, usable wherever the student is.

    Raises:
        InputError: If the library is unknown.
        MissingExtraError: If it is not installed.
    """
    if library not in _NEURONS:
        raise InputError(f"unknown library {library!r}; there are {', '.join(LIBRARIES)}")
    _import(library)
    shared = {id(tensor): tensor for tensor in (*student.parameters(), *student.buffers())}
    rival = copy.deepcopy(student, dict(shared))
    for path, module in list(rival.named_modules()):
        if isinstance(module, LIF):
            parent, _, name = path.rpartition(".")
            setattr(rival.get_submodule(parent), name, _NEURONS[library](module))
    return rival
