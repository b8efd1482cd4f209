"""From network outputs to boxes: where to look, which peak to believe, when a target counts as lost.

The rules are the same for every network and know nothing of events; `docs/tracking.md` says them in words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from had_snn.errors import InputError
from had_snn.geometry import Crop, check_box, clip_box, search_crop
from had_snn.models import TrackerOutput
from had_snn.models.head import hann_prior


@dataclass(frozen=True)
class Estimate:
    """One box.

    Attributes:
        t_us: Time of the box in microseconds.
        box_xywh: float64 `[4]`, sensor pixels.
        score: Confidence in [0, 1].
        lost: True while the tracker has given up following and searches.
        activity: float32 `[C]`, spikes per neuron and micro-step of each channel of the last backbone stage; None
            where no network was asked or it does not spike.
    """

    t_us: int
    box_xywh: np.ndarray
    score: float
    lost: bool = False
    activity: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class TrackingPolicy:
    """How network outputs become boxes. Times are physical, so another output rate keeps the behaviour.

    Attributes:
        hann_weight: Weight of the Hann window in the peak search, 0 to 1.
        size_rate: Share of the newly read size in the new size, above 0 to 1, once for each place of the search region:
            sizes change slowly.
        size_limits: Smallest and largest side of a box in units of the first box's.
        lost_share: A target is lost when its recent score falls below this share of its usual one. (Relative: scores
            differ between networks and targets.)
        recent_tau_us: Time constant of the recent score's running mean.
        usual_tau_us: Time constant of the usual score's running mean; it stands still while the target is lost.
        found_share: While lost, a box is believed from this share of the usual score on.
        lost_widening: Width of the region that is searched while lost, in units of the ordinary one; it is looked at
            in overlapping crops of the ordinary scale, the only one that networks are good at.
        region_us: The search region stays where it is for so long, however many boxes are asked for: answers differ by
            about half a cell of the network's grid, and a region that followed each of them would walk at random, the
            faster the more often it is asked.
        region_share: The region follows at once when the target's centre has moved by this share of its side.
        silence_tau_us: Time constant with which the score decays while there are no events to look at.
        max_events: Of a crop with more events than this in one window, every k-th is read, with the smallest k that
            keeps the number: a burst must not stop the tracker. None for no limit.
        scale_tolerance: A tracker that carries membranes keeps its crop's scale until the size has changed by more than
            this factor.
    """

    hann_weight: float = 0.3
    size_rate: float = 0.35
    size_limits: tuple[float, float] = (0.125, 8.0)
    lost_share: float = 0.7
    recent_tau_us: float = 100_000.0
    usual_tau_us: float = 1_000_000.0
    found_share: float = 0.9
    lost_widening: float = 2.0
    region_us: float = 30_000.0
    region_share: float = 0.125
    silence_tau_us: float = 200_000.0
    max_events: int | None = 200_000
    scale_tolerance: float = 1.15

    def __post_init__(self) -> None:
        for name in ("hann_weight", "size_rate", "lost_share", "found_share", "region_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: expected a number from 0 to 1")
        low, high = self.size_limits
        if not 0 < low <= 1 <= high:
            raise InputError(f"size_limits={self.size_limits}: expected 0 < low <= 1 <= high")
        for name in ("size_rate", "recent_tau_us", "usual_tau_us", "silence_tau_us"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)}: expected a number above 0")
        if not self.region_us >= 0:
            raise InputError(f"region_us={self.region_us}: expected a time of at least 0")
        if not (1 <= self.lost_widening <= 5 and self.scale_tolerance >= 1):
            raise InputError("lost_widening must be from 1 to 5, scale_tolerance at least 1")
        if self.max_events is not None and self.max_events < 1:
            raise InputError(f"max_events={self.max_events}: expected at least 1, or None for no limit")


@dataclass
class FollowerState:
    """What a follower remembers.

    Attributes:
        sensor_hw: Height and width in pixels.
        first_box: The given box.
        box: The newest box.
        t_us: Its time.
        region_box: The box that the search region lies around.
        region_t_us: Since when.
        score: Its score.
        recent_score: Running mean of the newest scores; None before the first.
        usual_score: Running mean over a longer time while the target was not lost.
        lost: Whether the target counts as lost.
    """

    sensor_hw: tuple[int, int]
    first_box: np.ndarray
    box: np.ndarray
    t_us: int
    region_box: np.ndarray
    region_t_us: int
    score: float = 1.0
    recent_score: float | None = None
    usual_score: float = 1.0
    lost: bool = False


class BoxFollower:
    """The part of a tracker that is the same for every network: search region, reading the peak, lost or not.

    Args:
        search_size: Side of the search crop in crop pixels.
        search_factor: Side of the search crop in units of `sqrt(w * h)`.
        grid: Cells per side of the network's maps.
        policy: The rules' numbers.
    """

    def __init__(self, *, search_size: int, search_factor: float, grid: int, policy: TrackingPolicy) -> None:
        self.policy = policy
        self.search_size, self.search_factor = search_size, search_factor
        self.prior = hann_prior(grid, weight=policy.hann_weight).numpy()

    @staticmethod
    def start(box_xywh: np.ndarray, sensor_hw: tuple[int, int], t_us: int) -> FollowerState:
        """State at a given box; an `InputError` says what is wrong with the box."""
        box = check_box(box_xywh, sensor_hw)
        return FollowerState(sensor_hw, box.copy(), box, t_us, box, t_us)

    def region(self, state: FollowerState) -> Crop:
        """Where to look next."""
        return search_crop(state.region_box, factor=self.search_factor, size=self.search_size)

    def regions(self, state: FollowerState) -> list[Crop]:
        """All places to look at next: one, or while lost several around it, half a crop apart."""
        middle = self.region(state)
        if not state.lost:
            return [middle]
        reach = (self.policy.lost_widening - 1) / 2
        offsets = np.linspace(-reach, reach, 2 * math.ceil(2 * reach) + 1) * (middle.size / middle.scale)
        height, width = state.sensor_hw
        cx, cy = state.region_box[:2] + state.region_box[2:] / 2
        return [
            Crop(middle.x0 + right, middle.y0 + down, middle.scale, middle.size)
            for down in offsets
            for right in offsets
            if right == down == 0 or (0 <= cx + right < width and 0 <= cy + down < height)
        ]

    def accept(self, state: FollowerState, looks: Sequence[tuple[Crop, TrackerOutput]], t_us: int) -> Estimate:
        """Moves the box to the best peak of what was seen, if it may be believed.

        Args:
            state: The state to change.
            looks: Crops and the network's output in each (one window per output).
            t_us: Time of the box.

        Returns:
            The box and what is known about it.
        """
        peaks = [output.peak(self.prior) for _, output in looks]
        best = max(range(len(looks)), key=lambda i: peaks[i][1])
        (crop, output), (box_cxcywh, score) = looks[best], peaks[best]
        self._judge(state, score, t_us)
        if not state.lost:
            side = crop.size / crop.scale
            cx, cy, w, h = (value * side for value in box_cxcywh)
            self._move(state, crop.x0 + cx, crop.y0 + cy, w, h)
            self._follow(state, side)
        activity = None if output.activity is None else output.activity[0].float().cpu().numpy()
        return Estimate(t_us, state.box.copy(), state.score, state.lost, activity)

    def hold(self, state: FollowerState, t_us: int) -> Estimate:
        """Nothing to look at: the box stays, the score decays. Silence is no loss: a target at rest makes no events."""
        state.score *= math.exp(-max(0, t_us - state.t_us) / self.policy.silence_tau_us)
        state.t_us = t_us
        return Estimate(t_us, state.box.copy(), state.score, state.lost)

    def _judge(self, state: FollowerState, score: float, t_us: int) -> None:
        """Lost or not, from the newest score against those before."""
        policy, passed = self.policy, max(0, t_us - state.t_us)
        state.score, state.t_us = score, t_us
        if state.recent_score is None:
            state.recent_score = state.usual_score = score
        if state.lost:
            if score >= policy.found_share * state.usual_score:
                state.lost, state.recent_score = False, score
            return
        state.recent_score += (1 - math.exp(-passed / policy.recent_tau_us)) * (score - state.recent_score)
        state.lost = state.recent_score < policy.lost_share * state.usual_score
        if not state.lost:
            state.usual_score += (1 - math.exp(-passed / policy.usual_tau_us)) * (score - state.usual_score)

    def _move(self, state: FollowerState, cx: float, cy: float, w: float, h: float) -> None:
        """Moves the box to a centre, and its size some way towards a size; all in sensor pixels."""
        rate, (low, high) = self.policy.size_rate, self.policy.size_limits
        sides = []
        for old, new, first in zip(state.region_box[2:].tolist(), (w, h), state.first_box[2:].tolist(), strict=True):
            sides.append(min(max(old ** (1 - rate) * new**rate, low * first), high * first))
        state.box = clip_box((cx - sides[0] / 2, cy - sides[1] / 2, *sides), state.sensor_hw)

    def _follow(self, state: FollowerState, side: float) -> None:
        """Moves the search region, `side` sensor pixels wide, to the box when it is time."""
        x, y, w, h = state.box.tolist()
        x0, y0, w0, h0 = state.region_box.tolist()
        moved = max(abs(x + w / 2 - x0 - w0 / 2), abs(y + h / 2 - y0 - h0 / 2))
        rested = state.t_us - state.region_t_us
        if rested >= self.policy.region_us or moved >= self.policy.region_share * side:
            state.region_box, state.region_t_us = state.box, state.t_us
