"""Events: the arrays that every other part reads."""

from had_snn.events.batch import EventBatch
from had_snn.events.stream import EventStream, concatenate

__all__ = ["EventBatch", "EventStream", "concatenate"]
