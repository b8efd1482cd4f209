"""Coverage-guided fuzzing of one reader (needs `atheris`; not part of the test run).

    python tests/recordings/fuzz_readers.py FORMAT [-max_total_time=600] [libFuzzer's options and corpus folders ...]

FORMAT is a name of `had_snn.recordings.readers.FORMATS`. The first inputs are small valid files. atheris instruments
the Python code; the C++ decoders are compiled by clang (`CLANG=clang++-14`) with coverage counters and the address and
undefined-behaviour sanitizers. Beyond `engine.py`, a finding is: an invalid stream or one outside the stated sensor,
memory misuse, events that differ from those of an independent decoder (`reference_decoders.py`, NumPy, h5py, fractions,
the `aedat` package), or fewer of them than the reader says it has dropped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
from engine import ROOT, chosen, fuzz, instrumented, one_line

PYTHON_ONLY = ("bag", "hdf5", "mat", "npy", "npz")


def with_instrumented_decoders() -> None:
    """Compiles the C++ decoders for fuzzing and starts this script again with them."""
    compiler = shutil.which(os.environ.get("CLANG", "clang++-14")) or shutil.which("clang++")
    if compiler is None:
        sys.exit("clang++ is needed to instrument the C++ decoders; CLANG=... names it")
    target = Path(tempfile.mkdtemp(prefix="fuzz-library-")) / "libhad_snn.so"
    flags = "-std=gnu++17 -O1 -g -fPIC -shared -fsanitize=fuzzer-no-link,address,undefined"
    fatal = "-fno-sanitize-recover=all -Wno-unknown-pragmas"
    sources = [str(ROOT / "kernels" / "host" / name) for name in ("readers.cpp", "columns.cpp", "text.cpp")]
    subprocess.run([compiler, *flags.split(), *fatal.split(), *sources, "-o", str(target)], check=True)
    preload = str(Path(atheris.path()) / "asan_with_fuzzer.so")
    options = "detect_leaks=0:allocator_may_return_null=1:detect_odr_violation=0"
    environment = {"LD_PRELOAD": preload, "ASAN_OPTIONS": options, "HAD_SNN_LIBRARY": str(target)}
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **environment})


if not set(PYTHON_ONLY) & set(sys.argv) and "HAD_SNN_LIBRARY" not in os.environ:
    with_instrumented_decoders()

with instrumented("had_snn.events", "had_snn.recordings", "rosbags"):
    from had_snn.errors import HadError
    from had_snn.events.stream import EventStream
    from had_snn.recordings.readers import FORMATS, open_recording
    from had_snn.recordings.recording import Recording

from fuzz_oracles import EXPECTED, Rows, dropped, finish, seeds  # noqa: E402

zipfile.ZipExtFile._update_crc = lambda self, data: None  # or no changed member would ever be looked into
STATED_HW = (128, 346)
KIND = chosen(FORMATS)


def one_input(path: Path) -> None:
    """Reads a file of the format, in all ways, and compares with the independent decoder."""
    strict, length = None, path.stat().st_size
    for options in ({}, {"repair": True}, {"sensor_hw": STATED_HW}, {"sensor_hw": STATED_HW, "repair": True}):
        try:
            recording = open_recording(path, format=KIND, **options)
        except HadError as error:
            one_line(error)
            continue
        events, repair = recording.events, "repair" in options
        EventStream.from_arrays(events.t, events.x, events.y, events.p, events.sensor_hw)  # inside the sensor, sorted
        if "sensor_hw" in options and events.sensor_hw != STATED_HW:
            raise RuntimeError(f"a sensor of {events.sensor_hw} where {STATED_HW} is stated")
        if len(events) > 4096 + 300 * length:
            raise RuntimeError(f"{len(events)} events from {length} bytes")
        found = list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))
        if options == {"repair": True} and strict is not None and found != strict and not dropped(recording):
            raise RuntimeError("repair changes a file that needs none")
        strict = found if not options else strict
        compare(path, recording, found, repair)


def compare(path: Path, recording: Recording, found: Rows, repair: bool) -> None:
    """Compares with an independent decoder, where there is one; a repair may drop no more than it says."""
    raw = EXPECTED[KIND](path, recording, repair) if KIND in EXPECTED else None
    if raw is None:
        return
    expected = finish(raw, recording, repair)
    if found != expected:
        raise RuntimeError(f"wrong decode, repair={repair}: {found[:5]} ... where {expected[:5]} ... was expected")
    if len(found) + dropped(recording) != len(raw):
        raise RuntimeError(f"{len(found)} events of {len(raw)}, {dropped(recording)} said to be dropped")


fuzz(one_input, seeds(KIND))
