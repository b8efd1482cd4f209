"""The loop: it learns, it resumes to the bit, it stops on a non-finite loss, it never leaves a broken checkpoint."""

from __future__ import annotations

import csv
import gc
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_task import Clips, Task
from torch import nn

from had_snn.errors import CheckpointError, InputError
from had_snn.processes import WorkerDiedError
from had_snn.train.averaging import WeightAverage, learning_rate_at
from had_snn.train.config import clip_indices
from had_snn.train.logs import RunLogs
from had_snn.train.loop import FitConfig, NonFiniteLossError, fit

CONFIG = FitConfig(iterations=60, batch_size=4, learning_rate=1e-2, warmup=5, log_every=1, checkpoint_every=10)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def losses(folder: Path) -> list[str]:
    return [row["total"] for row in rows(folder / "losses.csv")]


def test_it_learns_and_logs(tmp_path):
    fit(Task(), Clips(), CONFIG, run_dir=tmp_path)
    values = [float(v) for v in losses(tmp_path)]
    assert len(values) == 60
    assert sum(values[-10:]) < 0.6 * sum(values[:10])


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path):
    whole = fit(Task(), Clips(), CONFIG, run_dir=tmp_path / "whole")

    class Stop(Exception):
        pass

    def interrupt(done, total, means):
        if done == 37:
            raise Stop

    with pytest.raises(Stop):
        fit(Task(), Clips(), CONFIG, run_dir=tmp_path / "cut", progress=interrupt)
    again = fit(Task(), Clips(), CONFIG, run_dir=tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_processes_prepare_the_same_batches_as_threads(tmp_path):
    for name, processes in (("threads", 0), ("processes", 2)):
        fit(Task(), Clips(), replace(CONFIG, loader_processes=processes), run_dir=tmp_path / name)
    assert losses(tmp_path / "processes") == losses(tmp_path / "threads")


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    (tmp_path / "resume.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"resume\.pt"):
        fit(Task(), Clips(), CONFIG, run_dir=tmp_path)


def test_a_non_finite_loss_stops_and_keeps_the_batch(tmp_path):
    with pytest.raises(NonFiniteLossError, match="iteration 8"):
        fit(Task(poison_after=7), Clips(), replace(CONFIG, checkpoint_every=0), run_dir=tmp_path)
    kept = torch.load(tmp_path / "bad_batch.pt", weights_only=True)
    assert kept["iteration"] == 8
    assert torch.equal(kept["batch"]["x"], torch.stack([Clips()[i] for i in range(28, 32)]))
    # Weights and random state of the moment repeat the step.
    task = Task().train()
    task.load_state_dict(kept["task"])
    torch.set_rng_state(kept["rng"])
    again = task(Clips().collate([Clips()[i] for i in range(28, 32)]))
    assert float(again["error"]) == kept["losses"]["error"]


def test_accumulated_batches_are_one_large_batch(tmp_path):
    """Without batch norm, whose statistics are those of a backward pass."""

    class Plain(Task):
        def __init__(self):
            super().__init__(noise=0.0)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))

    torch.manual_seed(0)
    task = Plain()
    weights = {name: value.clone() for name, value in task.state_dict().items()}
    config = replace(CONFIG, iterations=5, checkpoint_every=0, ema_decay=0.0)
    whole = fit(task, Clips(), replace(config, batch_size=8), run_dir=tmp_path / "whole")
    task.load_state_dict(weights)
    parts = fit(task, Clips(), replace(config, batch_size=2, accumulate=4), run_dir=tmp_path / "parts")
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_every_clip_goes_to_one_process():
    config = FitConfig(iterations=7, batch_size=3, accumulate=2)
    read = [clip_indices(step, config, rank=r, world=4) for step in range(7) for r in range(4)]
    flat = [i for batches in read for batch in batches for i in batch]
    assert sorted(flat) == list(range(7 * 4 * 2 * 3))
    # One process with four times the batch reads the same clips in the same backward pass.
    wide = clip_indices(5, replace(config, batch_size=12), rank=0, world=1)
    parts = [clip_indices(5, config, rank=r, world=4) for r in range(4)]
    assert wide == [[i for part in parts for i in part[a]] for a in range(2)]


def test_validation_stops_early_and_the_best_weights_come_back(tmp_path):
    scores = iter([10.0, 30.0, 20.0, 25.0, 40.0])
    seen = []

    def validate(module):
        seen.append({name: value.clone() for name, value in module.state_dict().items()})
        return next(scores)

    config = replace(CONFIG, validate_every=6, patience=2)
    best = fit(Task(), Clips(), config, run_dir=tmp_path, validate=validate)
    assert len(seen) == 4, "two validations without a better score end the run"
    for name, value in best.state_dict().items():
        assert torch.equal(value, seen[1][name])
    assert [row["score"] for row in rows(tmp_path / "validation.csv")] == ["10", "30", "20", "25"]
    # A stopped run that is started again stays stopped.
    again = fit(Task(), Clips(), config, run_dir=tmp_path, validate=validate)
    assert len(seen) == 4
    assert torch.equal(again.net[0].weight, best.net[0].weight)


def test_layers_are_reported_every_epoch(tmp_path, caplog):
    fit(Task(), Clips(), replace(CONFIG, iterations=25), run_dir=tmp_path)
    report = rows(tmp_path / "layers.csv")
    assert [row["iteration"] for row in report if row["layer"] == "lif2"] == ["10", "20", "25"]
    assert {(row["layer"], row["verdict"]) for row in report} == {("lif1", "ok"), ("lif2", "dead")}
    assert "dead: lif2" in caplog.text


