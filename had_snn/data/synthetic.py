"""Synthetic splits on disk: made once, reused, safe when two processes make the same one.

A split is a folder named by its parameters' hash; a sequence is a folder of `.npy` files that are memory-mapped when
read. A sequence is written under another name and renamed when it is complete, so a folder that exists is whole.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from had_snn.data.mapped import mapped_npy
from had_snn.data.sequence import TrackingSequence
from had_snn.errors import FormatError, InputError
from had_snn.events.stream import EventStream
from had_snn.files import atomic_file
from had_snn.simulator.optics import out_of_focus
from had_snn.simulator.scene import ATTRIBUTES, FAMILIES, MIN_VISIBLE_SHARE, sample_scene
from had_snn.simulator.scene_parts import Camera
from had_snn.simulator.sensor import simulate

GENERATOR_VERSION = 4  # raise it when the same parameters give other data
_SPLIT_CODES = {
    "train": 0,
    "val": 1,
    "test": 2,
    "test_shifted": 3,
    "train_paced": 4,
    "val_fast": 5,
    "test_fast": 6,
    "train_shifted": 7,
    "val_shifted": 8,
    "train_noisy": 9,
    "val_noisy": 10,
    "test_noisy": 11,
}
#: Events a second that a sensor in front of a scene with a pace of its own can send: a DAVIS sends 12 million.
PACED_READOUT_HZ = 12e6
_COLUMNS = ("t", "x", "y", "p")

#: Workers beyond these are processes: they take seconds to start and then do not wait for each other.
MOST_THREADS = 2

Progress = Callable[[int, int], None]


def prepare_split(
    root: str | os.PathLike[str],
    split: str,
    *,
    count: int,
    seconds: float,
    sensor_hw: tuple[int, int] = (180, 240),
    label_hz: float = 25.0,
    seed: int = 0,
    family: str | None = None,
    max_speed: float = 400.0,
    hardship: float = 1.0,
    pace: tuple[float, float] = (1.0, 1.0),
    workers: int = 1,
    progress: Progress | None = None,
) -> list[TrackingSequence]:
    """Makes a split, or what is missing of it, and opens it.

    Sequence `i` depends on the other parameters but not on `count`: a larger split contains the smaller one.

    Args:
        root: Folder of all synthetic data; created when missing.
        split: `train`, `val`, `test`, each also `_shifted` and `_noisy`, or `train_paced`, `val_fast`, `test_fast`. No
            two share seeds; only those of one purpose, or of the two other worlds, share textures.
        count: Number of sequences.
        seconds: Length of each; of a pace above 1, shorter by that factor.
        sensor_hw: Height and width in pixels.
        label_hz: Labels a second; frames always come at 25 a second, so choose a multiple or a divisor of it.
        seed: Another one gives another split.
        family: Key of `simulator.scene.FAMILIES`; by default the one named like the last part of the split's name that
            is one.
        max_speed: Highest speed of targets in pixels a second, at pace 1.
        hardship: Factor on the probability of most challenges; see `simulator.scene.sample_scene`.
        pace: Range of factors on all motion, drawn log-uniformly for each sequence; the sensor stays what it is.
        workers: How many sequences are made at the same time: by threads up to `MOST_THREADS`, beyond by processes (a
            script must then start what it does under `if __name__ == "__main__"`, as always with spawned processes).
        progress: Called with (sequences ready, `count`).

    Returns:
        The first `count` sequences, memory-mapped.

    Raises:
        InputError: If a parameter is out of range.
    """
    if split not in _SPLIT_CODES:
        raise InputError(f"split {split!r} does not exist; choose one of {', '.join(_SPLIT_CODES)}")
    family = family or next(part for part in reversed(split.split("_")) if part in FAMILIES)
    if family not in FAMILIES:
        raise InputError(f"family {family!r} does not exist; choose one of {', '.join(FAMILIES)}")
    if count < 1 or seconds <= 0:
        raise InputError(f"{count} sequences of {seconds:g} s: expected at least one sequence of positive length")
    parameters = {
        "version": GENERATOR_VERSION,
        "split": split,
        "seconds": float(seconds),
        "sensor_hw": [int(v) for v in sensor_hw],
        "label_hz": float(label_hz),
        "seed": int(seed),
        "family": family,
        "max_speed": float(max_speed),
        "hardship": float(hardship),
        "materials": asdict(FAMILIES[family]),
    }
    if FAMILIES[family].camera == Camera():  # so that what was made before there were others is found
        del parameters["materials"]["camera"]
    low, high = (float(v) for v in pace)
    if not 0 < low <= high:
        raise InputError(f"pace={[low, high]}: expected two factors above 0, the smaller first")
    if (low, high) != (1.0, 1.0):
        parameters |= {"pace": [low, high], "readout_hz": PACED_READOUT_HZ}
    key = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(root) / f"{split}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "parameters.json", parameters)
    missing = [i for i in range(count) if not (folder / f"{i:05d}").is_dir()]
    ready = count - len(missing)
    if progress:
        progress(ready, count)
    with _pool(min(workers, len(missing))) as pool:
        tasks = [pool.submit(_make_sequence, folder, index, parameters) for index in missing]
        try:
            for task in as_completed(tasks):
                task.result()
                ready += 1
                if progress:
                    progress(ready, count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    index = Path(root) / f"{split}.json"
    _write_json(index, {"folder": folder.name, "count": max(count, _known(index, folder.name))})
    return load_split(root, split, count=count)


def _known(index: Path, folder: str) -> int:
    """How many sequences of a folder the split's index tells of already."""
    try:
        record = json.loads(index.read_text())
        return int(record["count"]) if record["folder"] == folder else 0
    except (OSError, KeyError, ValueError, TypeError):
        return 0  # there is none yet, or it is damaged and is written anew


