"""Paper-scale experiments, Slurm and sweeps: their configs compose, and one step of each experiment runs."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import hydra
import pytest
import torch
from drifting import drifting_sequence
from hydra.utils import instantiate

from had_snn.data.clips import ClipGeometry, ClipSampler
from had_snn.models import StudentConfig, TeacherConfig
from had_snn.train.loop import FitConfig, fit
from had_snn.train.tasks import StudentTask, TeacherTask

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = str(ROOT / "configs")
SETS = ["fe108", "visevent", "coesot", "eventvot"]


def composed(script: str, *overrides: str, whole: bool = False):
    with hydra.initialize_config_dir(CONFIGS, version_base="1.3"):
        return hydra.compose(script, list(overrides), return_hydra_config=whole)


@pytest.mark.parametrize("name", SETS)
def test_each_experiment_composes_for_both_scripts_with_the_same_crops(name):
    student = composed("distill_student", f"+experiment={name}_base", "data.root=/data")
    teacher = composed("train_teacher", f"+experiment={name}_base_teacher", "data.root=/data")
    for cfg in (student, teacher):
        assert cfg.data.layout == name
        assert cfg.data.root == "/data"
        assert isinstance(instantiate(cfg.fit, seed=cfg.seed), FitConfig)
        assert cfg.fit.iterations * cfg.fit.batch_size >= 2_400_000
        assert cfg.validation.held_out == 20
    assert list(teacher.modalities) == (["events"] if name == "eventvot" else ["rgb", "events"])
    assert student.student._target_.endswith("student_base")
    assert teacher.teacher._target_.endswith("teacher_base")


@pytest.mark.parametrize("size", ["student_tiny", "student_base", "teacher_tiny", "teacher_small", "teacher_base"])
def test_a_networks_config_lists_every_number_and_is_the_networks_own(size, monkeypatch):
    """So that an option needs no `+`, and a network built in Python is the one that is trained."""
    kind, name = size.split("_")
    cfg = composed({"student": "distill_student", "teacher": "train_teacher"}[kind], f"{kind}={name}")[kind]
    module = importlib.import_module(f"had_snn.models.{kind}")
    # Only the numbers: building a large transformer takes seconds.
    monkeypatch.setattr(module, {"student": "SpikingTracker", "teacher": "RGBETeacher"}[kind], lambda config: config)
    config_class = {"student": StudentConfig, "teacher": TeacherConfig}[kind]
    assert {str(key) for key in cfg if not key.startswith("_")} == {f.name for f in dataclasses.fields(config_class)}
    listed, own = (json.dumps(dataclasses.asdict(config)) for config in (instantiate(cfg), getattr(module, size)()))
    assert listed == own


def test_the_large_networks_see_the_same_crops():
    student = instantiate(composed("distill_student", "+experiment=fe108_base", "data.root=/data").student)
    teacher = instantiate(
        composed("train_teacher", "+experiment=fe108_base_teacher", "data.root=/data").teacher, depth=1
    )
    assert ClipGeometry.of(student.config) == ClipGeometry.of(teacher.config)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["student", "teacher"])
def test_one_step_at_full_size(which, tmp_path):
    """A single clip, on the CPU and in float32; the large teacher with one of its twelve layers."""
    script = {"student": "distill_student", "teacher": "train_teacher"}[which]
    suffix = "" if which == "student" else "_teacher"
    cfg = composed(script, f"+experiment=visevent_base{suffix}", "data.root=/data")
    network = instantiate(cfg[which], **({"depth": 1} if which == "teacher" else {}))
    shown = ("events",) if which == "student" else ("rgb", "voxel")
    clips = ClipSampler([drifting_sequence()], ClipGeometry.of(network.config), modalities=shown, windows=1)
    task = StudentTask(network) if which == "student" else TeacherTask(network)
    numbers = {"iterations": 1, "batch_size": 2, "precision": "32-true", "loader_processes": 1}
    fit(task, clips, instantiate(cfg.fit, **numbers), run_dir=tmp_path)
    gradients = [p.grad for p in task.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(g).all() for g in gradients)


def test_slurm_jobs_have_folders_of_their_own_and_go_on_after_a_timeout():
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    cfg = composed("distill_student", "+launch=slurm", "+experiment=fe108_base", "data.root=/data", whole=True)
    assert cfg.hydra.launcher._target_.endswith("SlurmLauncher")
    assert cfg.hydra.launcher.gpus_per_node == 1
    assert cfg.hydra.launcher.max_num_timeout == 10


def test_a_sweep_searches_numbers_that_exist():
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    cfg = composed("distill_student", "+sweep=student", whole=True)
    assert cfg.hydra.sweeper._target_.endswith("OptunaSweeper")
    assert cfg.hydra.sweeper.direction == "maximize"
    from omegaconf import OmegaConf

    for name in cfg.hydra.sweeper.params:
        assert OmegaConf.select(cfg, name) is not None, name
