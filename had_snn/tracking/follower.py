"""From network outputs to boxes: where to look, which peak to believe, when a target counts as lost.

The rules are the same for every network and know nothing of events; `docs/tracking.md` says them in words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from had_snn.errors import InputError
from had_snn.geometry import Crop, check_box, clip_boxes, search_crop
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
        size_rate: Share of the newly read size in the new size, above 0 to 1: sizes change slowly.
        size_limits: Smallest and largest side of a box in units of the first box's.
        hold_score: Below this score the box stays where it is.
        lost_score: A target whose score stays below this for `lost_after_us` counts as lost.
        lost_after_us: Microseconds.
        found_score: While lost, a box is believed from this score on; the target then counts as found.
        lost_widening: Factor on the side of the search region while lost.
        silence_tau_us: Time constant with which the score decays while there are no events to look at.
        max_events: Of a crop with more events than this in one window, every k-th is read, with the smallest k that
            keeps the number: a burst must not stop the tracker. None for no limit.
        scale_tolerance: A tracker that carries membranes keeps its crop's scale until the size has changed by more than
            this factor.
    """

    hann_weight: float = 0.3
    size_rate: float = 0.5
    size_limits: tuple[float, float] = (0.125, 8.0)
    hold_score: float = 0.0
    lost_score: float = 0.08
    lost_after_us: int = 120_000
    found_score: float = 0.08
    lost_widening: float = 1.5
    silence_tau_us: float = 200_000.0
    max_events: int | None = 200_000
    scale_tolerance: float = 1.15

    def __post_init__(self) -> None:
        shares = {n: getattr(self, n) for n in ("hann_weight", "size_rate", "hold_score", "lost_score", "found_score")}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise InputError(f"{name}={value}: expected a number from 0 to 1")
        low, high = self.size_limits
        if not 0 < low <= 1 <= high:
            raise InputError(f"size_limits={self.size_limits}: expected 0 < low <= 1 <= high")
        if self.size_rate == 0 or self.lost_widening < 1 or self.silence_tau_us <= 0 or self.scale_tolerance < 1:
            raise InputError(
                "size_rate and silence_tau_us must be above 0, lost_widening and scale_tolerance at least 1"
            )
        if self.lost_after_us < 0 or (self.max_events is not None and self.max_events < 1):
            raise InputError("lost_after_us must be at least 0, and max_events at least 1 or None")


@dataclass
class FollowerState:
    """What a follower remembers.

    Attributes:
        sensor_hw: Height and width in pixels.
        first_box: The given box.
        box: The newest box.
        t_us: Its time.
        score: Its score.
        low_since_us: When the score fell below `lost_score`, or None.
        lost: Whether the target counts as lost.
    """

    sensor_hw: tuple[int, int]
    first_box: np.ndarray
    box: np.ndarray
    t_us: int
    score: float = 1.0
    low_since_us: int | None = None
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
        self.prior = hann_prior(grid, weight=policy.hann_weight)

    @staticmethod
    def start(box_xywh: np.ndarray, sensor_hw: tuple[int, int], t_us: int) -> FollowerState:
        """State at a given box; an `InputError` says what is wrong with the box."""
        box = check_box(box_xywh, sensor_hw)
        return FollowerState(sensor_hw, box.copy(), box, t_us)

    def region(self, state: FollowerState) -> Crop:
        """Where to look next."""
        factor = self.search_factor * (self.policy.lost_widening if state.lost else 1.0)
        return search_crop(state.box, factor=factor, size=self.search_size)

    def accept(self, state: FollowerState, output: TrackerOutput, crop: Crop, t_us: int) -> Estimate:
        """Moves the box to the peak of an output that was read in `crop`, if it may be believed."""
        boxes, scores = output.peak_boxes(self.prior.to(output.score_logits.device))
        self._judge(state, float(scores[0]), t_us)
        if state.score >= self.policy.hold_score and not state.lost:
            cx, cy, w, h = (boxes[0].double() * crop.size).tolist()
            self._move(state, crop.boxes_to_sensor(np.array([cx - w / 2, cy - h / 2, w, h])))
        activity = None if output.activity is None else output.activity[0].float().cpu().numpy()
        return Estimate(t_us, state.box.copy(), state.score, state.lost, activity)

    def hold(self, state: FollowerState, t_us: int) -> Estimate:
        """Nothing to look at: the box stays, the score decays. Silence is no loss: a target at rest makes no events."""
        state.score *= math.exp(-max(0, t_us - state.t_us) / self.policy.silence_tau_us)
        state.t_us = t_us
        return Estimate(t_us, state.box.copy(), state.score, state.lost)

    def _judge(self, state: FollowerState, score: float, t_us: int) -> None:
        policy = self.policy
        state.score, state.t_us = score, t_us
        if score >= (policy.found_score if state.lost else policy.lost_score):
            state.low_since_us, state.lost = None, False
            return
        if state.low_since_us is None:
            state.low_since_us = t_us
        state.lost = state.lost or t_us - state.low_since_us >= policy.lost_after_us

    def _move(self, state: FollowerState, found: np.ndarray) -> None:
        size = state.box[2:] ** (1 - self.policy.size_rate) * found[2:] ** self.policy.size_rate
        low, high = self.policy.size_limits
        size = np.clip(size, low * state.first_box[2:], high * state.first_box[2:])
        centre = found[:2] + found[2:] / 2
        state.box = clip_boxes(np.concatenate([centre - size / 2, size]), state.sensor_hw)
