"""What trackers share: the rules that turn network outputs into boxes, the event buffer, state on disk."""

from had_snn.tracking.follower import BoxFollower, Estimate, FollowerState, TrackingPolicy
from had_snn.tracking.state import CarriedSearch, TrackerState, load_state, save_state
from had_snn.tracking.teacher import TeacherTracker

__all__ = [
    "BoxFollower",
    "CarriedSearch",
    "Estimate",
    "FollowerState",
    "TeacherTracker",
    "TrackerState",
    "TrackingPolicy",
    "load_state",
    "save_state",
]
