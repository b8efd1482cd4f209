"""How long a window is looked through: `W = window_us * 2^(n / 4)`, `n` an integer.

A network reads a target well when it moves by 0.03 to 0.15 of its size within the window, and when the window holds
enough of its events. A moving outline makes events in proportion to the area that it sweeps, so both are seen in
numbers without a unit of time:

    fill = max(N / (density * w * h), |v| * W / travel)

with `N` the events within twice the target's box and `v` its velocity. The window stays while `1 / band < fill < band`
and otherwise becomes the longest with `fill <= 1` within reach. Counts alone are compared: played `2^m` times faster,
`n` is lower by exactly `4 m`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from had_snn.tracking.policy import WindowPolicy
from had_snn.tracking.window import MIN_EVENTS, Window

_QUARTERS = tuple(2.0 ** (k / 4) for k in range(4))
#: Steps of `n` that double a window.
STEPS = 4


def window_length(window_us: float, n: int) -> float:
    """`window_us * 2^(n / 4)`, exactly proportional to `window_us`."""
    return math.ldexp(window_us * _QUARTERS[n % STEPS], n // STEPS)


@dataclass(frozen=True)
class NearEvents:
    """Times of the events near a target, up to a look.

    Attributes:
        t: int64 `[N]` microseconds, all before `t_us`.
        around: int64 `[M]`, those of the events in the surroundings.
        t_us: Time of the look.
        full: How many of them are enough for a window, by area.
        share: Area near the target in units of the area of its surroundings.
    """

    t: np.ndarray
    around: np.ndarray
    t_us: int
    full: float
    share: float

    def within(self, length_us: float) -> int:
        """How many are at most `length_us` old."""
        return _newer(self.t, self.t_us - math.floor(length_us))

    def excess(self, length_us: float) -> float:
        """How many of the newest are more than the surroundings explain; a tenth of them in any case."""
        near, since_us = self.within(length_us), self.t_us - math.floor(length_us)
        return max(near - self.share * _newer(self.around, since_us), 0.1 * near)

    def noisy(self, length_us: float) -> bool:
        """Whether there are events at all, near or around, that are at most `length_us` old."""
        return self.within(length_us) + _newer(self.around, self.t_us - math.floor(length_us)) >= MIN_EVENTS

    def stand_out(self, length_us: float) -> bool:
        """Whether the newest are more than chance makes of the surroundings (three standard deviations)."""
        expected = self.share * _newer(self.around, self.t_us - math.floor(length_us))
        return self.within(length_us) > expected + 3 * math.sqrt(expected) + 3


def _newer(t: np.ndarray, since_us: int) -> int:
    return len(t) - int(t.searchsorted(since_us))


class WindowRule:
    """Chooses `n`.

    Args:
        window_us: The network's nominal window.
        policy: The numbers.
    """

    def __init__(self, window_us: float, policy: WindowPolicy) -> None:
        self.window_us, self.policy = float(window_us), policy
        low, high = policy.limits_us
        self.shortest = _first(lambda n: self.length(n) >= low)
        self.longest = _first(lambda n: self.length(n) > high) - 1
        self.reach = round(STEPS * math.log2(policy.fastest_change))

    @property
    def context_us(self) -> int:
        """How much of the past decides about a first window: twice the longest, so that where it is cut never does."""
        return 2 * math.ceil(self.length(self.longest))

    def length(self, n: int) -> float:
        """Window of `n` in microseconds."""
        return window_length(self.window_us, n)

    def window(self, t_us: int, n: int) -> Window:
        """The window of `n` that ends at a time."""
        return Window(t_us, self.length(n), round(self.window_us))

    def full(self, area: float) -> float:
        """Events near a target of `area` pixels that fill a window."""
        return max(self.policy.density * area, self.policy.least_events)

    def at_a_box(self, near: NearEvents, *, recorded_us: float) -> int:
        """The window of a template: the shortest that is full, no longer than what is recorded."""
        n = self.shortest
        while n < self.longest and near.within(self.length(n)) < near.full and self.length(n + 1) <= recorded_us:
            n += 1
        return n

    def next(self, n: int, near: NearEvents, *, travel_per_us: float, since_us: float) -> int:
        """The window of a look.

        Args:
            n: That of the look before.
            near: Events near the target, as old as the longest window that may be chosen.
            travel_per_us: Speed of the target in sizes per microsecond.
            since_us: Time since the look before.

        Returns:
            The new `n`.
        """

        # Many events soon after a look: the target has just begun to move, and the window is still that of its rest.
        burst = near.within(since_us) / since_us if since_us < self.length(n) / STEPS else 0.0

        def fill(k: int) -> float:
            events = max(near.within(self.length(k)), burst * self.length(k))
            return max(events / near.full, travel_per_us * self.length(k) / self.policy.travel)

        now = fill(n)
        if now >= self.policy.band:
            low = max(self.shortest, n - self.reach)
            while n > low and fill(n) > 1:
                n -= 1
        elif now <= 1 / self.policy.band:
            high = min(self.longest, n + self.reach)
            while n < high and fill(n + 1) <= 1:
                n += 1
        return min(max(n, self.shortest), self.longest)

    def gone(self, n: int, near: NearEvents, *, quiet_us: float) -> bool:
        """Whether a target that made events makes none any more: a longer window would show no more.

        It is the surroundings that tell noise from a target that moves little, and the longer it was quiet the better.

        Args:
            n: The window.
            near: Events near the target, as old as `quiet_us` or the longest window.
            quiet_us: Time since the target made events for sure.
        """
        lately = self.length(n) if n == self.longest else min(quiet_us, self.length(self.longest))
        usual = near.full * lately / self.length(n)
        return near.within(lately) * self.policy.band**2 < usual and not near.stand_out(lately)

    def found(self, n: int, near: NearEvents, *, moved: bool) -> bool:
        """Whether there is more at a place than noise: a lost target is found only then.

        Where it was, it may creep; what has moved away must have made events.
        """
        length = self.length(n)
        enough = near.within(length) * self.policy.band**2 >= near.full
        return near.stand_out(length) and (enough or not moved)

    def starved(self, n: int, near: NearEvents) -> bool:
        """Whether a window holds too few events to tell much."""
        return near.within(self.length(n)) * self.policy.band < near.full

    def while_lost(self, n: int, near: NearEvents) -> int:
        """Longer or shorter by a step where something is at the place of a lost target; otherwise as it was."""
        if not near.stand_out(self.length(self.longest)):
            return n
        if near.within(self.length(n)) >= self.policy.band * near.full:
            return max(n - 1, self.shortest)
        return min(n + 1, self.longest) if near.within(self.length(n + 1)) < near.full else n


def _first(reached: Callable[[int], bool]) -> int:
    """Smallest `n` for which something is so that stays so for larger ones."""
    n = 0
    while reached(n - 1):
        n -= 1
    while not reached(n):
        n += 1
    return n
