"""The loop: it learns, it resumes to the bit, it stops on a non-finite loss, it never leaves a broken checkpoint."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch
from torch import nn

from had_snn.errors import CheckpointError
from had_snn.train.loop import FitConfig, NonFiniteLossError, WeightAverage, fit, learning_rate_at


class Batch:
    def __init__(self, x: torch.Tensor) -> None:
        self.x = x

    def to(self, device) -> Batch:
        return Batch(self.x.to(device))


class Clips:
    """Clip `i` is a vector that depends on `i` alone."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(4, generator=torch.Generator().manual_seed(index))

    def collate(self, clips: list[torch.Tensor]) -> Batch:
        return Batch(torch.stack(clips))


class Task(nn.Module):
    """Fits a line; noise from the global generator makes the random state part of the result."""

    def __init__(self, *, poison_after: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 1))
        self.poison_after, self.calls = poison_after, 0

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.calls += 1
        error = self.net(batch.x + 0.01 * torch.randn_like(batch.x)) - batch.x.sum(dim=1, keepdim=True)
        total = error.square().mean()
        if self.poison_after is not None and self.calls > self.poison_after:
            total = total * float("nan")
        return {"total": total, "error": error.abs().mean().detach()}


CONFIG = FitConfig(iterations=60, batch_size=4, learning_rate=1e-2, warmup=5, log_every=1, checkpoint_every=10)


def losses(folder) -> list[str]:
    with (folder / "losses.csv").open(newline="") as file:
        return [row["total"] for row in csv.DictReader(file)]


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


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path):
    (tmp_path / "resume.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"resume\.pt"):
        fit(Task(), Clips(), CONFIG, run_dir=tmp_path)


def test_a_non_finite_loss_stops_and_keeps_the_batch(tmp_path):
    with pytest.raises(NonFiniteLossError, match="iteration 8"):
        fit(Task(poison_after=7), Clips(), replace(CONFIG, checkpoint_every=0), run_dir=tmp_path)
    assert (tmp_path / "bad_batch.pt").stat().st_size > 0


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
    rates = [learning_rate_at(step, CONFIG) for step in range(60)]
    assert rates[0] == pytest.approx(2e-3)
    assert max(rates) == pytest.approx(1e-2)
    assert rates[-1] < 1e-4
