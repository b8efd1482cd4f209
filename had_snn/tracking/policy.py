"""The numbers of the tracker: which window to look through, how looks become boxes, when a target counts as lost.

Times are in windows: `1.0` is the length `W` of the window that is looked through. Lengths are in sizes: `1.0` is
`sqrt(w * h)` of the target's box. Only `limits_us` and a budget of looks are physical, so that a recording played `k`
times faster is followed alike. `docs/tracking.md` says the rules in words.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from had_snn.errors import InputError


@dataclass(frozen=True)
class WindowPolicy:
    """How long a window is; `window_rule.py` says how the numbers are used.

    Attributes:
        limits_us: Shortest and longest window in microseconds.
        density: A window is long enough when twice the target's box holds so many events per pixel of the box.
        least_events: And never shorter than this many events need, however small the target is.
        travel: And long enough when the target moves so many sizes within it.
        band: A window stays as it is while it is less than this factor too short or too long.
        fastest_change: Largest factor between the windows of two looks.
    """

    limits_us: tuple[float, float] = (500.0, 200_000.0)
    density: float = 1.6
    least_events: int = 100
    travel: float = 0.1
    band: float = 2.0
    fastest_change: float = 4.0

    def __post_init__(self) -> None:
        low, high = self.limits_us
        if not 0 < low <= high < float("inf"):
            raise InputError(f"limits_us={self.limits_us}: expected 0 < shortest <= longest")
        if not (self.density > 0 and self.least_events >= 1 and self.travel > 0):
            raise InputError("density and travel must be above 0, least_events at least 1")
        if not (self.band >= 1 and self.fastest_change > 1):
            raise InputError("band must be at least 1, fastest_change above 1")


@dataclass(frozen=True)
class MotionPolicy:
    """The noise model that smooths places and sizes (`motion.py`), in sizes and windows.

    Attributes:
        read_age: How old the place is that a look reads.
        place_noise: Its noise.
        repeat_place: At so many events per pixel of the box a look half repeats the place that was looked at.
        rest_drive: Change of velocity in a window, at rest.
        speed_drive: And in units of the speed.
        size_windows: Time constant of the sides.
        top_speed: Highest speed, in units of the events per pixel of the box.
        surprise: Widens the belief when a reading is off by this many variances.
        least_made: Events that a target makes, at the least, per pixel of its box as it moves by its size: where there
            are few events they limit how far it may have moved and grown.
    """

    read_age: float = 0.25
    place_noise: float = 0.04
    repeat_place: float = 0.05
    rest_drive: float = 0.003
    speed_drive: float = 0.3
    size_windows: float = 1.75
    top_speed: float = 1.0
    surprise: float = 6.0
    least_made: float = 1.0


@dataclass(frozen=True)
class TrackingPolicy:
    """How network outputs become boxes: the `policy` of `OnlineTracker`. No option of a job changes these numbers.

    Attributes:
        window: How long windows are.
        motion: How places and sizes are smoothed.
        hann_weight: How much the score's peak is drawn to the middle of the search region, from 0 (not at all) to 1.
        size_limits: Smallest and largest side of a box, in units of the first box's.
        lost_share: A target is lost when its recent score is below this share of its usual one.
        recent_windows: Time constant of the recent score.
        usual_windows: Time constant of the usual score, which stands still while the target is lost.
        found_share: A lost target is found where a score reaches this share of the usual one, given enough events.
        lost_widening: Side of the region that a lost target is searched in, in units of the search region's.
        silence_windows: Time constant with which the score decays while nothing is seen.
        max_events: Most events of a crop that a look reads; of more, every k-th is read. None for no limit.
        scale_tolerance: With `carry`, membranes are kept while the crop's scale is off by at most this factor.
        look_share: A look is due after this share of a window, or of the events that fill one near the target.
        search_windows: After this long the next look for a lost target is due.
        rest_speed: A target slower than so many sizes a window counts as resting.
    """

    window: WindowPolicy = field(default_factory=WindowPolicy)
    motion: MotionPolicy = field(default_factory=MotionPolicy)
    hann_weight: float = 0.3
    size_limits: tuple[float, float] = (0.125, 8.0)
    lost_share: float = 0.7
    recent_windows: float = 2.5
    usual_windows: float = 25.0
    found_share: float = 0.9
    lost_widening: float = 2.0
    silence_windows: float = 5.0
    max_events: int | None = 200_000
    scale_tolerance: float = 1.15
    look_share: float = 0.5
    search_windows: float = 2.0
    rest_speed: float = 0.02

    def __post_init__(self) -> None:
        for name in ("hann_weight", "lost_share", "found_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: expected a number from 0 to 1")
        for name in ("recent_windows", "usual_windows", "silence_windows", "look_share", "search_windows"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}: expected a number above 0")
        low, high = self.size_limits
        if not 0 < low <= 1 <= high:
            raise InputError(f"size_limits={self.size_limits}: expected 0 < low <= 1 <= high")
        if not (1 <= self.lost_widening <= 5 and self.scale_tolerance >= 1):
            raise InputError("lost_widening must be from 1 to 5, scale_tolerance at least 1")
        if self.max_events is not None and self.max_events < 1:
            raise InputError(f"max_events={self.max_events}: expected at least 1, or None for no limit")
