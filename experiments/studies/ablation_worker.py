"""One job of an ablation, in a process of its own: train a student, track the test split, write what came out.

    python -m experiments.studies.ablation_worker JOB.json      # {kind, folder, overrides, ...}, see below

A result is a file that appears whole or not at all, so a job that was killed is simply run again.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from had_snn.checkpoint import load_student, load_teacher, save_weights
from had_snn.commands import distill_student, train_teacher
from had_snn.commands.entry import compose
from had_snn.commands.run_folder import device_for, versions
from had_snn.commands.sources import sequences, training_sequences
from had_snn.data.sequence import TrackingSequence
from had_snn.evaluate.baselines import baseline
from had_snn.evaluate.metrics import SCORES
from had_snn.evaluate.one_pass import evaluate_tracker
from had_snn.evaluate.results import EvaluationResult
from had_snn.files import atomic_file
from had_snn.models import RGBETeacher
from had_snn.models.outputs import Taps, TrackerOutput
from had_snn.tracking import OnlineTracker, TeacherTracker
from had_snn.train.agreement import agreeing, first_box_only
from had_snn.train.following import TOGETHER, teacher_follows
from had_snn.train.loop import fit


def seconds_on(device: str) -> float:
    """A clock: computing time on a CPU, where others may work beside; on a GPU the wall's, once its work is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


class ShuffledTeacher(nn.Module):
    """A teacher that answers about the clip before: the control for what its answers are worth.

    A call may hold a single clip, so the last answer of each call is kept for the next one. Only the first clip of all,
    before which there is none, gets the answer about the last clip of its own call.

    Args:
        teacher: The teacher.
    """

    def __init__(self, teacher: RGBETeacher) -> None:
        super().__init__()
        self.teacher, self.config = teacher, teacher.config
        self._last: dict[str, torch.Tensor] = {}

    def forward(self, *inputs: Any, **options: Any) -> TrackerOutput:
        """The teacher's output, passed on from each clip to the next one."""
        output, clips = self.teacher(*inputs, **options), len(inputs[2])

        def passed_on(maps: torch.Tensor, name: str) -> torch.Tensor:
            by_window = maps.unflatten(0, (-1, clips))
            last = by_window[:, -1:]
            before, self._last[name] = self._last.get(name, last), last.clone()
            return torch.cat([before, by_window[:, :-1]], dim=1).flatten(0, 1)

        taps = None if output.taps is None else Taps(features=passed_on(output.taps.features, "features"))
        return TrackerOutput(
            passed_on(output.score_logits, "score_logits"),
            passed_on(output.offsets, "offsets"),
            passed_on(output.sizes, "sizes"),
            taps=taps,
        )


def scores_of(result: EvaluationResult) -> dict[str, Any]:
    """Scores, scores by attribute, and SR, PR and NPR of each sequence in order."""
    return {
        "scores": {name: result.scores[name] for name in SCORES},
        "by_attribute": {
            name: {score: summary.scores[score] for score in ("SR", "PR", "NPR")} | {"sequences": summary.sequences}
            for name, summary in result.by_attribute.items()
        },
        "sequences": [curves.name for curves in result.curves],
        "per_sequence": {
            score: [round(curves.score(score), 3) for curves in result.curves] for score in ("SR", "PR", "NPR")
        },
        "protocol": result.protocol,
    }


def tested(job: dict[str, Any], tracker: Any) -> dict[str, Any]:
    """A tracker's scores on the job's split."""
    cfg = compose("evaluate", job["data"])
    chosen = sequences(cfg.data, job["split"], limit=job["limit"])
    return scores_of(evaluate_tracker(tracker, chosen, protocol=job["protocol"], resamples=0))


def train_student(job: dict[str, Any]) -> dict[str, Any]:
    """Trains one student and evaluates it; the seconds are the computing time of training, all of it.

    A student that was trained in this folder by the same options is tested only: on another split, for example.
    """
    folder, training = Path(job["folder"]), {name: job[name] for name in ("overrides", "shuffled")}
    made = folder / "trained.json"
    if not made.is_file() or (before := json.loads(made.read_text()))["training"] != training:
        made.unlink(missing_ok=True)  # it speaks of the weights that are replaced now
        before = {"training": training, **trained(job)}
        with atomic_file(made) as temporary:
            temporary.write_text(json.dumps(before) + "\n")
    student = load_student(folder / "student.safetensors")
    return {name: before[name] for name in ("seconds", "seconds_per_step")} | tested(job, OnlineTracker(student))


