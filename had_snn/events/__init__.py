"""Events: the arrays every other part reads, the files they come from and go to, and the sensor model."""

from had_snn.events.stream import EventBatch, EventStream, concatenate

__all__ = ["EventBatch", "EventStream", "concatenate"]
