"""From a `data` config to sequences: the one place where scripts meet data sets."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf
from progress import progress

from had_snn.data.clips import ClipSampler
from had_snn.data.sequence import TrackingSequence
from had_snn.data.streaming import StreamingClips
from had_snn.data.synthetic import load_split, prepare_split
from had_snn.errors import InputError
from had_snn.models import StudentConfig, TeacherConfig


def sequences(data: DictConfig, split: str) -> list[TrackingSequence]:
    """The sequences of one split; simulated ones are made on first use and kept.

    Args:
        data: The `data` config group.
        split: Name of the split.

    Returns:
        Sequences, memory-mapped.

    Raises:
        InputError: If the data has no such split.
    """
    if split not in data.splits:
        raise InputError(f"no split {split!r} in this data; it has {', '.join(data.splits)}")
    numbers = OmegaConf.to_container(data.splits[split], resolve=True)
    assert isinstance(numbers, dict)
    options = {"sensor_hw": data.sensor_hw, "hardship": data.hardship}
    options |= {str(key): value for key, value in numbers.items()}  # a split may differ from the others
    options["sensor_hw"] = tuple(options["sensor_hw"])
    with progress(f"simulate {split}", unit="sequences") as bar:
        prepare_split(
            data.root, split, seed=data.seed, workers=data.workers, progress=bar, **options,
        )  # fmt: skip
    return load_split(data.root, split)


def clip_sampler(
    cfg: DictConfig, network: StudentConfig | TeacherConfig, modalities: tuple[str, ...], *, cell_px: int | None = None
) -> ClipSampler:
    """Clips of the training split, cropped the way a network will crop when it tracks.

    Args:
        cfg: A training script's config: `data`, `clips`, `seed`.
        network: The network's numbers, which fix the crops.
        modalities: What the clips must hold.
        cell_px: Side of an output cell in crop pixels, for clips whose windows touch; None for ordinary ones.

    Returns:
        The sampler.
    """
    crops = {
        name: getattr(network, name)
        for name in ("window_us", "template_size", "template_factor", "search_size", "search_factor")
    }
    options = OmegaConf.to_container(cfg.clips, resolve=True)
    assert isinstance(options, dict)
    numbers = {"seed": cfg.seed, "modalities": modalities, **crops, **{str(k): v for k, v in options.items()}}
    if cell_px is not None:
        return StreamingClips(sequences(cfg.data, "train"), cell_px=cell_px, **numbers)
    return ClipSampler(sequences(cfg.data, "train"), **numbers)
