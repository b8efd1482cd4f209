"""Events: the arrays every other part reads, the files they come from and go to, and the sensor model."""

from had_snn.events.batch import EventBatch
from had_snn.events.readers import open_recording, read_events
from had_snn.events.recording import Frames, Recording
from had_snn.events.stream import EventStream, concatenate

__all__ = ["EventBatch", "EventStream", "Frames", "Recording", "concatenate", "open_recording", "read_events"]
