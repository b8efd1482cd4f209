"""The online tracker and what trackers share: the rules that turn network outputs into boxes, state on disk."""

from had_snn.tracking.follower import BoxFollower, Estimate, FollowerState
from had_snn.tracking.policy import TrackingPolicy
from had_snn.tracking.teacher_tracker import TeacherTracker
from had_snn.tracking.tracker import OnlineTracker

__all__ = ["BoxFollower", "Estimate", "FollowerState", "OnlineTracker", "TeacherTracker", "TrackingPolicy"]