def _pool(workers: int) -> Executor:
    """Threads or processes; a scene's textures are drawn in Python, so that few threads share one interpreter well."""
    if workers <= MOST_THREADS:
        return ThreadPoolExecutor(max_workers=max(1, workers))
    return ProcessPoolExecutor(max_workers=workers, mp_context=multiprocessing.get_context("spawn"))


def load_split(root: str | os.PathLike[str], split: str, *, count: int | None = None) -> list[TrackingSequence]:
    """Opens the split that was prepared last under this name.

    Args:
        root: The folder given to `prepare_split`.
        split: Its split.
        count: Only the first so many sequences.

    Raises:
        FormatError: If there is no such split or a part of it is missing.
    """
    index = Path(root) / f"{split}.json"
    try:
        record = json.loads(index.read_text())
        folder, total = Path(root) / record["folder"], int(record["count"])
    except FileNotFoundError as error:
        remedy = f"had-snn simulate, or prepare_split(root, {split!r}, ...)"
        raise FormatError(index, f"there is no synthetic split {split!r} here", remedy=remedy) from error
    except (KeyError, ValueError, TypeError) as error:
        raise FormatError(index, f"not the index of a synthetic split ({error})", remedy="prepare it again") from error
    total = min(total, count) if count is not None else total
    return [open_sequence(folder / f"{i:05d}", name=f"{split}-{i:05d}") for i in range(total)]


@dataclass(frozen=True)
class SplitSummary:
    """What a split on disk holds.

    Attributes:
        sequences: Their number.
        seconds: Of all sequences together.
        events: Likewise.
        megabytes: On disk, frames and labels too.
        labels: Their number.
        visible: Labels at which the target can be seen.
        fastest_px_per_s: Median over sequences of the target's 95th percentile of speed.
        attributes: Sequences with each of `simulator.scene.ATTRIBUTES`.
    """

    sequences: int
    seconds: float
    events: int
    megabytes: float
    labels: int
    visible: int
    fastest_px_per_s: float
    attributes: dict[str, int]


def summarise_split(root: str | os.PathLike[str], split: str, *, count: int | None = None) -> SplitSummary:
    """Counts what the split that was prepared last under this name holds.

    Args:
        root: The folder given to `prepare_split`.
        split: Its split.
        count: Only the first so many sequences.

    Raises:
        FormatError: If there is no such split or a part of it is missing.
    """
    sequences = load_split(root, split, count=count)
    folder = Path(root) / json.loads((Path(root) / f"{split}.json").read_text())["folder"]
    folders = [folder / f"{i:05d}" for i in range(len(sequences))]
    metas = [json.loads((f / "meta.json").read_text()) for f in folders]
    return SplitSummary(
        sequences=len(sequences),
        seconds=sum(int(s.label_times_us[-1]) for s in sequences) * 1e-6,
        events=sum(len(s.events) for s in sequences),
        megabytes=sum(file.stat().st_size for f in folders for file in f.iterdir()) / 1e6,
        labels=sum(len(s) for s in sequences),
        visible=sum(int(s.visible.sum()) for s in sequences),
        fastest_px_per_s=float(np.median([meta["speeds_px_per_s"][1] for meta in metas])),
        attributes={name: sum(name in s.attributes for s in sequences) for name in ATTRIBUTES},
    )