def test_a_resumed_run_with_other_numbers_says_so(tmp_path, caplog):
    fit(Task(), Clips(), replace(CONFIG, iterations=10), run_dir=tmp_path)
    fit(Task(), Clips(), replace(CONFIG, iterations=12), run_dir=tmp_path)
    assert "iterations=12, the checkpoint was made with 10" in caplog.text


@pytest.mark.parametrize("change", [{"batch_size": 2}, {"seed": 1}, {"learning_rate": 1e-3}, {"iterations": 8}])
def test_numbers_that_make_another_run_are_refused(tmp_path, change):
    fit(Task(), Clips(), replace(CONFIG, iterations=10), run_dir=tmp_path)
    before = losses(tmp_path)
    (name,) = change
    with pytest.raises(
        CheckpointError, match=f"was made with {name}=.*now {change[name]}.*start anew in another folder"
    ):
        fit(Task(), Clips(), replace(CONFIG, **{"iterations": 10, **change}), run_dir=tmp_path)
    assert losses(tmp_path) == before


@pytest.mark.parametrize("how", ["writer", "system"])
def test_a_disk_that_is_full_is_named_and_the_checkpoint_before_goes_on(tmp_path, monkeypatch, how):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    twenty = replace(CONFIG, iterations=20)
    fit(Task(), Clips(), twenty, run_dir=whole)
    limits, save, first = resource.getrlimit(resource.RLIMIT_FSIZE), torch.save, []

    def full(state, path):
        if not first:  # at iteration 10
            save(state, path)
            return first.append(Path(path).read_bytes())
        if how == "writer":
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
        # No file may grow beyond half a checkpoint: the write stops in the midst of it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(first[0]) // 2, limits[1]))
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    try:
        with pytest.raises(CheckpointError, match=r"resume\.pt: cannot be written at iteration 20, \d+ MB are free"):
            fit(Task(), Clips(), twenty, run_dir=cut)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.undo()
    assert [(cut / "resume.pt").read_bytes()] == first
    assert not list(cut.glob(".resume.*"))
    fit(Task(), Clips(), twenty, run_dir=cut)
    assert losses(cut) == losses(whole)


def test_an_unknown_logger_is_refused(tmp_path):
    with pytest.raises(InputError, match="wandb, mlflow"):
        fit(Task(), Clips(), CONFIG, run_dir=tmp_path, loggers={"paper": {}})


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "says"), [("anywhere", "every curve equals"), ("writing", "all readable")])
def test_kill_minus_nine(kind, says):
    """Ten kills here; `python tests/train/kill_runs.py anywhere|writing 50` for more."""
    command = [sys.executable, str(Path(__file__).with_name("kill_runs.py")), kind, "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert says in done.stdout


def test_average_follows_the_weights_and_their_statistics():
    module = nn.BatchNorm1d(2)
    average = WeightAverage(module, decay=0.5)
    module.weight.data.fill_(3.0)
    module.running_mean.fill_(4.0)
    for _ in range(40):
        average.update(module)
    torch.testing.assert_close(average.module.weight.data, module.weight.data)
    torch.testing.assert_close(average.module.running_mean, module.running_mean)
    assert not average.module.training


def test_schedule_warms_up_and_ends_at_zero():
    config = FitConfig(iterations=60, learning_rate=1e-2, warmup=5)
    rates = [learning_rate_at(step, config) for step in range(60)]
    assert rates[0] == pytest.approx(2e-3)
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] < 1e-4


# torch tells of the death from a signal's handler: wherever it was, in its test for free file handles too, which then
# leaves a temporary file open
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_loader_that_is_killed_is_told_and_the_run_goes_on(tmp_path, monkeypatch):
    threads, processes = replace(CONFIG, iterations=20), replace(CONFIG, iterations=20, loader_processes=1)
    fit(Task(), Clips(), threads, run_dir=tmp_path / "whole")
    clip, ours = Clips.__getitem__, os.getpid()

    def dies(self, index):
        if index > 12 * CONFIG.batch_size and os.getpid() != ours:
            os.kill(os.getpid(), signal.SIGKILL)
        return clip(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Clips, "__getitem__", dies)
        with pytest.raises(WorkerDiedError, match=r"prepares batches was ended.*goes on from the last checkpoint"):
            fit(Task(), Clips(), processes, run_dir=tmp_path / "cut")
    gc.collect()  # that file is closed here, not in another test
    assert torch.load(tmp_path / "cut" / "resume.pt", weights_only=True)["iteration"] == 10
    fit(Task(), Clips(), processes, run_dir=tmp_path / "cut")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_news_of_a_death_does_not_keep_logs_from_being_closed(tmp_path, monkeypatch):
    close, closed = RunLogs.close, []

    def told_meanwhile(self):
        os.kill(os.getpid(), signal.SIGCHLD)
        close(self)
        closed.append(self)

    def torchs(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    before = signal.signal(signal.SIGCHLD, torchs)
    try:
        monkeypatch.setattr(RunLogs, "close", told_meanwhile)
        fit(Task(), Clips(), replace(CONFIG, iterations=1), run_dir=tmp_path)
        assert signal.getsignal(signal.SIGCHLD) is torchs
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert len(closed) == 1


def test_a_checkpoint_with_a_state_of_chance_that_is_none_is_refused(tmp_path):
    fit(Task(), Clips(), replace(CONFIG, iterations=10), run_dir=tmp_path)
    path = next(tmp_path.glob("*.pt"))
    state = torch.load(path, weights_only=True)
    state["processes"][0][0].zero_()
    torch.save(state, path)
    with pytest.raises(CheckpointError, match="cannot resume from it"):
        fit(Task(), Clips(), CONFIG, run_dir=tmp_path)
