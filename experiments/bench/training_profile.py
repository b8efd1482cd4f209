"""Where a training step's time goes, layer by layer, beside the limits of the machine's arithmetic and memory.

    python -m experiments.bench training_profile out=benchmarks/training_profile.json

Each operation of the search branch runs by itself, on what it reads in a step of the shipped student, on one thread.
Its limit is the longer of two times: of its arithmetic at the rate of a large matrix product, and of its reads and
writes at the rate of a copy. Both rates are measured in turns with the operations. Sums of spikes add where the product
multiplies and adds, so they count one of its two operations each.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from experiments.bench.spiking_conv import milliseconds
from experiments.bench.training_worker import one_step
from experiments.record import write_record
from had_snn.checkpoint import load_student
from had_snn.commands import distill_student
from had_snn.commands.entry import compose
from had_snn.commands.run_folder import machine
from had_snn.models.neurons import LIF, BatchNorm, ConvNorm
from had_snn.ops import lif_multi_step
from had_snn.ops.memory import keep_freed_memory
from had_snn.ops.spiking_conv import channels_last, conv2d_of_spikes
from had_snn.train.averaging import parameter_groups
from had_snn.train.tasks import StudentTask


@dataclass(frozen=True)
class Work:
    """One operation of a layer.

    Attributes:
        layer: The layer's path.
        what: Which operation.
        call: Runs it.
        operations: Multiplications and additions that it cannot do without.
        megabytes: What it must read and write.
    """

    layer: str
    what: str
    call: Callable[[], Any]
    operations: float
    megabytes: float


def mb(*tensors: Tensor) -> float:
    """Megabytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors) / 1e6


def of_conv(name: str, module: ConvNorm, maps: Tensor) -> Iterator[Work]:
    """Forward, and the gradients of the weight and of the input."""
    conv, weight = module.conv, module.conv.weight.detach().clone()
    stride, padding = conv.stride[0], conv.kernel_size[0] // 2
    spiking, maps = module.reads != "currents", channels_last(maps)

    def forward(maps: Tensor, weight: Tensor) -> Tensor:
        if spiking:
            return conv2d_of_spikes(maps, weight, stride=stride, padding=padding, counts=module.reads == "counts")
        return F.conv2d(maps, weight, stride=stride, padding=padding)

    outputs = {
        "gradient of the weight": (of_weight := weight.clone().requires_grad_(), forward(maps, of_weight)),
        "gradient of the input": (of_maps := channels_last(maps.clone()).requires_grad_(), forward(of_maps, weight)),
    }
    out = outputs["gradient of the input"][1]
    above = channels_last(torch.randn(out.shape))
    dense = 2.0 * out.numel() * weight[0].numel()
    share = float((maps != 0).float().mean()) / 2 if spiking else 1.0  # a spike is added, a current multiplied, too
    yield Work(name, "convolution", lambda: forward(maps, weight), share * dense, mb(maps, out))
    for what, (given, made) in outputs.items():

        def backward(given: Tensor = given, made: Tensor = made) -> Any:
            return torch.autograd.grad(made, given, above, retain_graph=True)

        yield Work(name, what, backward, dense if given is of_maps else share * dense, mb(maps, out))


def of_norm(name: str, norm: BatchNorm, maps: Tensor) -> Iterator[Work]:
    """Forward: two reads, one write; backward: two reads each of two, one write."""
    norm, maps = copy.deepcopy(norm), channels_last(maps).requires_grad_()
    out = norm(maps)
    above = channels_last(torch.randn(out.shape))
    inputs = (maps, *norm.parameters())
    yield Work(name, "norm", lambda: norm(maps), 4.0 * maps.numel(), 3 * mb(maps))
    yield Work(
        name,
        "norm, backward",
        lambda: torch.autograd.grad(out, inputs, above, retain_graph=True),
        8.0 * maps.numel(),
        5 * mb(maps),
    )


def of_neurons(name: str, lif: LIF, current: Tensor, dt_us: float) -> Iterator[Work]:
    """Forward: a read and a write; backward: two reads and a write."""
    current, tau = current.detach().requires_grad_(), lif.tau_us.detach().requires_grad_()

    def forward() -> Tensor:
        return lif_multi_step(current, tau=tau, dt=dt_us, surrogate=lif.surrogate)[0]

    out = forward()
    above = torch.empty_like(out).normal_()

    def backward() -> Any:
        return torch.autograd.grad(out, (current, tau), above, retain_graph=True)

    yield Work(name, "neurons", forward, 4.0 * current.numel(), 2 * mb(current))
    yield Work(name, "neurons, backward", backward, 20.0 * current.numel(), 3 * mb(current))


