"""One command for a machine with a GPU: CUDA tests, benchmarks of kernels and training, benchmarks/gpu.json.

    make gpu-check        (or: python -m experiments.bench.gpu_check [tests] [kernels] [training])

It needs what such a machine usually has (torch with CUDA, cupy, numpy, pytest, a C++ compiler with cmake) and this
repository, installed or not; training needs the extra `train` as well, SpikingJelly its `loguru`. Whatever it cannot do
it names and skips. Leave the machine's processors idle meanwhile: the kernels are timed with their launch.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from experiments.worker import ROOT, environment, worker

BUILD = [
    ["cmake", "-S", ".", "-B", "build/native", *(["-G", "Ninja"] if shutil.which("ninja") else [])],
    ["cmake", "--build", "build/native", "--target", "install"],
]
LIF = [
    {"kind": "lif", "T": T, "neurons": n, "backward": b, "device": "cuda", "rounds": 20, "fresh": False}
    # In this order: torch.compile gets the first sizes only.
    for T, n in ((16, 1 << 21), (16, 1 << 17), (16, 1 << 24), (64, 1 << 21))
    for b in (False, True)
]
STEM = [
    {"kind": "stem", "events": n, "channels": 16, "kernel": 4, "stride": 4, "T": 16, "membranes": False}
    | {"device": "cuda", "rounds": 20, "peers": False}
    for n in (1_000_000, 10_000_000)
]
TESTS = ["tests/ops/test_kernel_text.py", "tests/train/test_cuda.py"]
NEEDED_TO_TRAIN = ("hydra", "lightning_fabric", "ot", "rich", "tensorboard")
TRAININGS = {
    "teacher_tiny": ["train-teacher", "fit.batch_size=64"],
    "student_tiny_batch8": ["distill", "distill=none"],
    "student_tiny": ["distill", "distill=none", "fit.batch_size=64"],
    "student_tiny_full": ["distill", "distill=full", "fit.batch_size=64"],
    "student_base": ["distill", "distill=none", "student=base", "fit.batch_size=64"],
    "student_base_bf16": [
        "distill",
        "distill=none",
        "student=base",
        "fit.batch_size=64",
        "fit.precision=bf16-mixed",
    ],
}
STEPS = 80
#: Environment, contenders and rows of each process of the LIF benchmark.
LIF_RUNS = {
    # SpikingJelly's wheel has Triton kernels; its CUDA kernels must be built by the user.
    "lif": ({"SJ_LIF_CUDA_IMPLEMENTATION": "triton"}, ["had", "torch_loop", "spikingjelly"], LIF),
    "lif_compile": ({}, ["had", "torch_compile"], LIF[:4]),
}
BENCH_SECONDS = 90


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command in the repository, echoing it."""
    print("$", " ".join(command)[:160], flush=True)
    return subprocess.run(command, cwd=ROOT, env=environment(), text=True, check=False)


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


def machine() -> dict[str, object]:
    """What the numbers were taken on."""
    import torch

    found: dict[str, object] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__}
    return found | {"python": platform.python_version(), "cpu_cores": os.cpu_count()}


def timed(rows: list[dict], **own: str) -> object:
    """Rows timed in a process of their own."""
    command = worker("bench.kernels_worker", json.dumps(rows), "2")
    settings = environment(PYTHONWARNINGS="ignore", **own)
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False, timeout=BENCH_SECONDS
        )
    except subprocess.TimeoutExpired:
        print(f"skipped: a benchmark took more than {BENCH_SECONDS} s")
        return {"failed": f"more than {BENCH_SECONDS} s"}
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"skipped: a benchmark failed: {reason}")
        return {"failed": reason}
    return json.loads(done.stdout.strip().splitlines()[-1])


def trainings() -> dict[str, object]:
    """Clips per second of each training once it runs smoothly: its second half of steps."""
    if absent := [name for name in NEEDED_TO_TRAIN if importlib.util.find_spec(name) is None]:
        print(f"skipped: training ({', '.join(absent)} not installed)")
        return {}
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        shared = [f"data.root={folder}/data", "data.splits.train.count=32", f"data.workers={os.cpu_count()}"]
        shared += ["accelerator=cuda", f"fit.iterations={STEPS}", f"fit.log_every={STEPS // 2}"]
        teacher = f"teacher_checkpoint={folder}/teacher_tiny/teacher.safetensors"
        for name, (job, *options) in TRAININGS.items():
            own = [*options, *shared, f"out={folder}/{name}", *([teacher] if "distill=full" in options else [])]
            done = run([sys.executable, "-m", "had_snn", job, *own])
            losses = Path(folder, name, "losses.csv")
            found[name] = late_rate(losses) if done.returncode == 0 else {"failed": f"exit code {done.returncode}"}
    return found


def late_rate(losses: Path) -> dict[str, float]:
    """Clips per second between the two lines of a run's log."""
    with losses.open(newline="") as file:
        half, whole = ((float(row["iteration"]), float(row["clips_per_second"])) for row in csv.DictReader(file))
    # In units of clips per step: the rates are means since the start.
    seconds = whole[0] / whole[1] - half[0] / half[1]
    return {"clips_per_second": round((whole[0] - half[0]) / seconds, 1), "with_start": round(whole[1], 1)}


def main() -> int:
    parts = sys.argv[1:] or ["tests", "kernels", "training"]
    lacking = missing()
    if lacking:
        print(f"error: gpu-check needs {', '.join(lacking)}", file=sys.stderr)
        return 2
    passed = None
    if "tests" in parts and build_native():
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "--noconftest", "-p", "no:cacheprovider", *TESTS]
        passed = run(tests).returncode == 0
        keep({"cuda_tests_passed": passed})
    if "kernels" in parts:
        keep({"stem": timed(STEM)})
        for name, (own, contenders, rows) in LIF_RUNS.items():
            keep({name: timed([row | {"names": contenders} for row in rows], **own)})
    if "training" in parts:
        keep({"training": trainings()})
    return 0 if passed in (True, None) else 1


def keep(found: dict[str, object]) -> None:
    """Prints what was found and adds it to the record at once, so that a run that is cut short loses nothing."""
    out = ROOT / "benchmarks" / "gpu.json"
    record: dict[str, object] = json.loads(out.read_text()) if out.is_file() else {}
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(record | {"machine": machine()} | found, indent=1) + "\n")
    print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    sys.exit(main())
