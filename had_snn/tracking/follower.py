"""From network outputs to boxes: where to look, which peak to believe, when a target counts as lost.

The rules are the same for every network and know nothing of events; `docs/tracking.md` says them in words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from had_snn.geometry import Crop, check_box, clip_box, search_crop
from had_snn.models import TrackerOutput
from had_snn.models.head import hann_prior
from had_snn.tracking import motion
from had_snn.tracking.motion import Motion
from had_snn.tracking.policy import TrackingPolicy


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
        window_us: Length of the window that was looked through last.
    """

    t_us: int
    box_xywh: np.ndarray
    score: float
    lost: bool = False
    activity: np.ndarray | None = field(default=None, repr=False, compare=False)
    window_us: float = float("nan")


@dataclass
class FollowerState:
    """What a follower remembers.

    Attributes:
        sensor_hw: Height and width in pixels.
        first_box: The given box.
        motion: Place, size and velocity, of the newest look.
        window_us: The newest look's window.
        score: Its score.
        lost: Whether the target is lost.
        recent_score: Running mean over few windows.
        usual_score: Running mean over many.
        activity: See `Estimate`.
        moved: Whether the target moved when it was last seen.
    """

    sensor_hw: tuple[int, int]
    first_box: np.ndarray
    motion: Motion
    window_us: float
    score: float = 1.0
    lost: bool = False
    recent_score: float | None = None
    usual_score: float = 1.0
    activity: np.ndarray | None = None
    moved: bool = False


#: A lost target that is found less than so many sizes away has rested; farther away it has moved.
FOUND_AWAY = 0.5