def trained(job: dict[str, Any]) -> dict[str, float]:
    """Trains one student into the job's folder; returns what that took."""
    cfg = compose("distill_student", job["overrides"])
    torch.manual_seed(cfg.seed)
    student = instantiate(cfg.student)
    teacher = distill_student.teacher_for(cfg, student)
    asked = ShuffledTeacher(teacher) if teacher is not None and job["shuffled"] else teacher
    task, clips = distill_student.build_task(cfg, student, asked), distill_student.clips_for(cfg, student, teacher)
    folder, device = Path(job["folder"]), device_for(cfg.accelerator)
    begun = seconds_on(device)
    numbers = instantiate(cfg.fit, seed=cfg.seed)
    fitted = fit(task, clips, numbers, run_dir=folder, accelerator=cfg.accelerator, resume=False)
    seconds = seconds_on(device) - begun
    card = {
        "made_by": "experiments/studies/ablation.py",
        "seed": cfg.seed,
        "versions": versions(),
        "config": OmegaConf.to_container(cfg, resolve=True),
    }
    save_weights(folder / "student.safetensors", fitted.student, card=card)
    return {"seconds": seconds, "seconds_per_step": seconds / cfg.fit.iterations}


def train_new_teacher(job: dict[str, Any]) -> dict[str, Any]:
    """Trains a teacher that is shown some modalities and tests it with the same."""
    folder = Path(job["folder"])
    begun = time.process_time()
    path = train_teacher.run(compose("train_teacher", [*job["overrides"], f"out={folder}"]))
    found = {"seconds": time.process_time() - begun}
    return found | tested(job, TeacherTracker(load_teacher(path), modalities=tuple(job["modalities"])))


def test_teacher(job: dict[str, Any]) -> dict[str, Any]:
    """Scores of the teacher."""
    return tested(job, TeacherTracker(load_teacher(job["checkpoint"])))


def test_baseline(job: dict[str, Any]) -> dict[str, Any]:
    """Scores of a tracker that is not trained."""
    return tested(job, baseline(job["baseline"]))


def seconds_to_label(found: Sequence[TrackingSequence], teacher_checkpoint: str) -> float:
    """Computing seconds that a teacher takes to label all sequences, from some spread among them."""
    some = [first_box_only(s) for s in found[:: max(1, len(found) // TOGETHER)]][:TOGETHER]
    follow = teacher_follows(load_teacher(teacher_checkpoint))
    follow(some[:1])
    begun = time.process_time()
    agreeing(follow, some)
    return (time.process_time() - begun) / len(some) * len(found)


def measure_speed(job: dict[str, Any]) -> dict[str, Any]:
    """Seconds of a training step of each mode, clips included: the arms take turns, the median counts.

    The clips come twice: `fresh` is the first round, in which a teacher is asked, `kept` the second. Beside it, what
    following the targets of all training sequences costs the teacher.
    """
    tasks, cfg = {}, compose("distill_student", job["modes"]["none"])
    device = device_for(cfg.accelerator)
    for mode, options in job["modes"].items():
        cfg = compose("distill_student", options)
        torch.manual_seed(cfg.seed)
        student = instantiate(cfg.student)
        teacher = distill_student.teacher_for(cfg, student)
        task = distill_student.build_task(cfg, student, teacher).train().to(device)
        tasks[mode] = task, distill_student.clips_for(cfg, student, teacher), cfg.fit.batch_size
    found: dict[str, dict[str, float]] = {mode: {} for mode in tasks}
    for name in ("fresh", "kept"):
        seconds: dict[str, list[float]] = {mode: [] for mode in tasks}
        for turn in range(job["turns"] + 1):
            for mode, (task, clips, size) in tasks.items():
                task.steps.zero_()
                begun = seconds_on(device)
                batch = clips.collate([clips[i] for i in range(turn * size, (turn + 1) * size)])
                task(batch.to(device))["total"].backward()
                task.zero_grad()
                seconds[mode].append(seconds_on(device) - begun)
        for mode, values in seconds.items():
            found[mode][name] = statistics.median(values[1:])
    return {"speed": found, "follow_seconds": seconds_to_label(training_sequences(cfg), job["teacher"])}


KINDS = {
    "student": train_student,
    "teacher": test_teacher,
    "new_teacher": train_new_teacher,
    "baseline": test_baseline,
    "speed": measure_speed,
}


def main() -> None:
    """Runs the job whose file is named on the command line and writes `result.json` beside it."""
    path = Path(sys.argv[1])
    job = json.loads(path.read_text())
    torch.set_num_threads(1)
    found = KINDS[job["kind"]](job)
    with atomic_file(path.with_name("result.json")) as temporary:
        temporary.write_text(json.dumps({"job": job, **found}) + "\n")


if __name__ == "__main__":
    main()
