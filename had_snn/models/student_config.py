"""The plain numbers that define a student."""

from __future__ import annotations

from dataclasses import dataclass


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

    @property
    def step_us(self) -> float:
        """Length of a micro-step in microseconds."""
        return self.window_us / self.n_steps
