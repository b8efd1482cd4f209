"""Measured time and energy, never mixed with estimates.

CPU package energy comes from RAPL's counters under `/sys/class/powercap` (readable by root only on most systems), GPU
energy from NVML. Both are of the whole device, whoever uses it: an idle machine is part of the measurement, and so is
every other process. What cannot be read is None, with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from had_snn.errors import MissingExtraError, optional_import

RAPL = Path("/sys/class/powercap")


@dataclass
class Measurement:
    """One measured piece of work.

    Attributes:
        seconds: Wall time.
        cpu_joules: Energy of all CPU packages, or None.
        gpu_joules: Energy of the GPU, or None.
        outputs: Outputs made; set by the caller.
        notes: Why something is missing.
    """

    seconds: float = 0.0
    cpu_joules: float | None = None
    gpu_joules: float | None = None
    outputs: int = 0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The figures and their quotients for each output."""
        found = asdict(self)
        for name, value in (("s", self.seconds), ("cpu_j", self.cpu_joules), ("gpu_j", self.gpu_joules)):
            found[f"{name}_per_output"] = value / self.outputs if value is not None and self.outputs else None
        return found


class RaplMeter:
    """CPU package counters; they wrap around, which is undone for one wrap between two readings.

    Args:
        root: Folder of the power-capping interface.
    """

    def __init__(self, root: Path = RAPL) -> None:
        self.counters: list[tuple[Path, int]] = []
        self.reason = ""
        try:
            for zone in sorted(root.glob("*-rapl:[0-9]*")):
                # `intel-rapl:0` is a package, `intel-rapl:0:1` a part of it that would be counted twice.
                if zone.name.count(":") == 1 and (zone / "name").read_text().startswith("package"):
                    int((zone / "energy_uj").read_text())
                    self.counters.append((zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
        except (OSError, ValueError) as error:
            self.counters, self.reason = [], f"RAPL cannot be read ({error})"
        if not self.counters and not self.reason:
            self.reason = f"no RAPL counters under {root}"

    def read(self) -> list[int]:
        """The counters in microjoules."""
        return [int(path.read_text()) for path, _ in self.counters]

    def joules(self, before: list[int], after: list[int]) -> float | None:
        """Energy between two readings, or None without counters."""
        if not self.counters:
            return None
        spans = zip(before, after, self.counters, strict=True)
        return sum((b - a) % (wrap + 1) for a, b, (_, wrap) in spans) * 1e-6


class NvmlMeter:
    """Energy counter of one NVIDIA GPU (Volta and later).

    Args:
        index: Which GPU.
    """

    def __init__(self, index: int = 0) -> None:
        self.reason, self.read = "", lambda: None
        if not torch.cuda.is_available():
            self.reason = "no CUDA device"
            return
        try:
            nvml = optional_import("pynvml", extra="cuda")
        except MissingExtraError as error:
            self.reason = str(error)
            return
        try:
            nvml.nvmlInit()
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except nvml.NVMLError as error:
            self.reason = f"NVML cannot be read ({error})"
            return
        self.read = lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) * 1e-3


@contextmanager
def measure(*, outputs: int = 0) -> Iterator[Measurement]:
    """Measures the block.

    Args:
        outputs: Outputs that the block makes; may be set on the result later.

    Yields:
        The measurement, complete once the block has ended.

    Example:
        >>> with measure(outputs=2) as measured:
        ...     _ = sum(range(1000))
        >>> measured.seconds > 0
        True
    """
    measured = Measurement(outputs=outputs)
    rapl, nvml = RaplMeter(), NvmlMeter()
    measured.notes = [reason for reason in (rapl.reason, nvml.reason) if reason]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    joules, microjoules, began = nvml.read(), rapl.read(), time.perf_counter()
    try:
        yield measured
    finally:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        measured.seconds = time.perf_counter() - began
        measured.cpu_joules = rapl.joules(microjoules, rapl.read())
        after = nvml.read()
        measured.gpu_joules = after - joules if after is not None and joules is not None else None
