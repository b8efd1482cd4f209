"""Coverage-guided fuzzing of one reader (needs `atheris`; not part of the test run).

    python tests/events/fuzz_readers.py FORMAT [-max_total_time=600] [corpus folder ...]

FORMAT is a name of `had_snn.events.readers.FORMATS`. Any exception but `HadError`, an invalid stream, more than 5 s
for one input or more than 2 GB of memory is a finding; the input that caused it is left as `crash-*`.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
with atheris.instrument_imports(include=["had_snn.events"]):
    from had_snn.errors import HadError
    from had_snn.events.readers import FORMATS, open_recording
    from had_snn.events.stream import EventStream

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
KIND = sys.argv.pop(1) if len(sys.argv) > 1 else ""
if KIND not in FORMATS:
    sys.exit(f"expected a format: {', '.join(FORMATS)}")
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))


def one_input(data: bytes) -> None:
    """Reads the bytes as a file of the format, both ways."""
    path = FOLDER / "input"
    path.write_bytes(data)
    for repair in (False, True):
        try:
            events = open_recording(path, format=KIND, repair=repair).events
        except HadError:
            continue
        EventStream.from_arrays(events.t, events.x, events.y, events.p, events.sensor_hw)
        if len(events) > 4096 + 300 * len(data):
            raise RuntimeError(f"{len(events)} events from {len(data)} bytes")


atheris.Setup([*sys.argv, "-timeout=5", "-rss_limit_mb=2048", "-max_len=65536"], one_input)
atheris.Fuzz()