class BoxFollower:
    """The rules.

    Args:
        search_size: Side of a search crop in crop pixels.
        search_factor: Side of a search crop in sizes.
        grid: Cells per side of the network's maps.
        policy: The numbers.
    """

    def __init__(self, *, search_size: int, search_factor: float, grid: int, policy: TrackingPolicy) -> None:
        self.policy = policy
        self.search_size, self.search_factor = search_size, search_factor
        self.prior = hann_prior(grid, weight=policy.hann_weight).numpy()

    @staticmethod
    def start(box_xywh: np.ndarray, sensor_hw: tuple[int, int], t_us: int, window_us: float) -> FollowerState:
        """State at a given box; an `InputError` says what is wrong with the box."""
        box = check_box(box_xywh, sensor_hw)
        return FollowerState(sensor_hw, box.copy(), motion.start(box, t_us, window_us), window_us)

    def box_at(self, state: FollowerState, t_us: int) -> np.ndarray:
        """The box at a time at or after the newest look."""
        return clip_box(state.motion.box_at(t_us), state.sensor_hw)

    def estimate(self, state: FollowerState, t_us: int) -> Estimate:
        """The box at a time at or after the newest look; its score decays when that is more than a window ago."""
        silent = max(0.0, t_us - state.motion.t_us - state.window_us) / state.window_us
        score = state.score * math.exp(-silent / self.policy.silence_windows)
        return Estimate(t_us, self.box_at(state, t_us), score, state.lost, state.activity, state.window_us)

    def regions(self, state: FollowerState) -> list[Crop]:
        """All places to look at: one, or while lost several around it, half a crop apart.

        They rest where the target was seen last. A window is so short that it has hardly left since, and a region that
        moves on by itself is read as motion and keeps on moving: it runs away with nothing in it.
        """
        box = self.box_at(state, state.motion.t_us)
        middle = search_crop(box, factor=self.search_factor, size=self.search_size)
        if not state.lost:
            return [middle]
        reach = (self.policy.lost_widening - 1) / 2
        offsets = np.linspace(-reach, reach, 2 * math.ceil(2 * reach) + 1) * (middle.size / middle.scale)
        height, width = state.sensor_hw
        cx, cy = box[:2] + box[2:] / 2
        return [
            Crop(middle.x0 + right, middle.y0 + down, middle.scale, middle.size)
            for down in offsets
            for right in offsets
            if right == down == 0 or (0 <= cx + right < width and 0 <= cy + down < height)
        ]

    def accept(
        self,
        state: FollowerState,
        looks: Sequence[tuple[Crop, TrackerOutput]],
        t_us: int,
        window_us: float,
        *,
        density: float = math.inf,
        most: float = math.inf,
        found: Callable[[np.ndarray], bool] = lambda box_xywh: True,
    ) -> None:
        """Moves the box towards the best peak of what was seen, if it may be believed.

        Args:
            state: The state to change.
            looks: Crops and the network's output in each (one window per output).
            t_us: Time of the look.
            window_us: Its window.
            density: Events within twice the target's box per pixel of the box; how much could be seen.
            most: Events of the target since the look before per pixel of its box, where they are few: they limit how
                far it may have moved and grown.
            found: Whether there are enough events at a box to find a lost target there.
        """
        policy, passed = self.policy, (t_us - state.motion.t_us) / window_us
        peaks = [output.peak(self.prior) for _, output in looks]
        best = max(range(len(looks)), key=lambda i: peaks[i][1])
        (crop, output), (box_cxcywh, score) = looks[best], peaks[best]
        side = crop.size / crop.scale
        cx, cy, w, h = (value * side for value in box_cxcywh)
        read = (crop.x0 + cx, crop.y0 + cy, w, h)
        state.score = score
        self._pass_time(state, t_us, window_us, density)
        if state.lost:
            believed = score >= policy.found_share * state.usual_score
            if not (believed and found(np.array([read[0] - w / 2, read[1] - h / 2, w, h]))):
                self._watch(state, output)
                return
            state.lost, state.recent_score = False, score
            if state.motion.away(read) > FOUND_AWAY:
                self._restart(state, read, window_us)
        else:
            self._judge(state, score, passed)
        if not state.lost:
            before = replace(state.motion)
            motion.correct(state.motion, read, min(density, 1e3), passed, window_us, policy.motion)
            motion.limit(state.motion, before, most / policy.motion.least_made, passed * window_us)
            state.moved = state.motion.speed * window_us > policy.rest_speed
            self._limit(state)
        self._watch(state, output)

    @staticmethod
    def _watch(state: FollowerState, output: TrackerOutput) -> None:
        state.activity = None if output.activity is None else output.activity[0].float().cpu().numpy()

    def hold(self, state: FollowerState, t_us: int, window_us: float, *, density: float = 0.0) -> None:
        """Nothing to look at: the box stays, the score decays. Silence is no loss: a target at rest makes no events."""
        state.score *= math.exp(-(t_us - state.motion.t_us) / (self.policy.silence_windows * window_us))
        self._pass_time(state, t_us, window_us, density)

    def miss(self, state: FollowerState, t_us: int, window_us: float) -> None:
        """Only noise to look at: the box stays, and a target that moved when it was last seen is lost before long."""
        passed = (t_us - state.motion.t_us) / window_us
        self.hold(state, t_us, window_us)
        if state.moved and not state.lost and state.recent_score is not None:
            self._judge(state, 0.0, passed)

    def _pass_time(self, state: FollowerState, t_us: int, window_us: float, density: float) -> None:
        if state.lost:
            state.motion.velocity = (0.0, 0.0)
        motion.slow_down(state.motion, density, window_us, self.policy.motion)
        motion.advance(state.motion, t_us, window_us, self.policy.motion)
        state.window_us = window_us

    def _restart(self, state: FollowerState, read: tuple[float, float, float, float], window_us: float) -> None:
        """Starts anew where a lost target was found, with the size it had."""
        w, h = (math.exp(v) for v in state.motion.log_sides)
        box = np.array([read[0] - w / 2, read[1] - h / 2, w, h])
        state.motion = motion.start(box, state.motion.t_us, window_us)

    def _judge(self, state: FollowerState, score: float, passed: float) -> None:
        """Lost or not, from the newest score against those before."""
        policy = self.policy
        if state.recent_score is None:
            state.recent_score = state.usual_score = score
        state.recent_score += (1 - math.exp(-passed / policy.recent_windows)) * (score - state.recent_score)
        state.lost = state.recent_score < policy.lost_share * state.usual_score
        if not state.lost:
            state.usual_score += (1 - math.exp(-passed / policy.usual_windows)) * (score - state.usual_score)

    def _limit(self, state: FollowerState) -> None:
        """Keeps sides within their limits and the box on the sensor."""
        low, high = self.policy.size_limits
        sides = [
            min(max(log_side, math.log(low * first)), math.log(high * first))
            for log_side, first in zip(state.motion.log_sides, state.first_box[2:].tolist(), strict=True)
        ]
        state.motion.log_sides = (sides[0], sides[1])
        box = state.motion.box_at(state.motion.t_us)
        x, y, w, h = clip_box(box, state.sensor_hw).tolist()
        if (box != (x, y, w, h)).any():
            state.motion.centre, state.motion.log_sides = (x + w / 2, y + h / 2), (math.log(w), math.log(h))
