"""The package as a stranger has it: a wheel in an environment of its own, an empty folder, no checkout in sight."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from had_snn.commands.names import JOBS
from had_snn.events.stream import EventStream
from had_snn.recordings.writers import write_events

ROOT = Path(__file__).resolve().parents[2]
TINY = ["data.splits.train.count=2", "data.splits.train.seconds=0.4", "data.splits.test.count=1", "data.workers=1"]
TINY += ["data.splits.test.seconds=0.4"]
STEP = ["fit.iterations=1", "fit.batch_size=2", "fit.warmup=1", "fit.log_every=1", "fit.checkpoint_every=1"]
SLOW = ["sample/recording.aedat4", "--box", "sample/boxes.csv", "--object", "slow"]
REPLAY = [option.replace("data.", "replay.") for option in TINY]
#: Every job, in an order in which each finds what it needs.
RUNS = {
    "sample": [],
    "convert": ["blob.npz", "--out", "a=b [1].aedat4"],
    "track": [*SLOW, "out=track"],
    "replay": ["blob.npz", "speed=0", "out=live.bin"],
    "check-data": ["data=folder", "data.root=example", "example=example"],
    "simulate": ["splits=[train,test]", *TINY],
    "train-teacher": [*TINY, *STEP, "out=teacher"],
    "distill": [*TINY, *STEP, "teacher_checkpoint=teacher/teacher.safetensors", "init=tiny", "out=student"],
    "adapt": [
        "sample/recording.aedat4",
        "--box",
        "sample/boxes.csv",
        "--object",
        "slow",
        *STEP,
        *REPLAY,
        "out=adapted",
    ],
    "evaluate": [*TINY, "checkpoint=student/student.safetensors", "baselines=[static]", "resamples=0", "out=scores"],
    "profile": [*TINY, "windows=2", "measure=false", "out=energy"],
    "export": ["blob.npz", "--box", "100,75,40,30", "windows=2", "verify=[event_by_event]", "track_in=[]", "out=nir"],
}
MADE = ["a=b [1].aedat4", "track/track.mp4", "live.bin", "example/test", "teacher/teacher.safetensors"]
MADE += [
    "student/student.safetensors",
    "adapted/student.safetensors",
    "adapted/labels/recording.csv",
    "scores/metrics.json",
    "energy/energy.html",
    "nir/student.nir",
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The command `had-snn` of an environment that holds the wheel; what it depends on is seen from ours."""
    pytest.importorskip("scikit_build_core")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    # Behind the environment's own packages, and without the .pth files beside them, which lead to the checkout.
    ours = {sysconfig.get_path("purelib"), *(p for p in sys.path if p.endswith("site-packages"))}
    (site / "zz_ours.pth").write_text("\n".join(ours) + "\n")
    return folder / "env" / "bin" / "had-snn"


@pytest.mark.slow
def test_every_job_runs_in_an_empty_folder_for_a_user_without_a_home(installed, tmp_path):
    t = np.sort(np.random.default_rng(0).integers(0, 200_000, 12_000))
    x = np.clip(np.random.default_rng(1).normal(120, 10, len(t)), 0, 239).astype(int)
    y = np.clip(np.random.default_rng(2).normal(90, 8, len(t)), 0, 179).astype(int)
    write_events(EventStream.from_arrays(t, x, y, t % 2, (180, 240)), tmp_path / "blob.npz")
    inherited = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    environment = {**inherited, "HAD_SNN_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    where = "import had_snn; print(had_snn.__file__)"
    found = subprocess.run(
        [installed.with_name("python"), "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert str(installed.parents[1]) in found.stdout, found.stderr
    assert {*RUNS} == {*JOBS} - {"demo"}
    for job, options in RUNS.items():
        done = subprocess.run(
            [installed, job, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, f"{job}: {done.stderr}"
    assert [name for name in MADE if not (tmp_path / name).exists()] == []
    # The data set is the user's, and an export of one template makes none.
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} >= {"cache", "track", "student"}
    assert not (tmp_path / "data_cache").exists()
