"""Online tracking: events in by the chunk, boxes out at any time asked for.

    tracker = OnlineTracker(student)
    tracker.init(events_before, box_xywh, t_us=t0)
    for chunk in source:
        for estimate in tracker.update(chunk):
            print(estimate.t_us, estimate.box_xywh, estimate.score)

The tracker looks whenever the events say so (`looks.py`), through a window as long as the target's motion wants
(`window_rule.py`), cropped as coordinates around where it expects the target (`motion.py`). A box at time `t` is
predicted from the newest look before `t` and changes nothing: neither how events are cut into chunks nor how often a
box is asked for changes any box. `docs/tracking.md` says what happens to a lost target, in silence, in noise and in a
burst.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream, require_stream
from had_snn.geometry import Crop, search_crop
from had_snn.models import SearchNetwork, TrackerOutput
from had_snn.models.spike_driven import search_network
from had_snn.threads import for_network, limited
from had_snn.tracking.buffer import EventBuffer
from had_snn.tracking.carried import CarriedSearch, read_on
from had_snn.tracking.follower import BoxFollower, Estimate
from had_snn.tracking.looks import Chain, checked_times
from had_snn.tracking.policy import TrackingPolicy
from had_snn.tracking.state import TrackerState, load_state, require_fit, save_state
from had_snn.tracking.template import NEAR, near_events, read_template, template_window
from had_snn.tracking.window import Window
from had_snn.tracking.window_rule import WindowRule


class OnlineTracker:
    """Follows one target through a stream of events with a spiking student.

    All that changes is in `state`: a plain value that can be saved, loaded and handed to another tracker.

    Args:
        student: The network; put into evaluation mode.
        output_period_us: Time between boxes when `update` is not told otherwise; the network's nominal window when
            None.
        policy: How long windows are, and how network outputs become boxes.
        carry: Keep membranes from one look to the next, so that each event is read once. The crop then keeps its
            scale and moves by whole cells of the network's coarsest grid, and the membranes move with it; a change of
            scale, a gap longer than a window, or silence starts from rest again. Without it every look reads its
            whole window from rest, as in training.
        backend: `"spikes"` adds up the weights of spikes on a CPU, `"dense"` runs ordinary convolutions on any device;
            the boxes are the same. `"auto"`: spikes on a CPU, where they are faster.
        budget_us: Least time of the recording between two looks, so that a live stream is kept up with; 0 for none.
        threads: How many compute; None for one with a small network (`had_snn/threads.py`) and torch's number else.

    Example:
        >>> from had_snn import OnlineTracker, load_student
        >>> tracker = OnlineTracker(load_student("tiny"), output_period_us=5_000)
    """

    name = "student"

    def __init__(
        self,
        student: SearchNetwork,
        *,
        output_period_us: int | None = None,
        policy: TrackingPolicy | None = None,
        carry: bool = False,
        backend: str = "auto",
        budget_us: float = 0.0,
        threads: int | None = None,
    ) -> None:
        config = student.config
        self.student = student.eval()
        self.network = search_network(self.student, backend)
        if output_period_us is not None and int(output_period_us) < 1:
            raise InputError(f"output_period_us={output_period_us}: expected at least 1 microsecond")
        if not 0 <= budget_us < math.inf:
            raise InputError(f"budget_us={budget_us}: expected a time of at least 0")
        self.output_period_us = int(output_period_us or config.window_us)
        self.policy = policy or TrackingPolicy()
        self.carry, self.budget_us = carry, float(budget_us)
        self.follower = BoxFollower(
            search_size=config.search_size, search_factor=config.search_factor, grid=student.grid, policy=self.policy
        )
        self.rule = WindowRule(config.window_us, self.policy.window)
        self.threads = for_network(student) if threads is None else int(threads)
        self.state: TrackerState | None = None

    @property
    def context_us(self) -> int:
        """How much of the past before the first box it looks at."""
        return self.rule.context_us

    @property
    def looks(self) -> int:
        """Windows read by the network since `init`."""
        return self._started().looks

    def init(
        self,
        events: EventStream,
        box_xywh: Sequence[float] | np.ndarray,
        *,
        t_us: int | None = None,
        frame: np.ndarray | None = None,
    ) -> None:
        """Starts at a known box.

        Args:
            events: Events around the time of the box; those before it show the target, as many as a window by
                `window_rule.py` holds. When they begin later, as with a recording or a camera that has just been
                started, the template is read anew once a whole window has passed since they began.
            box_xywh: The target's box at `t_us`, sensor pixels.
            t_us: Time of the box; the end of `events` when None.
            frame: Unused: the student sees events only.

        Raises:
            InputError: If the box has no area or lies outside the sensor.
        """
        events = require_stream(events)
        start = int(t_us if t_us is not None else events.t_end)
        box = np.asarray(box_xywh, dtype=np.float64)
        following = self.follower.start(box, events.sensor_hw, start, self.rule.length(0))
        buffer = EventBuffer(events)
        n, full = template_window(buffer, following.first_box, start, self.rule)
        following = self.follower.start(box, events.sensor_hw, start, self.rule.length(n))
        recorded_us = min(events.t_start, start) if len(events) else start
        state = TrackerState(
            self._made_for(),
            start,
            start + self.output_period_us,
            following,
            buffer,
            recorded_us,
            start,
            start,
            start,
            n,
            n,
        )
        with limited(self.threads):
            self._read_template(state, start)
        if state.kernel is None or not (full or self.student.template_is_fixed):
            state.template_due_us = recorded_us + math.ceil(self.rule.length(n + 1))
        self.state = state

    def update(
        self, events: EventStream, *, at_us: Sequence[int] | None = None, frame: np.ndarray | None = None
    ) -> list[Estimate]:
        """Takes the next events and returns the boxes that are due.

        Args:
            events: The events since the last call, any number of them.
            at_us: Times to report a box at, increasing; all events before them must have been given by now. When
                None, boxes are due every `output_period_us`, each as soon as an event at or after its time has arrived.
            frame: Unused: the student sees events only.

        Returns:
            One estimate per due time, in order.

        Raises:
            InputError: If `init` was not called, events go back in time or come from another sensor size, or a time is
                asked for twice or after a later one.
        """
        state = self._started()
        if at_us is not None:
            at_us = checked_times(at_us, state.asked_us)
        state.buffer.push(events)
        if at_us is None:
            last = state.buffer.last_t
            at_us = range(state.next_t_us, last + 1, self.output_period_us) if last is not None else ()
        with limited(self.threads):
            estimates = [self._estimate(state, t) for t in at_us]
        if estimates:
            state.asked_us = estimates[-1].t_us
            state.next_t_us = estimates[-1].t_us + self.output_period_us
            waits = state.template_due_us is not None and state.template_n < self.rule.longest
            oldest = state.look_us - self.context_us
            state.buffer.forget_before(min(oldest, state.recorded_us) if waits else oldest)
        return estimates

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state; `load` goes on from it with identical boxes. The student is not in it."""
        save_state(path, self._started())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Goes on from a saved state.

        Raises:
            CheckpointError: If the file is missing, damaged or something else; the tracker stays as it is.
            InputError: If another student or mode made it.
        """
        state = load_state(path, device=self.student.device)
        require_fit(path, state, self._made_for(), self._shapes(), (self.rule.shortest, self.rule.longest))
        self.state = state

    @torch.no_grad()
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the kernel and of the state of a search, as an empty window makes them."""
        config = self.student.config
        template, search = (
            EventBatch.pack([EventStream.empty((side, side))], [0], [config.window_us]).to(self.student.device)
            for side in (config.template_size, config.search_size)
        )
        box = torch.full((1, 4), config.template_size / 2, device=self.student.device)
        kernel = self.network.encode_template(template, box)
        state = self.network.step(search, kernel, None).state if self.carry else None
        named = {"kernel": kernel} | (state.tensors() if state is not None else {})
        return {name: tuple(value.shape) for name, value in named.items()}

    def _started(self) -> TrackerState:
        if self.state is None:
            raise InputError("update() before init(): give the first box with init(events, box_xywh)")
        return self.state

    def _made_for(self) -> dict[str, Any]:
        """What a saved state must fit: the mode, and a student whose state has the same shapes and meaning."""
        numbers = dataclasses.asdict(self.student.config)
        return {"carry": self.carry, "student": {k: list(v) if isinstance(v, tuple) else v for k, v in numbers.items()}}

    def _estimate(self, state: TrackerState, t_us: int) -> Estimate:
        """Looks as often as is due before `t_us`; the box there is predicted and changes nothing."""
        while (look_us := self._chain(state).next(state.buffer, t_us)) is not None:
            self._look_at(state, look_us)
        return self.follower.estimate(state.follower, t_us)

    def _chain(self, state: TrackerState) -> Chain:
        share, following = self.policy.look_share, state.follower
        box = following.motion.box_at(state.look_us)
        crops = len(self.follower.regions(following))
        rest = crops * max(share * self.rule.length(self.rule.shortest), self.budget_us)
        share_now = self.policy.search_windows if following.lost else share
        wait = max(share_now * self.rule.length(state.n), rest)
        enough = share * max(self.rule.full(float(box[2] * box[3])), state.near)
        zone = search_crop(box, factor=NEAR, size=64)
        return Chain(state.look_us, zone, rest, wait, math.ceil(enough))

    @torch.no_grad()
    def _look_at(self, state: TrackerState, t_us: int) -> None:
        """One look: chooses the window, reads it, and moves the box."""
        following = state.follower
        if state.template_due_us is not None:
            self._read_due_template(state, t_us)
        box = following.motion.box_at(t_us)
        # While nothing is seen of it, what is long past may tell; so it may after a long time without a look.
        quiet_us, reach = t_us - state.seen_us, state.n + self.rule.reach
        if following.lost or state.seen_us < state.look_us or quiet_us > self.rule.length(reach):
            reach = None
        near, since_us = near_events(state.buffer, box, t_us, self.rule, longest=reach), t_us - state.look_us
        gone = not following.lost and self.rule.gone(state.n, near, quiet_us=quiet_us)
        state.seen_us = state.seen_us if gone else t_us
        if following.lost:
            state.n = self.rule.while_lost(state.n, near)
        elif not gone:
            state.n = self.rule.next(state.n, near, travel_per_us=following.motion.speed, since_us=since_us)
        window = self.rule.window(t_us, state.n)
        state.near, state.look_us = near.within(window.length_us), t_us
        area = float(box[2] * box[3])
        density = state.near / area
        most = near.excess(since_us) / area if self.rule.starved(state.n, near) else math.inf
        seen = [] if state.kernel is None or gone else self._seen(state, state.kernel, window)
        if seen:

            def found(box_xywh: np.ndarray) -> bool:
                there = near_events(state.buffer, box_xywh, t_us, self.rule, longest=state.n)
                away = np.abs(box_xywh[:2] + box_xywh[2:] / 2 - box[:2] - box[2:] / 2).max()
                return self.rule.found(state.n, there, moved=away > math.sqrt(area))

            self.follower.accept(following, seen, t_us, window.length_us, density=density, most=most, found=found)
        elif gone and near.noisy(window.length_us):
            self.follower.miss(following, t_us, window.length_us)
        else:
            self.follower.hold(following, t_us, window.length_us, density=density)
        if following.lost:
            state.carried = None
        state.looks += len(seen)

    def _seen(self, state: TrackerState, kernel: Tensor, window: Window) -> list[tuple[Crop, TrackerOutput]]:
        """What the network makes of the window, in every crop with enough events."""
        crops = self.follower.regions(state.follower)
        if self.carry and not state.follower.lost:
            found = [self._look_on(state, kernel, window, crops[0])]
        else:
            found = [self._look(state, kernel, window, crop) for crop in crops]
        return [look for look in found if look is not None]

    def _look(
        self, state: TrackerState, kernel: Tensor, window: Window, crop: Crop, *, keep: bool = False
    ) -> tuple[Crop, TrackerOutput] | None:
        """Reads a window from rest; None when it holds too few events."""
        batch = window.read(state.buffer, crop, most=self.policy.max_events, device=kernel.device)
        if batch is None:
            return None
        output = self.network.step(batch, kernel, None) if keep else self.network.read_window(batch, kernel)
        if output.state is not None:
            state.carried = CarriedSearch(crop, window.t_us, 0.0, output.state)
        return crop, output

    def _look_on(
        self, state: TrackerState, kernel: Tensor, window: Window, wanted: Crop
    ) -> tuple[Crop, TrackerOutput] | None:
        """Reads only what is new since the last look; from rest where membranes cannot be kept."""
        carried = state.carried
        if carried is None or not carried.reaches(wanted, window, scale_tolerance=self.policy.scale_tolerance):
            return self._look(state, kernel, window, wanted, keep=True)
        found = read_on(self.network, kernel, carried, state.buffer, wanted, window, most=self.policy.max_events)
        if found is None:
            return None
        output, state.carried = found
        return state.carried.crop, output

    def _read_due_template(self, state: TrackerState, t_us: int) -> None:
        """Reads the template from what was recorded since, when a window that is full has passed by `t_us`."""
        while state.template_due_us is not None and state.template_due_us <= t_us:
            # The window ends with an event, as looks do: nothing is rounded.
            since_us = max(state.template_due_us, state.t_init_us)
            end = state.buffer.first_time(since_us, t_us)
            end = t_us if end is None else end
            state.template_n = min(state.template_n + 1, self.rule.longest)
            near = near_events(state.buffer, state.follower.first_box, end, self.rule, longest=state.template_n)
            whole = state.template_n == self.rule.longest
            state.template_due_us = recorded = state.recorded_us + math.ceil(self.rule.length(state.template_n + 1))
            if whole or len(near.t) >= near.full:
                if self._read_template(state, end):
                    state.template_due_us = None
                elif whole:
                    state.template_due_us = max(recorded, t_us + 1)

    def _read_template(self, state: TrackerState, t_end: int) -> bool:
        """Reads the correlation kernel from the window that ends at `t_end`, when it holds enough events."""
        window, box_xywh = self.rule.window(t_end, state.template_n), state.follower.first_box
        kernel = read_template(self.network, state.buffer, box_xywh, window, most=self.policy.max_events)
        if kernel is None:
            return False
        # Membranes of the search have met the old template.
        state.kernel, state.carried = kernel, None
        return True
