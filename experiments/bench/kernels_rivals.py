"""The same LIF layer in every library a user could pick instead, each set up as its own documentation says is fastest.

All compute `v = v / 2 + x`, threshold 1, hard reset to 0, atan surrogate where the library has it. A maker takes `T`
and returns `layer(x [T, N]) -> spikes`; a missing package raises ImportError and is left out of the table.

* SpikingJelly 2: multi-step `LIFNode` with a detached reset; on a CPU that is its torch path, on CUDA Triton or native.
* snnTorch: `Leaky`, explicit state, `reset_mechanism="zero"` without delay, one call a step.
* norse: `LIFBoxCell`, the feed-forward cell without a synapse filter, one call a step.
* sinabs: `LIF` with single spikes and reset to value; it wants `[B, T, N]` and gets one sample.
* torch_compile: the plain loop under `torch.compile` (inductor).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from had_snn.ops import lif_multi_step, lif_multi_step_ref

TAU = 1000 / 0.6931471805599453  # of a decay of 1/2 a step of 1000 us
Layer = Callable[[Tensor], Tensor]


def had(T: int) -> Layer:
    tau = torch.tensor(TAU)
    return lambda x: lif_multi_step(x, tau=tau.to(x.device), dt=1000.0)[0]


def torch_loop(T: int) -> Layer:
    tau = torch.tensor(TAU)
    return lambda x: lif_multi_step_ref(x, tau=tau.to(x.device), dt=1000.0)[0]


class _Atan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, distance: Tensor) -> Tensor:
        ctx.save_for_backward(distance)
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        (distance,) = ctx.saved_tensors
        return grads[0] / (1 + (torch.pi * distance) ** 2)


def torch_compile(T: int) -> Layer:
    def loop(x: Tensor) -> Tensor:
        v, out = torch.zeros_like(x[0]), []
        for t in range(T):
            h = 0.5 * v + x[t]
            s = _Atan.apply(h - 1.0)
            assert isinstance(s, Tensor)
            v = h * (1 - s.detach())
            out.append(s)
        return torch.stack(out)

    return torch.compile(loop)


def spikingjelly(T: int) -> Layer:
    from spikingjelly.activation_based import functional, neuron, surrogate

    node = neuron.LIFNode(
        tau=2.0,
        decay_input=False,
        v_reset=0.0,
        surrogate_function=surrogate.ATan(2.0),
        detach_reset=True,
        step_mode="m",
    )

    def layer(x: Tensor) -> Tensor:
        functional.reset_net(node)
        return node(x)

    return layer


def snntorch(T: int) -> Layer:
    import snntorch as snn
    from snntorch import surrogate

    node = snn.Leaky(beta=0.5, spike_grad=surrogate.atan(alpha=2.0), reset_mechanism="zero", reset_delay=False)

    def layer(x: Tensor) -> Tensor:
        v, out = torch.zeros_like(x[0]), []
        for t in range(T):
            s, v = node(x[t], v)
            out.append(s)
        return torch.stack(out)

    return layer


def norse(T: int) -> Layer:
    from norse.torch import LIFBoxCell, LIFBoxParameters

    cell = LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(500.0)), dt=0.001)

    def layer(x: Tensor) -> Tensor:
        state, out = None, []
        for t in range(T):
            s, state = cell(x[t], state)
            out.append(s)
        return torch.stack(out)

    return layer


def sinabs(T: int) -> Layer:
    from sinabs.activation import MembraneReset, SingleSpike
    from sinabs.layers import LIF

    def layer(x: Tensor) -> Tensor:
        node = LIF(tau_mem=1.442695, spike_fn=SingleSpike, reset_fn=MembraneReset(), norm_input=False)
        return node(x.unsqueeze(0))[0]

    return layer


LIF_RIVALS: dict[str, Callable[[int], Layer]] = {
    "had": had,
    "torch_compile": torch_compile,
    "torch_loop": torch_loop,
    "spikingjelly": spikingjelly,
    "snntorch": snntorch,
    "norse": norse,
    "sinabs": sinabs,
}
