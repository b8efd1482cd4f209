"""Online tracking: events in by the chunk, boxes out at any time asked for.

    tracker = OnlineTracker(student)
    tracker.init(events_before, box_xywh, t_us=t0)
    for chunk in source:
        for estimate in tracker.update(chunk):
            print(estimate.t_us, estimate.box_xywh, estimate.score)

A box at time `t` is read from the events of the window `[t - window, t)`, cropped as coordinates around the last box.
How events are cut into chunks does not matter: the boxes are the same. `docs/tracking.md` says what happens to a lost
target, in silence, in noise and in a burst.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from had_snn.errors import InputError
from had_snn.events.stream import EventStream
from had_snn.geometry import Crop, search_crop
from had_snn.models import SearchNetwork, TrackerOutput
from had_snn.models.spike_driven import search_network
from had_snn.tracking.buffer import EventBuffer
from had_snn.tracking.carried import CarriedSearch, read_on
from had_snn.tracking.follower import BoxFollower, Estimate, TrackingPolicy
from had_snn.tracking.state import TrackerState, load_state, save_state
from had_snn.tracking.window import pack_window, read_window

#: A template is read anew when less than this share of the window before the given box was recorded.
FULL_WINDOW = 0.9


class OnlineTracker:
    """Follows one target through a stream of events with a spiking student.

    All that changes is in `state`: a plain value that can be saved, loaded and handed to another tracker.

    Args:
        student: The network; put into evaluation mode.
        output_period_us: Time between boxes when `update` is not told otherwise; the window's length when None.
        policy: How network outputs become boxes.
        carry: Keep membranes from one output to the next, so that each event is read once. The crop then keeps its
            scale and moves by whole cells of the network's coarsest grid, and the membranes move with it; a change of
            scale, a gap longer than a window, or silence starts from rest again. Without it every output reads its
            whole window from rest, as in training.
        backend: `"spikes"` adds up the weights of spikes on a CPU, `"dense"` runs ordinary convolutions on any device;
            the boxes are the same. `"auto"`: spikes on a CPU, where they are faster.

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
    ) -> None:
        config = student.config
        self.student = student.eval()
        self.network = search_network(self.student, backend)
        self.window_us = config.window_us
        if output_period_us is not None and int(output_period_us) < 1:
            raise InputError(f"output_period_us={output_period_us}: expected at least 1 microsecond")
        self.output_period_us = int(output_period_us or config.window_us)
        self.policy = policy or TrackingPolicy()
        self.carry = carry
        self.follower = BoxFollower(
            search_size=config.search_size, search_factor=config.search_factor, grid=student.grid, policy=self.policy
        )
        self.state: TrackerState | None = None

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
            events: Events around the time of the box; those of the last window before it show the target. When they
                begin later, as with a recording or a camera that has just been started, the template is read anew once
                a whole window has passed since they began; when there are hardly any, from the first window after the
                box that holds some.
            box_xywh: The target's box at `t_us`, sensor pixels.
            t_us: Time of the box; the end of `events` when None.
            frame: Unused: the student sees events only.

        Raises:
            InputError: If the box has no area or lies outside the sensor.
        """
        start = int(t_us if t_us is not None else events.t_end)
        following = self.follower.start(np.asarray(box_xywh, dtype=np.float64), events.sensor_hw, start)
        self.state = TrackerState(
            self._made_for(), start, start + self.output_period_us, following, EventBuffer(events)
        )
        self.state.kernel = self._read_template(self.state, start)
        self.state.template_due_us = self._template_due(self.state, events)

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
            at_us = _check_times(at_us, state.follower.t_us)
        state.buffer.push(events)
        if at_us is None:
            last = state.buffer.last_t
            at_us = range(state.next_t_us, last + 1, self.output_period_us) if last is not None else ()
        estimates = [self._estimate(state, t) for t in at_us]
        if estimates:
            state.next_t_us = estimates[-1].t_us + self.output_period_us
            state.buffer.forget_before(estimates[-1].t_us - self.window_us)
        return estimates

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state; `load` goes on from it with identical boxes. The student is not in it."""
        save_state(path, self._started())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Goes on from a saved state.

        Raises:
            CheckpointError: If the file is missing, damaged or something else.
            InputError: If another student or mode made it.
        """
        state = load_state(path, device=self.student.device)
        if state.made_for != self._made_for():
            ours, theirs = self._made_for(), state.made_for
            names = [name for name in ours if ours[name] != theirs.get(name)]
            found = ", ".join(f"{name} {theirs.get(name)} (here {ours[name]})" for name in names)
            raise InputError(f"{os.fspath(path)}: state of another tracker: {found}")
        self.state = state

    def _started(self) -> TrackerState:
        if self.state is None:
            raise InputError("update() before init(): give the first box with init(events, box_xywh)")
        return self.state

    def _made_for(self) -> dict[str, Any]:
        """What a saved state must fit: the mode, and a student whose state has the same shapes and meaning."""
        numbers = dataclasses.asdict(self.student.config)
        return {"carry": self.carry, "student": {k: list(v) if isinstance(v, tuple) else v for k, v in numbers.items()}}

    def _template_due(self, state: TrackerState, events: EventStream) -> int | None:
        """From when on the template is to be read, or read anew; None where the window before the box is recorded."""
        if state.kernel is None:
            return state.t_init_us + self.window_us
        recorded_us = state.t_init_us - events.t_start
        if self.student.template_is_fixed or recorded_us >= FULL_WINDOW * self.window_us:
            return None
        return events.t_start + self.window_us

    def _read_due_template(self, state: TrackerState, t_us: int) -> None:
        """Reads the template that is due, at the first box; where there is one, from the events since they began."""
        due_us = t_us if state.kernel is None or state.template_due_us is None else state.template_due_us
        kernel = self._read_template(state, due_us)
        if kernel is not None:
            # Membranes of the search have met the old template.
            state.kernel, state.carried = kernel, None
        if state.kernel is not None:
            state.template_due_us = None

    @torch.no_grad()
    def _read_template(self, state: TrackerState, t_end: int) -> Tensor | None:
        """The correlation kernel from the window that ends at `t_end`; None when it holds too few events."""
        config, box_xywh = self.student.config, state.follower.first_box
        crop = search_crop(box_xywh, factor=config.template_factor, size=config.template_size)
        cropped = self._window(state, crop, t_end)
        if cropped is None:
            return None
        box = torch.from_numpy(crop.relative_box(box_xywh)[None]).float()
        device = self.student.device
        return self.network.encode_template(pack_window(cropped, t_end - self.window_us, t_end, device), box.to(device))

    @torch.no_grad()
    def _estimate(self, state: TrackerState, t_us: int) -> Estimate:
        if state.template_due_us is not None and t_us >= state.template_due_us:
            self._read_due_template(state, t_us)
        if state.kernel is None:
            return self.follower.hold(state.follower, t_us)
        if self.carry and not state.follower.lost:
            looks = [self._look_on(state, state.kernel, t_us)]
        else:
            looks = [self._look(state, state.kernel, t_us, crop) for crop in self.follower.regions(state.follower)]
        seen = [look for look in looks if look is not None]
        if not seen:
            return self.follower.hold(state.follower, t_us)
        estimate = self.follower.accept(state.follower, seen, t_us)
        if estimate.lost:
            state.carried = None
        return estimate

    def _window(self, state: TrackerState, crop: Crop, t_us: int) -> EventStream | None:
        """The events to read of the window that ends at `t_us`; None when there are too few."""
        return read_window(state.buffer, crop, t_us - self.window_us, t_us, most=self.policy.max_events)

    def _look(
        self, state: TrackerState, kernel: Tensor, t_us: int, crop: Crop, *, keep: bool = False
    ) -> tuple[Crop, TrackerOutput] | None:
        """Reads the window that ends at `t_us` from rest; None when it holds too few events."""
        cropped = self._window(state, crop, t_us)
        if cropped is None:
            return None
        batch = pack_window(cropped, t_us - self.window_us, t_us, kernel.device)
        output = self.network.step(batch, kernel, None) if keep else self.network.read_window(batch, kernel)
        if output.state is not None:
            state.carried = CarriedSearch(crop, t_us, t_us, output.state)
        return crop, output

    def _look_on(self, state: TrackerState, kernel: Tensor, t_us: int) -> tuple[Crop, TrackerOutput] | None:
        """Reads only what is new since the last box; from rest where membranes cannot be kept."""
        carried, wanted = state.carried, self.follower.region(state.follower)
        if carried is None or not carried.reaches(
            wanted, t_us, window_us=self.window_us, scale_tolerance=self.policy.scale_tolerance
        ):
            return self._look(state, kernel, t_us, wanted, keep=True)
        found = read_on(self.network, kernel, carried, state.buffer, wanted, t_us, most=self.policy.max_events)
        if found is None:
            return None
        output, state.carried = found
        return state.carried.crop, output


def _check_times(at_us: Sequence[int], after_us: int) -> list[int]:
    """The asked times as whole numbers, each after the one before it and after the last box."""
    times = []
    for t_us in at_us:
        if isinstance(t_us, bool) or not isinstance(t_us, (int, np.integer)):
            raise InputError(f"at_us holds {t_us!r}: expected whole microseconds")
        if t_us <= after_us:
            raise InputError(f"asked for a box at {t_us} us after one at {after_us} us; times must increase")
        times.append(int(t_us))
        after_us = int(t_us)
    return times
