"""What an ablation trains: one job per arm, seed, share of the labels and budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from had_snn.distill.levels import MODES
from had_snn.errors import InputError

#: An arm is a mode of distillation; this one is `full` under a teacher that answers about another clip.
SHUFFLED = "shuffled"
#: Iterations are rounded to this many, so that a measured speed that moves a little gives the same plan.
ROUNDING = 5


@dataclass(frozen=True)
class Job:
    """One student to train and evaluate.

    Attributes:
        arm: A mode of distillation, or `shuffled`.
        seed: Of weights and clips.
        labels: Share of the training sequences with labels.
        budget: `time` (all arms the same computing time), `steps` (all arms the steps that `full` takes in the time) or
            `fixed` (all arms the same steps, whatever that costs).
        iterations: Optimiser steps.
    """

    arm: str
    seed: int
    labels: float
    budget: str
    iterations: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}-labels{self.labels:g}-{self.budget}-seed{self.seed}"

    @property
    def mode(self) -> str:
        """Of distillation."""
        return "full" if self.arm == SHUFFLED else self.arm

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def check_arms(arms: Iterable[str]) -> list[str]:
    """Refuses an arm that does not exist."""
    known = (*MODES, SHUFFLED)
    unknown = [arm for arm in arms if arm not in known]
    if unknown:
        raise InputError(f"unknown arm {', '.join(unknown)}; there are {', '.join(known)}")
    return list(arms)


@dataclass(frozen=True)
class Cost:
    """Computing seconds of an arm.

    Attributes:
        per_step: Of each step, on average over a run.
        once: Of what is done once a run, such as asking the teacher about clips that come again.
        follow: Of following the targets of all training sequences, which is done where they have no labels.
    """

    per_step: float
    once: float = 0.0
    follow: float = 0.0

    def iterations_in(self, seconds: float, *, unlabelled: float = 0.0) -> int:
        """Steps that fit into a time.

        Args:
            seconds: The time.
            unlabelled: Share of the sequences that a teacher has to follow first.
        """
        left = seconds - self.once - unlabelled * self.follow
        return max(ROUNDING, ROUNDING * round(left / self.per_step / ROUNDING))


def costs(
    measured: Mapping[str, Mapping[str, float]], *, until: float | None, pool_steps: float | None, follow: float = 0.0
) -> dict[str, Cost]:
    """Cost of each mode over a run.

    Args:
        measured: By mode, seconds of a step with clips that the teacher sees for the first time (`fresh`) and again
            (`kept`).
        until: Share of the steps with distillation; after that a step costs what it costs without a teacher.
        pool_steps: Steps until the teacher has seen all clips; None when they are ever new ones.
        follow: Seconds in which the teacher follows the targets of all training sequences.
    """
    alone, share = measured["none"], 1.0 if until is None else until
    found = {}
    for mode, seconds in measured.items():
        # Against the steps without a teacher of the same round, as a busy machine may slow one of the rounds.
        extra = {name: max(0.0, seconds[name] - alone[name]) for name in ("fresh", "kept")}
        once = 0.0 if pool_steps is None else pool_steps * max(0.0, extra["fresh"] - extra["kept"])
        per_step = alone["fresh"] + share * extra["fresh" if pool_steps is None else "kept"]
        found[mode] = Cost(per_step, once, 0.0 if mode == "none" else follow)
    return found


def plan(sets: Iterable[Mapping[str, Any]], seeds: Iterable[int], *, steps: int, cost: Mapping[str, Cost]) -> list[Job]:
    """All jobs, in the order of `sets`: within a set arm by arm, and of each arm all seeds.

    Args:
        sets: `{arms, labels, budget}`, and `seeds` where they are not the usual ones. With `budget: steps`, all arms
            take the steps that `full` takes in the time; with `budget: fixed`, `steps`.
        seeds: Seeds.
        steps: What a student takes without a teacher; the time of these steps is the budget of all.
        cost: Of each mode, `full` included when a set asks for equal steps.

    Returns:
        Jobs; none twice.
    """
    jobs: dict[str, Job] = {}
    seconds = steps * cost["none"].per_step
    for entry in sets:
        if entry["budget"] not in ("time", "steps", "fixed"):
            raise InputError(f"budget={entry['budget']!r}: expected time, steps or fixed")
        labels = float(entry["labels"])
        for arm in check_arms(entry["arms"]):
            mode = "full" if arm == SHUFFLED or entry["budget"] == "steps" else arm
            for seed in entry.get("seeds") or seeds:
                in_time = cost[mode].iterations_in(seconds, unlabelled=1 - labels)
                iterations = steps if entry["budget"] == "fixed" else in_time
                job = Job(arm, int(seed), labels, entry["budget"], iterations)
                jobs.setdefault(job.name, job)
    return list(jobs.values())
