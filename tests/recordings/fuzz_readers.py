"""Coverage-guided fuzzing of one reader (needs `atheris`; not part of the test run).

    python tests/recordings/fuzz_readers.py FORMAT [-max_total_time=600] [libFuzzer's options and corpus folders ...]

FORMAT is a name of `had_snn.recordings.readers.FORMATS`. The first inputs are small valid files. atheris instruments
the Python code; the C++ decoders are compiled by clang (`CLANG=clang++-14`) with coverage counters and the address and
undefined-behaviour sanitizers. A finding is: any exception but `HadError`, an invalid stream or one outside the stated
sensor, more than 5 s of processor time or 2 GB for one input, memory misuse, events that differ from those of an
independent decoder (`reference_decoders.py`, NumPy, h5py, fractions, the `aedat` package), or fewer of them than the
reader says it has dropped. The input that caused it is left as `crash-*`.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import atheris

PYTHON_ONLY = ("bag", "hdf5", "mat", "npy", "npz")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
# atheris instruments what Python's own finder loads; an editable install's finder would come first.
sys.meta_path[:] = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]


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

with atheris.instrument_imports(include=["had_snn.events", "had_snn.recordings", "rosbags"]):
    from had_snn.errors import HadError
    from had_snn.events.stream import EventStream
    from had_snn.recordings.readers import FORMATS, open_recording
    from had_snn.recordings.recording import Recording

from fuzz_oracles import EXPECTED, Rows, dropped, finish, seeds  # noqa: E402

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
zipfile.ZipExtFile._update_crc = lambda self, data: None  # or no changed member would ever be looked into
STATED_HW = (128, 346)
KIND = sys.argv.pop(1) if len(sys.argv) > 1 else ""
if KIND not in FORMATS:
    sys.exit(f"expected a format: {', '.join(FORMATS)}")
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def one_input(data: bytes) -> None:
    """Reads the bytes as a file of the format, in all ways, and compares with the independent decoder."""
    path = FOLDER / "input"
    path.write_bytes(data)
    strict, start = None, time.process_time()
    for options in ({}, {"repair": True}, {"sensor_hw": STATED_HW}, {"sensor_hw": STATED_HW, "repair": True}):
        try:
            recording = open_recording(path, format=KIND, **options)
        except HadError as error:
            if "\n" in str(error):
                raise RuntimeError(f"a message of several lines: {error}") from error
            continue
        events, repair = recording.events, "repair" in options
        EventStream.from_arrays(events.t, events.x, events.y, events.p, events.sensor_hw)  # inside the sensor, sorted
        if "sensor_hw" in options and events.sensor_hw != STATED_HW:
            raise RuntimeError(f"a sensor of {events.sensor_hw} where {STATED_HW} is stated")
        if len(events) > 4096 + 300 * len(data):
            raise RuntimeError(f"{len(events)} events from {len(data)} bytes")
        found = list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))
        if options == {"repair": True} and strict is not None and found != strict and not dropped(recording):
            raise RuntimeError("repair changes a file that needs none")
        strict = found if not options else strict
        compare(path, recording, found, repair)
    if time.process_time() - start > 5:
        raise RuntimeError(f"took {time.process_time() - start:.1f} s")


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


def main() -> None:
    """Makes the first inputs and starts the fuzzer."""
    folder = FOLDER / "seeds"
    folder.mkdir()
    for number, content in enumerate(seeds(KIND)):
        (folder / str(number)).write_bytes(content)
        one_input(content)
    options = ["-timeout=60", "-rss_limit_mb=2048", "-max_len=8192"]
    atheris.Setup([*sys.argv, str(folder), *options], one_input)
    atheris.Fuzz()


main()
