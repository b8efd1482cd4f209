"""Where following spikes pays in training: the student's convolutions over the share of spikes, beside torch's.

    python -m experiments.bench spiking_conv out=benchmarks/spiking_conv.json

Forward and backward of each convolution of a batch, in turns, on one thread; torch's has channels last, the faster of
its two memory orders. `python -m experiments.bench training` measures whole steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from experiments.record import write_record
from had_snn.commands.run_folder import machine
from had_snn.models import SpikingTracker, student_base, student_tiny
from had_snn.models.neurons import ConvNorm
from had_snn.ops import spiking_conv
from had_snn.ops.memory import keep_freed_memory
from had_snn.ops.spiking_conv import channels_last, conv2d_of_spikes


def layers(student: SpikingTracker) -> dict[str, tuple[ConvNorm, int]]:
    """Convolutions that read spikes, with the side of the map that each reads."""
    side = student.config.search_size // student.stem.stride
    found: dict[str, tuple[ConvNorm, int]] = {}
    for name, module in student.named_modules():
        if isinstance(module, ConvNorm) and module.reads != "currents":
            found[name] = (module, side)
            if name.startswith("backbone.conv"):
                side //= module.conv.stride[0]
    return found


def milliseconds(
    calls: Mapping[Any, Callable[[], Any]], rounds: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[Any, float]:
    """Median time of each, in turns, after a first one that does not count."""
    seconds: dict[Any, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = clock()
            call()
            if turn:
                seconds[name].append(clock() - began)
    return {name: round(1e3 * statistics.median(values), 2) for name, values in seconds.items()}


def compare(layer: ConvNorm, side: int, samples: int, share: float, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of both, forward and backward."""
    conv, sides = layer.conv, {"stride": layer.conv.stride[0], "padding": layer.conv.kernel_size[0] // 2}
    spikes = channels_last((torch.rand(samples, conv.in_channels, side, side) < share).float()).requires_grad_()
    weight = conv.weight

    def ours() -> Tensor:
        return conv2d_of_spikes(spikes, weight, **sides)

    def torchs() -> Tensor:
        return F.conv2d(spikes, weight, **sides)

    calls = {"ours": ours, "torch": torchs}
    outputs = {name: call() for name, call in calls.items()}
    above = channels_last(torch.randn(outputs["ours"].shape))
    backward = {
        name: lambda out=out: torch.autograd.grad(out, (spikes, weight), above, retain_graph=True)
        for name, out in outputs.items()
    }
    return {"forward": milliseconds(calls, rounds), "backward": milliseconds(backward, rounds)}


def run(cfg: DictConfig) -> dict[str, Any]:
    """Measures and writes the record."""
    torch.set_num_threads(cfg.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    spiking_conv.DENSEST, spiking_conv.FEWEST = 1.0, 0  # the curve shows where they should be
    rows = []
    for size, student in (("tiny", student_tiny()), ("base", student_base())):
        for name, (layer, side) in layers(student).items():
            if name not in cfg.layers:
                continue
            for share in cfg.shares:
                found = compare(layer, side, cfg.samples[size], float(share), cfg.rounds)
                rows.append({"student": size, "layer": name, "share": float(share), "ms": found})
                print(size, name, share, found, flush=True)
    record = {"samples": dict(cfg.samples), "rows": rows, "machine": machine(cfg.threads, "cpu")}
    write_record(cfg.out, record)
    return record


def main(cfg: DictConfig) -> None:
    run(cfg)
    print(f"wrote {Path(cfg.out)}")
