"""Windows in training as long as the tracker's: by the rule of `tracking/window_rule.py`, read off the recording."""

from __future__ import annotations

import numpy as np

from had_snn.data.sequence import TrackingSequence
from had_snn.geometry import search_crop
from had_snn.tracking.policy import WindowPolicy
from had_snn.tracking.template import NEAR
from had_snn.tracking.window_rule import WindowRule


class RuleLengths:
    """See `data.clips.WindowLengths`: the shortest window in which the target moves, or makes events, enough.

    There the tracker's rule settles, `fill(W) = 1`, in any length instead of steps. The tracker is seldom at that:
    it keeps the window before while that will do, and what it knows of the speed is late. So lengths vary.

    Args:
        window_us: The network's nominal window.
        jitter: Standard deviation of the logarithm of a length.
        policy: Numbers of the rule.
    """

    def __init__(self, window_us: float, *, jitter: float = 0.0, policy: WindowPolicy | None = None) -> None:
        self.rule, self.jitter = WindowRule(window_us, policy or WindowPolicy()), jitter

    def search(
        self, sequence: TrackingSequence, t_us: int, box_xywh: np.ndarray, speed: float, rng: np.random.Generator
    ) -> int:
        """Length of a search window, microseconds."""
        longest = self.rule.policy.travel / speed if speed > 0 else np.inf
        return self._varied(sequence, t_us, self._filled(sequence, t_us, box_xywh, longest), rng)

    def template(self, sequence: TrackingSequence, t_us: int, box_xywh: np.ndarray, rng: np.random.Generator) -> int:
        """Length of a template window, microseconds: by its events alone, as no speed is known at a given box."""
        return self._varied(sequence, t_us, self._filled(sequence, t_us, box_xywh, np.inf), rng)

    def _varied(self, sequence: TrackingSequence, t_us: int, length_us: float, rng: np.random.Generator) -> int:
        shortest, longest = self._limits(sequence, t_us)
        return round(min(max(length_us * np.exp(rng.normal(0, self.jitter)), shortest), longest))

    def _limits(self, sequence: TrackingSequence, t_us: int) -> tuple[float, float]:
        """Shortest and longest window of the rule that a recording has room for."""
        shortest, longest = self.rule.policy.limits_us
        recorded = t_us - sequence.events.t_start if len(sequence.events) else 0
        return shortest, max(shortest, min(longest, recorded))

    def _filled(self, sequence: TrackingSequence, t_us: int, box_xywh: np.ndarray, longest: float) -> float:
        """Age of the event near the target that fills a window, between the shortest one and `longest`."""
        shortest, most = self._limits(sequence, t_us)
        longest = max(shortest, min(longest, most))
        zone, full = search_crop(box_xywh, factor=NEAR, size=64), int(self.rule.full(float(box_xywh[2] * box_xywh[3])))
        # Most windows are much shorter than the longest one: look back twice as far each time.
        reach = shortest
        while True:
            reach = min(2 * reach, longest)
            near = sequence.events.slice_time(t_us - int(reach), t_us).crop(zone).t
            if len(near) >= full:
                return float(max(shortest, t_us - near[-full]))
            if reach == longest:
                return float(longest)
