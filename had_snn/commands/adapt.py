"""Adapts a student to recordings of which nothing is known but each target's first box.

had-snn adapt FILE --box 42,225,44,17
had-snn adapt data.root=recordings teacher_checkpoint=runs/teacher/teacher.safetensors

A teacher follows every target forwards and backwards; where both ways agree, their boxes are the student's labels, at
any time between them too. Half of the clips are simulated ones, and what is written lies between the student that was
given and the adapted one, so that nothing is forgotten.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from had_snn.checkpoint import load_student, load_teacher, released
from had_snn.commands.first_box import first_box, moment
from had_snn.commands.progress import progress
from had_snn.commands.reading import read_options
from had_snn.commands.sources import clip_sampler, sequences, training_sequences
from had_snn.commands.training import best_validation, refuse_other_run, train
from had_snn.data.clips import ClipSampler
from had_snn.data.lazy import LazyFrames, RecordingPool
from had_snn.data.mixed import MixedClips
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import InputError
from had_snn.evaluate.one_pass import run_one_pass
from had_snn.files import atomic_file
from had_snn.geometry import check_box
from had_snn.models import SpikingTracker
from had_snn.processes import in_forks, rank
from had_snn.recordings.readers import open_recording
from had_snn.threads import available
from had_snn.tracking import OnlineTracker
from had_snn.train.agreement import SHORTEST, Follow, Track, first_boxes, kept_labels, runs_of_labels
from had_snn.train.averaging import part_of_the_way
from had_snn.train.following import teacher_follows
from had_snn.train.guards import RateGuard
from had_snn.train.tasks import StudentTask

log = logging.getLogger("had_snn")


def targets(cfg: DictConfig) -> list[TrackingSequence]:
    """The targets of the recording, or of the training split of the data, that the config names."""
    if cfg.recording is None:
        if cfg.data.root is None:
            raise InputError("nothing to adapt to: give a recording and --box x,y,w,h, or data.root=FOLDER")
        if given := [name for name in ("box", "object", "start_us", "start_s") if cfg[name] is not None]:
            raise InputError(f"{given[0]}={cfg[given[0]]} is of one recording; those of data.root have their boxes.csv")
        return list(training_sequences(cfg))
    for name, wanted in (("labels_from", cfg.labels_from == "truth"), ("validation", cfg.validation is not None)):
        if wanted:
            raise InputError(f"{name}={cfg[name]}: of one recording only the first box is read; give data.root=FOLDER")
    recording = open_recording(cfg.recording, **read_options(cfg.read))
    events = recording.events
    given = moment(cfg.start_us, cfg.start_s, "start", events.t_start)
    box, start = first_box(cfg.box, start_us=given, target=cfg.object, zero_us=events.t_start)
    if box is None:
        raise InputError("box=draw needs had-snn track; give box=[x,y,w,h] or a file with t_us,x,y,w,h lines")
    frames = None
    if recording.frames is not None and len(recording.frames):
        frames = LazyFrames(RecordingPool(), "", lambda: recording, np.arange(len(recording.frames)))
    return [
        TrackingSequence(
            name=Path(cfg.recording).stem,
            events=events,
            label_times_us=np.array([events.t_start if start is None else start], np.int64),
            boxes_xywh=check_box(box, events.sensor_hw)[None],
            visible=np.ones(1, bool),
            frames=frames,
            frame_times_us=None if frames is None or recording.frames is None else recording.frames.end_us,
        )
    ]


def follower_of(cfg: DictConfig, student: SpikingTracker) -> Follow:
    """Who follows the targets: the teacher, or without one the student itself."""
    if cfg.labels_from == "student":
        tracker = OnlineTracker(student)

        def by_student(found: Sequence[TrackingSequence]) -> list[Track]:
            tracks: dict[int, Track] = {}
            with progress("follow", unit="passes") as bar:
                for number, result in in_forks(lambda s: run_one_pass(tracker, s), found, min(available(), len(found))):
                    tracks[number] = Track(result.boxes_xywh, result.scores)
                    bar(len(tracks), len(found), found[number].name)
            return [tracks[number] for number in range(len(found))]

        return by_student
    if cfg.teacher_checkpoint is None:
        raise InputError(
            "adaptation needs a teacher: give teacher_checkpoint=tiny, or one that had-snn train-teacher made; with "
            "labels_from=student the student teaches itself, which gains less"
        )
    teacher = load_teacher(cfg.teacher_checkpoint)

    def by_teacher(found: Sequence[TrackingSequence]) -> Sequence[Track]:
        with progress("follow", unit="passes") as bar:
            return teacher_follows(teacher, modalities=tuple(cfg.modalities), progress=bar)(found)

    return by_teacher


def labels_for(cfg: DictConfig, student: SpikingTracker, found: Sequence[TrackingSequence]) -> list[TrackingSequence]:
    """The targets with the labels that the student learns from."""
    if cfg.labels_from == "truth":
        return list(found)
    follow, by_student = follower_of(cfg, student), cfg.labels_from == "student"
    weights = released(cfg.checkpoint) if by_student else released(cfg.teacher_checkpoint, "teacher")
    who = weights.read_bytes() + repr([] if by_student else list(cfg.modalities)).encode()
    asked = first_boxes(found, period_us=cfg.period_us)
    return kept_labels(follow, asked, Path(cfg.tracks), who=who, segment_us=cfg.segment_us, least_iou=cfg.least_iou)


def learnt(cfg: DictConfig, labelled: Sequence[TrackingSequence]) -> list[TrackingSequence]:
    """What clips are made of: of labels that both ways agree on, the runs that are long enough.

    Raises:
        InputError: If there is none.
    """
    if cfg.labels_from == "truth":  # true labels also say where a target is absent
        return list(labelled)
    runs = [runs_of_labels(sequence) for sequence in labelled]
    cure = (
        f"a clip needs {SHORTEST} labels in a row; look at the first boxes with had-snn track. What moves by more than "
        "its size in the teacher's windows of 40 ms gets lost: a shorter period_us and segment_us help, and "
        "labels_from=student, whose windows follow the target's speed"
    )
    if not any(runs):
        raise InputError(f"both ways agree nowhere for long enough in {len(labelled)} targets: {cure}")
    if idle := [sequence.name for sequence, found in zip(labelled, runs, strict=True) if not found]:
        shown = ", ".join(idle[:5]) + (f" and {len(idle) - 5} more" if len(idle) > 5 else "")
        log.warning("%d of %d targets teach nothing (%s): %s", len(idle), len(labelled), shown, cure)
    return [run for found in runs for run in found]


def clips_for(cfg: DictConfig, student: SpikingTracker, runs: Sequence[TrackingSequence]) -> MixedClips | ClipSampler:
    """Clips of the targets wherever there are labels, and simulated ones."""
    new = clip_sampler(cfg, student.config, ("events",), sequences=runs)
    if cfg.replay_share == 0:
        return new
    old = clip_sampler(cfg, student.config, ("events",), sequences=sequences(cfg.replay, "train"))
    return MixedClips(new, old, share=cfg.replay_share)


def write_labels(folder: Path, labelled: Sequence[TrackingSequence]) -> None:
    """Writes the labels as `labels/NAME.csv`, `visible` where they count: to be looked at, corrected, and used as
    `boxes.csv`."""
    (folder / "labels").mkdir(exist_ok=True)
    taken: set[str] = set()
    for sequence in labelled:
        name = plain = sequence.name.replace("/", "_")
        for number in itertools.count(2):
            if name not in taken:
                break
            name = f"{plain}_{number}"
        taken.add(name)
        lines = [
            f"{t_us},{','.join(f'{value:.2f}' for value in box)},{int(counts)}\n"
            for t_us, box, counts in zip(sequence.label_times_us, sequence.boxes_xywh, sequence.visible, strict=True)
        ]
        with atomic_file(folder / "labels" / f"{name}.csv") as temporary:
            temporary.write_text("t_us,x,y,w,h,visible\n" + "".join(lines))


def run(cfg: DictConfig) -> Path:
    """Adapts and writes `student.safetensors` and the labels into the run folder; returns the path of the weights."""
    refuse_other_run(cfg)
    torch.manual_seed(cfg.seed)
    student = load_student(cfg.checkpoint)
    labelled = labels_for(cfg, student, targets(cfg))
    shares = [float(sequence.visible.mean()) for sequence in labelled]
    log.info("labels at %.0f %% of the times of %d targets", 100 * float(np.mean(shares)), len(labelled))
    told: dict[str, Any] = {"targets": len(labelled), "share_labelled": round(float(np.mean(shares)), 4)}
    task = StudentTask(student, rate_guard=RateGuard(cfg.rate_weight, *cfg.rate_range))
    clips = clips_for(cfg, student, learnt(cfg, labelled))
    given = load_student(cfg.checkpoint)

    def mixed(network: SpikingTracker) -> SpikingTracker:
        between = part_of_the_way(given.to(network.device), network, cfg.adapted_share)
        assert isinstance(between, SpikingTracker)
        return between

    follow = {"tracker_of": lambda t: OnlineTracker(mixed(t.student)), "finish": mixed}
    path, _ = train(cfg, "adapt", task, clips, part="student", told=told, **follow)
    if rank() == 0:
        write_labels(path.parent, labelled)
    return path


def main(cfg: DictConfig) -> float | None:
    path = run(cfg)
    print(f"wrote {path}")
    return best_validation(path.parent)
