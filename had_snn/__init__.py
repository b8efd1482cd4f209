"""HAD-SNN: a spiking event-camera tracker taught by an RGB+event network.

The face of the library; everything else is found in its own module.

    from had_snn import OnlineTracker, load_student, read_events
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from had_snn.threads import let_waiting_threads_sleep

if TYPE_CHECKING:
    from had_snn.checkpoint import load_student, load_teacher
    from had_snn.data.sample import sample_recording
    from had_snn.events.stream import EventStream
    from had_snn.recordings.readers import open_recording, read_events
    from had_snn.recordings.writers import write_events
    from had_snn.tracking import Estimate, OnlineTracker

let_waiting_threads_sleep()

__version__ = "0.2.0"

__all__ = [
    "Estimate",
    "EventStream",
    "OnlineTracker",
    "load_student",
    "load_teacher",
    "open_recording",
    "read_events",
    "sample_recording",
    "write_events",
]

# Imported on first use: `import had_snn` alone costs nothing, and lower modules may import the package.
_HOME = {
    "Estimate": "had_snn.tracking",
    "EventStream": "had_snn.events.stream",
    "OnlineTracker": "had_snn.tracking",
    "load_student": "had_snn.checkpoint",
    "load_teacher": "had_snn.checkpoint",
    "open_recording": "had_snn.recordings.readers",
    "read_events": "had_snn.recordings.readers",
    "sample_recording": "had_snn.data.sample",
    "write_events": "had_snn.recordings.writers",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'had_snn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