def write_sequence(folder: str | os.PathLike[str], sequence: TrackingSequence, info: dict | None = None) -> None:
    """Writes a sequence as a folder of `.npy` files; the folder appears whole or not at all.

    A folder that another process finished first is left as it is.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name in _COLUMNS:
            np.save(draft / f"events_{name}.npy", getattr(sequence.events, name))
        np.save(draft / "label_times_us.npy", sequence.label_times_us)
        np.save(draft / "boxes_xywh.npy", sequence.boxes_xywh)
        np.save(draft / "visible.npy", sequence.visible)
        if sequence.frames is not None and sequence.frame_times_us is not None:
            np.save(draft / "frames.npy", np.stack([sequence.frames[i] for i in range(len(sequence.frames))]))
            np.save(draft / "frame_times_us.npy", sequence.frame_times_us)
        meta = {
            "sensor_hw": list(sequence.sensor_hw),
            "source": sequence.events.source,
            "attributes": list(sequence.attributes),
            "frames": sequence.frames is not None,
            **(info or {}),
        }
        (draft / "meta.json").write_text(json.dumps(meta, indent=1))
        os.chmod(draft, 0o755)
        try:
            os.rename(draft, folder)
        except OSError:
            if not (folder / "meta.json").is_file():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def open_sequence(folder: str | os.PathLike[str], *, name: str | None = None) -> TrackingSequence:
    """Opens a folder written by `write_sequence`; events and frames stay on disk until they are used.

    Raises:
        FormatError: If a file is missing or damaged.
    """
    folder = Path(folder)
    remedy = "delete the folder and prepare the split again"

    def load(file: str) -> np.ndarray:
        try:
            return mapped_npy(folder / file)
        except (OSError, ValueError) as error:
            raise FormatError(folder / file, f"missing or damaged ({error})", remedy=remedy) from error

    try:
        meta = json.loads((folder / "meta.json").read_text())
        sensor_hw = (int(meta["sensor_hw"][0]), int(meta["sensor_hw"][1]))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise FormatError(folder / "meta.json", f"missing or damaged ({error})", remedy=remedy) from error
    t, x, y, p = (load(f"events_{c}.npy") for c in _COLUMNS)
    return TrackingSequence(
        name=name or folder.name,
        events=EventStream.from_arrays(t, x, y, p, sensor_hw, str(meta.get("source", folder)), validate=False),
        label_times_us=np.array(load("label_times_us.npy")),
        boxes_xywh=np.array(load("boxes_xywh.npy")),
        visible=np.array(load("visible.npy")),
        frames=load("frames.npy") if meta.get("frames") else None,
        frame_times_us=np.array(load("frame_times_us.npy")) if meta.get("frames") else None,
        attributes=tuple(meta.get("attributes", ())),
    )


def _make_sequence(folder: Path, index: int, parameters: dict) -> None:
    seed = [_SPLIT_CODES[parameters["split"]], parameters["seed"], index]
    name = f"{parameters['split']}-{index:05d}"
    low, high = parameters.get("pace", (1.0, 1.0))
    pace = float(np.exp(np.random.default_rng([*seed, 5]).uniform(np.log(low), np.log(high))))
    labelled = sample_scene(
        seed,
        FAMILIES[parameters["family"]],
        seconds=parameters["seconds"] / max(1.0, pace),
        sensor_hw=tuple(parameters["sensor_hw"]),
        label_hz=parameters["label_hz"],
        max_speed=parameters["max_speed"],
        hardship=parameters["hardship"],
        pace=pace,
    )
    sensor = replace(labelled.sensor, readout_hz=parameters.get("readout_hz"))
    noise_seed = int(np.random.default_rng([*seed, 7]).integers(2**63))
    scene = out_of_focus(labelled.scene, labelled.blur_px)
    seen = simulate(scene, sensor, seed=noise_seed, source=f"synthetic {name}")
    sequence = TrackingSequence(
        name=name,
        events=seen.events,
        label_times_us=labelled.label_times_us,
        boxes_xywh=labelled.boxes_xywh,
        visible=labelled.visible_share >= MIN_VISIBLE_SHARE,
        frames=seen.frames,
        frame_times_us=seen.frame_times_us,
        attributes=labelled.attributes,
    )
    info = {
        "sensor": asdict(sensor),
        "pace": round(pace, 4),
        "blur_px": round(labelled.blur_px, 3),
        "visible_share": np.round(labelled.visible_share, 3).tolist(),
        "speeds_px_per_s": np.round(labelled.speeds, 1).tolist(),
    }
    write_sequence(folder / f"{index:05d}", sequence, info)


def _write_json(path: Path, content: dict) -> None:
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(content, indent=1, sort_keys=True))