def operations(student: nn.Module, run: Callable[[], Any], dt_us: float) -> list[Work]:
    """Every operation of convolutions, norms and neurons on what a call of `run` gives them last."""
    seen: dict[nn.Module, Tensor] = {}
    kinds = (ConvNorm, BatchNorm, LIF)

    def keep(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[module] = given[0].detach()

    hooks = [m.register_forward_pre_hook(keep) for m in student.modules() if isinstance(m, kinds)]
    run()
    for hook in hooks:
        hook.remove()
    found: list[Work] = []
    for name, module in student.named_modules():
        if isinstance(module, ConvNorm):
            found += of_conv(name, module, seen[module].flatten(0, 1))
        elif isinstance(module, BatchNorm):
            found += of_norm(name, module, seen[module])
        elif isinstance(module, LIF):
            found += of_neurons(name, module, seen[module], dt_us)
    return found


def limits() -> dict[str, tuple[float, Callable[[], Any]]]:
    """What the machine's rates are measured with: operations and a product, megabytes and a copy."""
    a, b = torch.randn(768, 768), torch.randn(768, 768)
    c, d = torch.randn(1 << 22), torch.empty(1 << 22)
    return {"operations": (2.0 * 768**3, lambda: a @ b), "megabytes": (mb(c, d), lambda: d.copy_(c))}


def run(cfg: DictConfig) -> dict[str, Any]:
    """Measures and writes the record."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()
    options = [*map(str, cfg.data_options), "distill=none", f"clips.windows={cfg.windows}"]
    student, made = load_student(cfg.checkpoint), compose("distill_student", options)
    clips = distill_student.clips_for(made, student, None)
    task, size = StudentTask(student).train(), cfg.batch_size
    batch = clips.collate([clips[i] for i in range(size)])
    works = operations(student, lambda: task(batch), student.config.step_us)
    rates = limits()
    optimizer = torch.optim.AdamW(parameter_groups(task, 1e-4), lr=0.0)
    calls: dict[Any, Callable[[], Any]] = {number: work.call for number, work in enumerate(works)}
    calls |= {name: call for name, (_, call) in rates.items()}
    calls["step"] = lambda: one_step(task, clips, optimizer, 0, size)
    ms = milliseconds(calls, cfg.rounds, clock=time.process_time)
    speed = {name: amount / ms[name] for name, (amount, _) in rates.items()}
    rows = []
    for number, work in enumerate(works):
        bound = {"arithmetic": work.operations / speed["operations"], "memory": work.megabytes / speed["megabytes"]}
        longer = max(bound, key=lambda name: bound[name])
        rows.append(
            {
                **{"layer": work.layer, "what": work.what, "ms": round(ms[number], 2)},
                **{"limit_ms": round(bound[longer], 2), "limit": longer},
            }
        )
    record = {
        "step_ms": round(ms["step"], 1),
        "operations_ms": round(sum(row["ms"] for row in rows), 1),
        "limits_ms": round(sum(row["limit_ms"] for row in rows), 1),
        "gflops": round(speed["operations"] / 1e6, 1),
        "gigabytes_per_second": round(speed["megabytes"], 1),
        **{"rows": rows, "by_kind": by_kind(rows), "batch_size": size, "windows": cfg.windows},
        "machine": machine(1, "cpu"),
    }
    write_record(cfg.out, record)
    return record


def by_kind(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Milliseconds and limits of each kind of operation."""
    kinds = dict.fromkeys(row["what"] for row in rows)
    return {
        kind: {key: round(sum(row[key] for row in rows if row["what"] == kind), 1) for key in ("ms", "limit_ms")}
        for kind in kinds
    }


def main(cfg: DictConfig) -> None:
    record = run(cfg)
    for row in record["rows"]:
        print("{layer:<28} {what:<24} {ms:>7.2f} ms, limit {limit_ms:>6.2f} ({limit})".format(**row))
    for kind, sums in record["by_kind"].items():
        print(f"{kind:<28} {sums['ms']:>7.1f} ms, limit {sums['limit_ms']:.1f}")
    print("step {step_ms:.0f} ms; these {operations_ms:.0f}, at their limits {limits_ms:.0f}".format(**record))
    print(f"wrote {cfg.out}")
