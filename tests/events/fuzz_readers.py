"""Coverage-guided fuzzing of one reader (needs `atheris`; not part of the test run).

    python tests/events/fuzz_readers.py FORMAT [-max_total_time=600] [libFuzzer's options and corpus folders ...]

FORMAT is a name of `had_snn.events.readers.FORMATS`. The first inputs are small valid files. atheris instruments the
Python code; the C++ decoders are compiled by clang (`CLANG=clang++-14`) with coverage counters and the address and
undefined-behaviour sanitizers. A finding is: any exception but `HadError`, an invalid stream, more than 5 s of
processor time or 2 GB for one input, memory misuse, or events that differ from those of an independent decoder
(`reference_decoders.py`, NumPy, the `aedat` package). The input that caused it is left as `crash-*`.
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

with atheris.instrument_imports(include=["had_snn.events", "rosbags"]):
    from had_snn.errors import HadError
    from had_snn.events.readers import FORMATS, open_recording
    from had_snn.events.stream import EventStream

from fuzz_oracles import EXPECTED, seeds  # noqa: E402

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
zipfile.ZipExtFile._update_crc = lambda self, data: None  # or no changed member would ever be looked into
KIND = sys.argv.pop(1) if len(sys.argv) > 1 else ""
if KIND not in FORMATS:
    sys.exit(f"expected a format: {', '.join(FORMATS)}")
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))


def one_input(data: bytes) -> None:
    """Reads the bytes as a file of the format, both ways, and compares with the independent decoder."""
    path = FOLDER / "input"
    path.write_bytes(data)
    strict, start = None, time.process_time()
    for repair in (False, True):
        try:
            recording = open_recording(path, format=KIND, repair=repair)
        except HadError as error:
            if "\n" in str(error):
                raise RuntimeError(f"a message of several lines: {error}") from error
            continue
        events = recording.events
        EventStream.from_arrays(events.t, events.x, events.y, events.p, events.sensor_hw)
        if len(events) > 4096 + 300 * len(data):
            raise RuntimeError(f"{len(events)} events from {len(data)} bytes")
        found = list(zip(*(getattr(events, name).tolist() for name in "txyp"), strict=True))
        if strict is not None and found != strict:
            raise RuntimeError("repair changes a file that needs none")
        strict = found if not repair else strict
        expected = EXPECTED[KIND](path, recording, repair) if KIND in EXPECTED else None
        if expected is not None and found != expected:
            raise RuntimeError(f"wrong decode, repair={repair}: {found[:5]} ... where {expected[:5]} ... was expected")
    if time.process_time() - start > 5:
        raise RuntimeError(f"took {time.process_time() - start:.1f} s")


def main() -> None:
    """Makes the first inputs and starts the fuzzer."""
    folder = FOLDER / "seeds"
    folder.mkdir()
    for number, content in enumerate(seeds(KIND)):
        (folder / str(number)).write_bytes(content)
        one_input(content)
    options = ["-timeout=600", "-rss_limit_mb=2048", "-max_len=8192"]
    atheris.Setup([*sys.argv, str(folder), *options], one_input)
    atheris.Fuzz()


main()
