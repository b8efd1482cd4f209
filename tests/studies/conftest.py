"""What tests of studies share."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.studies import ablation, ablation_worker
from had_snn.commands.start import release_folders


@pytest.fixture
def mostly_here(monkeypatch):
    """Jobs run in this process, where the libraries are loaded; that of a baseline in one of its own, as all do."""

    def run(command: list[str], **options):
        if json.loads(Path(command[3]).read_text())["kind"] == "baseline":
            return subprocess.run(command, **options)
        monkeypatch.setattr(sys, "argv", command[2:])
        ablation_worker.main()
        release_folders()
        return subprocess.CompletedProcess(command, 0)

    threads = torch.get_num_threads()
    monkeypatch.setattr(ablation, "subprocess", SimpleNamespace(run=run))
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def small_run(tmp_path) -> list[str]:
    """Options of a study: two short sequences a split, one clip a step, few resamples."""
    splits = "data.splits={train:{count:2,seconds:0.4},test:{count:2,seconds:0.4}}"
    quoted = ",".join(f"'{option}'" for option in ("data=synthetic", f"data.root={tmp_path / 'data'}", splits))
    return [
        f"out={tmp_path / 'run'}",
        f"data_options=[{quoted}]",
        "student_options=['fit.batch_size=1']",
        "resamples=20",
    ]
