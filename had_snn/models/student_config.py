"""The plain numbers that define a student."""

from __future__ import annotations

import math
from dataclasses import dataclass

from had_snn.errors import InputError

_LIMITS = {
    "stem_channels": (1, 1 << 16),
    "blocks": (0, 1000),
    "stem_kernel": (1, 64),
    "n_steps": (1, 10_000),
    "window_us": (1, 10**9),
    "template_size": (1, 4096),
    "search_size": (1, 4096),
    "match_kernel": (1, 255),
}


@dataclass(frozen=True)
class StudentConfig:
    """Plain numbers that define a student; written into every checkpoint.

    Attributes:
        stem_channels: Channels of the event-driven stem.
        channels: Channels of the two backbone stages and of the head.
        blocks: Residual spiking blocks of the second stage.
        strides: Strides of the two stages, behind the stem's 4: (1, 2) ends at stride 8, (2, 2) at stride 16.
        stem_kernel: Receptive field of the stem in crop pixels; its stride is 4.
        n_steps: Micro-steps `T` per window.
        window_us: Window length in microseconds.
        template_size: Side of the template crop in crop pixels.
        template_factor: Side of the template crop in units of `sqrt(w * h)`.
        search_size: Side of the search crop in crop pixels.
        search_factor: Side of the search crop in units of `sqrt(w * h)`.
        match_kernel: Side of the correlation kernel in cells.
        tau_us: Initial time constant of the clocked layers.
        stem: What reads the events: `events`, at their own times, or one of the controls: `binned` (counts per
            micro-step) and `quantised` (timestamps rounded down to 10 ms).
    """

    stem_channels: int = 16
    channels: tuple[int, int, int] = (32, 48, 48)
    blocks: int = 1
    strides: tuple[int, int] = (1, 2)
    stem_kernel: int = 4
    n_steps: int = 4
    window_us: int = 40_000
    template_size: int = 72
    template_factor: float = 2.25
    search_size: int = 96
    search_factor: float = 3.0
    match_kernel: int = 5
    tau_us: float = 20_000.0
    stem: str = "events"

    def __post_init__(self) -> None:
        whole = {name: getattr(self, name) for name in _LIMITS}
        whole |= {f"channels[{i}]": n for i, n in enumerate(self.channels)}
        whole |= {f"strides[{i}]": n for i, n in enumerate(self.strides)}
        for name, value in whole.items():
            least, most = _LIMITS.get(name, (1, 1 << 16))
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InputError(f"{name}={value!r}: expected a whole number from {least} to {most}")
        for name in ("template_factor", "search_factor", "tau_us"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name}={getattr(self, name)!r}: expected a number above 0")

    @property
    def step_us(self) -> float:
        """Length of a micro-step in microseconds."""
        return self.window_us / self.n_steps
