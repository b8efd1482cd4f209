"""A small task and its clips; noise from the global generator makes the random state part of the result."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Batch:
    x: torch.Tensor

    def to(self, device) -> Batch:
        return Batch(self.x.to(device))


class Clips:
    """Clip `i` is a vector that depends on `i` alone; 40 make an epoch."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randn(4, generator=torch.Generator().manual_seed(index % 40))

    def collate(self, clips: list[torch.Tensor]) -> Batch:
        return Batch(torch.stack(clips))


class Task(nn.Module):
    """Fits the sum of a vector; reports the rates of two made-up layers, one of them dead."""

    def __init__(self, *, poison_after: int | None = None, width: int = 8, noise: float = 0.01) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.GELU(), nn.Linear(width, 1))
        self.poison_after, self.calls, self.noise = poison_after, 0, noise

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.calls += 1
        error = self.net(batch.x + self.noise * torch.randn_like(batch.x)) - batch.x.sum(dim=1, keepdim=True)
        total = error.square().mean()
        if self.poison_after is not None and self.calls > self.poison_after:
            total = total * float("nan")
        rates = {"rate/lif1": torch.tensor(0.2), "rate/lif2": torch.tensor(0.0), "silent/lif2": torch.tensor(1.0)}
        return {"total": total, "error": error.abs().mean().detach(), **rates}
