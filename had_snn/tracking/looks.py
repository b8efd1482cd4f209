"""When to look: a chain that depends on events alone.

After a look at `t`, with a window `W`, the next look is at the first event that comes `look_share * W` or more after
it, or at the event with which as many events have come near the target as `look_share` of a full window holds, if that
is earlier. Looks are at times of events, so nothing is rounded, and in silence there is none. A look at `t` sees events
before `t` only; it is made once a later time is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from had_snn.errors import InputError
from had_snn.geometry import Crop
from had_snn.tracking.buffer import EventBuffer


@dataclass(frozen=True)
class Chain:
    """What decides about the next look.

    Attributes:
        t_us: Time of the newest look.
        zone: The region near the target.
        rest_us: Not earlier than this after it.
        wait_us: From this long after it on, at the next event.
        enough: Or with this many events in the zone.
    """

    t_us: int
    zone: Crop
    rest_us: float
    wait_us: float
    enough: int

    def next(self, buffer: EventBuffer, before_us: int) -> int | None:
        """Time of the next look, earlier than `before_us`; None when none is due by then."""
        rest, wait = self.t_us + max(1, math.ceil(self.rest_us)), self.t_us + max(1, math.ceil(self.wait_us))
        late = buffer.first_time(wait, before_us)
        early = buffer.nth_time(self.enough, self.t_us, min(wait, before_us), self.zone)
        if early is not None:
            early = buffer.first_time(max(early, rest), before_us)
        return early if early is not None and (late is None or early < late) else late


def checked_times(at_us: Sequence[int], after_us: int) -> list[int]:
    """Times that boxes are asked for, as whole numbers.

    Args:
        at_us: The times.
        after_us: That of the last box.

    Raises:
        InputError: If one is no whole number, or not after the one before it.
    """
    times = []
    for t_us in at_us:
        if isinstance(t_us, bool) or not isinstance(t_us, (int, np.integer)):
            raise InputError(f"at_us holds {t_us!r}: expected whole microseconds")
        if t_us <= after_us:
            raise InputError(f"asked for a box at {t_us} us after one at {after_us} us; times must increase")
        times.append(int(t_us))
        after_us = int(t_us)
    return times
