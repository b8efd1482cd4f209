"""Recordings: opening files of events and frames, one file per format; checks, cache, writers, live streams."""

from had_snn.recordings.readers import open_recording, read_events
from had_snn.recordings.recording import Frames, Recording

__all__ = ["Frames", "Recording", "open_recording", "read_events"]
