"""One command for a machine with a GPU: CUDA tests, the GPU benchmark, and a record under benchmarks/.

    make gpu-check        (or: python experiments/gpu_check.py)

It needs what such a machine usually has (torch with CUDA, cupy, numpy, pytest, a C++ compiler with cmake) and this
repository, installed or not. Whatever it cannot do it names and skips.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = [
    ["cmake", "-S", ".", "-B", "build/native", *(["-G", "Ninja"] if shutil.which("ninja") else [])],
    ["cmake", "--build", "build/native", "--target", "install"],
]
LIF = [
    {"kind": "lif", "T": T, "neurons": n, "backward": b, "device": "cuda", "rounds": 20, "fresh": False}
    for T, n in ((16, 1 << 21), (16, 1 << 17), (64, 1 << 19))
    for b in (False, True)
]
STEM = [
    {"kind": "stem", "events": n, "channels": 16, "kernel": 4, "stride": 4, "T": 16, "membranes": False}
    | {"device": "cuda", "rounds": 20, "peers": False}
    for n in (1_000_000, 10_000_000)
]
RIVALS = {"triton": ["had", "torch_compile", "spikingjelly"], "cuda": ["spikingjelly"]}


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in the repository, echoing it."""
    print("$", " ".join(command)[:160], flush=True)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path} | environment, text=True, check=False
    )


def missing() -> list[str]:
    """What this machine lacks."""
    lacking = [name for name in ("torch", "cupy", "numpy", "pytest") if importlib.util.find_spec(name) is None]
    if "torch" not in lacking:
        import torch

        if not torch.cuda.is_available():
            lacking.append("a CUDA device that torch can use")
    return lacking


def build_native() -> bool:
    """Builds the CPU library, the judge of the GPU's spikes, where it is not there yet."""
    if (ROOT / "had_snn" / "ops" / "_native" / "libhad_snn.so").is_file():
        return True
    if shutil.which("cmake") is None:
        print("skipped: comparison with the CPU kernels (no cmake to build them)")
        return False
    return all(run(command).returncode == 0 for command in BUILD)


def benchmark() -> dict[str, object]:
    """GPU rows of both operators; SpikingJelly once with each of its back ends."""
    import torch

    found: dict[str, object] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    found |= {"python": platform.python_version(), "stem": worker(STEM)}
    for backend, names in RIVALS.items():
        if importlib.util.find_spec("spikingjelly") is None:
            print("skipped: SpikingJelly (not installed)")
            names = [n for n in names if n != "spikingjelly"]
        if names:
            rows = [row | {"names": names} for row in LIF]
            found[f"lif_{backend}"] = worker(rows, SJ_LIF_CUDA_IMPLEMENTATION=backend)
    return found


def worker(rows: list[dict], **environment: str) -> object:
    """Rows timed in a process of their own."""
    command = [sys.executable, str(ROOT / "experiments" / "bench_kernels_worker.py"), json.dumps(rows), "2"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    settings = os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"} | environment
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"skipped: a benchmark failed: {reason}")
        return {"failed": reason}
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> int:
    lacking = missing()
    if lacking:
        print(f"error: gpu-check needs {', '.join(lacking)}", file=sys.stderr)
        return 2
    native = build_native()
    tests = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "--noconftest", "-p", "no:cacheprovider", "tests/ops"]
    passed = run(tests).returncode == 0 if native else None
    record = {"cuda_tests_passed": passed} | benchmark()
    out = ROOT / "benchmarks" / "kernels_gpu.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    print(f"written: {out.relative_to(ROOT)}")
    return 0 if passed in (True, None) else 1


if __name__ == "__main__":
    sys.exit(main())
