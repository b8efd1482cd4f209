"""From a `data` config to sequences: the one place where scripts meet data sets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from had_snn.commands.progress import progress
from had_snn.commands.reading import read_options
from had_snn.data.clips import Augmentation, ClipGeometry, ClipSampler
from had_snn.data.layout_base import ALL, Layout
from had_snn.data.layouts import open_layout
from had_snn.data.sequence import TrackingSequence
from had_snn.data.streaming import StreamingClips
from had_snn.data.synthetic import prepare_split
from had_snn.errors import InputError
from had_snn.models import StudentConfig, TeacherConfig
from had_snn.train.windows import RuleLengths

log = logging.getLogger("had_snn")


def sequences(data: DictConfig, split: str, *, limit: int | None = None) -> Sequence[TrackingSequence]:
    """The sequences of one split. Simulated ones are made on first use and kept; those on disk are opened when used.

    Args:
        data: The `data` config group.
        split: Name of the split; a data set on disk that has none is used whole, and that is said.
        limit: At most so many; no more are simulated.

    Returns:
        Sequences, memory-mapped.

    Raises:
        InputError: If the data has no such split.
    """
    if data.get("layout") is not None:
        layout = data_layout(data)
        if layout.splits == [ALL] != [split]:
            log.warning("%s is not divided into splits: all of it stands for %s", layout.root, split)
            split = ALL
        with progress(f"look at {layout.name} {split}", unit="sequences") as bar:
            return layout.sequences(split, progress=bar)[:limit]
    if split not in data.splits:
        raise InputError(f"no split {split!r} in this data; it has {', '.join(data.splits)}")
    options = {name: data[name] for name in ("sensor_hw", "hardship", "label_hz")}
    options |= _plain(data.splits[split])  # a split may differ from the others
    options["sensor_hw"] = tuple(options["sensor_hw"])
    options["count"] = min(options["count"], limit or options["count"])
    with progress(f"simulate {split}", unit="sequences") as bar:
        return prepare_split(data.root, split, seed=data.seed, workers=data.workers, progress=bar, **options)


def data_layout(data: DictConfig) -> Layout:
    """The data set on disk that a `data` config names."""
    return open_layout(
        data.layout,
        data.root,
        cache_dir=data.cache,
        skip_damaged=data.skip_damaged,
        absent_value=data.absent_value,
        length_tolerance=data.length_tolerance,
        read=read_options(data.read),
    )


def decode(data: DictConfig, split: str) -> int:
    """Decodes all recordings of a split of a data set on disk into the cache.

    Returns:
        Sequences in it.
    """
    found = sequences(data, split)
    with progress(f"decode {split}", unit="sequences") as bar:
        for done, sequence in enumerate(found, start=1):
            len(sequence.events)
            bar(done, len(found), sequence.name)
    return len(found)


def _plain(config: DictConfig | ListConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def training_sequences(cfg: DictConfig) -> Sequence[TrackingSequence]:
    """The training split without the sequences that validation holds out of it."""
    found = [s for split in train_splits(cfg.data) for s in sequences(cfg.data, split)]
    every = (cfg.get("validation") or {}).get("held_out")
    return [sequence for i, sequence in enumerate(found) if i % every] if every else found


def validation_sequences(cfg: DictConfig) -> Sequence[TrackingSequence]:
    """The sequences that `cfg.validation` names: a split, or every n-th one held out of the training split."""
    wanted = cfg.validation
    if (wanted.get("split") is None) == (wanted.get("held_out") is None):
        raise InputError("validation needs split=NAME or held_out=N (every Nth training sequence), and not both")
    if wanted.get("split") is not None:
        return sequences(cfg.data, wanted.split, limit=wanted.get("limit"))
    found = [s for split in train_splits(cfg.data) for s in sequences(cfg.data, split)]
    return found[:: wanted.held_out][: wanted.get("limit")]


def train_splits(data: DictConfig) -> list[str]:
    """Names of the splits that trainings draw from."""
    return list(data.get("train_split", ["train"]))


def clip_sampler(
    cfg: DictConfig,
    network: StudentConfig | TeacherConfig,
    modalities: tuple[str, ...],
    *,
    grid: int | None = None,
    sequences: Sequence[TrackingSequence] | None = None,
    **options: Any,
) -> ClipSampler:
    """Clips of the training split, cropped the way a network will crop when it tracks.

    Args:
        cfg: A training script's config: `data`, `clips`, `seed`.
        network: The network's numbers, which fix windows and crops.
        modalities: What the clips must hold.
        grid: Cells per side of the network's output maps, for clips whose windows touch; None for ordinary ones.
        sequences: Where clips come from; the training split when None.
        **options: Further ones of `ClipSampler`.

    Returns:
        The sampler.
    """
    found, opened = training_sequences(cfg) if sequences is None else sequences, []
    with progress("open", unit="sequences") as bar:
        for sequence in found:
            opened.append(sequence)
            bar(len(opened), len(found), sequence.name)
    numbers = _plain(cfg.clips)
    options |= {name: numbers.pop(name) for name in ("windows", "epoch_length")}
    length_jitter = numbers.pop("length_jitter")
    if numbers.pop("timing") == "rule":
        options["lengths"] = RuleLengths(network.window_us, jitter=length_jitter)
    options |= {"augmentation": Augmentation(**numbers), "seed": cfg.seed, "modalities": modalities}
    geometry = ClipGeometry.of(network)
    if grid is not None:
        return StreamingClips(opened, geometry, grid=grid, **options)
    return ClipSampler(opened, geometry, **options)
